"""Few clips, odd names, own extractors that do not fit: a message that names the clip or the option, or a result."""
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from moosa.training.checkpoint import Checkpoint
from moosa.core import InputError
from moosa.data.folder import FolderData
from moosa.data.sounds import write_sound
from moosa.data.settings import SETTINGS, split_by_setting
from moosa.runs.experiment import build_learner, open_experiment, train
from moosa.extractors.base import Extractor
from moosa.extractors.registry import create_extractor
from moosa.evaluation.openset import Predictions, evaluate
from moosa.evaluation.rescoring import is_left_out, rescore
from moosa.evaluation.sources import Sources
from moosa.runs.given import spec_from
from moosa.training.compute import make_fabric
from moosa.training.trainer import predict

ODD = ("type", "items", "training")


@pytest.mark.parametrize("setting", SETTINGS)
def test_one_clip_of_each_class_is_too_few(tmp_path, setting):
    for domain in ("a", "b", "c"):
        for name in ("x", "y", "z"): write_sound(tmp_path/domain/name/"0.wav", np.sin(np.arange(9)))
    how = dict(unknown=["z"] if setting not in ("closed", "in-domain") else [])
    if setting == "open-partial":
        how |= dict(source_classes={"a": ["x", "y"], "b": ["x", "y"]}, target_classes=["x", "y"])
    with pytest.raises(InputError, match="list is empty.* too few clips: a fifth of each class") as e:
        split_by_setting(setting, FolderData(tmp_path), ["a", "b"], "c", **how)
    assert "has part" not in str(e.value)


def pretend(labels, classes=4) -> Predictions:
    torch.manual_seed(0)
    labels = torch.tensor(labels)
    return Predictions(torch.randn(len(labels), classes), {"a": torch.randn(len(labels), classes)}, labels,
                       [f"clip {i}" for i in range(len(labels))], {"a": torch.randn(len(labels), 6)})


@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 0], [0, 1, 2], [0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 1, 1], [0]*4,
                                    [0, 0, 1, 1, 2, 2], [0, 1, 2, 3]*3])
def test_rescoring_with_few_validation_clips(labels):
    found = rescore(pretend([0, 1, 2, 3, 4, 5]), Sources(pretend(labels)))
    found = found[~is_left_out(found)]
    assert {"max_softmax", "energy", "agreement"} <= set(found.score)
    assert ("knn" in set(found.score)) == (len(labels) > 1)
    assert len(evaluate(pretend([0, 1, 2, 3, 4, 5]), pretend(labels))["oracle"])


def pose(frozen_stem: bool = False) -> Extractor: return Extractor(nn.Linear(5, 8), nn.ReLU(), 8, frozen_stem)


def wrong_dim() -> Extractor: return Extractor(nn.Linear(5, 8), nn.ReLU(), 9)


def no_dim() -> nn.Module: return nn.Linear(5, 8)


def no_module() -> str: return "pose"


def test_any_word_can_name_a_modality(tmp_path):
    rows = [dict(clip=f"{d}{c}{i}", domain=d, **{"class": c}, **{m: f"{d}{c}{i}.npy" for m in ODD}) for d in "abc"
            for c in "xyz" for i in range(4)]
    for i, row in enumerate(rows): np.save(tmp_path/f"{row['clip']}.npy", np.full(5, i, np.float32))
    pd.DataFrame(rows).to_csv(tmp_path/"manifest.csv", index=False)
    spec = spec_from(dict(dataset=str(tmp_path), target="c", unknown=["z"], modalities=list(ODD),
                          extractors=dict.fromkeys(ODD, "test_small_data:pose"),
                          method="moosa", epochs=1, batch_size=4, hyper=dict(jigsaw_samples=4, jigsaw_num_splits=1)))
    experiment, fabric, learner = open_experiment(spec, tmp_path), make_fabric("cpu"), build_learner(spec, tmp_path)
    state, _ = train(fabric, experiment, learner, Checkpoint(tmp_path/"run"/"checkpoint"), workers=0)
    found = evaluate(*(predict(fabric, learner, clips, experiment.config(0))
                       for clips in (experiment.test, experiment.validation)))
    assert set(found["accuracy"]) == {"fused", *ODD} and np.isfinite(state.history[0]["loss"])


@pytest.mark.parametrize("name, says", [("no_dim", "a Linear .dim is None.; expected a module whose `dim`"),
                                        ("no_module", "makes a str .'pose'.; expected")])
def test_own_extractors_that_are_none(name, says):
    with pytest.raises(InputError,
                       match=f"extractors: test_small_data:{name} makes {says}".replace("makes makes", "makes")):
        create_extractor(f"test_small_data:{name}")


def test_an_own_extractor_with_another_dim_is_named(tmp_path):
    for d in "abc":
        for c in "xyz":
            (tmp_path/"own"/d/c).mkdir(parents=True)
            for i in range(4): np.save(tmp_path/"own"/d/c/f"{i}.npy", np.zeros(5))
    spec = spec_from(dict(dataset=str(tmp_path/"own"), target="c", unknown=["z"],
                          extractors=dict(array="test_small_data:wrong_dim"), method="erm", epochs=1, batch_size=4))
    experiment, learner = open_experiment(spec, tmp_path), build_learner(spec, tmp_path)
    says = r"extractors: test_small_data:wrong_dim, for array, says dim=9 and yields \(4, 8\); expected \(clips, 9\)"
    with pytest.raises(InputError, match=says):
        train(make_fabric("cpu"), experiment, learner, Checkpoint(tmp_path/"run"/"checkpoint"), workers=0)
