"""The 2026 benchmark's search: its seeds and draws to the digit, from a grid's file to a report.

Golden draws: MOOSA_GOLDEN_RIVALS, or golden_rivals/ of MOOSA_SHARED, by default `shared` beside the project.
"""
import csv
import json
import os
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, call
from hypothesis import given, settings
from hypothesis import strategies as st

from moosa.core import InputError, write_json, write_table
from moosa.methods.catalogue import METHODS, PLAIN
from moosa.results.searched import collect_searched, default_trials, mixed_up, search_table
from moosa.runs.benchmark_search import (SEARCHED, best_of, best_trial, ranges_of, search_draws, searched,
                                         still_to_come, trials_of, with_retraining)
from moosa.runs.grid import expand, load_grid
from moosa.runs.record import run_folder, write_record
from moosa.runs.spec import spec_hash

SHARED = Path(os.environ.get("MOOSA_SHARED") or ROOT.parent/"shared")
GOLDEN = Path(os.environ.get("MOOSA_GOLDEN_RIVALS") or SHARED/"golden_rivals")/"data_action.npz"
HYPER = SHARED/"data"/"rivals_hyper.csv"
OURS = {"RNA": "rna-net", "SimMMDG": "simmmdg", "MOOSA": "moosa", "CMRF": "cmrf", "GMP": "gmp", "JAT": "jat",
        "MBCD": "mbcd", "NEL": "nel"}
NAMES = {"alpha_RNA": ("rna_weight",), "domain_adv_loss": ("domain_adv_loss_global", "domain_adv_loss_local")}


def our_names(method: str, name: str) -> tuple[str, ...]:
    return ("alpha_rev2",) if (method, name) == ("GMP", "alpha_rev") else NAMES.get(name, (name,))


def in_our_names(method: str, trial: dict) -> dict:
    return {ours: value for name, value in trial.items() for ours in our_names(method, name)}


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"no golden draws at {GOLDEN}")
@pytest.mark.parametrize("method", OURS)
def test_seeds_and_draws_are_the_benchmarks(method):
    file = np.load(GOLDEN, allow_pickle=False)
    keys = [key for key in file.files if re.fullmatch(rf"search/\d+/{method}", key)]
    assert keys
    for key in keys:
        golden = json.loads(str(file[key]))
        seeds, trials = search_draws(SEARCHED[OURS[method]], int(key.split("/")[1]))
        assert seeds == golden["seeds"]
        assert trials == [in_our_names(method, trial) for trial in golden["trials"]]


@pytest.mark.skipif(not HYPER.is_file(), reason=f"no ranges at {HYPER}")
def test_ranges_are_the_benchmarks():
    rows = [row for row in csv.DictReader(HYPER.open()) if re.match("uniform|choice", row["search values"])]
    wanted = {}
    for row in rows:
        method, kind = row["method"].split("/")
        if kind != "action": continue
        ends = re.search(r"\[(.*);(.*)\]", row["search values"])
        text = f"{ends[1]}..{ends[2]}" if ends else row["search values"].removeprefix("choice ")
        digits = 1 if "rounded to 1 digit" in row["search values"] else None
        for name in our_names(method, row["name"]): wanted[OURS[method], name] = (text, digits)
    assert {(m, n): (r.text, r.digits) for m, ranges in SEARCHED.items() for r in ranges for n in r.names} == wanted


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.sampled_from(list(SEARCHED)))
def test_draws_lie_in_their_ranges(seed, draws, method):
    seeds, trials = search_draws(SEARCHED[method], seed, draws)
    assert len({*seeds}) == draws + 2 and len(trials) == draws - 1
    assert seeds[:3] == search_draws((), seed, 1)[0]  # of any number of trials, and of any method
    for drawn in SEARCHED[method]:
        ends = list(map(float, re.split(r"\.\.|\|", drawn.text)))
        assert all(min(ends) <= trial[name] <= max(ends) for trial in trials for name in drawn.names)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([.5, .6, .7]), st.sampled_from([-2., -1.])), min_size=1, max_size=11))
def test_the_best_is_no_worse_than_any(standings):
    best = best_of(standings)
    assert all(standings[best] >= other for other in standings) and standings[best] not in standings[:best]
    assert best_of([*standings, None]) is None


def test_methods_without_ranges():
    assert ranges_of("erm") == () and ranges_of("gmp+outliers") == SEARCHED["gmp"]
    unsearched = [m for m in PLAIN if m not in SEARCHED and fields(METHODS[m].hyper)]
    for method in [*unsearched, *(f"{m}+balance" for m in unsearched)]:
        with pytest.raises(InputError, match="has no ranges for method"): ranges_of(method)


# --- a grid whose runs are made up ------------------------------------------------------------------------------------

AXES = dict(method=["rna-net", "erm"], target=["mnist", "mfeat"], seed=[0, 1])


def made_up(spec, folder, validation: float, loss: float, target: float):
    "A record as a run would have left it."
    place = run_folder(spec, folder)
    place.mkdir(parents=True)
    write_table(place/"history.csv", pd.DataFrame({"epoch": [0], "loss": [1.], "validation_loss": [loss]}))
    numbers = {"accuracy": {"fused": target}, "validation accuracy": {"fused": validation}}
    write_record(place, spec, numbers, 0, "cpu", 1.)


@pytest.fixture
def grid(tmp_path):
    content = dict(base=dict(setting="closed", epochs=1), axes=AXES, search=dict(name="benchmark-2026", draws=4))
    (tmp_path/"searched.yaml").write_text(yaml.safe_dump(content))
    return load_grid(tmp_path/"searched.yaml")


def test_from_trials_to_three_runs(grid, tmp_path):
    trials = searched(grid, store=tmp_path)
    assert len(trials.specs) == 4*8 and still_to_come(trials) == 2*8
    assert len({spec_hash(s) for s in trials.specs}) == len({trials.label(s) for s in trials.specs}) == 32
    for (cell, number), spec in trials.runs.items():
        made_up(spec, tmp_path, .5 + .1*(number in (1, 3)), 1 - .1*(number == 3), .3 + number/10 + cell/100)
    whole = searched(grid, store=tmp_path)
    assert len(whole.specs) == 6*8 and not still_to_come(whole)
    assert [best_trial(whole, cell, tmp_path) for cell in range(8)] == [3]*8  # of equals the lower loss
    assert with_retraining(whole, tmp_path) is whole
    for cell in range(8):
        for number in (4, 5): made_up(whole.runs[cell, number], tmp_path, .5, 1., .2 + number/10)
    results = collect_searched(whole, tmp_path)
    assert set(results.status) == {"done"} and sorted(results.seed.unique()) == list(range(6))
    table = search_table(results, default_trials(whole, tmp_path))
    assert len(table) == 8 and set(table["best trial"]) == {"3"}
    first = table.iloc[0]
    values = np.array([60., 60., 70.])
    assert first["default"] == "30.0" and first["three runs"] == f"{values.mean():.1f} (std {values.std(ddof=1):.1f})"
    assert first["the two after the choice"].startswith("65.0")


def test_a_trial_that_diverged_is_not_chosen(grid, tmp_path):
    trials = searched(grid, store=tmp_path)
    for number in (1, 2, 3): made_up(trials.runs[0, number], tmp_path, .1, 1., .5)
    assert best_trial(trials, 0, tmp_path) is None
    place = run_folder(trials.runs[0, 0], tmp_path)
    place.mkdir(parents=True)
    write_json(place/"error.json", {"error": "InputError: the loss is nan in epoch 1, step 2"})
    assert best_trial(trials, 0, tmp_path) == 1


def test_the_commands_know_a_search(grid, tmp_path):
    done = call("grid", tmp_path/"searched.yaml", "--dry-run", "--data-dir", tmp_path)
    assert done.returncode == 0 and "32 cells, and 16 runs of best trials" in done.stdout, done.stderr
    status = call("status", tmp_path/"searched.yaml", "--data-dir", tmp_path)
    assert "0 of 32 cells done" in status.stdout
    for args, says in ((("grid", "--dry-run", "--search", 3), "Leave the option out"),
                       (("rescore",), "whose runs are not rescored")):
        wrong = call(args[0], tmp_path/"searched.yaml", *args[1:], "--data-dir", tmp_path)
        assert wrong.returncode == 2 and says in wrong.stderr, wrong.stderr


@pytest.mark.parametrize("search, says", [
    ("benchmark", "Did you mean 'benchmark-2026'?"), ("domainbed", "expected a number from 1"), ([1], "is not known"),
    (dict(name="domainbed", draws="many"), "expected a number from 1"),
    (dict(name="domainbed", draws=True), "expected a number from 1"),
    (dict(draws=3), "is not known"), (dict(name="domainbed", number=3), "search: key"),
    (dict(name="benchmark-2026", draws=0), "expected a number from 1")])
def test_bad_searches(search, says):
    with pytest.raises(InputError, match=re.escape(says)): expand("x", dict(axes=dict(target=["mnist"]), search=search))


def test_a_file_may_ask_for_domainbeds_search():
    content = dict(axes=dict(target=["mnist", "mfeat"]), search=dict(name="domainbed", draws=3))
    wide = searched(expand("x", content))
    assert len(wide.specs) == 6 and "domainbed mixes up" in mixed_up(wide) and not still_to_come(wide)
    with pytest.raises(InputError, match="has no ranges for method coral"):
        trials_of(expand("x", dict(axes=dict(target=["mnist"], method=["coral"]))))


# --- and one that is run ----------------------------------------------------------------------------------------------

def test_a_search_runs_and_is_reported(tmp_path, archives):
    (tmp_path/"raw").mkdir()
    (tmp_path/"raw"/"av-digits").symlink_to(archives)
    base = dict(epochs=1, batch_size=16, train_share=.1, method="rna-net", target="mfeat", sources=["optdigits"])
    content = dict(about="A small search", axes=dict(seed=[0]), base=base, search=dict(name="benchmark-2026", draws=2))
    (tmp_path/"small.yaml").write_text(yaml.safe_dump(content))
    ran = call("grid", tmp_path/"small.yaml", "--device", "cpu", "--data-dir", tmp_path, timeout=1200)
    assert ran.returncode == 0 and "4 done" in ran.stdout and "best trials" not in ran.stdout, ran.stderr
    again = call("grid", tmp_path/"small.yaml", "--dry-run", "--data-dir", tmp_path)
    assert "4 done" in again.stdout
    made = call("report", tmp_path/"small.yaml", "--data-dir", tmp_path, "--out", tmp_path/"out")
    assert made.returncode == 0, made.stderr
    page = (tmp_path/"out"/"report.ipynb").read_text()
    assert "Search of the 2026 benchmark: 2 trials" in page and "What benchmark-2026 mixes up" in page
