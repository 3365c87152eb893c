"""Corrupted clips: what a corruption does to data, and what `moosa corrupt` makes of finished runs."""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from conftest import call
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from moosa.cli import app
from moosa.core import InputError
from moosa.data.corruptions import CORRUPTIONS, SEVERITIES, Wanted, corrupt, find_corruption
from moosa.results.corruptions import grid_rows
from moosa.runs.corrupt import COLUMNS, corrupt_run
from moosa.runs.grid import load_grid
from moosa.runs.spec import spec_hash

EVERY = pytest.mark.parametrize("name", CORRUPTIONS)


def data_for(kind: str, seed: int = 0, size: int = 12) -> np.ndarray:
    "Some clip of a kind: smooth, as clips are, and of several moments."
    rng, t = np.random.default_rng(seed), np.linspace(0, 5, 24000)
    if kind == "sound": return (.4*np.sin(300*t)*np.sin(t) + .05*rng.normal(size=len(t))).astype(np.float32)
    waves = rng.normal(size=(20, 1)) + np.sin(rng.uniform(1, 3, (20, 1))*t[::200])
    if kind == "array": return waves.astype(np.float32)
    y, x = np.mgrid[:size, :size + 3]/size
    film = [128 + 90*np.sin(6*(x + i/9 + k/3))*np.cos(5*y) for i in range(6) for k in range(3)]
    return np.stack(film).reshape(6, 3, size, size + 3).transpose(0, 2, 3, 1).round().clip(0, 255).astype(np.uint8)


# --- what a corruption does -------------------------------------------------------------------------------------------

@EVERY
@rules(deadline=None, max_examples=8)
@given(severity=st.sampled_from(SEVERITIES), seed=st.integers(0, 9), clip=st.text(max_size=4), size=st.integers(3, 40))
def test_shape_and_type_stay_and_nothing_else_decides(name, severity, seed, clip, size):
    corruption = CORRUPTIONS[name]
    clean = data_for(corruption.kind, seed, size)
    before = clean.copy()
    found = corrupt(corruption, clean, severity, clip, seed)
    assert found.shape == clean.shape and found.dtype == clean.dtype and np.isfinite(found).all()
    np.testing.assert_array_equal(clean, before)  # what was given is not changed
    corrupt(corruption, clean, severity, clip + "x", seed)  # whatever came in between
    np.testing.assert_array_equal(found, corrupt(corruption, clean, severity, clip, seed))


@EVERY
def test_a_higher_severity_is_further_away(name):
    corruption, far = CORRUPTIONS[name], []
    clips = [data_for(corruption.kind, seed, 96) for seed in range(3)]
    for severity in SEVERITIES:
        pairs = [(corrupt(corruption, x, severity, f"clip {i}"), x) for i, x in enumerate(clips)]
        far.append(np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs]))
    # ImageNet-C's fog grows thicker and then finer, which is no further away
    slack = .95 if name == "fog" else 1
    assert far[0] > 0 and all(b >= slack*a for a, b in zip(far, far[1:])) and far[-1] > far[0], far


@EVERY
def test_clips_of_nothing_and_of_one_moment(name):
    corruption = CORRUPTIONS[name]
    whole = data_for(corruption.kind)
    for clean in (whole[:0], whole[:1], np.zeros_like(whole)):
        found = corrupt(corruption, clean, 5, "a clip")
        assert found.shape == clean.shape and np.isfinite(found.astype(float)).all()
    if corruption.kind == "sound": assert not corrupt(corruption, np.zeros(900), 5, "silence").any()


@pytest.mark.parametrize("severity", [0, 6, -1, "much", None, 1.5, True])
def test_a_severity_that_is_none(severity):
    with pytest.raises(InputError, match="severity: .* expected one of 1, 2, 3, 4, 5"):
        corrupt(CORRUPTIONS["noise"], data_for("array"), severity, "a clip")


@pytest.mark.parametrize("body, says", [
    ("def f(array, severity, rng): return array[1:]", "expected the same shape"),
    ("def f(array, severity, rng): return array/0*0", "finite"),
    ("def f(array, severity, rng): return 1/0", "ZeroDivisionError"), ("def f(): pass", "expected one of frames"),
    ("f = 3", "TypeError"), ("def g(): pass", "'f' is not known"), ("import nothing_here", "No module")])
@pytest.mark.filterwarnings("ignore")
def test_a_guest_that_goes_wrong(tmp_path, body, says):
    (tmp_path/"mine.py").write_text(body + "\n")
    with pytest.raises(InputError, match=says):
        corrupt(find_corruption(f"{tmp_path/'mine.py'}:f"), data_for("array"), 1, "a clip")


# --- finished runs of AV-digits ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def runs(two_runs, tmp_path_factory) -> Path:
    "The two runs, with a grid that asks for corruptions, tested by its command."
    folder = Path(shutil.copytree(two_runs, tmp_path_factory.mktemp("corrupted")/"data", symlinks=True))
    content = yaml.safe_load((folder/"two.yaml").read_text())
    (folder/"mine.py").write_text("def nothing(array, severity, rng): return array\n")
    asked = dict(names=["noise", "drift", "mine.py:nothing"], severities=[1, 5])
    (folder/"corrupt.yaml").write_text(yaml.safe_dump({**content, "corruptions": asked}))
    done = call("corrupt", folder/"corrupt.yaml", "--data-dir", folder)
    assert done.returncode == 0 and "mCE" in done.stdout, done.stderr
    assert f"next: `moosa report {folder/'corrupt.yaml'} --data-dir {folder}`" in done.stderr
    return folder


def rows_of(run: Path) -> pd.DataFrame:
    rows = pd.read_csv(run/"corruptions.csv").fillna({"modality": ""})
    return rows.set_index(["corruption", "modality", "severity"])


def places(folder: Path) -> list[Path]: return sorted(p.parent for p in folder.glob("runs/*/record.json"))


def test_rows_of_a_run(runs):
    for run in places(runs):
        record, rows = json.loads((run/"record.json").read_text())["results"], rows_of(run)
        assert len(rows) == 1 + 2*3*2 and tuple(pd.read_csv(run/"corruptions.csv").columns) == COLUMNS
        clean = rows.loc["clean"].iloc[0]
        kept = (record["accuracy"]["fused"], record["source-quantile"]["HOS"], record["threshold-free"]["AUROC"])
        assert (clean.accuracy, clean.HOS, clean.AUROC) == pytest.approx(kept, abs=1e-4) and clean.n == 1000
        for modality in ("image", "speech"):
            for severity in (1, 5):  # who changes nothing changes no number: weights, data, threshold are the run's
                same = rows.loc[("mine.py:nothing", modality, severity)]
                assert (same.accuracy, same.HOS, same.AUROC) == pytest.approx(kept, abs=1e-4)
            assert rows.loc[("drift", modality, 5)].accuracy < rows.loc[("drift", modality, 1)].accuracy


def test_a_grid_that_asks_for_corruptions_names_its_runs_as_before(runs):
    plain, asks = load_grid(runs/"two.yaml"), load_grid(runs/"corrupt.yaml")
    assert [spec_hash(s) for s in plain.specs] == [spec_hash(s) for s in asks.specs] and asks.corruptions is not None
    assert plain.corruptions is None


def test_what_is_there_is_not_computed_again(runs, monkeypatch):
    before = {p: p.read_bytes() for p in runs.glob("runs/*/corruptions.csv")}
    wanted, run = load_grid(runs/"corrupt.yaml").corruptions, places(runs)[0]
    monkeypatch.setattr("moosa.runs.corrupt.CheckedRun", None)  # who opens the run fails
    rows = corrupt_run(run, runs, wanted)
    assert len(rows) == 13 and {p: p.read_bytes() for p in before} == before
    with pytest.raises(TypeError): corrupt_run(run, runs, Wanted(("noise",), (3,)))


def test_the_same_again_is_the_same_and_stale_rows_do_not_count(runs, tmp_path):
    own = Path(shutil.copytree(runs, tmp_path/"own", symlinks=True))
    table, (run, _) = places(own)[0]/"corruptions.csv", places(own)
    first, wanted = pd.read_csv(table), Wanted(("drift", "noise"), (5,))  # in another order
    table.unlink()
    again = corrupt_run(run, own, wanted).set_index(["corruption", "modality", "severity"])
    for key, row in again.iterrows():
        same = rows_of(places(runs)[0]).loc[key]
        assert (row.accuracy, row.HOS, row.AUROC) == (same.accuracy, same.HOS, same.AUROC), key
    first.loc[1:, ["accuracy", "code"]] = [2., "0123-4567"]  # of other code and weights
    first.to_csv(table, index=False)
    assert not grid_rows(load_grid(own/"corrupt.yaml"), own, compute=False).accuracy.eq(2).any()
    assert (corrupt_run(run, own, wanted).accuracy <= 1).all()
    table.write_text("half a ta")
    assert (corrupt_run(run, own, Wanted(("noise",), (5,), ("speech",))).accuracy <= 1).all()
    other = corrupt_run(run, own, Wanted(("noise",), (5,), ("speech",), seed=1))
    assert other.accuracy.iloc[1] != again.accuracy[("noise", "speech", 5)]  # other draws


def test_the_command_of_a_run_and_the_report(runs, tmp_path):
    own = Path(shutil.copytree(runs, tmp_path/"own", symlinks=True))
    run = places(own)[0]
    done = call("corrupt", run.name[:6], "--corruption", "missing-channels", "--severity", 2, "--modality", "speech",
                "--seed", 4, "--device", "cpu", "--data-dir", own)
    assert done.returncode == 0 and "| missing-channels | speech" in done.stdout, done.stderr
    assert (run/"corruptions.png").is_file() and str(run/"corruptions.csv") in done.stdout
    assert rows_of(run).loc[("missing-channels", "speech", 2)].seed == 4
    words = ("--corruption", "noise", "--severity", 5, "--modality", "speech")
    assert "| missing-channels" not in call("corrupt", run, *words, "--data-dir", own).stdout
    done = call("report", own/"corrupt.yaml", "--data-dir", own, "--out", tmp_path/"figures")
    assert done.returncode == 0, done.stderr
    assert "Corrupted clips" in (tmp_path/"figures"/"report.ipynb").read_text()
    table = pd.read_csv(tmp_path/"figures"/"corruptions.csv")
    means = table[(table.group == "mean") & (table.number == "accuracy") & (table.modality == "image")]
    for task, value in zip(means.task, means.value):
        rows = next(rows_of(p) for p in places(own)
                    if json.loads((p/"record.json").read_text())["spec"]["target"] == task)
        found = rows[(rows.index.get_level_values("modality") == "image") & (rows.seed == 0)]
        assert value == pytest.approx(found.groupby("corruption").accuracy.mean().mean(), abs=1e-6)
    assert table.value[table.group == "mCE"].tolist() == [1]*4  # the only case is its own yardstick
    assert (tmp_path/"figures"/"corruptions.png").is_file()


def test_a_grid_without_corrupted_clips_reports_none(two_runs, tmp_path):
    assert not len(grid_rows(load_grid(two_runs/"two.yaml"), two_runs, compute=False))


@pytest.mark.parametrize("words, says", [
    (("--corruption", "fog"), "fog is of video; of this run can be corrupted: image (array), speech (array)"),
    (("--modality", "video"), "Expected one of: image, speech"), (("--corruption", "nosie"), "Did you mean 'noise'?"),
    (("--severity", "0"), "expected one of 1, 2, 3, 4, 5"), (("--corruption", "HAC-C/wind"), "HAC-C/wind is of hac"),
    (("--corruption", "none.py:f"), "there is no file none.py")])
def test_what_cannot_be_asked_of_a_run(runs, words, says):
    with pytest.raises(InputError, match=re.escape(says)):
        app(["corrupt", places(runs)[0].name, *words, "--data-dir", str(runs)], standalone_mode=False)


def test_a_run_that_cannot_be_tested_again(runs, tmp_path):
    own = Path(shutil.copytree(runs, tmp_path/"own", symlinks=True))
    one, other = places(own)
    (one/"model.safetensors").unlink()
    done = call("corrupt", one.name, "--data-dir", own)
    assert done.returncode == 2 and "model.safetensors is not there" in done.stderr, done.stderr
    (one/"record.json").rename(one/"record.txt")
    assert "is not done" in call("corrupt", one, "--data-dir", own).stderr
    with (other/"model.safetensors").open("ab") as f: f.write(b"more")
    done = call("corrupt", other.name, "--data-dir", own)
    assert done.returncode == 2 and "model.safetensors is damaged" in done.stderr, done.stderr
    done = call("corrupt", own/"corrupt.yaml", "--data-dir", own)
    assert done.returncode == 2 and "none could be tested" in done.stderr and "not tested" in done.stdout, done.stderr


METHOD = """import torch
from torch.nn import functional as F
from moosa.methods.own import OwnMethod


class Grown(OwnMethod):
    "What decides lies beside the model, which is all that a run keeps."
    def start(self, model): self.register_buffer("steps", torch.zeros(1))
    def loss(self, outputs, labels):
        self.steps += 1
        return {"ce": F.cross_entropy(outputs.fused, labels)}
    def read(self, outputs): return (1 + self.steps)*outputs.fused
"""


def test_weights_that_do_not_say_what_the_run_said(data_dir, tmp_path):
    (tmp_path/"mine.py").write_text(METHOD)
    method = f"{tmp_path}/mine.py:Grown"
    done = call("run", "--target", "mfeat", "--method", method, "--epochs", 1, "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    (run,) = places(data_dir)
    done = call("corrupt", run.name, "--corruption", "noise", "--severity", 1, "--data-dir", data_dir)
    assert done.returncode == 2 and "its weights do not give its stored predictions" in done.stderr, done.stderr


# --- films and sounds -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def films(generated, tmp_path_factory) -> Path:
    "A data folder with mini-HAC, a closed-set run on it, and ready-made files that change nothing."
    folder = tmp_path_factory.mktemp("films")
    shutil.copytree(generated/"raw", folder/"raw")
    root = folder/"raw"/"mini-hac"
    done = call("run", "--dataset", "mini-hac", "--target", "human", "--setting", "closed", "--method", "erm",
                "--epochs", 1, "--data-dir", folder)
    assert done.returncode == 0, done.stderr
    ready = root/"HAC-C"/"human"
    shutil.copytree(root/"human"/"videos", ready/"videos"/"defocus_blur")
    for path in (root/"human"/"audio").glob("*.wav"):
        wave, rate = soundfile.read(path, dtype="int16")
        place = ready/"audio"/"wind"/path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, np.stack([wave, wave[::-1]//2], axis=1), rate)  # the first of two channels counts
    return folder


def test_films_sounds_and_flow_made_anew(films):
    (run,) = places(films)
    words = ("--corruption", "gaussian-noise", "--corruption", "wind", "--severity", 5)
    done = call("corrupt", run.name, *words, "--data-dir", films)
    assert done.returncode == 0 and "closed set: nothing is unknown" in done.stdout, done.stderr
    rows = rows_of(run)
    noisy = rows.loc[("gaussian-noise", "video+flow", 5)]
    assert noisy.flow == "anew" and np.isnan(noisy.HOS) and np.isnan(noisy.AUROC)
    assert rows.loc[("clean", "video+flow", 0)].flow == "anew" and rows.loc[("wind", "audio", 5)].accuracy <= 1
    shards = [json.loads(p.read_text()) for p in films.glob("cache/mini-hac/*/manifest.json")]
    human = [s for s in shards if s["domain"] == "human"]
    named = {(s["modality"], s["options"].get("corruption", "").split("/")[0]) for s in human}
    for m in ("video", "flow"): assert {(m, ""), (m, "gaussian-noise"), (m, "clean")} <= named
    assert ("audio", "wind") in named
    assert ("audio", "gaussian-noise") not in named  # features of what is clean are those of the run


def test_ready_made_files(films):
    (run,) = places(films)
    clean = json.loads((run/"record.json").read_text())["results"]["accuracy"]["fused"]
    words = ("--corruption", "HAC-C/wind", "--corruption", "HAC-C/defocus_blur")
    done = call("corrupt", run.name, *words, "--data-dir", films)
    assert done.returncode == 0 and "flow stays as it was" in done.stdout, done.stderr
    rows = rows_of(run)
    for name, modality, flow in (("HAC-C/wind", "audio", None), ("HAC-C/defocus_blur", "video", "kept")):
        (row,) = [r for key, r in rows.iterrows() if key[:2] == (name, modality)]
        assert row.accuracy == pytest.approx(clean)  # the files hold what the clean ones hold
        assert row.flow == flow if flow else pd.isna(row.flow)
    done = call("corrupt", run.name, "--corruption", "HAC-C/snow", "--data-dir", films)
    assert done.returncode == 2 and "Expected one of: " in done.stderr and "defocus_blur" in done.stderr, done.stderr
    next((films/"raw"/"mini-hac"/"HAC-C"/"human"/"audio"/"wind").glob("*.wav")).unlink()  # changes what they are
    done = call("corrupt", run.name, "--corruption", "HAC-C/wind", "--data-dir", films)
    assert done.returncode == 2 and "missing" in done.stderr and "Traceback" not in done.stderr, done.stderr
