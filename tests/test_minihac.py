"""mini-HAC from end to end: generated, examined, trained on with every set of modalities, clips that cannot be read
named or skipped.
"""
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call
from test_doctor import cut, encode, film, uneven

from moosa.core import InputError, file_sha256, write_json
from moosa.data import minihac
from moosa.data.doctor import examine
from moosa.data.films import VideoFile
from moosa.data.media import write_video
from moosa.data.sounds import write_sound
from moosa.runs.experiment import build_learner, open_experiment
from moosa.evaluation.openset import evaluate
from moosa.runs.given import spec_from
from moosa.runs.resolve import resolve
from moosa.runs.spec import spec_hash
from moosa.training.compute import make_fabric
from moosa.training.trainer import fit, predict

SETS = [c for n in (1, 2, 3) for c in itertools.combinations(("video", "audio", "flow"), n)]


@pytest.fixture
def copy(generated, tmp_path):
    "The same clips, for one test to spoil."
    shutil.copytree(generated/"raw", tmp_path/"raw")
    return tmp_path


def rows(dataset, domain="human", action="eating"):
    return dataset.clips[(dataset.clips.domain == domain) & (dataset.clips["class"] == dataset.classes.index(action))]


def spec(modalities=("video", "audio", "flow"), **more):
    return spec_from({"dataset": "mini-hac", "target": "cartoon", "modalities": modalities, "epochs": 1,
                      "batch_size": 8, "views": 1, **more})


def train(s, folder, **how):
    experiment, fabric, learner = open_experiment(s, folder), make_fabric("cpu", threads=1), build_learner(s, folder)
    experiment.precompute()
    config = experiment.config(workers=0)
    state = fit(fabric, learner, experiment.train, experiment.validation, config)
    return experiment, state, *(predict(fabric, learner, clips, config)
                                for clips in (experiment.validation, experiment.test))


def often(modalities, method) -> bool:
    "Alone without moosa's terms, more with them; all the others are `slow`."
    return (method == "erm") == (len(modalities) == 1)


@pytest.mark.parametrize("modalities, method", [
    pytest.param(modalities, method, id=f"{'+'.join(modalities)}-{method}",
                 marks=[pytest.mark.slow]*(not often(modalities, method)))
    for modalities in SETS for method in ("erm", "moosa")])
def test_any_modalities_train_and_evaluate(generated, modalities, method):
    experiment, state, validation, test = train(spec(modalities, method=method), generated)
    assert len(experiment.train) == 24 and len(test.clips) == 21 and list(test.logits) == list(modalities)
    assert np.isfinite(state.history[0]["loss"]) and torch.isfinite(test.fused).all()
    assert ("translation" in state.history[0]) == (method == "moosa" and len(modalities) > 1)
    results = evaluate(test, validation)
    assert 0 <= results["threshold-free"]["AUROC"] <= 1 and 0 <= results["oracle"]["HOS"] <= 1


def test_features_computed_once_change_nothing_in_evaluation(generated):
    "Live or kept, frozen stems say the same of a clip."
    how = dict(modalities=("video", "audio"), method="erm", frozen_stems=True, frozen_bn="eval")
    experiments = [open_experiment(spec(features=f, **how), generated) for f in ("live", "stem")]
    predictions = []
    for experiment in experiments:
        experiment.precompute()
        learner = build_learner(experiment.spec, generated)
        predictions.append(predict(make_fabric("cpu", threads=1), learner, experiment.test,
                                   experiment.config(workers=0)))
    torch.testing.assert_close(predictions[0].fused, predictions[1].fused, rtol=1e-5, atol=1e-6)


def test_who_computes_the_features_trains_as_those_who_find_them(copy):
    "The first run of a grid computes features, the others find them; both must give the same bytes."
    first, second = (train(spec(("video", "audio"), method="erm"), copy) for _ in range(2))
    assert torch.equal(first[3].fused, second[3].fused)


LEFT_OPEN = """
import gc, os, sys
from moosa.data.loader import train_batches
from moosa.data.films import VideoFile
from moosa.runs.experiment import open_experiment
from moosa.runs.given import spec_from

spec = spec_from(dict(dataset="mini-hac", target="cartoon", modalities=["video"], batch_size=8, features="live"))
clips = open_experiment(spec, sys.argv[1]).train
gc.disable()
os.register_at_fork(after_in_child=gc.enable)
gc.set_threshold(1, 1, 1)
garbage = [VideoFile(next(clips.dataset.root.rglob("videos/*.mp4")))]
garbage[0].frames  # opened
garbage.append(garbage)
del garbage
print(sum(len(b.clips) for b in train_batches(clips, 8, 0, 0, workers=2)))
"""


def test_a_film_left_open_does_not_hang_the_workers(generated):
    "Forked workers inherit it, and closing it there waits for threads that they do not have."
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN, str(generated)], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0 and done.stdout.split()[-1] == "24", done.stderr


def test_batches_do_not_depend_on_workers(generated):
    from moosa.data.loader import train_batches

    clips = open_experiment(spec(features="live"), generated).train
    one, two = ([b for b in train_batches(clips, 8, seed=3, epoch=2, workers=w)] for w in (0, 2))
    assert [b.clips for b in one] == [b.clips for b in two]
    assert all(a.data[m].equal(b.data[m]) for a, b in zip(one, two) for m in a.data)


# --- clips that cannot be read ----------------------------------------------------------------------------------------

def place(dataset, clip, modality): return dataset.media(clip, modality).files


FAULTS = [  # modality, what is done to its files, what the doctor says: level, problem
    ("video", lambda f: f[0].unlink(), ("error", "missing")),
    ("video", lambda f: f[0].write_bytes(b""), ("error", "empty")),
    ("video", lambda f: f[0].write_text("this is not a video"), ("error", "unreadable")),
    ("video", lambda f: cut(f[0]), ("error", "truncated")),
    ("audio", lambda f: f[0].unlink(), ("error", "missing")),
    ("audio", lambda f: write_sound(f[0], np.zeros(48000)), ("warning", "silent")),
    ("audio", lambda f: write_sound(f[0], np.zeros(0)), ("error", "silent")),
    ("audio", lambda f: write_sound(f[0], np.ones((48000, 2))/9, 44100), ("error", "format")),
    ("video", lambda f: write_video(f[0], film(1)), ("error", "too-short")),
    ("video", lambda f: encode(f[0], film(80, 241, 321), "yuv444p"), ("warning", "size")),
    ("video", lambda f: write_video(f[0], film(80)[..., 1]), ("warning", "gray")),
    ("video", lambda f: uneven(f[0]), ("warning", "variable-rate")),
    ("flow", lambda f: write_video(f[1], VideoFile(f[1]).read(range(20))[..., 0]), ("error", "mismatch")),
]


def test_doctor_finds_every_planted_fault(copy):
    dataset = minihac.MiniHac(copy)
    assert (examine(dataset, workers=2).level == "warning").all()
    clean = set(map(tuple, examine(dataset, workers=2)[["clip", "modality", "problem"]].itertuples(index=False)))
    victims = list(dataset.clips.iloc[::len(dataset.clips)//len(FAULTS)].itertuples())
    for (modality, spoil, _), clip in zip(FAULTS, victims): spoil(place(dataset, clip, modality))
    found = examine(minihac.MiniHac(copy), workers=2)
    for (modality, _, (level, problem)), clip in zip(FAULTS, victims):
        same = (found["clip"] == clip.clip) & (found.modality == modality) & (found.level == level)
        assert (same & (found.problem == problem)).any(), (clip.clip, problem)
    spoiled = {clip.clip for _, clip in zip(FAULTS, victims)}
    assert {t for t in map(tuple, found[["clip", "modality", "problem"]].itertuples(index=False))
            if t[0] not in spoiled} <= clean
    done = call("data", "check", "mini-hac", "--data-dir", copy, "--workers", 2)
    assert done.returncode == 1 and "WRONG" in done.stdout and "missing" in done.stdout
    # what differs from the manifest, and what is wrong with it
    written = pd.read_csv(copy/"check-mini-hac.csv", keep_default_na=False)
    for (_, _, (level, problem)), clip in zip(FAULTS, victims):
        assert ((written["clip"] == clip.clip) & (written.problem == problem)).any(), clip.clip
    differing = written[written.problem.isin(["changed", "missing"])]
    assert set(differing["clip"]) == spoiled and not differing.file.duplicated().any()
    assert (differing.level == "error").all()


def test_check_command_on_a_clean_copy(generated):
    done = call("data", "check", "mini-hac", "--data-dir", generated, "--sample", 10)
    assert done.returncode == 0 and "hashes match" in done.stdout, done.stdout + done.stderr
    assert (generated/"check-mini-hac.csv").exists()


@pytest.mark.slow
def test_a_bad_clip_stops_the_run_or_is_skipped_by_name(copy):
    dataset = minihac.MiniHac(copy)
    bad = next(rows(dataset).itertuples())
    place(dataset, bad, "video")[0].write_text("this is not a video")
    args = ("run", "--dataset", "mini-hac", "--target", "cartoon", "--modalities", "video", "--method", "erm",
            "--epochs", 1, "--data-dir", copy)
    stopped = call(*args)
    assert stopped.returncode == 2 and f"{bad.file}: unreadable" in stopped.stderr, stopped.stderr
    skipped = call(*args, "--on-bad-clip", "skip")
    assert skipped.returncode == 0, skipped.stderr
    (record,) = (copy/"runs").glob("*/record.json")
    listed = json.loads(record.read_text())["skipped_clips"]
    assert [(row["clip"], row["modality"], row["problem"]) for row in listed] == [(bad.clip, "video", "unreadable")]
    names = pd.read_csv(record.parent/"clips.csv")["clip"]
    assert bad.clip not in set(names)


def test_a_list_that_names_an_absent_clip(copy):
    with open(copy/"raw"/"mini-hac"/"HAC_Splits"/"HAC_train_only_human.csv", "a") as f: f.write("nobody.mp4,0\n")
    with pytest.raises(InputError, match="nobody.mp4"): train(spec(("video",), method="erm"), copy)
    experiment, *_ = train(spec(("video",), method="erm", on_bad_clip="skip"), copy)
    assert experiment.skipped["clip"].tolist() == ["human/nobody"]


def test_not_generated(tmp_path):
    done = call("run", "--dataset", "mini-hac", "--target", "cartoon", "--data-dir", tmp_path)
    assert done.returncode == 2 and "moosa data get mini-hac" in done.stderr


# --- your own data ----------------------------------------------------------------------------------------------------

def test_own_data_from_the_command_line(generated, tmp_path):
    "Some clips of mini-HAC as if they were a user's, by manifest."
    dataset = minihac.MiniHac(generated)
    table = []
    some = dataset.clips[dataset.clips["class"].isin([0, 4, 5])]
    for clip, label in zip(some.itertuples(), some["class"]):
        stem = clip.clip.replace("/", "-")
        shutil.copy(dataset.media(clip, "video").path, tmp_path/f"{stem}.mp4")
        shutil.copy(dataset.media(clip, "audio").path, tmp_path/f"{stem}.wav")
        table.append({"clip": stem, "class": dataset.classes[label], "domain": clip.domain, "part": clip.part,
                      "video": f"{stem}.mp4", "audio": f"{stem}.wav"})
    pd.DataFrame(table).to_csv(tmp_path/"manifest.csv", index=False)
    done = call("data", "check", tmp_path, "--out", tmp_path/"findings.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--target DOMAIN --unknown CLASS" in done.stderr  # what comes next
    done = call("run", "--dataset", ".", "--target", "animal", "--unknown", "running", "--method", "moosa",
                "--epochs", 1, "--hyper", "jigsaw_samples=8",
                "--batch-size", 4, "--data-dir", tmp_path/"data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path/"data"/"runs").glob("*/record.json")
    assert json.loads(record.read_text())["spec"]["extractors"] == {"video": "small-video", "audio": "small-audio"}
    before = spec_from(dict(dataset=str(tmp_path), target="animal", unknown=["running"]))
    pd.DataFrame(table[1:]).to_csv(tmp_path/"manifest.csv", index=False)  # other clips are another run
    after = spec_from(dict(dataset=str(tmp_path), target="animal", unknown=["running"]))
    assert spec_hash(before) != spec_hash(after) and before.dataset == after.dataset
    with pytest.raises(InputError, match="table of clips has changed"): resolve(before)


# --- the published networks -------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_published_networks_on_hacs_layout(generated, tmp_path):
    """A run as on HAC, with SlowFast, SlowOnly and the VGGSound network at full size; weights are made up, in the
    published files' formats. Two minutes and 8 GB.
    """
    from golden_rules import published_file

    from moosa.extractors.entries import PUBLISHED, weights_path

    minihac.get(tmp_path, report=lambda line: None, clips_per_class=2)
    (tmp_path/"raw"/"mini-hac").rename(tmp_path/"raw"/"HAC")
    (tmp_path/"weights").mkdir()
    for name in PUBLISHED: shutil.move(published_file(name, tmp_path), weights_path(name, tmp_path))
    done = call("run", "--dataset", "hac", "--target", "cartoon", "--epochs", 1, "--batch-size", 4,
                "--hyper", "jigsaw_num_splits=2", "--data-dir", tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr
    record = json.loads(next((tmp_path/"runs").glob("*/record.json")).read_text())
    assert record["spec"]["extractors"] == {"video": "slowfast", "audio": "vggsound", "flow": "slowonly"}
    assert record["spec"]["frozen_bn"] == "train"


def test_what_differs_from_the_manifest(tmp_path):
    root = minihac.minihac_folder(tmp_path)
    files = {name: b"whole" for name in ("human/videos/a.mp4", "human/videos/b.mp4", "human/audio/a.wav",
                                         "HAC_Splits/HAC_test_only_human.csv")}
    for name, content in files.items():
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_bytes(content)
    manifest = dict(generator=minihac.GENERATOR, seed=0, clips=2,
                    files={name: file_sha256(root/name) for name in files})
    write_json(root/"manifest.json", manifest)
    table = minihac.check(tmp_path)
    assert table.ok.all() and table.attrs["changed"] == []
    (root/"human/videos/a.mp4").write_bytes(b"other")
    (root/"human/videos/b.mp4").write_bytes(b"")
    (root/"human/audio/a.wav").unlink()
    table = minihac.check(tmp_path)
    assert table[~table.ok].what.tolist() == ["human/videos", "human/audio"]
    assert "2 changed, e.g. a.mp4" in table.found.tolist()
    assert [(path.name, problem) for path, problem, _ in table.attrs["changed"]] == [
        ("a.mp4", "changed"), ("b.mp4", "changed"), ("a.wav", "missing")]
    for broken in ([], dict(files=[]), manifest | dict(files=None), manifest | dict(clips="two")):
        write_json(root/"manifest.json", broken)
        (line,) = minihac.check(tmp_path).itertuples()
        assert not line.ok and "it lacks" in line.found
