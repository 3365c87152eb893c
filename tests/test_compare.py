"""Sentences about differences: direction, bounds, missing cells, whatever the numbers."""
import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import wilcoxon

from moosa.results.compare import compare, paired, plot_wins, sentence, signed_rank, smallest_p
from moosa.results.compare import COMPARED, comparisons, plot_comparisons


def made_up(effects, seeds=5, tasks=3, spread=.004, seed=0):
    "Results of cases that differ by their effects; one number for each that is compared."
    rng = np.random.default_rng(seed)
    cells = [(f"task {t}", s) for t in range(tasks) for s in range(seeds)]
    level = {cell: .6 + .05*rng.normal() for cell in cells}
    rows = []
    for case, effect in effects.items():
        for task, s in cells:
            cell = dict(case=case, series=case, task=task, seed=s, data="made up", unknown=2, rule=None, present=None)
            value = level[task, s] + effect + spread*rng.normal()
            rows += [dict(cell, run=f"{case}{task}{s}", status="done", group=group, number=number, value=value)
                     for _, group, number in COMPARED]
    return pd.DataFrame(rows)


def said(results, baseline="erm"):
    return sentence(compare(paired(results, "threshold-free", "AUROC"), baseline), "AUROC")


SAID = re.compile(r"(\w+) is (better|worse) than erm by ([\d.]+) points "
                  r"\(95 % t interval over (\d+) seeds (-?[\d.]+) to (-?[\d.]+), p")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(-.05, .05), st.floats(0, .05), st.integers(2, 6), st.floats(0, .3))
def test_text_says_what_the_numbers_are(seed, effect, spread, seeds, missing):
    results = made_up({"erm": 0, "other": effect}, seeds, spread=spread, seed=seed)
    pairs = paired(results[np.random.default_rng(seed).random(len(results)) >= missing], "threshold-free", "AUROC")
    if pairs.shape[1] < 2: return
    row = compare(pairs, "erm").iloc[0]
    d = (pairs["other"] - pairs["erm"]).dropna()
    text = sentence(compare(pairs, "erm"), "AUROC")
    assert row.n == len(d) and "nan" not in text
    assert row.difference == pytest.approx(d.mean(), abs=1e-9)
    if row.seeds > 1: assert row.low <= row.difference + 1e-12 and row.difference <= row.high + 1e-12
    if row.holds: assert np.sign(row.difference) == np.sign(row.balance) and row.corrected < .05
    assert bool(found := SAID.findall(text)) == (bool(row.holds) and row.seeds > 1)
    for _, better, points, of, low, high in found:
        sign = 1 if better == "better" else -1
        assert sign == np.sign(d.mean()) and int(of) == row.seeds
        assert float(points) == pytest.approx(100*abs(d.mean()), abs=.051)
        assert [float(low), float(high)] == pytest.approx(sorted([100*sign*row.low, 100*sign*row.high]), abs=.051)
        assert float(low) <= float(points) <= float(high) and "-0.0" not in (low, high)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_signed_rank_counts_all_signs(d):
    "By brute force over all signs of what is not 0: ties and zeros are exact."
    ranks = np.sign(d)*pd.Series(np.abs(d)).rank().to_numpy()
    sizes = np.abs(ranks[ranks != 0])
    signs = np.array(list(product([-1, 1], repeat=len(sizes))))
    expected = (np.abs(signs @ sizes) >= abs(ranks.sum()) - 1e-9).mean() if len(sizes) else 1
    assert signed_rank(d) == pytest.approx(expected) and signed_rank(d) >= smallest_p(len(d)) - 1e-12


def test_signed_rank_of_many_is_scipys():
    d = np.random.default_rng(0).normal(.2, size=200)
    assert signed_rank(d) == pytest.approx(wilcoxon(d, method="exact").pvalue, rel=1e-9)


def test_an_unfinished_case_takes_nothing_from_the_others():
    effects = {"erm": 0, "better": .02, "worse": -.02}
    whole = said(made_up(effects))
    late = made_up({"late": .01}, seed=1)
    none_done = late.assign(value=np.nan, status="missing", group=None, number=None)  # as `collect_results` says it

    def without_p(text): return re.sub(r", p [^)]*", "", text)  # which is corrected for one comparison more

    for case in (late[late.seed == 0], none_done):
        text = said(pd.concat([made_up(effects), case], ignore_index=True))
        parts = whole.removesuffix(".").split("(n = 15 cells): ")[1].split("; ")
        assert len(parts) == 2 and all(without_p(part) in without_p(text) for part in parts), text
        assert "late: task 0 (seed" in text and "4)" in text


def test_a_missing_cell_is_named():
    results = made_up({"erm": 0, "better": .02, "worse": -.02})
    gone = (results.case == "better") & (results.task == "task 1") & (results.seed == 3)
    hole = results.assign(value=results.value.mask(gone))
    pairs = paired(hole, "threshold-free", "AUROC")
    assert compare(pairs, "erm").set_index("case").n.to_dict() == {"better": 14, "worse": 15}
    assert "No number, and left out: better: task 1 (seed 3)." in said(hole) and "n = 14–15 cells" in said(hole)
    assert "left out" not in said(results)
    assert comparisons(hole).count("better: task 1 (seed 3)") == 3 and plot_comparisons(hole) is not None


def test_many_missing_cells_are_counted():
    results = made_up({"erm": 0, "better": .02, **{f"case {i}": 0 for i in range(5)}})
    gone = results.case.str.startswith("case") & (results.seed > 2)
    text = said(results.assign(value=results.value.mask(gone)))
    assert "No number, and left out: 6 cells of case 0, of case 1, of case 2, of case 3, of case 4." in text, text


def test_nothing_in_common():
    "As in a grid of openness: other classes are unknown, so the cases never meet, and nothing is missing."
    results = pd.concat([made_up({"erm": 0, "better": .02}), made_up({"more": 0}).assign(unknown=4)], ignore_index=True)
    text = said(results)
    assert "better is better than erm" in text and "left out" not in text
    assert "No cell in common with erm: more." in text
    import matplotlib.pyplot as plt
    plot_wins(plt.subplots()[1], compare(paired(results, "threshold-free", "AUROC")))
    plt.close("all")


def test_one_large_win_is_not_better():
    results = made_up({"erm": 0, "new": -.02})
    results.loc[(results.case == "new") & (results.seed == 4) & (results.task == "task 2"), "value"] += 2
    row = compare(paired(results, "threshold-free", "AUROC"), "erm").iloc[0]
    assert (row.wins, row.losses) == (1, 14) and row.p < .05 and row.difference > 0 and not row.holds
    assert "no difference holds" in said(results)
