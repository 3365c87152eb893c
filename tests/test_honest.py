"""What keeps open-set numbers honest: labels of the target decide what is counted, and nothing else."""
from dataclasses import replace

import pytest
import torch

from moosa.evaluation.protocols import PROTOCOLS
from moosa.evaluation.rescoring import by_choice, rescore
from moosa.evaluation.scores import SCORES
from moosa.evaluation.sources import pretend, pretend_sources

ASKED = [name for name in PROTOCOLS if "domain_out" not in PROTOCOLS[name].needs]


def shuffled(target, seed: int = 3):
    order = torch.randperm(len(target.labels), generator=torch.Generator().manual_seed(seed))
    return replace(target, labels=target.labels[order])


@pytest.fixture(scope="module")
def sources(): return pretend_sources(120, hidden=8)


@pytest.fixture(scope="module")
def target(): return pretend(400)


@pytest.fixture(scope="module")
def both(target, sources):
    "All numbers by every score and protocol, and again with the target's labels shuffled."
    index = ["score", "group", "number"]
    return [rescore(t, sources, tuple(SCORES), ASKED).set_index(index)["value"].sort_index()
            for t in (target, shuffled(target))]


@pytest.mark.parametrize("score", SCORES)
def test_no_threshold_sees_labels_of_the_target(both, score):
    found, again = both
    there = [p for p in ASKED if (score, p, "threshold") in found.index]
    assert set(there) >= {"source-quantile", "target-median", "target-capped"}, there
    for protocol in there: assert found[score, protocol, "threshold"] == again[score, protocol, "threshold"], protocol
    assert found[score, "threshold-free", "AUROC"] != again[score, "threshold-free", "AUROC"]  # they are counted by it


@pytest.mark.parametrize("score", SCORES)
def test_labels_without_meaning_give_chance(both, score):
    assert abs(both[1][score, "threshold-free", "AUROC"] - .5) < .12  # three standard errors of 400 clips


def test_a_methods_own_choice_sees_no_labels_of_the_target(target, sources):
    one, other = (by_choice("normalised", "target-median", t, sources) for t in (target, shuffled(target)))
    assert one["chosen"]["threshold"] == other["chosen"]["threshold"]
    assert one["chosen"]["HOS"] != other["chosen"]["HOS"]
