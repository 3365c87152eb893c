"""Gradients that are written by hand, against autograd's: the jigsaw's, for every choice of modalities that need one,
and gradient modulation's.
"""
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from moosa.methods.balance import Balance, without_conflict
from moosa.methods.registry import create_objective
from moosa.methods.model import random_outputs
from moosa.pretext.jigsaw import Jigsaw, cut, sample_permutations

DIMS = {"video": 8, "audio": 4, "flow": 6}
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])


def jigsaw_by_rows(jigsaw: Jigsaw, embeddings) -> torch.Tensor:
    "The definition: every clip's parts joined in every order, with plain autograd."
    parts = cut(embeddings, jigsaw.splits)
    rows = torch.cat([torch.cat([parts[p] for p in order], dim=1) for order in jigsaw.permutations])
    orders = torch.arange(len(jigsaw.permutations)).repeat_interleave(len(parts[0]))
    return F.cross_entropy(jigsaw.head(rows), orders)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("needed", list(product([False, True], repeat=3)))
def test_jigsaw_asks_each_modality_for_itself(needed, weights):
    torch.manual_seed(0)
    jigsaw = Jigsaw(DIMS, sample_permutations(6, 12, 0), splits=2, hidden=5).double().requires_grad_(weights)
    if not weights and not any(needed): return
    found = []
    for way in (jigsaw, lambda e: jigsaw_by_rows(jigsaw, e)):
        torch.manual_seed(1)
        embeddings = {m: torch.randn(3, d, dtype=torch.float64, requires_grad=n)
                      for (m, d), n in zip(DIMS.items(), needed)}
        jigsaw.zero_grad()
        way(embeddings).backward()
        found.append([embeddings[m].grad for m in DIMS] + [p.grad for p in jigsaw.parameters()])
    assert [g is not None for g in found[0]] == [g is not None for g in found[1]] == [*needed, *[weights]*4]
    for ours, autograd in zip(*found):
        if ours is not None: torch.testing.assert_close(ours, autograd)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]), st.floats(-3, 4.4),
       st.floats(-3, 4.4), st.floats(-1, 1), st.integers(0, 99))
def test_without_conflict_in_every_precision(dtype, one, two, cosine, seed):
    "As in double precision up to rounding, for norms of 0.001 to 25,000; it never goes back on the longer gradient."
    torch.manual_seed(seed)
    a, b = F.normalize(torch.randn(2, 40, dtype=torch.float64), dim=1)
    b = cosine*a + (1 - cosine**2)**.5*F.normalize(b - (a @ b)*a, dim=0)
    g, h = (10**one*a).to(dtype), (10**two*b).to(dtype)
    both = without_conflict(g, h)
    assert both.dtype == dtype and torch.isfinite(both).all()
    g, h, both = g.double(), h.double(), both.double()
    size, rounding = max(g.norm(), h.norm()), torch.finfo(dtype).eps
    error, backwards = [], []
    for longer in (g, h):  # of equal lengths, up to rounding, either may count as the longer one
        if longer.norm() < (1 - rounding)*size: continue
        expected = g + h - longer*((g @ h).clamp(max=0)/longer.square().sum())
        error.append((both - expected).norm())
        backwards.append(-both @ longer/longer.norm())
    nearest = int(np.argmin(error))
    assert error[nearest] <= 4*rounding*size + 1e-6*(dtype == torch.float16)
    assert backwards[nearest] <= 4*rounding*size + 1e-5*(dtype == torch.float16)


def modulated(dims, weight, probes, alpha=0.0) -> tuple[dict, dict]:
    "Gradients at the embeddings: those that the option gives to ERM's, and those that its documentation promises."
    def outputs():
        torch.manual_seed(1)
        return random_outputs(dims), Balance(dims, alpha, weight, probes)

    o, term = outputs()
    (F.cross_entropy(o.fused, LABELS) + term(o, LABELS)).backward()
    plain, _ = outputs()
    F.cross_entropy(plain.fused, LABELS).backward()
    expected = {}
    for m in dims:  # each modality's own classifier, and nothing else
        told, term = outputs()
        F.cross_entropy(term.classifiers[m](told.embeddings[m]), told.domains).backward()
        expected[m] = without_conflict(plain.embeddings[m].grad, -weight*told.embeddings[m].grad)
    return {m: o.embeddings[m].grad for m in dims}, expected


@pytest.mark.parametrize("probes", [True, False])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("weight", [.1, 1., 30.])
def test_balance_weighs_the_domains_as_documented(weight, count, probes):
    found, expected = modulated(dict(list(DIMS.items())[:count]), weight, probes)
    for m in found: torch.testing.assert_close(found[m], expected[m], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["erm+balance", "moosa+balance"])
def test_balance_trains_each_classifier_at_full_weight(method):
    "The more modalities, the same gradient for the classifier of one."
    found = []
    for count in (2, 3):
        dims = dict(list({m: 8 for m in DIMS}.items())[:count])
        objective = create_objective(method, dims, dict(jigsaw_num_splits=2, jigsaw_samples=4) if "moosa" in method
                                     else {})
        o = random_outputs(dims)
        net = objective.terms["balance"].classifiers["video"]
        for p in net.parameters(): torch.nn.init.normal_(p, std=.1, generator=torch.Generator().manual_seed(0))
        o.embeddings["video"].data = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
        objective(o, LABELS)[0].backward()
        alone = torch.autograd.grad(F.cross_entropy(net(o.embeddings["video"].detach()), o.domains),
                                    list(net.parameters()))
        for p, g in zip(net.parameters(), alone): torch.testing.assert_close(p.grad, g)
        found.append([p.grad for p in net.parameters()])
    for two, three in zip(*found): torch.testing.assert_close(two, three)
