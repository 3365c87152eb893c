"""Distances of domains, covariances and discrepancies alike, against plain formulas, and what they must not notice."""
from itertools import combinations

import pytest
import torch
from conftest import call
from hypothesis import given, settings, strategies as st

from moosa.core import InputError
from moosa.methods.coral import correlation_alignment
from moosa.methods.mmd import FACTORS, mean_discrepancy, median_distance
from moosa.runs.given import spec_from
from moosa.runs.spec import spec_hash

SIZES = st.lists(st.integers(2, 6), min_size=2, max_size=4)  # clips of each domain
WAYS = {"coral": correlation_alignment, "coral with means": lambda groups: correlation_alignment(groups, means=True),
        "mmd": mean_discrepancy}


def drawn(sizes, seed, dim=4):
    "Embeddings of some domains, each moved and stretched in its own way."
    torch.manual_seed(seed)
    return [torch.randn(n, dim, dtype=torch.float64)*torch.rand(dim) + torch.randn(dim) for n in sizes]


def plain_coral(groups, means):
    "Sun and Saenko, equation 1, by sums over numbers; or the form of domain generalization."
    found = []
    for a, b in combinations(groups, 2):
        d, moments = a.shape[1], []
        for g in (a, b):
            centred = g - g.sum(dim=0)/len(g)
            moments.append((g.sum(dim=0)/len(g), centred.T @ centred/(len(g) - 1)))
        (mean_a, cov_a), (mean_b, cov_b) = moments
        squares = sum(((cov_a - cov_b)[i, j])**2 for i in range(d) for j in range(d))
        found.append(squares/d**2 + ((mean_a - mean_b)**2).sum()/d if means else squares/(4*d**2))
    return sum(found)/len(found)


def plain_mmd(groups):
    "Gretton et al., equation 5, by sums over pairs of clips."
    scale = median_distance(groups)

    def k(x, y): return sum(torch.exp(-((x - y)**2).sum()/(2*(f*scale)**2)) for f in FACTORS)/len(FACTORS)

    def mean(a, b): return sum(k(x, y) for x in a for y in b)/(len(a)*len(b))

    found = [mean(a, a) + mean(b, b) - 2*mean(a, b) for a, b in combinations(groups, 2)]
    return sum(found)/len(found)


@settings(deadline=None, max_examples=25)
@given(SIZES, st.integers(0, 99))
def test_the_formulas(sizes, seed):
    groups = drawn(sizes, seed)
    for means in (False, True):
        torch.testing.assert_close(correlation_alignment(groups, means), plain_coral(groups, means))
    torch.testing.assert_close(mean_discrepancy(groups), plain_mmd(groups))


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, max_examples=25)
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_order_and_axes_do_not_matter(way, sizes, seed):
    groups, found = drawn(sizes, seed), WAYS[way]
    value = found(groups)
    assert value >= 0
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    shift = torch.randn(4, dtype=torch.float64)
    for same in (groups[::-1], [g.flip(0) for g in groups], [g @ turn + shift for g in groups]):
        torch.testing.assert_close(found(same), value)
    torch.testing.assert_close(found([groups[0], groups[0].flip(0)]), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("way", WAYS)
def test_gradients(way):
    groups = [g.requires_grad_() for g in drawn([3, 4, 2], seed=1)]
    if way == "mmd":  # the median is taken as it is: of the definition it is a constant
        scale = median_distance(groups)
        moved = [g.detach().clone() for g in groups]
        value = mean_discrepancy(groups)
        gradients, step = torch.autograd.grad(value, groups), 1e-5
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("moosa.methods.mmd.median_distance", lambda _: scale)
            for i, gradient in enumerate(gradients):
                moved[i] = groups[i].detach() + step*gradient
            grown = (mean_discrepancy(moved) - value)/step
        torch.testing.assert_close(grown, sum(g.square().sum() for g in gradients), rtol=1e-3, atol=1e-9)
    else: assert torch.autograd.gradcheck(lambda *each: WAYS[way](each), groups)


@pytest.mark.parametrize("way, change", [("coral", lambda g, by: g*(1 + by)),
                                         ("coral with means", lambda g, by: g + by),
                                         ("mmd", lambda g, by: g + by), ("mmd", lambda g, by: g*(1 + by))])
def test_it_grows_as_domains_part(way, change):
    torch.manual_seed(0)
    here, there = torch.randn(2, 40, 3, dtype=torch.float64)
    found = [WAYS[way]([here, change(there, by)]) for by in (0, .5, 1, 2)]
    assert found == sorted(found) and found[-1] > 3*found[0]


@pytest.mark.parametrize("method", ["coral", "mmd", "mmd+balance"])
def test_one_domain_is_refused(method):
    with pytest.raises(InputError, match=rf"{method.split('+')[0]}.* works between domains, but there is only mnist"):
        spec_from(dict(target="mfeat", sources=["mnist"], method=method))
    with pytest.raises(InputError, match="works between domains"):
        spec_from(dict(target="mfeat", setting="in-domain", method=method))
    assert spec_from(dict(target="mfeat", sources=["mnist"], setting="osda", method=method)).sources == ("mnist",)


def test_one_domain_on_the_command_line(data_dir):
    done = call("run", "--target", "mfeat", "--sources", "mnist", "--method", "mmd", "--data-dir", data_dir)
    assert done.returncode == 2 and "Name a second source" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not list(data_dir.glob("runs/*"))


@pytest.mark.parametrize("method, name, as_before, found", [("coral", "coral_means", True, "275ebc024f53"),
                                                            ("mixup", "across_domains", False, "ca24cfa90e3e")])
def test_a_method_as_it_was_keeps_its_name(method, name, as_before, found):
    "Records from before have no such hyper-parameter, and mean this value; the default of now is another run."
    before, now = (spec_from(dict(target="mfeat", method=method, hyper={name: v})) for v in (as_before, not as_before))
    assert spec_hash(now) == spec_hash(spec_from(dict(target="mfeat", method=method))) != spec_hash(before)
    assert spec_hash(before) == found  # of records from before
