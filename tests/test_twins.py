"""Clips side by side: each kind of twin is found, in the right clips, and nothing in clips that share nothing."""
import os

import numpy as np
import pandas as pd
import pytest

from moosa.core import InputError
from moosa.data.digits import AVDigits
from moosa.data.checkup import ADVICE, COLUMNS
from moosa.data.doctor import add_changed, examine, report
from moosa.data.epic import Epic
from moosa.data.folder import FolderData
from moosa.data.hac import Hac
from moosa.data.media import FlowFolders, FrameFolder
from moosa.data.sounds import SoundFile
from moosa.data.twins import check_apart, look_alikes, outline, twins
from moosa.data.in_files import MediaData
from moosa.data.views import FLOW, RGB, SOUND

HEAD = "clip,class,domain,part,pose"


@pytest.fixture
def root(tmp_path):
    "Arrays, all different, but for one that is copied, one that is linked, and two of a single number."
    for i, name in enumerate("abcdef"): np.save(tmp_path/f"{name}.npy", np.arange(12).reshape(3, 4) + 100*i)
    for name in ("zeros", "nought"): np.save(tmp_path/f"{name}.npy", np.zeros((3, 4), int))
    (tmp_path/"copy.npy").write_bytes((tmp_path/"a.npy").read_bytes())
    os.link(tmp_path/"a.npy", tmp_path/"hard.npy")
    os.symlink("a.npy", tmp_path/"soft.npy")
    return tmp_path


def listed(root, *lines):
    (root/"manifest.csv").write_text(
        "\n".join([HEAD, "1,run,sea,train,a.npy", "2,run,sea,train,b.npy", "3,swim,sea,validation,c.npy",
                   "4,run,lake,train,d.npy", *lines]) + "\n")
    return FolderData(root)


def test_clips_that_share_nothing(root): assert twins(listed(root)) == []


@pytest.mark.parametrize("file, what", [("a", "the same file"), ("hard", "the same file"), ("soft", "the same file"),
                                        ("copy", "contents are equal")])
@pytest.mark.parametrize("label, domain, part, level, problem, says", [
    ("run", "sea", "train", "warning", "twice", "of clip 1"),
    ("run", "sea", "validation", "error", "leak", "part validation and train"),
    ("run", "lake", "train", "error", "leak", "domain lake and sea"),
    ("swim", "sea", "train", "error", "leak", "class swim and run"),
    ("swim", "lake", "validation", "error", "leak",
     "part validation and train, domain lake and sea, class swim and run"),
])
def test_one_file_in_two_rows(root, file, what, label, domain, part, level, problem, says):
    (line,) = twins(listed(root, f"5,{label},{domain},{part},{file}.npy"))
    assert line[:2] == ("5", "pose") and line[2] == str(root/f"{file}.npy") and line[3:5] == (level, problem)
    assert what in line[5] and says in line[5]


def test_each_is_named_with_one_that_it_must_not_share_with(root):
    found = twins(listed(root, "5,run,sea,train,copy.npy", "6,run,sea,validation,hard.npy", "7,run,sea,train,soft.npy"))
    assert {(line[0], line[4]) for line in found} == {("6", "leak"), ("7", "leak"), ("5", "twice")}


def test_what_holds_nothing_is_nobodys_twin(root):
    assert twins(listed(root, "5,run,sea,train,zeros.npy", "6,swim,lake,validation,nought.npy")) == []


def test_empty_and_absent_files_have_no_twins(root):
    for name in ("x", "y"): (root/f"{name}.npy").write_bytes(b"")
    data = listed(root, "5,run,sea,train,x.npy", "6,swim,lake,validation,y.npy", "7,swim,sea,train,e.npy")
    (root/"e.npy").unlink()
    assert twins(data) == []


def test_beginnings_and_ends_alone_do_not_make_twins(root):
    big = np.random.default_rng(0).integers(0, 255, 200_000, dtype=np.uint8)
    for name, change in (("x", None), ("y", 50_000), ("z", None)):
        array = big.copy()
        if change: array[change] += 1
        np.save(root/f"{name}.npy", array)
    found = twins(listed(root, *(f"{name},swim,sea,train,{name}.npy" for name in "xyz")))
    assert [line[0] for line in found] == ["z"]


def test_contents_of_the_sample_only_but_files_of_all(root):
    data = listed(root, "5,run,lake,train,copy.npy", "6,run,lake,train,hard.npy")
    assert {line[0] for line in twins(data, opened=data.clips.iloc[:2])} == {"6"}


def test_two_films_of_flow_are_compared_together(tmp_path):
    still, moves = b"\0"*4000, b"\1"*4000
    for name, x, y in (("a", moves, still), ("b", moves[:-1] + b"\2", still), ("c", moves, still)):
        for axis, content in (("x", x), ("y", y)): (tmp_path/f"{name}_{axis}.mp4").write_bytes(content)
    lines = [f"{name},run,sea,train,{name}_x.mp4,{name}_y.mp4"
             for name in "ab"] + ["c,run,sea,validation,c_x.mp4,c_y.mp4", "d,run,sea,validation,b_x.mp4,c_y.mp4"]
    (tmp_path/"manifest.csv").write_text("\n".join(["clip,class,domain,part,flow_x,flow_y", *lines]))
    found = twins(FolderData(tmp_path))
    assert {(line[0], line[4], os.path.basename(line[2]))
            for line in found} == {("d", "leak", "b_x.mp4"), ("d", "twice", "c_y.mp4"), ("c", "leak", "c_x.mp4")}


class Recordings(MediaData):
    "Pictures and sound by the hour, of which each clip has a stretch."
    name = "recordings"
    classes = ("take", "put")
    domains = ("D1",)
    modalities = ("video", "flow", "audio")
    recipes = {"video": RGB, "flow": FLOW, "audio": SOUND}

    def __init__(self, root, rows):
        self.root = root
        self.clips = pd.DataFrame(rows, columns=["clip", "video", "start", "frames",
                                                 "part"]).assign(domain="D1", **{"class": 0})

    def media(self, clip, modality):
        if modality == "video": return FrameFolder(self.root/clip.video, clip.start, clip.frames)
        return FlowFolders(self.root/clip.video, clip.start,
                           clip.frames) if modality == "flow" else SoundFile(self.root/f"{clip.video}.wav")

    def file_numbers(self, indices, medium): return indices + medium.start

    def sound_window(self, clip, seen, media): return clip.start/10, (clip.start + clip.frames)/10


def test_stretches_of_recordings(tmp_path):
    for video in ("P1", "P2"):
        for part in ("", "u", "v"): (tmp_path/video/part).mkdir(parents=True, exist_ok=True)
        for n in range(60):
            for part in ("", "u", "v"):
                (tmp_path/video/part/(FrameFolder.pattern % n)).write_bytes(
                    bytes([n, len(part) + (0 if part == "v" else 5)])*9)
        (tmp_path/f"{video}.wav").write_bytes(video.encode()*9)
    rows = [("a", "P1", 0, 20, "train"), ("b", "P1", 20, 20, "validation"), ("c", "P1", 0, 20, "validation"),
            ("d", "P2", 20, 20, "train")]
    found = {(line[0], line[1], "same file" in line[5]) for line in twins(Recordings(tmp_path, rows))
             if line[4] == "leak"}
    assert found == {("c", "video", True), ("c", "flow", True), ("c", "audio", True), ("d", "video", False),
                     ("d", "flow", False)}


def test_published_lists_keep_their_twins_but_links_are_errors(root, monkeypatch):
    monkeypatch.setattr(FolderData, "official_counts", {}, raising=False)
    data = listed(root, "5,run,sea,validation,a.npy", "6,run,sea,validation,copy.npy", "7,run,sea,validation,soft.npy")
    levels = {line[0]: (line[3], line[4]) for line in twins(data)}
    assert levels == {"5": ("warning", "leak"), "6": ("warning", "leak"), "7": ("error", "leak")}
    clips = data.clips.set_index("clip", drop=False)
    check_apart(data, dict(train=clips.loc[["1"]], test=clips.loc[["5", "6"]]), ["pose"])
    with pytest.raises(InputError, match="two of the lists"):
        check_apart(data, dict(train=clips.loc[["1"]], test=clips.loc[["7"]]), ["pose"])


def test_clips_in_memory(archives):
    data = AVDigits(archives.parents[1])
    (line,) = twins(data, ["image"])  # UCI's digits have one 3 twice
    assert line[0] == "mfeat/3/theo-29" and line[3:5] == ("warning", "leak")
    data.clips.loc[5, "image"] = data.clips.loc[400, "image"]
    assert len(twins(data, ["image"])) == 2
    assert len(examine(data)) == 2 and "1 time(s)" in report(data, twins_table(data))


def twins_table(data): return pd.DataFrame(twins(data)[:1], columns=COLUMNS)


@pytest.mark.parametrize("one, other, loose",
                         [("run", "Run", True), ("opening door", "opening_door", True), ("run", "run ", False),
                          ("fly", "\ufb02y", False), ("a", "\uff41", False), ("a b", "a\u00a0b", False),
                          ("ab", "a\u200bb", False)])
def test_names_that_look_alike(one, other, loose):
    clips = pd.DataFrame(dict(clip=["1", "2", "3"], domain="sea", class_name=[one, one, other]))
    (line,) = look_alikes(clips)
    assert line[0] == "3" and line[3:5] == ("warning", "spelling") and ascii(one) in line[5] and ascii(other) in line[5]
    assert look_alikes(clips.assign(domain=[one, one, other], class_name="run"))[0][0] == "3"
    assert len(look_alikes(clips.assign(clip=[one, "x", other], class_name="run"))) == (not loose)
    assert (outline(one) == outline(other)) == (not loose)


def test_different_names_are_left_alone():
    clips = pd.DataFrame(dict(clip=list("abc"), domain=["D1", "D2", "D3"], class_name=["run", "runs", "r\u00fcn"]))
    assert look_alikes(clips) == []


def test_a_run_does_not_train_on_what_it_tests_on(root):
    data = listed(root, "5,run,lake,train,soft.npy", "6,run,lake,validation,copy.npy", "7,swim,lake,train,e.npy")
    of = {part: data.clips[data.clips["clip"].isin(list(names))]
          for part, names in dict(train="12", validation="3", test="4567").items()}
    with pytest.raises(InputError,
                       match=r"1 file\(s\) are in two of the lists.*soft.npy is of 1 \(train\) and of 5 \(test\)"):
        check_apart(data, of, ["pose"])
    check_apart(data, of | dict(test=of["test"].iloc[2:]), ["pose"])  # copies are the doctor's
    # the same clips: said to be so by the setting
    check_apart(data, dict(unlabelled=of["test"].drop(columns="class"), test=of["test"]), ["pose"])


def test_a_run_of_a_leaky_manifest_is_refused(root):
    from moosa.runs.experiment import open_experiment
    from moosa.runs.spec import Spec

    listed(root, "5,swim,sea,train,e.npy", "6,run,sea,validation,f.npy", "7,run,lake,train,a.npy",
           "8,swim,lake,train,nought.npy")
    spec = Spec(target="lake", dataset=str(root), sources=["sea"], setting="closed", modalities=["pose"], unknown=[],
                extractors={}, features="live", on_bad_clip="stop")
    with pytest.raises(InputError, match=r"a.npy is of 1 \(train\) and of 7 \(test\)"):
        open_experiment(spec, root/"data")


def test_findings_come_with_the_others_and_have_advice(root, tmp_path):
    data = listed(root, "5,run,lake,train,copy.npy", "6,Run,lake,train,e.npy")
    findings = examine(data, workers=1)
    assert set(findings.problem) == {"leak", "spelling"} <= set(ADVICE) and list(findings.columns) == COLUMNS
    text = report(data, findings, tmp_path/"out.csv")
    assert "1 error(s) in 1 clip(s)" in text and "leak, pose, 1 time(s)" in text
    assert len(pd.read_csv(tmp_path/"out.csv")) == 2


def test_what_was_passed_over_is_one_line_of_the_report(tmp_path):
    for name in ("sea/run/Thumbs.db", "sea/run/._a.npy", "sea/run/a.info.json", "sea/swim/notes.txt"):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).touch()
    np.save(tmp_path/"sea"/"run"/"a.npy", np.arange(4))
    data = FolderData(tmp_path)
    findings = examine(data, workers=1)
    assert findings[["file", "level", "problem"]].values.tolist() == [["sea/swim", "warning", "no-clip"]]
    (line,) = [line for line in report(data, findings).splitlines() if "Passed over" in line]
    assert "4 (" in line and "1 thumbs.db" in line and "1 *.info.json" in line


def test_files_that_differ_from_a_manifest_have_a_line_each(root):
    data = listed(root, "5,run,lake,train,e.npy")
    (root/"e.npy").unlink()
    changed = [(root/"e.npy", "missing", "none"), (root/"b.npy", "changed", "other bytes"),
               (root/"list.csv", "changed", "other bytes")]
    table = add_changed(examine(data, workers=1), data, changed)
    assert table[["clip", "modality", "level", "problem"]].values.tolist() == [
        ["5", "pose", "error", "missing"], ["2", "pose", "error", "changed"], ["", "", "error", "changed"]]
    assert add_changed(None, None, changed)["clip"].tolist() == [""]*3


def test_published_data_sets_are_known_by_their_counts(): assert Hac.official_counts and Epic.official_counts
