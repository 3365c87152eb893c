"""What a step of each method holds in memory, at toy sizes: of the allocator, and so the same on any machine."""
from dataclasses import replace
from functools import partial

import pytest

from moosa.bench.methods import AT_MOST, NAMES, MethodStep, bench_methods, methods_table, peak_bytes
from moosa.bench.timing import SMALL, Sizes
from moosa.methods.catalogue import METHODS, OPTIONS, PLAIN

# embeddings that are wide for the clips in a batch, as real ones are; narrow networks of the methods' own
WIDE = replace(SMALL, dims=(("video", 512), ("audio", 256), ("flow", 384)), batch=16)


def test_every_method_is_in_the_table():
    assert set(PLAIN) < set(NAMES) <= set(METHODS) and len(NAMES) == len(PLAIN) + len(OPTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_no_method_holds_more_than_twice_erms_memory_but_by_its_own_idea(name):
    (most, erm), (peak, step) = (peak_bytes(partial(MethodStep, n, WIDE)) for n in ("erm", name))
    own = step.held - erm.held
    assert (peak - own)/most <= AT_MOST, f"{peak/most:.2f} times ERM's memory, {own} bytes of them for its own weights"
    if peak > AT_MOST*most: assert own > 0 or step.ideas


def test_the_table_says_what_is_done():
    rows = bench_methods(replace(SMALL, rounds=1), ["mbcd", "nel", "osbp", "simmmdg"])
    table = methods_table(rows).set_index("method")["spent on"]
    assert "a teacher, 2 passes" in table.mbcd and "two views" in table.nel and "target clips" in table.osbp
    assert "weights that ERM has not" in table.simmmdg and table.erm == ""


def test_a_step_is_measured_at_the_sizes_of_real_networks():
    "Of ERM: weights, two moments, and what a step adds; the figure can be worked out by hand."
    peak, step = peak_bytes(partial(MethodStep, "erm", Sizes()))
    weights = sum(p.nbytes for p in step.learner.parameters())
    assert 2.5*weights < step.held <= peak < 5*weights  # unimodal heads learn nothing, and have no moments
