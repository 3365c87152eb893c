"""A NaN in one clip is an error that names the clip, wherever it lies and wherever it comes from; never a number in the
results.
"""
import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import call

from moosa.core import InputError
from moosa.data.dataset import DataSet
from moosa.data.doctor import check_before
from moosa.data.folder import FolderData
from moosa.data.loader import ClipList
from moosa.data.badclip import BadClip
from moosa.data.sounds import write_sound
from moosa.runs.experiment import build_learner, open_experiment
from moosa.evaluation.openset import Predictions, evaluate
from moosa.evaluation.rescoring import rescore
from moosa.evaluation.sources import Sources
from moosa.runs.given import spec_from
from moosa.training.compute import make_fabric
from moosa.training.trainer import TrainConfig, predict

DOMAINS, CLASSES = ("forest", "indoor", "street"), ("bark", "clap", "horn")


def wave(bad: float = 0.) -> np.ndarray: return np.append(np.sin(np.arange(3000)/9)/2, bad).astype(np.float32)


@pytest.fixture
def root(tmp_path):
    for domain in DOMAINS:
        for name in CLASSES:
            for i in range(4): write_sound(tmp_path/"own"/domain/name/f"{i}.wav", wave())
    return tmp_path/"own"


def spec(root, **more):
    return spec_from(dict(dataset=str(root), target="forest", unknown=["horn"], method="erm", batch_size=4, epochs=1,
                          **more))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sound_of_the_target_stops_the_run_before_training(root, tmp_path, bad):
    soundfile.write(root/"forest"/"clap"/"2.wav", wave(bad), 16000, subtype="FLOAT")
    experiment = open_experiment(spec(root), tmp_path)
    with pytest.raises(InputError,
                       match=r"1 clip\(s\) cannot be used\n  forest/clap/2, audio: .*2.wav: not-finite: 1 of"):
        experiment.check_before()
    with pytest.raises(BadClip, match="2.wav: not-finite"): experiment.test.load(range(len(experiment.test)))
    with pytest.raises(BadClip, match="2.wav: not-finite"):
        open_experiment(spec(root, features="embedding", frozen_stems=True, views=1), tmp_path).precompute()


def test_skipping_leaves_out_that_clip_alone(root, tmp_path):
    soundfile.write(root/"indoor"/"bark"/"3.wav", wave(np.nan).astype(float), 16000, subtype="DOUBLE")
    experiment = open_experiment(spec(root, on_bad_clip="skip"), tmp_path)
    assert experiment.skipped[["clip", "problem"]].to_numpy().tolist() == [["indoor/bark/3", "not-finite"]]
    experiment.check_before()


def test_who_skips_is_told_of_how_many(root, tmp_path):
    "By a grid when the cell ends, and by the run; and where the list of them is."
    soundfile.write(root/"indoor"/"bark"/"3.wav", wave(np.nan).astype(float), 16000, subtype="DOUBLE")
    base = f"{{dataset: {root}, unknown: [horn], method: erm, batch_size: 4, epochs: 1, on_bad_clip: skip}}"
    (tmp_path/"one.yaml").write_text(f"base: {base}\naxes: {{target: [forest]}}\n")
    grid = call("grid", tmp_path/"one.yaml", "--data-dir", tmp_path)
    (record,) = (tmp_path/"runs").glob("*/record.json")
    said = f"1 of 36 clips were left out, for they cannot be read; skipped_clips in {record} says which, and why"
    assert grid.returncode == 0 and said in grid.stdout + grid.stderr, grid.stderr
    asked = ("--unknown", "horn", "--method", "erm", "--batch-size", 4, "--epochs", 1, "--target", "forest")
    run = call("run", "--dataset", root, *asked, "--on-bad-clip", "skip", "--data-dir", tmp_path)
    assert "done before" in run.stdout and said in run.stdout, run.stdout + run.stderr
    assert [row["clip"] for row in json.loads(record.read_text())["skipped_clips"]] == ["indoor/bark/3"]


def arrays(folder, **found) -> FolderData:
    for name, array in found.items():
        (folder/"d"/"c").mkdir(parents=True, exist_ok=True)
        np.save(folder/"d"/"c"/f"{name}.npy", array)
    return FolderData(folder)


@pytest.mark.parametrize("bad, problem", [([0, np.nan], "not-finite"), ([np.nan]*2, "not-finite"),
                                          ([1e300, 0], "not-finite"), (np.float16([np.inf, 0]), "not-finite"),
                                          (np.zeros((0, 2)), "empty"), ([1j, 0], "unreadable"),
                                          (["a", "b"], "unreadable"), ([0, 0, 0], "mismatch")])
def test_arrays(tmp_path, bad, problem):
    data = arrays(tmp_path, a=np.zeros(2), b=np.asarray(bad), c=np.ones(2), d=np.ones(2, int))
    with pytest.raises(InputError, match=f"d/c/b, array: .*b.npy: {problem}"): check_before(data, data.clips, ["array"])
    if problem == "mismatch":
        with pytest.raises(InputError, match=r"modality array: .*clip d/c/b has an array of shape \(3,\)"):
            data.load(data.clips, ["array"])
    else:
        with pytest.raises(BadClip, match=f"b.npy: {problem}"): data.load(data.clips, ["array"])
    check_before(data, data.clips.drop(index=1), ["array"])


class Given(DataSet):
    "A data set without files."
    modalities, name, recipes = ("speech",), "given", {}

    def load(self, clips, modalities, view=None):
        x = torch.zeros(len(clips), 13, 30)
        for row, name in zip(x, clips["clip"]): row[:] = {"nan": torch.nan, "huge": 3e38}.get(name, 0.)
        return {"speech": x}


def test_data_without_files_name_the_clip_too():
    clips = ClipList(Given(), pd.DataFrame(dict(clip=["a", "nan", "b"], label=0)), ["speech"])
    batch = clips.__getitems__([0, 1])
    assert isinstance(batch, InputError) and "clip nan: not-finite" in str(batch)
    assert clips.__getitems__([0, 2]).clips == ["a", "b"]


def test_numbers_that_the_model_cannot_hold_name_the_clip():
    learner = build_learner(spec_from(dict(target="mfeat", modalities=["speech"], method="erm")))
    clips = ClipList(Given(), pd.DataFrame(dict(clip=["a", "huge", "b"], label=0)), ["speech"])
    with pytest.raises(InputError, match="logits of 1 of 3 clips are NaN or infinite: huge"):
        predict(make_fabric("cpu"), learner, clips, TrainConfig())


def pretend(n: int, classes: int) -> Predictions:
    torch.manual_seed(n)
    labels = torch.arange(n) % classes
    return Predictions(torch.randn(n, 3), {"a": torch.randn(n, 3)}, labels, [f"clip {i}" for i in range(n)],
                       {"a": torch.randn(n, 4)})


@pytest.mark.parametrize("unknown", [True, False])
@pytest.mark.parametrize("where", ["target", "validation"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_number_comes_of_logits_that_are_not_finite(where, value, unknown):
    lists = dict(target=pretend(12, 4 if unknown else 3), validation=pretend(9, 3))
    lists[where].fused[5, 1] = value
    with pytest.raises(InputError, match="the fused head's logits of 1 of .* clips are NaN or infinite: clip 5"):
        evaluate(**lists)
    if not unknown: return
    with pytest.raises(InputError, match="clip 5"): rescore(lists["target"], Sources(lists["validation"]))
    lists = dict(target=pretend(12, 4), validation=pretend(9, 3))
    lists[where].embeddings["a"][5, 1] = value
    with pytest.raises(InputError, match="clip 5"): rescore(lists["target"], Sources(lists["validation"]), ["knn"])
