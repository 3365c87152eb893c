"""A run's training, watched; what if? by `vary`; what a run's page opens with; the page where JupyterLab begins."""
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest

from conftest import ROOT, call
from moosa.core import InputError
from moosa.explore.opened import old_beside_new, open_run
from moosa.explore.training import history_so_far, watch
from moosa.results.histories import plot_histories
from moosa.runs.lock import hold
from moosa.runs.record import read_history, read_record

TINY = dict(trans_hidden_num=8, hidden_dim=8, out_dim=4, jigsaw_hidden=8, jigsaw_samples=4)


def until(true, seconds: float = 20) -> bool:
    "Wait until something is true; say whether it has become so."
    end = time.time() + seconds
    while not true() and time.time() < end: time.sleep(.02)
    return true()


@pytest.fixture(scope="module")
def moosa_run(tmp_path_factory, archives) -> Path:
    "A finished run of MOOSA, tiny, for one epoch."
    folder = tmp_path_factory.mktemp("training")
    (folder/"raw").mkdir()
    (folder/"raw"/"av-digits").symlink_to(archives)
    hyper = [part for name, value in TINY.items() for part in ("--hyper", f"{name}={value}")]
    done = call("run", "--target", "mfeat", "--epochs", 1, "--train-share", .2, *hyper, "--data-dir", folder)
    assert done.returncode == 0, done.stderr
    return next((folder/"runs").iterdir())


def copied(run_dir: Path, folder: Path) -> Path:
    "A data folder with the run in it, whose files may be spoiled; its raw data are those of the first."
    import shutil

    place = folder/"runs"/run_dir.name
    shutil.copytree(run_dir, place)
    (folder/"raw").symlink_to(run_dir.parent.parent/"raw")
    return place


def test_the_history_has_the_entropy_weights_of_all_heads(moosa_run):
    history = read_history(moosa_run)
    weights = history.filter(like="entropy weight ")
    assert list(weights) == [f"entropy weight {head}" for head in ("fused", "image", "speech")]
    assert np.allclose(weights.sum(axis=1), 1) and (weights > 0).all(axis=None)
    axes = [ax for ax in plot_histories({"": history}).axes if ax.lines]
    assert [line.get_label() for line in axes[-1].lines] == ["fused", "image", "speech"]


def test_methods_that_train_one_head_alone_weigh_none(two_runs):
    for place in (two_runs/"runs").iterdir(): assert not any("weight" in name for name in read_history(place))


def test_a_run_is_watched_from_before_its_first_epoch_until_its_record(tmp_path):
    place = tmp_path/"runs"/"2e92"
    place.mkdir(parents=True)
    with hold(place):
        view = watch("2e", tmp_path, every=.02)
        view.widget
        assert view.run.status == "running" and "no epoch yet" in view.words.value
        (place/"history.csv").write_text("epoch,loss,jigsaw\n0,2,1.5\n1,1.")  # a copy that is not whole
        assert until(lambda: len(view.run.history) == 1)
        (place/"history.csv").write_text("epoch,loss,jigsaw\n0,2,1.5\n1,1.5,1.25\n")
        assert until(lambda: len(view.run.history) == 2)
        assert list(view.drawing.data[0].y) == [1.5, 1.25]
    (place/"record.json").write_text("{}")
    assert until(lambda: view.run.status == "done")
    assert until(lambda: not [t for t in threading.enumerate() if t.name == "watch 2e92"]), "it looks on for ever"


def test_watching_ends_when_a_run_fails_or_somebody_says_stop(tmp_path):
    for name in ("2e92", "77ab"): (tmp_path/"runs"/name).mkdir(parents=True)
    failing, stopped = watch("2e92", tmp_path, every=.02), watch("77ab", tmp_path, every=.02)
    (tmp_path/"runs"/"2e92"/"error.json").write_text(json.dumps({"error": "out of memory <b>"}))
    assert until(lambda: failing.run.status == "failed")
    failing.widget
    assert "out of memory &lt;b&gt;" in failing.words.value
    stopped.stop()
    assert until(lambda: not {t.name for t in threading.enumerate()} & {"watch 2e92", "watch 77ab"})


@pytest.mark.parametrize("text, rows, said", [
    (None, 0, ""), ("", 0, ""), ("epo", 0, ""), ("epoch,loss\n", 0, ""), ("epoch,loss\n0,1\n1,", 1, ""),
    ("epoch,loss\n0,1\nnonsense\n2,3\n", 2, "1 row(s)"), ("\x00\n\x01\n", 0, "no column epoch"),
    ("loss\n1\n", 0, "no column epoch"), ("epoch,epoch\n0,1\n", 1, "")])
def test_whatever_a_history_holds_its_whole_rows_are_shown(tmp_path, text, rows, said):
    path = tmp_path/"history.csv"
    if text is not None: path.write_text(text)
    table, about = history_so_far(path)
    assert len(table) == rows and (said in about if said else about == "")


def test_a_finished_run_without_its_history_says_so(moosa_run, tmp_path):
    place = copied(moosa_run, tmp_path)
    (place/"history.csv").unlink()
    view = open_run(place, tmp_path).training()
    view.widget
    assert "it has kept no history" in view.words.value
    view.figure()


def test_vary_trains_a_run_of_its_own_and_leaves_the_old_one_alone(moosa_run, tmp_path):
    place = copied(moosa_run, tmp_path)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    old = open_run(place, tmp_path)
    new = old.vary(mask_ratio=.7, epochs=2)
    assert new.folder.parent == place.parent and new.name != old.name
    assert (new.spec.epochs, new.spec.hyper["mask_ratio"]) == (2, .7) and new.spec.hyper["hidden_dim"] == 8
    assert len(read_history(new.folder)) == 2
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    table = old_beside_new(old, new)
    assert table.loc["mask_ratio"].tolist() == ["0.3", "0.7", ""] and table.loc["epochs"].tolist() == ["1", "2", ""]
    honest = read_record(new.folder)["results"]["source-quantile"]
    assert table.loc["HOS", new.name] == f"{100*honest['HOS']:.1f} %"
    stamp = (new.folder/"record.json").stat().st_mtime_ns
    assert old.vary(mask_ratio=.7, epochs=2).name == new.name  # it is done: nothing is trained
    assert (new.folder/"record.json").stat().st_mtime_ns == stamp


def test_vary_says_what_cannot_be_varied(moosa_run):
    run = open_run(moosa_run, moosa_run.parent.parent)
    runs = sorted(moosa_run.parent.iterdir())
    for changes, says in ((dict(mask_ration=.7), "Did you mean 'mask_ratio'?"), (dict(dataset="hac"), "is not known"),
                          (dict(lr=-1), "lr"), (dict(epochs=1), "no value is another"),
                          ({}, "nothing given")):
        with pytest.raises(InputError, match=re.escape(says)): run.vary(**changes)
    assert sorted(moosa_run.parent.iterdir()) == runs


def test_pretext_tasks_are_shown_in_the_order_of_the_run(moosa_run):
    run = open_run(moosa_run, moosa_run.parent.parent)
    view = run.jigsaw(which=2)
    parts = view.strips()[0][0]
    assert parts == [f"{m} {i}" for m in run.spec.modalities for i in (1, 2, 3, 4)]
    assert view.strips()[1][0] == [parts[p] for p in view.orders[2]] and len(view.orders) == 4
    assert view.code == f"open_run({run.name!r}).jigsaw(which=2)"
    assert run.masking().settings["mask_ratio"] == .3
    for wrong in (dict(clip="nobody"), dict(which=4)):
        with pytest.raises(InputError): run.jigsaw(**wrong)
    with pytest.raises(InputError, match="mask_ratio"): run.masking(mask_ratio=1.)


def test_a_run_without_pretext_tasks_or_embeddings_says_so(two_runs, moosa_run):
    run = open_run(next((two_runs/"runs").iterdir()), two_runs)
    with pytest.raises(InputError, match="does not train one"): run.jigsaw()
    with pytest.raises(InputError, match="translates nothing"): run.masking()
    run = open_run(moosa_run, moosa_run.parent.parent)
    run.target.embeddings.clear()
    with pytest.raises(InputError, match="has kept no embeddings"): run.jigsaw()


def executed(run_dir: Path): return nbformat.read(run_dir/"split.ipynb", as_version=4)


def test_a_runs_page_opens_with_what_it_is_and_its_numbers(moosa_run):
    nb, record = executed(moosa_run), read_record(moosa_run)
    first = next(cell for cell in nb.cells if cell.cell_type == "code")
    shown = [output for output in first.outputs if output.output_type == "display_data"]
    html = shown[0].data["text/html"]
    assert "MOOSA on AV-digits, target mfeat, seed 0" in html and len(shown) == 1
    for name in ("OS*", "UNK", "HOS"): assert f"{100*record['results']['source-quantile'][name]:.1f} %" in html
    assert record["hash"] in html and record["finished"][:10] in html and record["environment"]["machine"] in html
    if commit := record["environment"]["commit"]: assert commit[:10] in html
    tags = [cell.metadata.get("tags", []) for cell in nb.cells]
    assert ["parameters"] in tags and nb.cells.index(first) < tags.index(["parameters"])


def test_a_closed_set_runs_page_opens_with_its_accuracy(data_dir):
    done = call("run", "--target", "mfeat", "--method", "erm", "--setting", "closed", "--epochs", 1,
                "--train-share", .1, "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    place = next((data_dir/"runs").iterdir())
    html = next(cell for cell in executed(place).cells if cell.cell_type == "code").outputs[0].data["text/html"]
    accuracy = read_record(place)["results"]["accuracy"]["fused"]
    assert "ERM on AV-digits (closed)" in html and f"{100*accuracy:.1f} %" in html and "HOS" not in html


def test_the_code_of_a_runs_page_is_folded_and_what_it_shows_is_not(moosa_run):
    codes = [cell for cell in executed(moosa_run).cells if cell.cell_type == "code"]
    assert all(cell.metadata["jupyter"]["source_hidden"] for cell in codes)
    assert not any(cell.metadata["jupyter"].get("outputs_hidden") for cell in codes)


def test_a_run_that_fails_opens_with_what_it_was_to_be(data_dir):
    done = call("run", "--target", "mfeat", "--epochs", 1, "--lr", "1e30", "--data-dir", data_dir)
    assert done.returncode != 0
    place = next((data_dir/"runs").iterdir())
    first = next(cell for cell in executed(place).cells if cell.cell_type == "code" and cell.outputs
                 and "text/html" in cell.outputs[0].get("data", {}))
    html = first.outputs[0].data["text/html"]
    assert "MOOSA on AV-digits, target mfeat, seed 0" in html and "Not done yet" in html


def start(folder: Path, data_dir: Path) -> str:
    "What JupyterLab begins with, as `make lab` writes it."
    code = f"from moosa.commands.start import write_start; write_start({str(folder)!r}, {str(data_dir)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    nb = nbformat.read(folder/"start.ipynb", as_version=4)
    nbformat.validate(nb)
    return nb.cells[1].outputs[0].data["text/html"]


def test_the_start_page_without_runs_says_how_to_make_one(tmp_path):
    html = start(tmp_path, tmp_path/"data")
    assert "moosa data get av-digits" in html and "moosa run --target mfeat" in html
    assert "first_run.ipynb" in html and "figures/" in html


def test_the_start_page_lists_runs_of_every_kind(moosa_run, tmp_path):
    data_dir = tmp_path/"data"
    place = copied(moosa_run, data_dir)
    for name in ("damaged00000", "running00000", "failed000000"): (data_dir/"runs"/name).mkdir()
    (data_dir/"runs"/"damaged00000"/"record.json").write_text("{")
    (data_dir/"runs"/"failed000000"/"error.json").write_text('{"error": "<script>alert(1)</script>"}')
    with hold(data_dir/"runs"/"running00000"): html = start(tmp_path, data_dir)
    rows = {re.search("<strong>(.+?)</strong>", row)[1]: row for row in html.split("<tr>") if "<strong>" in row}
    assert "MOOSA on AV-digits, target mfeat, seed 0: OS*" in rows[place.name] and "split.ipynb" in rows[place.name]
    for status in ("damaged", "running", "failed"): assert status in rows[f"{status:0<12}"]
    assert list(rows)[0] == "running00000" and "<script>" not in html


def test_the_start_page_leads_to_files_that_are_there():
    """Links begin where the notebook lies, as JupyterLab takes them; all are below the project's folder."""
    html = start(ROOT/"data", ROOT/"data"/"nothing")
    links = re.findall(r'href="([^"]+)"', html)
    assert len(links) > 8
    for link in links: assert (ROOT/"data"/link).resolve().is_file() and not link.startswith("/"), link


def test_the_start_pages_cell_can_be_run_again(tmp_path):
    start(tmp_path, tmp_path/"data")
    nb = nbformat.read(tmp_path/"start.ipynb", as_version=4)
    names: dict = {}
    source = "".join(nb.cells[1].source).rpartition("\n")
    exec(source[0], names)
    assert "There are no runs yet" in eval(source[2], names)._repr_html_()
    with pytest.raises(InputError, match="0 runs in"): names["look_closer"]("c0ffee", tmp_path/"data")


def test_look_closer_writes_a_scratch_notebook(moosa_run, tmp_path):
    from moosa.commands.start import look_closer

    place = copied(moosa_run, tmp_path)
    assert "explore.ipynb" in look_closer(place.name, tmp_path).data
    assert place.name in (place/"explore.ipynb").read_text()


def test_make_lab_opens_at_the_start_page():
    said = subprocess.run(["make", "-n", "lab", "LAB_ARGS=--no-browser --port 9999 --ip 0.0.0.0"], cwd=ROOT,
                          capture_output=True, text=True, env={**os.environ}).stdout
    assert "write_start('data')" in said and "default_url=/lab/tree/data/start.ipynb" in said
    assert "--no-browser --port 9999 --ip 0.0.0.0" in said
    ignored = subprocess.run(["git", "check-ignore", "-q", "data/start.ipynb"], cwd=ROOT)
    assert ignored.returncode == 0 or not (ROOT/".git").exists()
