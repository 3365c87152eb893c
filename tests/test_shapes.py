"""Arrays of one's own, without an extractor: networks by shape, trained from nothing."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from moosa.core import InputError
from moosa.extractors.registry import create_extractor
from moosa.runs.experiment import build_learner, open_experiment, train
from moosa.runs.spec import spec_from
from moosa.training.checkpoint import Checkpoint
from moosa.training.compute import make_fabric


@pytest.mark.parametrize("name, shape, dim", [
    ("identity", (7,), 7), ("mlp", (1,), 128), ("mlp", (700,), 128), ("small-series", (1, 1), 128),
    ("small-series", (40, 9), 128), ("small-image", (1, 5, 4), 256), ("small-image", (3, 70, 40), 256),
    ("small-volume", (2, 1, 6, 6), 256), ("auto", (9,), 128), ("auto", (3, 12), 128), ("auto", (3, 12, 12), 256),
    ("auto", (1, 4, 8, 8), 256)])
def test_shapes_in_and_out(name, shape, dim):
    extractor = create_extractor(name, shape=shape)
    assert extractor.dim == dim and extractor(torch.randn(2, *shape)).shape == (2, dim)
    assert extractor.name in (name, "mlp", "small-series", "small-image", "small-volume")


@pytest.mark.parametrize("name, shape, says", [
    ("mlp", (3, 9), r"mlp takes arrays \(D\)"), ("small-series", (9,), r"small-series takes arrays \(C, T\)"),
    ("auto", (1, 2, 3, 4, 5), "no network for arrays of shape")])
def test_shapes_that_do_not_fit(name, shape, says):
    with pytest.raises(InputError, match=says): create_extractor(name, shape=shape)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 90), st.integers(1, 5), st.integers(1, 90))
def test_a_series_alone_is_what_it_is_in_company(channels, length, batch, other_length):
    extractor = create_extractor("small-series", shape=(channels, length)).eval()
    for t in (length, other_length):
        x = torch.randn(batch, channels, t)
        assert extractor(x).shape == (batch, 128)
        torch.testing.assert_close(extractor(x)[-1:], extractor(x[-1:]))


def write_arrays(folder, make, domains="abc", classes="xyz", count=5):
    "A folder of arrays: domain/class/clip.npy; `make` gets the numbers of domain, class and clip."
    for d, domain in enumerate(domains):
        for c, name in enumerate(classes):
            (folder/domain/name).mkdir(parents=True)
            for i in range(count): np.save(folder/domain/name/f"{i}.npy", make(d, c, i).astype(np.float32))
    return folder


def trained(folder, tmp_path, **how):
    "An experiment and its learner after a few epochs."
    spec = spec_from(dict(dataset=str(folder), target="c", unknown=["z"], method="erm", epochs=2, batch_size=4) | how)
    experiment = open_experiment(spec, tmp_path)
    learner = build_learner(spec, tmp_path, experiment.shapes)
    state, _ = train(make_fabric("cpu"), experiment, learner, Checkpoint(tmp_path/"run"/"checkpoint"), workers=0)
    return experiment, learner, state


def wave(d, c, i, length=24, channels=3):
    time = np.arange(length)/length
    return np.stack([np.sin(2*np.pi*(c + 1)*(time + k/3)) + d for k in range(channels)]) + i/50


@pytest.mark.parametrize("shape, name", [((5,), "mlp"), ((3, 24), "small-series"), ((3, 9, 8), "small-image"),
                                         ((2, 4, 8, 8), "small-volume")])
def test_arrays_need_no_extractor(tmp_path, shape, name):
    def make(d, c, i): return np.random.default_rng([d, c, i]).normal(c, 1, shape)

    experiment, learner, state = trained(write_arrays(tmp_path/"own", make), tmp_path)
    assert experiment.spec.extractors == {"array": "auto"} and experiment.shapes == {"array": shape}
    assert learner.model.extractors["array"].name == name and np.isfinite(state.history[-1]["loss"])
    assert build_learner(experiment.spec, tmp_path).model.extractors["array"].name == name  # finds the shape itself
