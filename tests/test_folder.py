"""Your own data: what a manifest or a tree of folders may say, and what it is told when it is wrong."""
import os

import numpy as np
import pytest

from moosa.core import InputError
from moosa.data.files import passed_sentence
from moosa.data.folder import FolderData
from moosa.data.films import VideoFile
from moosa.data.media import ArrayFile, FlowFiles
from moosa.data.sounds import FilmSound, SoundFile

HEAD = "clip,class,domain,part,video,audio"
GOOD = "a,run,sea,train,v/a.mp4,v/a.wav"


@pytest.fixture
def root(tmp_path):
    "A data folder whose files are never opened."
    (tmp_path/"own"/"v").mkdir(parents=True)
    for name in ("a.mp4", "b.MP4", "a.wav", "b.wav", "a_x.mp4", "a_y.mp4", "a.npy"):
        (tmp_path/"own"/"v"/name).write_bytes(b"")
    for name in ("a.png", "a.gif"): (tmp_path/"own"/"v"/name).write_bytes(b"x")
    (tmp_path/"own"/"v"/"folder.wav").mkdir()
    (tmp_path/"secret.mp4").write_bytes(b"")
    os.symlink(tmp_path/"secret.mp4", tmp_path/"own"/"v"/"link.mp4")
    os.symlink(tmp_path, tmp_path/"own"/"up")
    return tmp_path/"own"


def opened(root, *lines, encoding="utf-8"):
    (root/"manifest.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return FolderData(root)


@pytest.mark.parametrize("file, says",
                         [("v/a.mp4", "'v/a.mp4' is a film; flow is two films, one column each: flow_x and flow_y"),
                          ("v/a.npy", "'v/a.npy' is an array; flow is two films"),
                                        ("v/a.wav", "'v/a.wav' is a sound; flow is two films")])
def test_flow_in_one_column(root, file, says):
    with pytest.raises(InputError) as error: opened(root, "clip,class,domain,flow", f"a,run,sea,{file}")
    assert f"line 2, column flow: {says}" in str(error.value)


def test_flow_that_is_no_film(root):
    says = "line 2, column flow_y: 'v/a.npy' is an array, not a film; flow_x and flow_y are two gray films"
    with pytest.raises(InputError, match=says):
        opened(root, "clip,class,domain,flow_x,flow_y", "a,run,sea,v/a_x.mp4,v/a.npy")


def test_columns_of_other_names_hold_anything(root):
    data = opened(root, "clip,class,domain,pose,other,noise", "a,run,sea,v/a.npy,v/a.mp4,v/a.wav")
    clip = next(data.clips.itertuples())
    assert [type(data.media(clip, m)) for m in data.modalities] == [ArrayFile, VideoFile, SoundFile]
    with pytest.raises(InputError,
                       match="line 3, column noise: 'v/a.mp4' is a film, the files before are each a sound"):
        opened(root, "clip,class,domain,noise", "a,run,sea,v/a.wav", "b,run,sea,v/a.mp4")


def test_a_film_is_heard_in_the_column_audio(root):
    data = opened(root, "clip,class,domain,video,audio", "a,run,sea,v/a.mp4,v/a.mp4", "b,run,sea,v/b.MP4,v/b.wav")
    assert [type(data.media(clip, "audio")) for clip in data.clips.itertuples()] == [FilmSound, SoundFile]
    assert {type(data.media(clip, "video")) for clip in data.clips.itertuples()} == {VideoFile}


def test_a_manifest_says_what_there_is(root):
    data = opened(root, "clip,class,domain,part,flow_y,flow_x,video,audio,pose",
                  "2,swim,sea,validation,v/a_y.mp4,v/a_x.mp4,v/b.MP4,v/a.wav,v/a.npy",
                  "1,run,lake,train,v/a_y.mp4,v/a_x.mp4,v/a.mp4,v/a.wav,v/a.npy")
    assert (data.classes, data.domains,
            data.modalities) == (("run", "swim"), ("lake", "sea"), ("flow", "video", "audio", "pose"))
    assert data.clips[["clip", "domain", "class",
                       "part"]].values.tolist() == [["2", "sea", 1, "validation"], ["1", "lake", 0, "train"]]
    clip = next(data.clips.itertuples())
    assert [type(data.media(clip, m)) for m in data.modalities] == [FlowFiles, VideoFile, SoundFile, ArrayFile]
    assert (data.media(clip, "flow").x.path.name, data.media(clip, "flow").y.path.name) == ("a_x.mp4", "a_y.mp4")
    assert data.default_unknown == () and data.name == str(root)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_spaces_blank_lines_and_byte_order_marks_do_no_harm(root, encoding):
    data = opened(root, HEAD, " a , run ,sea,train, v/a.mp4,v/a.wav ", "",
                  '"b, the other",run,sea,train,v/b.MP4,v/b.wav', encoding=encoding)
    assert data.clips["clip"].tolist() == ["a", "b, the other"]


@pytest.mark.parametrize("line, says", [
    ("b,,sea,train,v/a.mp4,v/a.wav", "line 3, column class: it is empty"),
    ("b,run,,train,v/a.mp4,v/a.wav", "line 3, column domain: it is empty"),
    (",run,sea,train,v/a.mp4,v/a.wav", "line 3, column clip: it is empty"),
    ("b,run,sea,test,v/a.mp4,v/a.wav", "line 3, column part: found 'test', expected train or validation"),
    ("b,run,sea,,v/a.mp4,v/a.wav", "line 3, column part: found ''"),
    ("a,run,sea,train,v/a.mp4,v/a.wav", "line 3, column clip: 'a' is also the clip of line 2"),
    ("b,run,sea,train,,", "line 3: the clip has no file; expected one of video, audio"),
    ("b,run,sea,train,v/c.mp4,v/a.wav", "line 3, column video: there is no file"),
    ("b,run,sea,train,v,v/a.wav",
     "line 3, column video: 'v' is a folder that holds 'a.gif'; expected a file, or a folder of pictures"),
    ("b,run,sea,train,v/a.gif,v/a.wav",
     "line 3, column video: 'v/a.gif' is not a file that can be read; expected an ending of .mp4"),
    ("b,run,sea,train,v/a.wav,v/a.wav",
     "line 3, column video: 'v/a.wav' is a sound; expected a film in the column video "
     "(.mp4, .m4v, .mov, .avi, .mkv, .webm); a sound belongs in the column audio"),
    ("b,run,sea,train,v/a.npy,v/a.wav",
     "line 3, column video: 'v/a.npy' is an array; expected a film in the column video"),
    ("b,run,sea,train,v/a.mp4,v/a.npy",
     "line 3, column audio: 'v/a.npy' is an array; expected a sound in the column audio "
     "(.mp4, .m4v, .mov, .avi, .mkv, .webm, .wav, .flac, .mp3, .ogg, .opus, .m4a, .aac); features of another network"),
    ("b,run,sea,train,v/a.mp4,v/a.png",
     "line 3, column audio: 'v/a.png' is a picture; expected a sound in the column audio"),
    ("b,run,sea,train,v/a.mp4,v/folder.wav", "line 3, column audio: there is no file"),
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
    ("clip,class,part,video,audio", "no column 'domain'"), ("clip;class;domain;video", "with commas between"),
    ("clip,class,domain,part", "there is no modality"),
    ("clip,class,domain,flow_x", "column 'flow_y' is missing"), ("clip,class,domain,video,video", "2 times"),
    ("clip,class,domain,label", "'label' cannot be"), ("clip,class,domain,", "'' cannot be"),
])
def test_an_error_names_the_column_of_the_header(root, head, says):
    with pytest.raises(InputError, match=says): opened(root, head, "x")


def test_the_first_ten_errors_and_their_number(root):
    with pytest.raises(InputError) as error:
        opened(root, HEAD, *(f"c{i},run,sea,train,v/none{i}.mp4,v/a.wav" for i in range(25)))
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
    root = tree(tmp_path,
                ["README.txt", ".DS_Store", "sea/.hidden/x.mp4",
                 *(f"{d}/run/{c}{e}" for d in ("sea", "lake") for c in "ab"
                   for e in (".mp4", ".wav", "_flow_x.mp4", "_flow_y.mp4", ".npy"))])
    data = FolderData(root)
    assert data.modalities == ("video", "flow", "audio", "array") and data.domains == ("lake", "sea")
    assert data.clips["clip"].tolist() == ["lake/run/a", "lake/run/b", "sea/run/a", "sea/run/b"]
    assert sorted(data.clips["part"]) == ["train", "train", "validation", "validation"]


@pytest.mark.parametrize("names, says", [
    (["sea/run/a_flow_x.mp4"], "flow_y: it is empty, but the clip has the other half of flow"),
    (["sea/run/a.mp4", "sea/run/a.avi"], "the clip has sea/run/a.avi already"),
    (["sea/a.mp4"], "sea/a.mp4: expected domain/class/file"),
    (["sea/run/a.mp4", "sea/run/a.gif"], "a.gif: expected an ending of"),
    (["sea/run/deep/a.mp4"], "expected domain/class/file"),
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


def test_folders_that_are_links_are_read(tmp_path):
    disk = tree(tmp_path/"disk", [f"{d}/run/{i}.wav" for d in ("sea", "lake") for i in range(3)])
    own = tree(tmp_path/"own", ["pond/run/0.wav"])
    os.symlink(disk/"sea", own/"sea")
    os.symlink("../../disk/lake/run", own/"pond"/"walk")
    data = FolderData(own)
    assert data.domains == ("pond", "sea") and data.classes == ("run", "walk") and len(data.clips) == 7
    # a single file: outside of the folders that were linked, but for lake/run
    os.symlink(disk/"lake"/"run"/"0.wav", own/"pond"/"run"/"1.wav")
    assert len(FolderData(own).clips) == 8
    os.symlink(tree(tmp_path/"secret", ["a.wav"])/"a.wav", own/"pond"/"run"/"2.wav")
    with pytest.raises(InputError, match="outside the data folder"): FolderData(own)


@pytest.mark.parametrize("place, to, says", [
    ("sea/again", "run",
     "sea/run: leads to the same folder as|sea/again: leads to the same folder|leads to the same folder as"),
     ("sea/all", "..", "sea/all: leads to the same folder as"),
    ("sea/run/circle", ".", "sea/run/circle: leads to the same folder as"),
    ("lake", "sea", "leads to the same folder as"), ("sea/run/9.mp4", "9.mp4", "which is not there"),
    ("sea/run/8.mp4", "/nowhere/8.mp4", "sea/run/8.mp4: is a link to /nowhere/8.mp4, which is not there"),
    ("forest", "/nowhere/forest", "forest: is a link to /nowhere/forest, which is not there"),
])
def test_links_that_lead_nowhere_or_twice_to_a_folder(tmp_path, place, to, says):
    root = tree(tmp_path/"own", ["sea/run/a.mp4"])
    os.symlink(to, root/place)
    with pytest.raises(InputError, match=says): FolderData(root)


def test_links_to_each_other_are_walked_once(tmp_path):
    root = tree(tmp_path/"own", [f"{d}/run/a.mp4" for d in "abcdefghij"])
    for one in "abcdefghij":
        for other in "abcdefghij": os.symlink(f"../{other}", root/one/f"to-{other}")
    with pytest.raises(InputError, match="100 error"): FolderData(root)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root, scan = tree(tmp_path, ["sea/run/a.mp4", "lake/run/a.mp4"]), os.listdir

    def refuse(folder):
        if str(folder).endswith("lake"): raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(InputError, match="lake: this folder cannot be read: Permission denied"): FolderData(root)


def test_what_systems_leave_behind_is_passed_over_and_counted(tmp_path):
    left = ["Thumbs.db", "thumbs.DB", "desktop.ini", ".DS_Store", "._a.mp4", "a.info.json", "a.mp4.part", "b.mp4.ytdl",
            "a.tmp", "a.txt", "a.en.srt", "a.vtt"]
    root = tree(tmp_path,
                ["sea/run/a.mp4", *(f"sea/run/{name}" for name in left), "sea/@eaDir/a.mp4", "__MACOSX/run/._a.mp4",
                 "lost+found/x", "sea/run/.ipynb_checkpoints/a.mp4", "README.md", "LICENSE"])
    data = FolderData(root)
    assert data.clips["clip"].tolist() == ["sea/run/a"] and data.remarks.findings == []
    assert data.remarks.passed.total() == len(left) + 6 and data.remarks.passed["thumbs.db"] == 2
    assert data.remarks.passed["*.md"] == 1
    with pytest.raises(InputError, match=r"no files.*Passed over.*1 \*.part"):
        FolderData(tree(tmp_path/"other", ["sea/run/a.mp4.part"]))


@pytest.mark.parametrize("place", ["", "sea", "sea/run", "docs/old"])
def test_what_people_write_about_their_data_hides_no_clip(tmp_path, place):
    "Wherever it lies; a file that may be a clip is an error beside clips, and a clip's file above them."
    notes = ["README", "README.txt", ".DS_Store", "notes.pdf", "how.docx", "split.py"]
    root = tree(tmp_path, ["sea/run/a.mp4", *(f"{place}/{name}".strip("/") for name in notes)])
    data = FolderData(root)
    assert data.clips["clip"].tolist() == ["sea/run/a"]
    assert data.remarks.passed == {"readme": 1, "*.txt": 1, ".*": 1, "*.pdf": 1, "*.docx": 1, "*.py": 1}
    assert "6 (1 " in passed_sentence(data.remarks.passed)
    (root/"readme.mp4").touch()
    with pytest.raises(InputError, match="readme.mp4: expected domain/class/file, found file"): FolderData(root)


def test_folders_without_a_clip_are_named(tmp_path):
    root = tree(tmp_path, ["sea/run/a.mp4"])
    for name in ("sea/swim", "lake/run", ".hidden"): (root/name).mkdir(parents=True)
    assert [(f[0], f[2]) for f in FolderData(root).remarks.findings] == [("lake", "no-clip"), ("sea/swim", "no-clip")]


E_ONE, E_TWO = "caf\u00e9", "cafe\u0301"


def test_an_accent_written_in_two_ways_is_one_class(tmp_path):
    data = FolderData(tree(tmp_path/"own", [f"{E_ONE}/{E_TWO}/a.mp4", f"{E_TWO}/{E_ONE}/b.mp4"]))
    assert data.classes == data.domains == (E_ONE,)
    assert sorted(data.clips["clip"]) == [f"{E_ONE}/{E_ONE}/a", f"{E_ONE}/{E_ONE}/b"]
    assert all(data.media(clip, "video").path.is_file() for clip in data.clips.itertuples())
    assert [f[2] for f in data.remarks.findings] == ["spelling", "spelling"]
    assert "'cafe\\u0301'" in data.remarks.findings[0][3]
    with pytest.raises(InputError, match="the clip has"):
        FolderData(tree(tmp_path/"twice", [f"{E_ONE}/run/a.mp4", f"{E_TWO}/run/a.mp4"]))


def test_an_accent_written_in_two_ways_in_a_manifest(root):
    data = opened(root, HEAD, f"a,{E_ONE},sea,train,v/a.mp4,v/a.wav", f"b,{E_TWO},sea,validation,v/b.MP4,v/b.wav")
    assert data.classes == (E_ONE,) and len(data.remarks.findings) == 1
    with pytest.raises(InputError, match="is also the clip of line 2"):
        opened(root, HEAD, f"{E_ONE},run,sea,train,v/a.mp4,v/a.wav", f"{E_TWO},run,sea,train,v/b.MP4,v/b.wav")
    (root/"v"/f"{E_TWO}.wav").write_bytes(b"")
    with pytest.raises(InputError, match="written with other characters"):
        opened(root, HEAD, f"a,run,sea,train,v/a.mp4,v/{E_ONE}.wav")


@pytest.mark.parametrize("files, folder, says", [
    (["HAC_Splits/HAC_train_only_human.csv", *(f"human/videos/{i}.mp4" for i in range(20))], ".",
     r"looks like hac \(HAC_Splits\).*moosa data check hac"),
    (["human/videos/1.mp4", "human/audio/1.wav"], ".", "looks like hac"),
    (["HAC_Splits/a.csv", "human/flow/1.mp4"], "human", "looks like hac"),
    (["HAC_Splits/a.csv", "recipe.json", "human/videos/1.mp4"], ".", "moosa data check mini-hac"),
    (["MM-SADA_Domain_Adaptation_Splits/D1_train.pkl"], ".", "moosa data check epic"),
    (["rgb/train/D1/P08_01/frame_0000000001.jpg"], ".", "moosa data check epic"),
    (["rgb/train/D1/P08_01/frame_0000000001.jpg"], "rgb/train", "moosa data check epic"),
    (["a.whl"], ".", "moosa data check av-digits"),
    (["raw/HAC/x", "runs/x"], ".", "looks like moosa's data folder.*moosa data check NAME"),
])
def test_another_data_sets_tree_says_which_command_checks_it(tmp_path, files, folder, says):
    with pytest.raises(InputError, match=says) as error: FolderData(tree(tmp_path/"some", files)/folder)
    assert "domain/class/file:" not in str(error.value) and len(str(error.value).splitlines()) == 1


def test_the_command_fits_where_the_tree_lies(tmp_path):
    root = tree(tmp_path/"disk"/"raw"/"HAC", ["HAC_Splits/a.csv"])
    with pytest.raises(InputError, match=f"moosa data check hac --data-dir {tmp_path/'disk'}` checks it"):
        FolderData(root)


def test_many_misplaced_files_are_one_line(tmp_path):
    with pytest.raises(InputError) as error:
        FolderData(tree(tmp_path, [*(f"run/{i:03}.mp4" for i in range(300)), *(f"a/b/c/{i}.mp4" for i in range(7)),
                                   *(f"a/b/{i}.gif" for i in range(8))]))
    assert len(str(error.value).splitlines()) == 4
    assert "300 files such as run/000.mp4: expected domain/class/file, found folder/file" in str(error.value)
