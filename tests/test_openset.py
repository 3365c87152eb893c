"""The exact sweep, the figure of it, and a method's own score for unknown, whatever the predictions."""
import numpy as np
import pytest
import torch
from conftest import call
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from moosa.core import InputError
from moosa.results.alternatives import rescore_run
from moosa.results.run_figures import nines, plot_scores, plot_sweep
from moosa.methods.catalogue import METHODS
from moosa.evaluation.openset import (Predictions, at_threshold, evaluate, exact_sweep, hos_curve, max_softmax,
                                      published_sweep)
from moosa.evaluation.rescoring import by_choice, rescore
from moosa.evaluation.sources import Sources
from moosa.runs.given import spec_from
from moosa.runs.record import read_record, run_folder


def pretend(seed, n, classes, num_known=4, sharp=3., scale=1.):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    right = torch.eye(max(classes, num_known), num_known)[labels]
    logits = (torch.randn(n, num_known, generator=g) + sharp*right)*scale
    return Predictions(logits.round(decimals=1), {}, labels, [f"clip {i}" for i in range(n)])  # rounding makes ties


SCALES = st.sampled_from([.1, 1., 5., 40.])  # with the last, most confidences are 1 in single precision


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 7), SCALES)
def test_exact_is_the_best_of_all_thresholds(seed, n, classes, scale):
    p = pretend(seed, n, classes, scale=scale)
    say = max_softmax(p.fused), p.fused.softmax(dim=1).argmax(dim=1), p.labels, p.num_known
    exact, ten = exact_sweep(*say), published_sweep(p.fused, p.labels, p.num_known).best
    by_force = [at_threshold(*say, t) for t in [*say[0].tolist(), *(say[0].double() + 1e-9).tolist(), 0., float("inf")]]
    assert exact == at_threshold(*say, exact["threshold"]) or np.isnan(exact["HOS"])
    if p.open_set and (p.labels < p.num_known).any():
        assert exact["HOS"] == max(row["HOS"] for row in by_force) and exact["HOS"] >= ten["HOS"]
    curve = hos_curve(*say)
    for row in curve.itertuples():
        expected = at_threshold(*say, row.threshold)
        np.testing.assert_equal(list(row)[3:6], [expected[name] for name in ("OS*", "UNK", "HOS")])  # to the bit


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), SCALES)
def test_the_figure_says_what_its_legend_says(seed, scale):
    import matplotlib.pyplot as plt

    target, validation = pretend(seed, 60, 6, scale=scale), pretend(seed + 1, 40, 4, scale=scale)
    results = evaluate(target, validation)
    lines = plot_sweep(target, results).axes[0].lines
    curve = next(line for line in lines if line.get_label() == "HOS")

    def value(x): return curve.get_ydata()[np.searchsorted(curve.get_xdata(), x)]

    ten = next(line for line in lines if "ten" in line.get_label())
    assert [value(x) for x in ten.get_xdata()] == ten.get_ydata().tolist()
    for protocol in ("oracle", "oracle-exact", "source-quantile"):
        line = next(line for line in lines if line.get_label().startswith(f"{protocol}:"))
        found = value(line.get_xdata()[0])
        assert found == results[protocol]["HOS"] and line.get_label().endswith(f"{100*found:.1f} %")
    assert results["oracle-exact"]["HOS"] >= max(curve.get_ydata()) - 1e-12
    bars = plot_scores(target, validation, results).axes[0].patches
    heights = [bar.get_height() for bar in bars if hasattr(bar, "get_height")]
    assert sum(heights) == pytest.approx(2)  # all known, and all unknown
    plt.close("all")


def test_nines():
    assert nines([0, .9, .99, .9999]).round(3).tolist() == [0, 1, 2, 4]
    assert np.isfinite(nines(1.0)) and nines(1.0) > nines(np.nextafter(np.float32(1), np.float32(0)))


@pytest.mark.parametrize("method", ["osbp", "osbp+balance", "osbp+outliers", "osbp+sam"])
def test_osbp_has_both_numbers_and_its_decision(method):
    target, validation = pretend(0, 300, 6), pretend(1, 200, 4)
    for p in (target, validation): p.fused = p.fused - 1.5
    plain, results = evaluate(target, validation), evaluate(target, validation, own=METHODS[method].own)
    assert {k: v for k, v in results.items() if not k.startswith("own")} == plain
    open_p = F.pad(target.fused, (0, 1)).double().softmax(dim=1)
    rejected, unknown = open_p.argmax(dim=1) == target.num_known, target.labels >= target.num_known
    right = open_p.argmax(dim=1) == target.labels
    decision = results["own decision"]
    assert decision["UNK"] == pytest.approx(rejected[unknown].double().mean().item())
    assert decision["OS*"] == pytest.approx(right[~unknown].double().mean().item()) and 0 < decision["HOS"] < 1
    rescored = rescore(target, Sources(validation), ["energy"])
    by_score = {(r.score, r.group, r.number): r.value for r in rescored.itertuples()}
    same_order = (("threshold-free", "AUROC"), ("threshold-free", "FPR95"), ("oracle-exact", "HOS"))
    for group, number in same_order:  # energy orders clips in the same way
        assert results[f"own {group}"][number] == pytest.approx(by_score["energy", group, number], abs=1e-12)
    assert results["own threshold-free"]["AUROC"] != plain["threshold-free"]["AUROC"]
    chosen = by_choice("max_logit", "unknown-class", target, Sources(validation, open_class=True))["chosen"]
    for number in ("OS*", "UNK", "HOS"): assert chosen[number] == pytest.approx(decision[number], abs=1e-12)
    closed = evaluate(pretend(2, 80, 4), validation, own=METHODS[method].own)
    assert not any(k.startswith("own") for k in closed)


def test_other_methods_have_none():
    assert not any(METHODS[name].own for name in METHODS if not name.startswith("osbp"))
    assert [name for name in METHODS if METHODS[name].open_class] == [name for name in METHODS if METHODS[name].own]


def test_the_class_unknown_as_a_protocol(data_dir):
    "By name, for the methods that have such a class; a run's numbers are those of its own decision, and rescored ones."
    asked = dict(target="mfeat", method="osbp", setting="osda", score="max_logit", protocol="unknown-class")
    for wrong, says in ((dict(method="dann"), "dann has none"), (dict(score="energy"), "Set score=max_logit"),
                        (dict(method="erm", setting="osdg"), "such as osbp; erm has none")):
        with pytest.raises(InputError, match=says): spec_from({**asked, **wrong})
    words = [word for name, value in asked.items() for word in (f"--{name}", value)]
    words += ["--epochs", 1, "--train-share", .1, "--data-dir", data_dir]
    done = call("run", *words, env=dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    folder = run_folder(spec_from({**asked, "epochs": 1, "train_share": .1}), data_dir)
    results = read_record(folder)["results"]
    numbers = ("OS*", "UNK", "HOS")
    assert [results["chosen"][n] for n in numbers] == [results["own decision"][n] for n in numbers]
    assert results["chosen"]["threshold"] == 0
    assert "unknown-class" not in rescore_run(folder, scores=["energy"]).group.tolist()
    found = rescore_run(folder, scores=["max_logit"], protocols=["unknown-class"])
    found = found[found.group == "unknown-class"].set_index("number").value
    assert found[[*numbers]].tolist() == pytest.approx([results["chosen"][n] for n in numbers])
    found = rescore_run(folder, scores=["energy"], protocols=["unknown-class"])
    assert found.number.str.contains("energy is none; take max_logit").any()
