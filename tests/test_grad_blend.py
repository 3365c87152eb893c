"""Gradient blending in the trainer: weights follow the history's losses, change when due, and are in a checkpoint."""
import pytest
import torch
from conftest import call
from hypothesis import given, settings, strategies as st
from test_guests import Stop, lists  # noqa: F401  a fixture

from moosa.extractors.small import small_image, small_speech
from moosa.methods.grad_blend import blend
from moosa.methods.model import Model
from moosa.methods.own import find_hyper, find_method
from moosa.training.compute import make_fabric
from moosa.training.learner import Learner
from moosa.training.trainer import Callback, TrainConfig, fit

LOSSES = st.lists(st.integers(0, 40), min_size=12, max_size=12)  # eighths, which floats hold exactly


@settings(deadline=None)
@given(LOSSES)
def test_weights_are_shares_of_who_has_learnt(losses):
    before, after = torch.tensor(losses).reshape(2, 2, 3)/8
    weights, learnt = blend(before, after), before[1] > after[1]
    assert (weights is None) == (not learnt.any())
    if weights is None: return
    assert weights.sum().item() == pytest.approx(1, abs=1e-5) and (weights >= 0).all()
    assert not weights[~learnt].any()
    torch.testing.assert_close(blend(before + 1, after + 1), weights)  # only differences count
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(blend(before[:, order], after[:, order]), weights[order])


class Shares(Callback):
    "What the weights are after each epoch."

    def __init__(self): self.found, self.looks = [], []

    def on_epoch(self, state, learner, optimiser):
        own = learner.objective.terms["own"]
        self.found.append(own.shares.clone())
        self.looks.append(own.before.clone())


def trained(lists, epochs, callbacks=(), blend_epochs=1):  # noqa: F811
    torch.manual_seed(0)
    model, method = Model({"image": small_image(), "speech": small_speech()}, 8), find_method("grad-blend")
    hyper = find_hyper("grad-blend", dict(blend_epochs=blend_epochs))
    learner = Learner(model, method.make(model.dims, hyper))
    return learner, fit(make_fabric("cpu", threads=1), learner, *lists, TrainConfig(epochs, 8, 1e-3), callbacks)


def test_weights_are_estimated_from_the_losses_of_the_history(lists):  # noqa: F811
    seen = Shares()
    _, state = trained(lists, 3, [seen])
    assert torch.allclose(seen.found[0], torch.full((3,), 1/3))
    weights = seen.found[0]
    for row, look, shares in zip(state.history, seen.looks, seen.found):
        told = [row[f"head {head}"] for head in ("image", "speech", "fused")]
        torch.testing.assert_close(weights*look[0], torch.tensor(told), rtol=1e-4, atol=1e-5)
        assert look[1, 2].item() == pytest.approx(row["validation_loss"], rel=1e-5)
        weights = shares
    for i in (1, 2): torch.testing.assert_close(blend(*seen.looks[i - 1:i + 1]), seen.found[i])
    seldom = Shares()
    trained(lists, 3, [seldom], blend_epochs=2)
    assert seldom.found[0].equal(seldom.found[1]) and not seldom.found[1].equal(seldom.found[2])


def test_a_stopped_run_goes_on_as_the_unbroken_one(lists):  # noqa: F811
    stop = Stop(after=2)
    whole, _ = trained(lists, 3, [stop])
    again, _ = trained(lists, 3, [Stop(kept=stop.kept)])
    for a, b in zip(whole.state_dict().values(), again.state_dict().values()): assert torch.equal(a, b)


def test_on_the_command_line(data_dir):
    asked = ("run", "--target", "mfeat", "--method", "grad-blend", "--epochs", 2, "--train-share", .1,
             "--data-dir", data_dir)
    done = call(*asked, "--hyper", "blend_epochs=0")
    assert done.returncode == 2 and "blend_epochs is 0, expected 1 or above" in done.stderr, done.stderr
    done = call(*asked, "--modalities", "speech", "--hyper", "blend_epochs=1", env=dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
