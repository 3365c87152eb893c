"""Adversaries of source and target in the trainer: their ramp, MM-SADA's stages and late fusion, and records' names."""
from dataclasses import asdict

import pytest
import torch
from conftest import call

from moosa.core import InputError
from moosa.runs.experiment import build_learner, open_experiment
from moosa.runs.given import spec_from
from moosa.runs.spec import fields_hash, spec_hash
from moosa.training.compute import make_fabric
from moosa.training.trainer import Callback, fit, predict

ASKED = dict(target="mfeat", setting="osda", sources=["mnist"], train_share=.1)


class Course(Callback):
    "The reversal's strength in each step, and the term."

    def __init__(self): self.strength, self.values, self.total = [], [], 0.

    def on_step(self, state, learner, optimiser, meter):
        term, mean = learner.objective.terms["domains"], meter.means()["domains"]
        self.strength.append(term.strength if term.on else 0.)
        now = mean*meter.clips
        self.values.append(now - self.total)
        self.total = now

    def on_epoch(self, state, learner, optimiser): self.total = 0.


def trained(data_dir, **more):
    spec, course = spec_from({**ASKED, "epochs": 2, **more}), Course()
    experiment, learner = open_experiment(spec, data_dir), build_learner(spec, data_dir)
    fabric, config = make_fabric("cpu", threads=1), experiment.config()
    state = fit(fabric, learner, experiment.train, experiment.validation, config, [course])
    return learner, course, predict(fabric, learner, experiment.validation, config), state


@pytest.mark.parametrize("method", ["dann", "dann+sam"])
def test_the_reversal_rises_with_the_steps(data_dir, method):
    _, course, _, state = trained(data_dir, method=method)
    rising = [2/(1 + torch.tensor(-10*step/state.step).exp().item()) - 1 for step in range(state.step)]
    assert course.strength == pytest.approx(rising, abs=1e-6) and all(value > 0 for value in course.values)
    _, course, _, _ = trained(data_dir, method=method, hyper=dict(domain_ramp=0))
    assert set(course.strength) == {1.}


def test_mm_sada_has_two_stages(data_dir):
    _, course, _, state = trained(data_dir, method="mm-sada")
    first = [step < state.step/3 for step in range(state.step)]
    assert [value == 0 for value in course.values] == first and True in first
    assert course.strength == sorted(course.strength) and course.strength[-1] > .9
    _, course, _, _ = trained(data_dir, method="mm-sada", hyper=dict(first_stage=0))
    assert all(course.values)


def test_late_fusion_is_what_is_trained_and_tested(data_dir):
    learner, _, said, _ = trained(data_dir, method="mm-sada", hyper=dict(late_fusion=True))
    torch.testing.assert_close(said.fused, sum(said.logits.values()))
    assert all(p.grad is None or not p.grad.any() for p in learner.model.fused.parameters())
    _, _, early, _ = trained(data_dir, method="mm-sada")
    assert not torch.allclose(early.fused, sum(early.logits.values()))


def test_on_the_command_line(data_dir):
    asked = ("run", "--target", "mfeat", "--setting", "osda", "--method", "mm-sada", "--epochs", 1, "--train-share", .1,
             "--data-dir", data_dir)
    done = call(*asked, "--hyper", "late_fusion=true", env=dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    done = call(*asked, "--hyper", "first_stage=1")
    assert done.returncode == 2 and "first_stage is 1, expected 0 to below 1" in done.stderr, done.stderr


def test_records_from_before_keep_their_names():
    "Found with the version before these hyper-parameters."
    spec = spec_from(dict(target="mfeat", method="dann", setting="osda", hyper=dict(domain_ramp=0)))
    assert spec_hash(spec) == "8fc03e5a7a53"
    spec = spec_from(dict(target="mfeat", method="mm-sada", setting="osda", hyper=dict(domain_ramp=0, first_stage=0)))
    old = {k: v for k, v in spec.hyper.items() if k in ("domain_weight", "correspondence_weight", "target_filter_thr")}
    assert fields_hash({**asdict(spec), "hyper": old}) == "b080f72938b9" != spec_hash(spec)
    with pytest.raises(InputError, match="first_stage"): spec_from({**ASKED, "method": "mm-sada",
                                                                   "hyper": dict(first_stag=0)})
