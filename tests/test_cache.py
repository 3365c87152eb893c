"""Features that were computed once: runs with them, computations that are killed or run twice at once, damage, what is
stale, `moosa cache list` and `drop`.
"""
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, call

from moosa.core import InputError
from moosa.data.views import View
from moosa.runs.experiment import build_learner, open_experiment
from moosa.extractors import features as room
from moosa.extractors.cache import cached_shards, drop_shards, finish, make_shard, read_manifest, write_piece
from moosa.runs.given import spec_from
from moosa.runs.resolve import differs_from_live
from moosa.training.compute import make_fabric
from moosa.training.trainer import fit, predict

COMPUTE = """
import os, signal, sys
from moosa.runs.experiment import open_experiment
from moosa.extractors import cache, features
from moosa.runs.given import spec_from

features.PIECE, written, write = 4, [], features.write_piece
def count_pieces(*what):
    write(*what)
    written.append(what)
    if len(written) == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)
features.write_piece = count_pieces
spec = spec_from(dict(dataset="mini-hac", sources=["human"], target="cartoon", modalities=["video", "audio"],
                      method="erm", views=1))
print(open_experiment(spec, sys.argv[1]).precompute(), len(written))
"""


@pytest.fixture
def folder(generated, tmp_path):
    "A data folder of its own with the generated clips."
    (tmp_path/"raw").mkdir()
    (tmp_path/"raw"/"mini-hac").symlink_to(generated/"raw"/"mini-hac")
    return tmp_path


@pytest.fixture
def script(tmp_path):
    """Compute all features of a run in pieces of 4 clips, in a process of its own; killed after so many pieces (0:
    never).
    """
    (tmp_path/"compute.py").write_text(COMPUTE)
    def start(folder, killed_after=0):
        return subprocess.Popen([sys.executable, str(tmp_path/"compute.py"), str(folder), str(killed_after)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                                env={**os.environ, "OMP_NUM_THREADS": "1", "MOOSA_NO_PROGRESS": "1",
                                     "PYTHONPATH": str(ROOT)})
    return start


def spec(**more):
    return spec_from({"dataset": "mini-hac", "target": "cartoon", "modalities": ["video", "audio"], "method": "erm",
                      "epochs": 1, "batch_size": 8, "views": 1, **more})


def arrays(folder) -> dict:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted((folder/"cache").rglob("*.npy"))}


def train(s, folder):
    experiment, fabric = open_experiment(s, folder), make_fabric("cpu", threads=1)
    computed, learner = experiment.precompute(), build_learner(s, folder)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    fit(fabric, learner, experiment.train, experiment.validation, experiment.config())
    moved = {name for name, p in learner.named_parameters() if not torch.equal(p, before[name])}
    return experiment, computed, moved, predict(fabric, learner, experiment.test, experiment.config())


# --- computing --------------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_killed_and_started_again_or_by_two_at_once(folder, script, tmp_path):
    """The same bytes, whether unbroken, killed after five pieces and started again, or computed by two processes at
    once; and nothing is computed twice.
    """
    places = [tmp_path/name for name in ("unbroken", "killed", "both")]
    for place in places:
        place.mkdir()
        (place/"raw").symlink_to(folder/"raw")
    killed, unbroken = script(places[1], 5), script(places[0])
    assert killed.wait(120) == -signal.SIGKILL and unbroken.wait(120) == 0, unbroken.stderr.read()
    clips, pieces = map(int, unbroken.stdout.read().split())
    assert clips == 2*21 and "not finished" in set(cached_shards(places[1]).unused)
    again = script(places[1])
    two = [script(places[2]) for _ in range(2)]
    assert [p.wait(240) for p in (again, *two)] == [0, 0, 0], [p.stderr.read() for p in (again, *two)]
    resumed = list(map(int, again.stdout.read().split()))
    assert resumed[1] == pieces - 5 and resumed[0] < clips
    first, *others = map(arrays, places)
    assert len(first) == 8 and first == others[0] == others[1]
    for place in places:
        assert not list((place/"cache").rglob("*.npz")) and not list((place/"cache").rglob("*.building"))
        assert (cached_shards(place).unused == "").all()


def test_a_piece_that_comes_too_late_does_no_harm(tmp_path, monkeypatch):
    "While one process writes its last piece, another writes the same, finishes, and clears the pieces away."
    about = dict(modality="video", domain="human", part="train", kind="stem", view=0, dtype="float32",
                 modules=["moosa.data.views"], code="0")
    shard, rows, savez = make_shard(tmp_path, "mini-hac", about), (0, 3), np.savez
    features = [np.ones((3, 2), np.float32)]
    def overtaken(file, **arrays):
        savez(file, **arrays)
        monkeypatch.setattr(np, "savez", savez)
        write_piece(shard, rows, features)
        assert finish(shard, [rows], list("abc"))
    monkeypatch.setattr(np, "savez", overtaken)
    write_piece(shard, rows, features)
    assert finish(shard, [rows], list("abc")) and shard.whole and not shard.building.exists()


def test_damage_is_named_and_dropped(folder):
    open_experiment(spec(modalities=["audio"]), folder).precompute()
    victim = next((folder/"cache").rglob("audio-human-*/0.npy"))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    damaged = call("run", "--dataset", "mini-hac", "--target", "cartoon", "--modalities", "audio", "--method", "erm",
                   "--epochs", 1, "--views", 1, "--data-dir", folder)
    assert damaged.returncode == 2 and f"{victim} is damaged" in damaged.stderr, damaged.stderr
    name = f"mini-hac/{victim.parent.name}"
    assert f"moosa cache drop '{name}'" in damaged.stderr
    assert call("cache", "drop", name, "--data-dir", folder).returncode == 0 and not victim.parent.exists()
    assert open_experiment(spec(modalities=["audio"]), folder).precompute() > 0 and victim.read_bytes() == whole
    (victim.parent/"manifest.json").write_text("{")
    with pytest.raises(InputError, match="moosa cache drop"):
        open_experiment(spec(modalities=["audio"]), folder).precompute()


def test_other_code_and_weights_are_noticed(folder, monkeypatch, tmp_path):
    first = open_experiment(spec(modalities=["audio"]), folder)
    assert first.precompute() > 0 and open_experiment(spec(modalities=["audio"]), folder).precompute() == 0
    assert open_experiment(spec(modalities=["audio"], weights="random"), folder).precompute() > 0
    monkeypatch.setattr(room, "COMPUTING", (*room.COMPUTING, "a_reader"))
    (tmp_path/"a_reader.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert open_experiment(spec(modalities=["audio"]), folder).precompute() > 0
    before = len(cached_shards(folder))
    (tmp_path/"a_reader.py").write_text("x = 1 + 1\n")
    assert (cached_shards(folder).unused == "other code").sum() == before/3
    assert open_experiment(spec(modalities=["audio"]), folder).precompute() > 0
    assert len(drop_shards(stale=True, data_dir=folder)) == before/3 and (cached_shards(folder).unused == "").all()


# --- running ----------------------------------------------------------------------------------------------------------

def test_embeddings_train_heads_only(folder):
    s = spec(features="embedding", method="moosa", views=2)
    experiment, computed, moved, test = train(s, folder)
    assert computed > 0 and any("random weights" in line for line in differs_from_live(s))
    assert moved and not any(".extractors." in name for name in moved)
    assert {"model.fused.0.weight", "model.heads.video.weight"} <= moved
    assert torch.isfinite(test.fused).all() and experiment.config().workers == 0
    live = open_experiment(spec(features="live"), folder)
    model = build_learner(spec(features="live"), folder).model.eval()  # of the same seed: the same tails
    clips = live.dataset.clips[live.dataset.clips.domain == "cartoon"].iloc[:4]
    data = live.dataset.load(clips, ["video", "audio"])
    for m, kept in experiment.train.dataset.load(clips, ["video", "audio"]).items():
        torch.testing.assert_close(kept, model.extractors[m](data[m]).detach(), rtol=1e-4, atol=1e-5)


def test_views(folder):
    "One view is evaluation's; of several, none is, and epochs go through them. More views keep those that are there."
    def load(e, epoch): return e.train.seen(View(5, epoch)).load([0, 20])["audio"]

    one, two = (open_experiment(spec(views=k, features="embedding", modalities=["audio"]), folder) for k in (1, 2))
    for e in (one, two): e.precompute()
    assert load(one, 0).equal(load(one, 1)) and load(one, 0).equal(one.train.load([0, 20])["audio"])
    assert load(two, 0).equal(load(two, 2)) and not load(two, 0).equal(load(two, 1))
    assert not load(two, 0).equal(load(one, 0))
    three = open_experiment(spec(views=3, seed=0, features="embedding", modalities=["audio"]), folder)
    clips = three.train.dataset.dataset.clips
    assert three.precompute() == len(clips[clips.domain != "cartoon"].query("part == 'train'"))
    assert load(three, 1).equal(load(two, 1))


def test_half_the_room(folder):
    sizes, found = {}, {}
    for dtype in ("float32", "float16"):
        e = open_experiment(spec(features_dtype=dtype, modalities=["audio"]), folder)
        e.precompute()
        found[dtype] = e.test.load([0, 1, 2])["audio"]
        shards = cached_shards(folder)
        sizes[dtype] = shards[shards.dtype == dtype].MB.sum()
    assert found["float16"].dtype == torch.float32 and sizes["float16"] < .6*sizes["float32"]
    torch.testing.assert_close(found["float16"], found["float32"], rtol=1e-3, atol=1e-3)
    assert not found["float16"].equal(found["float32"])


@pytest.mark.slow
def test_digits_from_the_command_line(data_dir):
    "Data without files; frozen stems must be asked for."
    args = ("run", "--target", "mfeat", "--method", "moosa", "--hyper", "jigsaw_samples=4", "--epochs", 1,
            "--train-share", .1, "--features", "embedding", "--data-dir", data_dir)
    refused = call(*args)
    assert refused.returncode == 2 and "frozen_stems=True" in refused.stderr and "at random" in refused.stderr
    done = call(*args, "--frozen-stems", "--features-dtype", "float16")
    assert done.returncode == 0, done.stderr
    record = json.loads(next((data_dir/"runs").glob("*/record.json")).read_text())
    assert record["spec"]["features_dtype"] == "float16" and record["features"]["kind"] == "embedding"
    assert record["features"]["computed_now"] > 0
    assert any("only heads and pretext networks train" in line for line in record["features"]["differs_from_live"])
    shards = cached_shards(data_dir)
    assert set(shards.name.str.split("/").str[1]) >= set(record["features"]["shards"]) and (shards["view"] == 0).all()
    assert "What differs from a live run" in next((data_dir/"runs").glob("*/split.ipynb")).read_text()


def test_list_and_drop(folder):
    assert "0 shards" in call("cache", "list", "--data-dir", folder).stdout
    open_experiment(spec(), folder).precompute()
    broken = next((folder/"cache").rglob("video-human-train-*"))
    about = read_manifest(broken)
    assert about["shapes"]["0.npy"][0] == len(about["clips"]) == np.load(broken/"0.npy").shape[0] and about["moosa"]
    assert about["extractor"] == "small-video"
    (broken/"manifest.json").write_text(json.dumps({**about, "code": "of last year"}))
    listed = call("cache", "list", "--data-dir", folder).stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in listed.splitlines()
            if line.startswith("|")]
    assert len(rows) == 14 and {"mini-hac"} == {row[0] for row in rows[2:]} and "small-audio" in listed
    assert "12 shards" in listed
    assert [row[10] for row in rows if row[10] == "other code"] == ["other code"] and "--stale" in listed
    dry = call("cache", "drop", "--stale", "--dry-run", "--data-dir", folder).stdout
    assert "would be dropped: 1 shards" in dry and broken.name in dry and broken.exists()
    assert "1 shards" in call("cache", "drop", "--stale", "--data-dir", folder).stdout and not broken.exists()
    assert "6 shards" in call("cache", "drop", "mini-hac/audio-*", "--data-dir", folder).stdout
    wrong = call("cache", "drop", "hac", "--data-dir", folder)
    assert wrong.returncode == 2 and "names nothing" in wrong.stderr
    assert call("cache", "drop", "--data-dir", folder).returncode == 2
    assert "5 shards" in call("cache", "drop", "--all", "--data-dir", folder).stdout and len(cached_shards(folder)) == 0
