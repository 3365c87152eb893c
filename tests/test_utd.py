"""UTD-MHAD: its table of clips, its files whole and damaged, fetching, runs on stand-ins; and the real files, where
MOOSA_SHARED (default: `shared` beside the project) has them.
"""
import os
import pickle
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scipy.io import savemat

from moosa.commands.data import data_get
from moosa.core import InputError
from moosa.data import utd
from moosa.data.badclip import BadClip
from moosa.data.doctor import examine
from moosa.data.utd import ACTIONS, ARRAYS, UNKNOWN, UtdMhad, trial_path, utd_folder
from moosa.runs.grid import load_grid
from moosa.runs.lists import make_split
from moosa.runs.given import spec_from

REAL = Path(os.environ.get("MOOSA_SHARED") or ROOT.parent/"shared")/"data"/"utd-mhad"
TARGETS = tuple(utd.SUBJECTS)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> Path:
    "A data folder with generated trials."
    folder = tmp_path_factory.mktemp("utd")
    utd.write_trials(utd_folder(folder))
    return folder


@pytest.fixture
def copy(stand_ins, tmp_path) -> Path:
    "A data folder whose trials are links to those, to be replaced at will."
    for modality, (folder, _) in ARRAYS.items():
        (utd_folder(tmp_path)/folder).mkdir(parents=True)
        for path in (utd_folder(stand_ins)/folder).iterdir(): (utd_folder(tmp_path)/folder/path.name).symlink_to(path)
    return tmp_path


# --- clips and lists --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("unknown", UNKNOWN, ids=("default", "second", "third"))
def test_lists_share_nothing_and_hold_all(stand_ins, target, unknown):
    spec = spec_from(dict(dataset="utd-mhad", target=target, unknown=list(unknown), method="erm"))
    split = make_split(spec, UtdMhad(stand_ins))
    lists = [set(clips["clip"]) for clips in (split.train, split.validation, split.test)]
    assert not lists[0] & lists[1] and not (lists[0] | lists[1]) & lists[2]
    assert len(lists[2]) in (215, 216) and set(split.test.domain) == {target}
    assert set(split.train.domain) == set(split.validation.domain) == set(TARGETS) - {target}
    assert set(split.validation["clip"].str[-1]) == {"3"} and len(lists[1]) == 3*2*20
    assert set(split.train.label) == set(split.validation.label) == set(range(20))
    assert set(split.test.label) == set(range(27)) and set(split.classes.unknown) == set(unknown)


def test_a_trial_is_of_the_subjects_and_the_action_that_its_name_says():
    for clip, domain, action, _ in utd.trial_rows():
        a, s, _ = (int(part[1:]) for part in clip.split("_"))
        assert action == a - 1 and s in utd.SUBJECTS[domain]
    assert Counter(UtdMhad.official_counts) == Counter(
        (domain, part, ACTIONS[action]) for _, domain, action, part in utd.trial_rows())


def test_grids():
    demo, methods = load_grid("utd-mhad").specs, load_grid("utd-mhad-methods").specs
    assert {spec.target for spec in demo} == set(TARGETS) and len(demo) == 40 and len(methods) == 420
    assert {spec.unknown for spec in (*demo, *methods)} == {UNKNOWN[0]}
    assert {s.method for s in methods} <= {s.method for s in load_grid("methods").specs}
    text = (ROOT/"nbs"/"experiments"/"grids"/"utd-mhad-methods.yaml").read_text()
    for unknown in UNKNOWN[1:]: assert f"[{', '.join(unknown)}]" in text


# --- damaged files ----------------------------------------------------------------------------------------------------

class Harm:
    "Unpickled, it would make a file."
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return open, (self.path, "w")


def save(name: str, value): return lambda path: savemat(path, {name: value})


SERIES = np.ones((120, 6))
DAMAGES = {
    "nothing": (lambda path: path.unlink(), "missing", "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty", "no bytes"),
    "text": (lambda path: path.write_text("no MATLAB here"), "unreadable", "no whole MATLAB file"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Harm(path.with_name("harm")))), "unreadable", "no whole"),
    "numpy's": (lambda path: path.write_bytes(b"\x93NUMPY" + bytes(200)), "unreadable", ""),
    "version 7.3": (lambda path: path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(99)),
                    "unreadable", ""),
    "another name": (save("d_skel", SERIES), "unreadable", "no array d_iner"),
    "texts": (save("d_iner", "words"), "unreadable", "no plain numbers"),
    "cells": (save("d_iner", np.array([[1, "a"]], dtype=object)), "unreadable", "no plain numbers"),
    "structure": (save("d_iner", {"a": 1}), "unreadable", "no plain numbers"),
    "complex": (save("d_iner", SERIES*1j), "unreadable", "no plain numbers"),
    "turned": (save("d_iner", SERIES.T), "mismatch", r"(6, 120); expected (time, 6)"),
    "a skeleton": (save("d_iner", np.ones((20, 3, 50))), "mismatch", "(20, 3, 50)"),
    "no sample": (save("d_iner", SERIES[:0]), "mismatch", ""),
    "nan": (save("d_iner", np.where(np.arange(6) == 2, np.nan, SERIES)), "not-finite", "120 of its 720"),
    "too large": (save("d_iner", SERIES*1e300), "not-finite", ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(damage, tmp_path):
    make, problem, says = DAMAGES[damage]
    path = tmp_path/"a1_s1_t1_inertial.mat"
    savemat(path, {"d_iner": SERIES})
    make(path)
    with pytest.raises(BadClip) as caught: utd.read_trial(path, "inertial")
    assert caught.value.problem == problem and says in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path/"harm").exists()


def test_no_cut_and_no_flipped_byte_escapes(tmp_path):
    "Whatever SciPy makes of it: an array of the right kind, or a `BadClip`."
    whole, bad = tmp_path/"whole.mat", tmp_path/"bad.mat"
    savemat(whole, {"d_iner": np.random.default_rng(0).normal(size=(20, 6))}, do_compression=True)
    content, draws = whole.read_bytes(), np.random.default_rng(1)
    tries = [content[:n] for n in range(0, len(content), 37)]
    for position in draws.integers(120, 260, 80):
        tries.append(content[:position] + bytes([draws.integers(256)]) + content[position + 1:])
    for damaged in tries:
        bad.write_bytes(damaged)
        try: found = utd.read_trial(bad, "inertial")
        except BadClip: continue
        assert found.shape[1] == 6 and np.isfinite(found).all()


def test_check_and_doctor_name_what_is_missing_and_damaged(copy):
    gone, cut = (trial_path(utd_folder(copy), f"a5_s{s}_t2", "skeleton") for s in (1, 2))
    gone.unlink()
    half = cut.read_bytes()[:5000]
    cut.unlink()
    cut.write_bytes(half)
    table = utd.check(copy)
    assert table.ok.tolist() == [False] + [True]*5
    assert "859 of 861" in table.found[0] and "1 missing, e.g. a5_s1_t2_skeleton.mat" in table.found[0]
    findings = examine(UtdMhad(copy), workers=1)
    errors = findings[findings.level == "error"]
    assert dict(zip(errors["clip"], errors["problem"])) == {"a5_s1_t2": "missing", "a5_s2_t2": "unreadable"}


# --- fetching ---------------------------------------------------------------------------------------------------------

def zipped(folder: Path, modality: str, source: Path, prefix: str = "") -> Path:
    name = ARRAYS[modality][0]
    with zipfile.ZipFile(folder/f"{name}.zip", "w") as archive:
        for path in sorted((source/name).iterdir()): archive.write(path, f"{prefix}{name}/{path.name}")
        archive.writestr(f"{prefix}{name}/notes.txt", "not a trial")
    return folder/f"{name}.zip"


def test_from_a_folder_of_trials_and_from_zips(stand_ins, tmp_path, capsys):
    data_get("utd-mhad", utd_folder(stand_ins), tmp_path/"one")
    (tmp_path/"zips").mkdir()
    for modality in ARRAYS: zipped(tmp_path/"zips", modality, utd_folder(stand_ins), "../../")
    data_get("utd-mhad", tmp_path/"zips"/"Skeleton.zip", tmp_path/"two")
    assert "861 files are still missing, such as a1_s1_t1_inertial.mat" in capsys.readouterr().out
    data_get("utd-mhad", tmp_path/"zips", tmp_path/"two")
    for name in ("one", "two"):
        assert utd.check(tmp_path/name).ok.all()
        assert {p.name for p in utd_folder(tmp_path/name).iterdir()} == {"Skeleton", "Inertial"}
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two", "zips"}  # nothing went elsewhere
    data_get("utd-mhad", None, tmp_path/"two")  # all is there: no server is asked
    assert "all trials are here" in capsys.readouterr().out


def test_from_takes_only_what_it_can(tmp_path):
    with pytest.raises(InputError, match="av-digits is not taken from a folder"): data_get("av-digits", tmp_path)
    (tmp_path/"text.zip").write_text("no zip")
    with pytest.raises(InputError, match="neither a folder nor a zip archive"):
        data_get("utd-mhad", tmp_path/"text.zip", tmp_path)
    with zipfile.ZipFile(tmp_path/"cut.zip", "w") as archive:
        archive.writestr("a1_s1_t1_skeleton.mat", bytes(5000))
    damaged = bytearray((tmp_path/"cut.zip").read_bytes())
    damaged[100] = 1
    (tmp_path/"cut.zip").write_bytes(damaged)
    with pytest.raises(InputError, match="is damaged"): data_get("utd-mhad", tmp_path/"cut.zip", tmp_path/"out")
    assert not list(tmp_path.glob("out/**/*.mat"))


def test_the_second_server_is_asked_where_the_first_fails(stand_ins, tmp_path, monkeypatch):
    archives = tmp_path/"archives"
    archives.mkdir()
    asked = []

    def download(url, path, check):
        asked.append(url)
        if url.startswith(utd.ADDRESSES[0]): raise InputError("cannot download it: no server")
        path.parent.mkdir(parents=True, exist_ok=True)
        modality = "skeleton" if "Skeleton" in path.name else "inertial"
        shutil.copy(zipped(archives, modality, utd_folder(stand_ins)), path)
        check(path)

    monkeypatch.setattr(utd, "download", download)
    utd.get(tmp_path/"data", report=lambda line: None)
    assert asked == [address + name for name in ("Skeleton.zip", "Inertial.zip") for address in utd.ADDRESSES]
    assert utd.check(tmp_path/"data").ok.all() and not (utd_folder(tmp_path/"data")/"downloads").exists()


def test_what_to_do_without_a_server(tmp_path, monkeypatch):
    def download(url, path, check): raise InputError("cannot download it: certificate verify failed")

    monkeypatch.setattr(utd, "download", download)
    with pytest.raises(InputError, match="(?s)certificate.*by a browser.*--from Skeleton.zip"):
        utd.get(tmp_path, report=lambda line: None)
    assert all(address.startswith("https://") for address in (*utd.ADDRESSES, utd.PAGE))


# --- runs -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["erm", "moosa"])
def test_a_run_learns_the_stand_ins(stand_ins, method):
    from moosa.runs.experiment import build_learner, open_experiment
    from moosa.training.compute import make_fabric
    from moosa.training.trainer import fit

    spec = spec_from(dict(dataset="utd-mhad", target="subjects-5-6", method=method, epochs=3))
    assert set(spec.extractors.values()) == {"small-series"} and spec.unknown == UNKNOWN[0]
    experiment = open_experiment(spec, stand_ins)
    assert experiment.config().workers == 0  # clips are kept in memory
    state = fit(make_fabric("cpu"), build_learner(spec, stand_ins), experiment.train, experiment.validation,
                experiment.config())
    assert state.history[-1]["validation_accuracy"] > .5  # chance: .05


def test_the_wide_networks_of_the_conditions_differ_in_width_alone(stand_ins):
    from moosa.runs.experiment import build_learner

    found = {}
    for spec in load_grid("conditions-utd-mhad").specs:
        if spec.method == "moosa" and spec.seed == 0 and spec.target == "subjects-5-6" and spec.epochs == 15:
            found.setdefault(spec.extractors["skeleton"], spec)
    dims = {name: build_learner(spec, stand_ins).model.dims for name, spec in found.items()}
    assert [set(each.values()) for each in dims.values()] == [{128}, {512}]


def test_a_run_skips_a_damaged_clip_if_it_may(copy):
    from moosa.runs.experiment import open_experiment

    path = trial_path(utd_folder(copy), "a1_s1_t1", "inertial")
    path.unlink()
    path.write_bytes(b"damaged")
    asked = dict(dataset="utd-mhad", target="subjects-5-6", method="erm")
    with pytest.raises(InputError, match="a1_s1_t1"): open_experiment(spec_from(asked), copy).check_before()
    experiment = open_experiment(spec_from(asked | dict(on_bad_clip="skip")), copy)
    assert experiment.skipped["clip"].tolist() == ["a1_s1_t1"]
    assert "a1_s1_t1" not in set(experiment.train.clips["clip"])


# --- the real files ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    if not REAL.is_dir(): pytest.skip(f"UTD-MHAD is not in {REAL}; set MOOSA_SHARED")
    folder = tmp_path_factory.mktemp("real")
    (folder/"raw").mkdir()
    (folder/"raw"/"utd-mhad").symlink_to(REAL)
    return folder


def test_real_files_are_those_of_the_table(real):
    table = utd.check(real)
    assert table.ok.all() and len(table) == 6
    assert table.found[0] == "861 of 861 trials; 41 to 125 steps of time; the bytes that we had"
    assert table.found[1] == "861 of 861 trials; 107 to 326 steps of time; the bytes that we had"
    for modality, (folder, _) in ARRAYS.items():
        there = {path.name.removesuffix(f"_{modality}.mat") for path in (REAL/folder).glob("*.mat")}
        assert there == {clip for clip, *_ in utd.trial_rows()}
    counts = UtdMhad(real).clips.groupby("class").size()
    assert {ACTIONS[c]: n for c, n in counts.items() if n != 32} == {"draw-x": 31, "walk": 31, "squat": 31}


def test_real_series(real):
    dataset = UtdMhad(real)
    some = dataset.clips.iloc[::40]
    found = dataset.load(some, dataset.modalities)
    assert found["skeleton"].shape == (len(some), 60, 64) and found["inertial"].shape == (len(some), 6, 128)
    hip = found["skeleton"].reshape(-1, 20, 3, 64)[:, utd.JOINTS.index("hip-centre")]
    assert hip[..., 0].abs().max() == 0 and .5 < found["skeleton"].std()*3 < 3
    pull = found["inertial"][:, :3].norm(dim=1).mean()
    assert .8 < pull < 1.6  # g
