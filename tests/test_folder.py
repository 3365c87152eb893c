"""Your own data: what a manifest or a tree of folders may say, and what it is told when it is wrong."""
import os

import numpy as np
import pytest

from moosa.core import InputError
from moosa.data.folder import FolderData
from moosa.data.media import ArrayFile, FlowFiles, SoundFile, VideoFile

HEAD = "clip,class,domain,part,video,audio"
GOOD = "a,run,sea,train,v/a.mp4,v/a.wav"


@pytest.fixture
def root(tmp_path):
    "A data folder whose files are never opened."
    (tmp_path/"own"/"v").mkdir(parents=True)
    for name in ("a.mp4", "b.MP4", "a.wav", "b.wav", "a_x.mp4", "a_y.mp4", "a.npy"): (tmp_path/"own"/"v"/name).write_bytes(b"")
    (tmp_path/"secret.mp4").write_bytes(b"")
    os.symlink(tmp_path/"secret.mp4", tmp_path/"own"/"v"/"link.mp4")
    os.symlink(tmp_path, tmp_path/"own"/"up")
    return tmp_path/"own"


def opened(root, *lines, encoding="utf-8"):
    (root/"manifest.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return FolderData(root)


def test_a_manifest_says_what_there_is(root):
    data = opened(root, "clip,class,domain,part,flow_y,flow_x,video,audio,pose", "2,swim,sea,validation,v/a_y.mp4,v/a_x.mp4,v/b.MP4,v/a.wav,v/a.npy",
                  "1,run,lake,train,v/a_y.mp4,v/a_x.mp4,v/a.mp4,v/a.wav,v/a.npy")
    assert (data.classes, data.domains, data.modalities) == (("run", "swim"), ("lake", "sea"), ("flow", "video", "audio", "pose"))
    assert data.clips[["clip", "domain", "class", "part"]].values.tolist() == [["2", "sea", 1, "validation"], ["1", "lake", 0, "train"]]
    clip = next(data.clips.itertuples())
    assert [type(data.media(clip, m)) for m in data.modalities] == [FlowFiles, VideoFile, SoundFile, ArrayFile]
    assert (data.media(clip, "flow").x.path.name, data.media(clip, "flow").y.path.name) == ("a_x.mp4", "a_y.mp4")
    assert data.default_unknown == () and data.name == str(root)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_spaces_blank_lines_and_byte_order_marks_do_no_harm(root, encoding):
    data = opened(root, HEAD, " a , run ,sea,train, v/a.mp4,v/a.wav ", "", '"b, the other",run,sea,train,v/b.MP4,v/b.wav', encoding=encoding)
    assert data.clips["clip"].tolist() == ["a", "b, the other"]


@pytest.mark.parametrize("line, says", [
    ("b,,sea,train,v/a.mp4,v/a.wav", "line 3, column class: it is empty"),
    ("b,run,,train,v/a.mp4,v/a.wav", "line 3, column domain: it is empty"),
    (",run,sea,train,v/a.mp4,v/a.wav", "line 3, column clip: it is empty"),
    ("b,run,sea,test,v/a.mp4,v/a.wav", "line 3, column part: found 'test', expected train or validation"),
    ("b,run,sea,,v/a.mp4,v/a.wav", "line 3, column part: found ''"),
    ("a,run,sea,train,v/a.mp4,v/a.wav", "line 3, column clip: 'a' is also the clip of line 2"),
    ("b,run,sea,train,v/a.mp4,", "line 3, column audio: the clip lacks this modality"),
    ("b,run,sea,train,v/c.mp4,v/a.wav", "line 3, column video: there is no file"),
    ("b,run,sea,train,v,v/a.wav", "line 3, column video: 'v' is not a file that can be read"),
    ("b,run,sea,train,v/a.gif,v/a.wav", "line 3, column video: 'v/a.gif' is not a file that can be read; expected an ending of .mp4"),
    ("b,run,sea,train,v/a.wav,v/a.wav", "line 3, column video: 'v/a.wav' is read as SoundFile"),
    ("b,run,sea,train,v/a.mp4", "line 3: 5 cells, expected 6"),
    ("b,run,sea,train,../secret.mp4,v/a.wav", "line 3, column video: '../secret.mp4' leads out of the data folder"),
    ("b,run,sea,train,v/../../secret.mp4,v/a.wav", "leads out of the data folder"),
    ("b,run,sea,train,/etc/passwd,v/a.wav", "line 3, column video: '/etc/passwd' leads out of the data folder"),
    ("b,run,sea,train,v/link.mp4,v/a.wav", "outside the data folder"),
    ("b,run,sea,train,up/secret.mp4,v/a.wav", "outside the data folder"),
    ("b,run,sea,train,v\\a.mp4,v/a.wav", "has a backslash"),
    ("b,run,sea,train,v/a\0.mp4,v/a.wav", "line"),
])
def test_an_error_names_line_and_column(root, line, says):
    with pytest.raises(InputError) as error: opened(root, HEAD, GOOD, line)
    assert says in str(error.value) and str(root/"manifest.csv") in str(error.value)


@pytest.mark.parametrize("head, says", [
    ("clip,class,part,video,audio", "no column 'domain'"), ("clip;class;domain;video", "with commas between"), ("clip,class,domain,part", "there is no modality"),
    ("clip,class,domain,flow_x", "column 'flow_y' is missing"), ("clip,class,domain,video,video", "2 times"), ("clip,class,domain,label", "'label' cannot be"), ("clip,class,domain,", "'' cannot be"),
])
def test_an_error_names_the_column_of_the_header(root, head, says):
    with pytest.raises(InputError, match=says): opened(root, head, "x")


def test_the_first_ten_errors_and_their_number(root):
    with pytest.raises(InputError) as error: opened(root, HEAD, *(f"c{i},run,sea,train,v/none{i}.mp4,v/a.wav" for i in range(25)))
    lines = str(error.value).splitlines()
    assert "25 error(s)" in lines[0] and len(lines) == 12 and "and 15 more" in lines[-1]


def test_not_a_manifest(root):
    (root/"v"/"a.mp4").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="is no manifest"): FolderData(root/"v"/"a.mp4")
    with pytest.raises(InputError, match="does not exist"): FolderData(root/"none.csv")
    with pytest.raises(InputError, match="no manifest.csv and no files"): FolderData(tree(root/"empty", []))


def tree(root, names):
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_bytes(b"")
    return root


def test_folders_say_domain_and_class(tmp_path):
    root = tree(tmp_path, ["README.txt", ".DS_Store", "sea/.hidden/x.mp4", *(f"{d}/run/{c}{e}" for d in ("sea", "lake") for c in "ab" for e in (".mp4", ".wav", "_flow_x.mp4", "_flow_y.mp4", ".npy"))])
    data = FolderData(root)
    assert data.modalities == ("video", "flow", "audio", "array") and data.domains == ("lake", "sea")
    assert data.clips["clip"].tolist() == ["lake/run/a", "lake/run/b", "sea/run/a", "sea/run/b"]
    assert sorted(data.clips["part"]) == ["train", "train", "validation", "validation"]


@pytest.mark.parametrize("names, says", [
    (["sea/run/a.mp4", "sea/run/a.wav", "sea/run/b.mp4"], "clip sea/run/b, column audio: the clip lacks this modality"), (["sea/run/a_flow_x.mp4"], "flow_y: the clip lacks"),
    (["sea/run/a.mp4", "sea/run/a.avi"], "the clip has sea/run/a.avi already"), (["sea/a.mp4"], "sea/a.mp4: expected domain/class/file"),
    (["sea/run/a.mp4", "sea/run/a.txt"], "a.txt: expected an ending of"), (["sea/run/deep/a.mp4"], "expected domain/class/file"),
])
def test_folders_that_do_not_fit(tmp_path, names, says):
    with pytest.raises(InputError, match=says): FolderData(tree(tmp_path, names))


def test_links_out_of_the_folders_are_refused(tmp_path):
    root = tree(tmp_path/"own", ["sea/run/a.mp4"])
    os.symlink("/etc/hostname", root/"sea"/"run"/"b.mp4")
    with pytest.raises(InputError, match="outside the data folder"): FolderData(root)


def test_the_seed_chooses_the_random_fifth(tmp_path):
    root = tree(tmp_path, [f"sea/run/{i:03}.mp4" for i in range(50)])
    parts = [FolderData(root, seed=s).clips["part"].tolist() for s in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2] and all(p.count("validation") == 10 for p in parts)


def test_pickled_arrays_are_not_loaded(tmp_path):
    root = tree(tmp_path, ["sea/run/a.npy"])
    np.save(root/"sea"/"run"/"a.npy", np.array([{}]), allow_pickle=True)
    data = FolderData(root)
    with pytest.raises(InputError, match="not a .npy file of plain numbers"): data.load(data.clips, ["array"])
