"""Two runs clip by clip, the records of a grid, and `moosa explore` of both; on runs that nobody trained: their
predictions are drawn, their records are made of them as a run makes its own.
"""
import json
import math
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from moosa.cli import app
from moosa.core import InputError, write_table
from moosa.evaluation.openset import Predictions, evaluate, evaluate_missing
from moosa.explore.pair import CASES, mcnemar
from moosa.explore.opened import open_run
from moosa.explore.opened_grid import OpenGrid, open_grid
from moosa.places import Store
from moosa.results.tables import collect_results, made_up_results, make_tables
from moosa.runs.fingerprint import fingerprint_of
from moosa.runs.grid import load_grid
from moosa.runs.predictions import save_predictions
from moosa.runs.record import run_folder, write_record
from moosa.runs.resolve import resolve
from moosa.runs.spec import Spec

HEADS = ("image", "speech")
KEYS = [f"{rule}/{present}" for rule in ("drop", "zero") for present in ("image", "image+speech", "speech")]


def drawn(seed: int, known: int, unknown: int, noise: float, part: str) -> Predictions:
    "What a model might say of 60 clips."
    labels = torch.arange(60) % (known + unknown)
    g = torch.Generator().manual_seed(seed)

    def logits():
        right = torch.nn.functional.one_hot(labels.clamp(max=known - 1), known)*(labels < known)[:, None]
        return 3*right + noise*torch.randn(60, known, generator=g)

    return Predictions(logits(), {head: logits() for head in HEADS}, labels, [f"{part} <b>{i}</b>" for i in range(60)],
                       {head: torch.randn(60, 8, generator=g) for head in HEADS}, {key: logits() for key in KEYS})


def finish(store: Store, noise: float = 1., **fields) -> Path:
    "Write the folder of a finished run of AV-digits."
    spec = resolve(Spec(**{"target": "mfeat", "method": "erm-heads"} | fields))
    place, unknown = run_folder(spec, store), len(spec.unknown)
    seed = 10*spec.seed + len(spec.method)
    parts = dict(validation=drawn(seed, 10 - unknown, 0, noise, "source"),
                 target=drawn(seed + 1, 10 - unknown, unknown, noise, spec.target))
    save_predictions(place, **parts)
    write_table(place/"history.csv", pd.DataFrame(dict(epoch=[0, 1], loss=[2., 1.], validation_accuracy=[.5, .75])))
    both = parts["target"], parts["validation"]
    extra = dict(trained_heads=["fused", *HEADS], missing=evaluate_missing(*both))
    write_record(place, spec, evaluate(*both), 1, "cpu", 2., extra, fingerprint_of(spec, store))
    return place


@pytest.fixture
def store(data_dir) -> Store:
    return Store(data_dir)


def cell_by_cell(a, b) -> Counter:
    "The four cells, counted clip by clip from what was saved."
    def right(run, i):
        shares = run.target.fused[i].double().softmax(dim=0)
        accepted = shares.max() >= run.threshold
        known = run.target.labels[i] < run.target.num_known
        return bool(accepted and shares.argmax() == run.target.labels[i]) if known else not accepted

    place = {name: i for i, name in enumerate(b.target.clips)}
    pairs = [(right(a, i), right(b, place[name])) for i, name in enumerate(a.target.clips) if name in place]
    return Counter({(True, True): "both right", (True, False): "only A", (False, True): "only B"}.get(pair, "neither")
                   for pair in pairs)


def test_four_cells(store):
    a, b = (open_run(finish(store, noise, seed=seed), store.folder) for seed, noise in ((0, 1.), (1, 2.)))
    view = a.compare(b.name[:8])  # found beside the first
    assert view.code == f"open_run({a.name!r}).compare(other={b.name!r})"
    for t in (None, .5, .9, 1.1):
        if t: a.threshold = view.pair.b.threshold = t
        counted = cell_by_cell(a, view.pair.b)
        assert view.pair.counts == {case: counted[case] for case in CASES}
    table = view.table()
    assert len(table) == 60 and table["case"].value_counts().to_dict() == {k: n for k, n in counted.items() if n}
    a.threshold = b.threshold = .8
    view = a.compare(b)
    view.select("only A")
    assert a.selected == b.selected == tuple(view.table().query("case == 'only A'")["clip"]) != ()
    assert len(a.chosen()) == view.pair.counts["only A"]


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None)
def test_mcnemar(a, b):
    from scipy.stats import binomtest

    n = a + b
    tail = sum(math.comb(n, i) for i in range(min(a, b) + 1))/2**n
    assert math.isclose(mcnemar(a, b), min(1, 2*tail), rel_tol=1e-9)
    if n: assert math.isclose(mcnemar(a, b), binomtest(a, n, .5).pvalue, rel_tol=1e-9)


def test_refused(store):
    a = open_run(finish(store), store.folder)
    elsewhere, others = finish(store, target="mnist"), finish(store, unknown=("0", "1"), seed=3)
    with pytest.raises(InputError, match="target of one run: mfeat; of the other: mnist"): a.compare(elsewhere)
    with pytest.raises(InputError, match="unknown classes of one run: 8, 9; of the other: 0, 1"): a.compare(others)
    with pytest.raises(InputError, match="0 runs in"): a.compare("zz")
    trained = run_folder(resolve(Spec(target="mfeat", seed=7)), store)  # a run still training
    trained.mkdir(parents=True)
    with pytest.raises(InputError, match="not done"): a.compare(trained)
    twice = open_run(finish(store, seed=5), store.folder)
    twice.table.loc[1, "clip"] = twice.table.loc[0, "clip"]
    with pytest.raises(InputError, match="two clips of the name"): a.compare(twice)
    damaged = finish(store, seed=6)
    path = damaged/"predictions.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="is damaged"): a.compare(damaged)


def test_clips_that_one_lacks(store):
    a, b = (open_run(finish(store, seed=seed), store.folder) for seed in (0, 1))
    from moosa.evaluation.sources import rows
    from moosa.explore.run_clips import RunClips

    fewer = RunClips(rows(b.target, torch.arange(50).flip(0)), b.sources, b.known_names, b.unknown_names, name="fewer")
    view = a.compare(fewer)
    counted = cell_by_cell(a, fewer)
    assert sum(counted.values()) == 50 and view.pair.counts == {case: counted[case] for case in CASES}
    assert "left out, since only one has them: 10 of A, 0 of B" in view.widget.children[0].value


def test_closed_set(store, tmp_path):
    a, b = (open_run(finish(store, setting="closed", seed=seed, noise=3.), store.folder) for seed in (0, 1))
    view = a.compare(b)
    assert sum(view.pair.counts.values()) == 60 and view.pair.counts["only A"]
    assert view.save(tmp_path/"view.svg").stat().st_size > 1000
    view.widget


def test_histories(store):
    a, b = (open_run(finish(store, seed=seed), store.folder) for seed in (0, 1))
    assert [len(ax.lines) for ax in a.compare(b).figure().axes[2:]] == [2, 2]
    (b.folder/"history.csv").unlink()
    view = a.compare(b)
    assert "B: " in str([w.value for w in view.widget.children[1].children[0].children if hasattr(w, "value")])
    (a.folder/"history.csv").write_text("epoch\n")  # damaged: what is there is shown without
    assert len(a.compare(b).figure().axes) == 2


def test_names_are_texts(store):
    a, b = (open_run(finish(store, seed=seed), store.folder) for seed in (0, 1))
    view = a.compare(b)
    said = view.widget.children[-1]
    view.select("both right")
    assert "&lt;b&gt;" in said.value and "<b>0" not in said.value
    scatter = next(w for w in view.widget.children[1].children if hasattr(w, "data"))
    assert scatter.data[0].text[0] == "mfeat &lt;b&gt;0&lt;/b&gt;"


def test_rules(store, tmp_path):
    run = open_run(finish(store), store.folder)
    view = run.compare_rules("drop", "zero", "speech")
    for side, rule in ((view.pair.a, "drop"), (view.pair.b, "zero")):
        found = next(e["results"] for e in run.record["missing"] if (e["rule"], e["present"]) == (rule, "speech"))
        assert side.numbers == pytest.approx(found["source-quantile"])
    assert view.code == f"open_run({run.name!r}).compare_rules(rule='drop', other='zero', present='speech')"
    counted = cell_by_cell(view.pair.a, view.pair.b)
    assert view.pair.counts == {case: counted[case] for case in CASES}
    view.widget
    view.select("only B")
    assert run.selected == view.pair.a.selected == tuple(view.table().query("case == 'only B'")["clip"])
    assert run.compare_rules("drop", "zero").pair.a.name.endswith("drop/image")
    assert "open_run" in view.save(tmp_path/"view.html").read_text()
    for asked, message in ((("translate", "zero"), "it has kept zero, drop"), (("average", "zero"), "'average' is not"),
                           (("drop", "zero", "smell"), "'smell' is not known")):
        with pytest.raises(InputError, match=message): run.compare_rules(*asked)


@pytest.fixture
def half(store, tmp_path) -> Path:
    "A grid of six cells: three are done, one is damaged, one fails to say why, one was never run."
    path = tmp_path/"half <i>.yaml"
    path.write_text("base: {target: mfeat}\naxes: {method: [erm, erm-heads], seed: [0, 1, 2]}\n")
    for method, seed in (("erm", 0), ("erm", 1), ("erm-heads", 0)): finish(store, 1. + seed, method=method, seed=seed)
    record = finish(store, method="erm-heads", seed=1)/"record.json"
    record.write_text(record.read_text()[:-40])
    failed = run_folder(resolve(Spec(target="mfeat", method="erm", seed=2)), store)
    failed.mkdir(parents=True)
    (failed/"error.json").write_text(json.dumps({"error": "<script>alert(1)</script>"}))
    return path


def test_half_of_a_grid(half, store):
    grid = open_grid(half, store.folder)
    assert (len(grid.table), len(grid.lacking)) == (3, 3)
    assert grid.lacking["status"].value_counts().to_dict() == {"failed": 2, "missing": 1}
    records = [json.loads((store.folder/"runs"/run/"record.json").read_text())["results"] for run in grid.table["run"]]
    np.testing.assert_allclose(grid.table["HOS, source-quantile"],
                               [100*record["source-quantile"]["HOS"] for record in records])
    report = next(t for t in make_tables(collect_results(load_grid(half), store.folder)) if t.name == "summary")
    pd.testing.assert_frame_equal(grid.means(), report.wide)
    two = grid.table.query("case == 'erm'")["AUROC"]
    text = f"{two.mean():.1f}\u00a0± {two.std()/2**.5:.1f}".replace("± ", "±\u00a0")
    assert grid.where(case="erm").means().loc[("erm", "mfeat"), "AUROC"] == text
    assert grid.open(2).name == grid.table["run"][2] == grid.open(grid.table.loc[2]).name == grid.opened.name
    for row in (7, "zz", None):
        with pytest.raises(InputError, match="finished cells for"): grid.open(row)


def test_records_in_html(half, store):
    grid = open_grid(half, store.folder)
    view = grid.records({"seed": [0]})
    said = "".join(str(getattr(widget, "value", "")) for widget in view.widget.children)
    assert "<script" not in said and "&lt;script" in said and "half &lt;i&gt;.yaml" in said
    assert view.code == f"open_grid({str(half)!r}).records(where={{'seed': [0]}})"
    view.moves.runs.value = view.moves.runs.options[0]
    assert grid.opened.name == grid.table["run"][0] and len(view.moves.opened.children) == 1
    (grid.opened.folder/"clips.csv").write_text("nothing")
    view.moves.cells._picked(type("Change", (), dict(new=[1])))  # another row, and back to one that is damaged by now
    view.moves.runs.value = view.moves.runs.options[0]
    assert "is damaged" in view.moves.told.value and view.moves.opened.children == ()
    named = OpenGrid("names", pd.concat([made_up_results("<script>x</script>"), made_up_results("$b$")])).records()
    assert all("<script" not in str(getattr(w, "value", "")) for w in named.widget.children)
    assert "<script" not in str(named.moves.choices.axes.data[0].dimensions[0].ticktext)
    named.figure().canvas.draw()


def test_filters(half, store):
    grid = open_grid(half, store.folder)
    view = grid.records()
    view.widget
    moves = view.moves
    moves.choices.search.value = "HEADS"
    assert set(grid.filtered()["case"]) == {"erm-heads"} and len(moves.cells.shown()) == 1
    moves.choices.search.value = ""
    low = float(grid.table["AUROC"].nlargest(2).min())
    axis = next(axis for axis in moves.choices.axes.data[0].dimensions if axis.name == "AUROC")
    axis.constraintrange = [low - 1e-6, 100]  # as if drawn on the axis
    assert list(grid.filtered()["run"]) == list(grid.table[grid.table["AUROC"] >= low - 1e-6]["run"])
    assert f"'AUROC': [({low - 1e-6!r}, 100.0)]" in view.code
    for asked, message in (({"tone": 1}, "'tone' is not known"), ({"AUROC": "high"}, "expected a range in percent")):
        with pytest.raises(InputError, match=message): grid.records(asked)


def test_without_itables(half, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "itables.widget", None)
    grid = open_grid(half, store.folder)
    view = grid.records()
    said = "".join(str(getattr(widget, "value", "")) for widget in view.widget.children)
    assert "itables is not installed" in said and grid.table["run"][0] in view.moves.cells.widget.value


def explore(monkeypatch, *words) -> Path:
    "Call `moosa explore` with a stand-in for JupyterLab; return the notebook that it opens."
    opened = []
    monkeypatch.setattr("os.execv", lambda program, options: opened.append(options))
    monkeypatch.chdir(Path.cwd())  # the command goes elsewhere, and `undo` comes back
    done = CliRunner().invoke(app, ["explore", *map(str, words)])
    monkeypatch.undo()
    if done.exception and not isinstance(done.exception, SystemExit): raise done.exception
    said = dict(option.split("=", 1) for option in opened[-1] if "=" in option)
    return Path(said["--ServerApp.root_dir"])/said["--LabApp.default_url"].removeprefix("/lab/tree/")


def execute(path: Path) -> list:
    "Execute a notebook; return what its code cells have shown."
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources=dict(metadata=dict(path=str(path.parent)))).execute()
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def test_explore_two_runs(store, monkeypatch):
    a, b = finish(store, seed=0), finish(store, seed=1)
    path = explore(monkeypatch, a.name[:9], b.name[:9], "--data-dir", store.folder)
    assert path == a.resolve()/f"explore-{b.name}.ipynb"
    shown = execute(path)
    assert "image/png" in shown[1][0]["data"] and "application/vnd.jupyter.widget-view+json" in shown[1][0]["data"]
    path.write_text("mine")
    assert explore(monkeypatch, a, b, "--data-dir", store.folder).read_text() == "mine"
    with pytest.raises(InputError, match="target of one run: mfeat; of the other: mnist"):
        explore(monkeypatch, a, finish(store, target="mnist"), "--data-dir", store.folder)


def test_explore_a_grid(half, store, monkeypatch):
    path = explore(monkeypatch, half, "--data-dir", store.folder)
    assert path.parent == store.folder/"explore" and re.fullmatch(r"half_i_.*-\w{6}\.ipynb", path.name)
    shown = execute(path)
    assert "3 of 6 cells are done" in str(shown[0]) and "widget-view" in str(shown[1])
    assert explore(monkeypatch, "tiny.yaml", "--data-dir", store.folder) == store.folder/"explore"/"tiny.ipynb"
    with pytest.raises(InputError, match="is a grid"): explore(monkeypatch, half, "zz", "--data-dir", store.folder)
    with pytest.raises(InputError): explore(monkeypatch, "none.yaml", "--data-dir", store.folder)


def test_help():
    done = CliRunner().invoke(app, ["explore", "--help"], env=dict(COLUMNS="200"))
    assert done.exit_code == 0 and "NAME.yaml" in done.output and "Another finished run" in done.output
