"""Films that were decoded once: by command, under a run, and with a film that cannot be read."""
import os
import shutil

import pytest
import torch
from conftest import call
from test_minihac import spec, train

from moosa.data.film_packs import PackedFilm, with_packs
from moosa.data.loader import train_batches
from moosa.runs.experiment import open_experiment

LIVE = dict(modalities=("video",), method="erm", features="live")


@pytest.fixture
def place(generated, tmp_path):
    "A data folder of its own, with the clips of another."
    (tmp_path/"raw").symlink_to(generated/"raw")
    return tmp_path


def pack(place, *options):
    return call("data", "pack", "mini-hac", *options, "--data-dir", place)


def test_a_dry_run_says_how_large_packs_would_be_and_writes_none(place):
    said = pack(place, "--dry-run", "--extractors", "video=small-video", "--modalities", "video", "--workers", 1)
    assert said.returncode == 0 and said.stdout.count("to pack") == 3 and "GB in all" in said.stdout, said.stderr
    assert not [path for path in (place/"packed").rglob("*") if path.is_file()]
    larger = pack(place, "--dry-run", "--extractors", "video=slowfast", "--modalities", "video", "--workers", 1)
    assert larger.returncode == 0 and larger.stdout != said.stdout  # other networks want larger frames
    refused = pack(place, "--modalities", "audio", "--data-options", "frame_index=repaired")
    assert refused.returncode == 2 and "'audio' is not known" in refused.stderr


def test_a_run_that_reads_packs_gets_the_same_numbers(place):
    before = train(spec(**LIVE), place)
    done = pack(place, "--workers", 2)
    assert done.returncode == 0 and done.stdout.count("packed") == 6 + 1, done.stderr  # six packs, and their folder
    assert "there" in pack(place).stdout
    experiment, state, validation, test = after = train(spec(**LIVE), place)
    clip = next(experiment.train.clips.itertuples())
    assert isinstance(experiment.train.dataset.media(clip, "video"), PackedFilm)
    assert not isinstance(experiment.dataset.media(clip, "video"), PackedFilm)  # what else looks at files sees files
    assert state.history[0]["loss"] == before[1].history[0]["loss"]
    for one, other in zip(before[2:], after[2:]): assert torch.equal(one.fused, other.fused)


def test_processes_of_a_loader_read_packs(place):
    files = open_experiment(spec(**LIVE), place)
    assert pack(place, "--workers", 1, "--modalities", "video").returncode == 0
    packs = open_experiment(spec(**LIVE), place)
    read = ((files, 0), (packs, 2))
    batches = [[*train_batches(e.train, 8, seed=0, epoch=3, workers=workers)] for e, workers in read]
    for one, other in zip(*batches):
        assert one.clips == other.clips
        assert torch.equal(one.data["video"], other.data["video"])


def test_a_film_that_cannot_be_read_is_left_out_and_told_of(generated, tmp_path):
    shutil.copytree(generated/"raw", tmp_path/"raw")
    dataset = open_experiment(spec(**LIVE), tmp_path).dataset
    clip = next(dataset.clips[dataset.clips["domain"] == "human"].itertuples())
    bad = dataset.media(clip, "video").path
    bad.write_bytes(b"no film")
    done = pack(tmp_path, "--modalities", "video", "--workers", 1)
    assert done.returncode == 1 and f"bad: {bad}: unreadable" in done.stdout and done.stdout.count("packed") == 3 + 1
    medium = with_packs(dataset, tmp_path).media(clip, "video")
    assert not isinstance(medium, PackedFilm)
    os.truncate(next((tmp_path/"packed").rglob("human-video-*.frames")), 10)
    with pytest.raises(Exception, match="10 bytes, its table tells of"): open_experiment(spec(**LIVE), tmp_path)
