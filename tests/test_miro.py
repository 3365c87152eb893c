"""MIRO in the trainer: the start is kept as it was, and what a run needs for it is asked before it starts."""
from dataclasses import replace

import pytest
import torch
from conftest import call

from moosa.core import InputError
from moosa.methods.model import random_outputs
from moosa.methods.registry import create_objective
from moosa.runs.experiment import build_learner, open_experiment
from moosa.runs.given import spec_from
from moosa.training.compute import make_fabric
from moosa.training.trainer import fit


def test_the_start_stays_and_the_network_goes(data_dir):
    spec = spec_from(dict(target="mfeat", method="miro", epochs=1, train_share=.1))
    experiment, learner = open_experiment(spec, data_dir), build_learner(spec, data_dir)
    before = {name: w.clone() for name, w in learner.model.state_dict().items()}
    for name, w in learner.teacher.copy.state_dict().items(): assert torch.equal(w, before[name])
    fit(make_fabric("cpu", threads=1), learner, experiment.train, experiment.validation, experiment.config())
    for name, w in learner.teacher.copy.state_dict().items(): assert torch.equal(w, before[name])
    assert any(not torch.equal(w, before[name]) for name, w in learner.model.state_dict().items())


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_any_number_of_modalities(modalities):
    "The term is the mean over modalities, and of one that says what it said at the start, log of the variance alone."
    dims = dict(list(dict(video=8, audio=4, flow=6).items())[:modalities])
    objective, outputs = create_objective("miro", dims), random_outputs(dims)
    _, terms = objective(replace(outputs, teacher=random_outputs(dims)), torch.arange(8) % 5)
    assert terms["information"].item() == pytest.approx(.1*torch.tensor(.1).log().item()/2, rel=1e-5)
    _, apart = objective(replace(outputs, teacher=random_outputs(dims, seed=1)), torch.arange(8) % 5)
    assert apart["information"] > terms["information"] + .1


def test_given_embeddings_are_refused(data_dir):
    asked = dict(target="mfeat", method="miro", features="embedding", frozen_stems=True, frozen_bn="eval")
    with pytest.raises(InputError, match="works on the extractors, but no part"): spec_from(asked)
    done = call("run", "--target", "mfeat", "--method", "miro", "--features", "embedding", "--frozen-stems",
                "--frozen-bn", "eval", "--data-dir", data_dir)
    assert done.returncode == 2 and "Set features=live or features=stem" in done.stderr, done.stderr
    done = call("run", "--target", "mfeat", "--method", "miro", "--hyper", "variance_rate=0", "--data-dir", data_dir)
    assert done.returncode == 2 and "variance_rate is 0, expected a number above 0" in done.stderr, done.stderr
