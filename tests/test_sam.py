"""Sharpness-aware minimisation in the trainer: with any method, as a formula says, resumed, shared, and refused."""
from dataclasses import replace

import pytest
import torch
from conftest import call
from test_guests import Stop, lists  # noqa: F401  a fixture

from moosa.core import InputError
from moosa.extractors.small import small_image, small_speech
from moosa.methods.model import Model
from moosa.methods.own import OwnMethod, find_hyper, find_method, method_of
from moosa.methods.method import with_option
from moosa.methods.catalogue import OPTIONS
from moosa.training.compute import make_fabric
from moosa.training.learner import Learner
from moosa.training.trainer import Callback, TrainConfig, fit

HYPER = dict(sma_start_step=2, hidden_dim=16, out_dim=4)


def trained(lists, name, rho=.05, callbacks=(), epochs=1):  # noqa: F811
    "A learner after some epochs on a few clips."
    torch.manual_seed(0)
    model, method = Model({"image": small_image(), "speech": small_speech()}, 8, num_sources=2), find_method(name)
    given = {k: v for k, v in (HYPER | {"sam_rho": rho}).items() if hasattr(method.hyper(), k)}
    learner = Learner(model, method.make(model.dims, find_hyper(name, given)))
    state = fit(make_fabric("cpu", threads=1), learner, *lists, TrainConfig(epochs, 8, 1e-3), callbacks)
    return learner, state


def test_a_step_of_nearly_no_length_is_the_plain_method(lists):  # noqa: F811
    "Without anything that is drawn at random, and of length .05 it is another one."
    for method, change in (("erm", 0), ("coral", 0)):
        ways = []
        for name, rho in ((method, .05), (f"{method}+sam", 1e-6), (f"{method}+sam", .5)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
                learner, _ = trained(lists, name, rho)
            ways.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
        plain, near, far = ways
        # Adam's first steps have one length, whatever the gradient: where it is about 0, its sign is left to rounding
        assert (near - plain).abs().median() < 1e-5 < (far - plain).abs().median()


def test_hooks_of_the_method_are_kept_and_a_stopped_run_goes_on(lists):  # noqa: F811
    stop = Stop(after=1)
    whole, _ = trained(lists, "cmrf+sam", callbacks=[stop], epochs=2)
    again, _ = trained(lists, "cmrf+sam", callbacks=[Stop(kept=stop.kept)], epochs=2)
    for a, b in zip(whole.state_dict().values(), again.state_dict().values()): assert torch.equal(a, b)
    assert whole.teacher.steps > 0 and whole.objective.hooks.overrides("teacher", "after_step")


class Lengths(Callback):
    "How far each weight is from where it was in the last step, at most."

    def on_start(self, state, learner, optimiser, config):
        self.before, self.most = [p.detach().clone() for p in learner.parameters()], 0.

    def on_step(self, state, learner, optimiser, meter):
        now = [p.detach().clone() for p in learner.parameters()]
        self.most = max(self.most, *((a - b).abs().max().item() for a, b in zip(now, self.before)))
        self.before = now


def test_the_step_uphill_is_taken_back(lists):  # noqa: F811
    "A step of length 100 leaves nothing behind but a step of Adam, of one to three times the learning rate."
    lengths = Lengths()
    trained(lists, "erm+sam", rho=100., callbacks=[lengths])
    assert 0 < lengths.most < 1e-2


def test_what_changes_gradients_itself_is_refused():
    class Twice(OwnMethod):
        def loss(self, outputs, labels): return outputs.fused.square().mean()

        def after_backward(self, learner, again): again()

    wide = with_option(method_of(Twice), "sam", OPTIONS["sam"])
    with pytest.raises(InputError, match="so does the method itself, in after_backward"):
        wide.make({"video": 4}, replace(wide.hyper()))


def test_on_the_command_line(data_dir):
    asked = ("run", "--target", "mfeat", "--modalities", "speech", "--method", "erm+sam", "--epochs", 1,
             "--train-share", .1, "--data-dir", data_dir)
    done = call(*asked, "--hyper", "sam_rho=0")
    assert done.returncode == 2 and "sam_rho is 0, expected a number above 0" in done.stderr, done.stderr
    done = call(*asked, env=dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
