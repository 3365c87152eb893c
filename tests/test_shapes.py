"""Arrays of one's own, without an extractor: networks by shape, trained from nothing."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from moosa.core import InputError
from moosa.data.folder import FolderData
from moosa.data.sounds import write_sound
from moosa.extractors.base import Extractor
from moosa.extractors.registry import create_extractor
from moosa.runs.experiment import build_learner, extractors_record, open_experiment, train
from moosa.runs.given import spec_from
from moosa.runs.resolve import resolve
from moosa.runs.spec import spec_hash
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


# --- scale, from the sources' training clips alone --------------------------------------------------------------------

def recipe_of(folder, tmp_path, **how):
    spec = spec_from(dict(dataset=str(folder), target="c", unknown=["z"], method="erm", epochs=1, batch_size=4) | how)
    return open_experiment(spec, tmp_path).dataset.recipes["array"]


def test_scale_is_that_of_the_sources_training_clips(tmp_path):
    folder = write_arrays(tmp_path/"own", wave)
    recipe = recipe_of(folder, tmp_path)
    data = FolderData(folder)
    mine = data.clips[data.clips.domain.isin(["a", "b"]) & (data.clips.part == "train") & (data.clips["class"] < 2)]
    arrays = np.concatenate([np.load(folder/f"{clip}.npy") for clip in mine["clip"]], axis=1).astype(np.float64)
    assert np.allclose(recipe.mean, arrays.mean(1)) and np.allclose(recipe.std, arrays.std(1))
    kept = list((tmp_path/"cache").rglob("scale-array-*.json"))
    assert len(kept) == 1 and recipe_of(folder, tmp_path) == recipe
    for clip in data.clips[~data.clips["clip"].isin(mine["clip"])]["clip"]:  # target, validation, unknown classes
        np.save(folder/f"{clip}.npy", np.full((3, 24), 1e6, np.float32))
    assert recipe_of(folder, tmp_path/"anew") == recipe
    assert recipe_of(folder, tmp_path, target="a") != recipe
    np.save(folder/f"{mine['clip'].iloc[0]}.npy", np.full((3, 24), 1e6, np.float32))
    assert recipe_of(folder, tmp_path) != recipe


def test_a_damaged_note_is_made_anew(tmp_path):
    folder = write_arrays(tmp_path/"own", wave)
    recipe = recipe_of(folder, tmp_path)
    next((tmp_path/"cache").rglob("scale-array-*.json")).write_text("{")
    assert recipe_of(folder, tmp_path) == recipe


def test_embeddings_are_used_as_they_are(tmp_path):
    def make(d, c, i): return np.random.default_rng([d, c, i]).normal(c*5, 1, 6)

    experiment, learner, _ = trained(write_arrays(tmp_path/"own", make), tmp_path, extractors={"array": "identity"})
    clips = experiment.train.clips.iloc[:2]
    raw = [np.load(tmp_path/"own"/f"{clip}.npy") for clip in clips["clip"]]
    assert np.allclose(experiment.train.load([0, 1])["array"], raw)
    record = extractors_record(experiment, learner)["array"]
    assert (record["name"], record["stem"], record["tail"]) == ("identity", "nothing to train", "nothing to train")


# --- uneven lengths ---------------------------------------------------------------------------------------------------

def uneven(d, c, i): return wave(d, c, i, length=20 + 3*i + 7*d)


@pytest.mark.parametrize("how, length", [("resample", 29), ("pad", 39), ("crop", 20), ("pad:30", 30), ("crop:8", 8)])
def test_uneven_lengths(tmp_path, how, length):
    folder = write_arrays(tmp_path/"own", uneven)
    experiment, _, state = trained(folder, tmp_path, data_options={"uneven": how})
    assert abs(experiment.shapes["array"][1] - length) <= 3*(":" not in how)  # who validates is drawn
    assert np.isfinite(state.history[-1]["loss"])
    together, alone = experiment.test.load(range(6)), [experiment.test.load([i])["array"] for i in range(6)]
    assert together["array"].equal(torch.cat(alone))


def test_time_is_where_clips_differ(tmp_path):
    folder = write_arrays(tmp_path/"own", lambda d, c, i: uneven(d, c, i).T)
    experiment, learner, _ = trained(folder, tmp_path)
    assert experiment.shapes["array"][0] == 3 and learner.model.extractors["array"].name == "small-series"


def test_a_clip_with_other_channels_is_named(tmp_path):
    folder = write_arrays(tmp_path/"own", wave)
    np.save(folder/"c"/"x"/"0.npy", np.ones((4, 24)))
    with pytest.raises(InputError, match=r"c/x/0, array: .*an array of shape \(4, 24\), most have \(3, any\)"):
        trained(folder, tmp_path)


def test_options_of_arrays(tmp_path):
    folder = write_arrays(tmp_path/"own", wave)
    with pytest.raises(InputError, match="Expected one of: resample, pad, crop, resample:N"):
        recipe_of(folder, tmp_path, data_options={"uneven": "stretch"})
    for bad in ("pad:0", "pad:N", "pad:x"):
        with pytest.raises(InputError, match="uneven"): recipe_of(folder, tmp_path, data_options={"uneven": bad})
    assert recipe_of(folder, tmp_path, data_options={"scale": "none"}).mean == ()


def test_kept_features_follow_the_scale(tmp_path):
    folder = write_arrays(tmp_path/"own", wave)
    how = dict(features="stem", frozen_stems=True, views=1)
    names = []
    for target in "ab":
        spec = spec_from(dict(dataset=str(folder), target=target, unknown=["z"], method="erm", epochs=1, batch_size=4)
                         | how)
        experiment = open_experiment(spec, tmp_path)
        assert experiment.precompute() > 0
        names.append({name for name in experiment.features_record()["shards"] if "-c-" in name})
    assert not names[0] & names[1]  # the same domain's features, with other sources


# --- what is trained, and what the record calls it --------------------------------------------------------------------

def guest(frozen_stem: bool = False) -> Extractor: return Extractor(nn.Flatten(), nn.Linear(72, 9), 9, frozen_stem)


def guest_stem(frozen_stem: bool = False) -> Extractor:
    return Extractor(nn.Sequential(nn.Flatten(), nn.Linear(72, 9)), nn.ReLU(), 9, frozen_stem)


def spec_of(folder, **how):
    return spec_from(dict(dataset=str(folder), target="c", unknown=["z"], method="erm", epochs=1, batch_size=4) | how)


@pytest.mark.parametrize("how, stem", [({}, "trained"), (dict(frozen_stems=True), "frozen")])
@pytest.mark.parametrize("name, weights", [("test_shapes:guest_stem", "random"), ("auto", "random")])
def test_what_starts_at_random_is_trained_unless_told_otherwise(tmp_path, how, stem, name, weights):
    folder = write_arrays(tmp_path/"own", wave)
    experiment, learner, _ = trained(folder, tmp_path, extractors={"array": name}, **how)
    found = extractors_record(experiment, learner)["array"]
    assert (found["stem"], found["tail"] == "trained", found["weights"]) == (stem, name == "auto", weights)


def test_among_frozen_stems_random_ones_are_trained(tmp_path):
    folder = write_arrays(tmp_path/"own", wave)
    for place in folder.rglob("*.npy"): write_sound(place.with_suffix(".wav"), np.sin(np.arange(2000)))
    spec = spec_of(folder)
    assert spec.extractors == {"audio": "small-audio", "array": "auto"} and spec.weights == "pretrained"
    assert (spec.frozen_stems, spec.unfrozen, spec.lr) == (True, ("array",), 1e-4)
    assert resolve(spec) == spec
    experiment = open_experiment(spec, tmp_path)
    extractors = build_learner(spec, tmp_path, experiment.shapes).model.extractors
    assert [extractors[m].frozen_stem for m in ("audio", "array")] == [True, False]
    told = spec_of(folder, frozen_stems=True)
    assert told.unfrozen == () and resolve(told) == told and spec_hash(told) != spec_hash(spec)
    assert spec_of(folder, features="stem").unfrozen == ()
    with pytest.raises(InputError, match="needs stems that do not change"):
        spec_of(folder, features="stem", unfrozen=["array"])
    with pytest.raises(InputError, match="unfrozen: all stems are trained here"):
        spec_of(folder, frozen_stems=False, unfrozen=["array"])


def test_nobody_gets_weights_that_do_not_exist(tmp_path):
    folder = write_arrays(tmp_path/"own", wave)
    assert spec_of(folder).weights == "random"
    with pytest.raises(InputError, match="weights: 'pretrained' was asked for, but there are none for auto"):
        spec_of(folder, weights="pretrained")
    asked = spec_of(folder, weights="pretrained", extractors={"array": "test_shapes:guest_stem"})  # it may have some
    experiment = open_experiment(asked, tmp_path)
    record = extractors_record(experiment, build_learner(asked, tmp_path, experiment.shapes))
    assert record["array"]["weights"] == "random"  # but has none


def test_runs_of_the_built_in_networks_keep_their_names():
    assert spec_hash(spec_from(dict(dataset="av-digits", target="mfeat"))) == "2e926f9e023d"
    assert spec_hash(spec_from(dict(dataset="mini-hac", target="human"))) == "65a20fc0ac6c"
