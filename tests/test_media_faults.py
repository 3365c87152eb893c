"""Data that is wrong: each fault ends in one message that names the file, never in a library's traceback, never in a
clip left out in silence.
"""
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from epic_lists import segments, write_lists, write_pickle

from moosa.core import InputError
from moosa.data.epic import Epic
from moosa.data.epic import get as get_epic
from moosa.data.hac import Hac, list_path
from moosa.data.badclip import BadClip
from moosa.data.media import write_video
from moosa.data.sounds import write_sound

PARTS = ("train", "validation")


def film(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    out = np.full((frames, height, width, 3), 60, np.uint8)
    for t in range(frames): out[t, 10:30, t % (width - 20):t % (width - 20) + 20] = (200, 120, 40)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    "The folder of a HAC of made-up clips: two for each list, `a` with media."
    root = tmp_path_factory.mktemp("whole")/"raw"/"HAC"
    for domain in Hac.domains:
        for part in PARTS:
            path = list_path(root, part, domain)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{part}-a.mp4,0\n{part}-b.mp4,6\n")
    write_video(root/"human"/"videos"/"train-a.mp4", film(80))
    for axis in "xy": write_video(root/"human"/"flow"/f"train-a_flow_{axis}.mp4", film(80)[..., 0])
    write_sound(root/"human"/"audio"/"train-a.wav", np.sin(np.arange(60000)/20)/2)
    return root


@pytest.fixture
def root(whole, tmp_path) -> Path:
    copy = tmp_path/"raw"/"HAC"
    shutil.copytree(whole, copy)
    return copy


def open_hac(root: Path, **options) -> Hac: return Hac(root.parent.parent, **options)


def load(root: Path, *modalities: str, **options):
    return open_hac(root, **options).load(first(root), modalities or Hac.modalities)


def first(root: Path) -> pd.DataFrame: return open_hac(root).clips[:1]


def test_the_whole_one_loads(root):
    assert {m: tuple(x.shape) for m, x in load(root).items()} == {
        "video": (1, 3, 32, 224, 224), "audio": (1, 1, 257, 1004), "flow": (1, 2, 8, 256, 256)}


# --- lists ---

LIST_FAULTS = {
    "malformed row": ("a.mp4,0\nb.mp4\n", "line 2: expected NAME.mp4,LABEL; found 'b.mp4'"),
    "three columns": ("a.mp4,0,human\n", "line 1: expected NAME.mp4,LABEL"),
    "unknown label": ("a.mp4,0\nb.mp4,7\n", "line 2: expected a label from 0 to 6"),
    "negative label": ("a.mp4,-1\n", "line 1: expected a label from 0 to 6"),
    "label is a word": ("a.mp4,sleeping\n", "line 1: expected a label from 0 to 6; found 'a.mp4,sleeping'"),
    "label is a fraction": ("a.mp4,1.0\n", "line 1: expected a label"),
    "outside the folder": ("../../../../etc/x.mp4,0\n", "line 1: expected the name of an .mp4 file, without a folder"),
    "absolute": ("/etc/x.mp4,0\n", "without a folder"),
    "hidden": ("..mp4,0\n", "line 1: expected the name of an .mp4 file"),
    "not a film": ("a.txt,0\n", "line 1: expected the name of an .mp4 file"),
    "twice": ("a.mp4,0\nb.mp4,1\na.mp4,0\n", "line 3: this clip is listed twice"),
    "blank line": ("a.mp4,0\n\nb.mp4,1\n", "line 2"),
    "empty": ("", "is empty"),
    "binary": (b"\x00\xff\xfe\x9d", "is no list of clips"),
}


@pytest.mark.parametrize("fault", LIST_FAULTS)
def test_list(root, fault):
    content, message = LIST_FAULTS[fault]
    path = list_path(root, "validation", "cartoon")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error: open_hac(root)
    assert str(path) in str(error.value) and message in str(error.value)


def test_list_is_absent(root):
    list_path(root, "train", "animal").unlink()
    with pytest.raises(InputError, match="HAC_train_only_animal.csv is missing.*moosa data get"): open_hac(root)


def test_no_data_at_all(tmp_path):
    with pytest.raises(InputError, match="HAC_train_only_human.csv is missing"): Hac(tmp_path)


@pytest.mark.parametrize("option", ["frame_index", "sound_window", "audio_format"])
def test_option(root, option):
    with pytest.raises(InputError, match=f"{option}: 'repared'"): open_hac(root, **{option: "repared"})


def test_modality(root):
    with pytest.raises(InputError, match="modality: 'sound' is not known"): load(root, "sound")


# --- media ---

def change(path: Path, fault: str):
    content = path.read_bytes()
    match fault:
        case "absent": path.unlink()
        case "empty": path.write_bytes(b"")
        case "text": path.write_text("this is no film and no sound\n"*50)
        case "half": path.write_bytes(content[:len(content)//2])


VIDEO = "videos/train-a.mp4"
FLOW_X = "flow/train-a_flow_x.mp4"
FLOW_Y = "flow/train-a_flow_y.mp4"
AUDIO = "audio/train-a.wav"


@pytest.mark.parametrize("file, modality", [(VIDEO, "video"), (FLOW_X, "flow"), (FLOW_Y, "flow"), (AUDIO, "audio")])
@pytest.mark.parametrize("fault, problem", [("absent", {"missing"}), ("empty", {"empty"}), ("text", {"unreadable"}),
                                            ("half", {"unreadable", "truncated"})])
def test_file(root, file, modality, fault, problem):
    path = root/"human"/file
    change(path, fault)
    with pytest.raises(BadClip) as error: load(root, modality)
    assert error.value.path == path and error.value.problem in problem and str(path) in str(error.value)
    others = [m for m in Hac.modalities if m != modality]
    assert set(load(root, *others)) == set(others)  # the other modalities of the clip are not hurt


def test_listed_but_absent_clip(root):
    "A list that names a clip without media: named when it is loaded."
    data = open_hac(root)
    clip = data.clips[data.clips["clip"] == "human/train-b"]
    for modality, path in (("video", "videos/train-b.mp4"), ("flow", "flow/train-b_flow_x.mp4"),
                           ("audio", "audio/train-b.wav")):
        with pytest.raises(BadClip, match="missing") as error: data.load(clip, [modality])
        assert error.value.path == root/"human"/path


def test_film_of_one_frame(root):
    "As published there is no frame to choose from; repaired, it loops."
    write_video(root/"human"/VIDEO, film(1))
    with pytest.raises(BadClip, match="train-a.mp4: too-short"): load(root, "video")
    x = load(root, "video", frame_index="repaired")["video"]
    assert x.shape == (1, 3, 32, 224, 224) and x[:, :, :1].equal(x[:, :, -1:])


def test_flow_is_shorter_than_video(root):
    "Each modality counts its own frames, as published, so a shorter flow is no fault, unless x and y do not fit."
    for axis in "xy": write_video(root/"human"/f"flow/train-a_flow_{axis}.mp4", film(20)[..., 0])
    assert load(root)["flow"].shape == (1, 2, 8, 256, 256)
    write_video(root/"human"/FLOW_Y, film(18)[..., 0])
    assert load(root, "flow")["flow"].shape == (1, 2, 8, 256, 256)  # two frames short: its last frame stands in
    write_video(root/"human"/FLOW_Y, film(9)[..., 0])
    with pytest.raises(BadClip, match="train-a_flow_y.mp4: mismatch: 9 frames"): load(root, "flow")
    write_video(root/"human"/FLOW_Y, film(20, 32, 64)[..., 0])
    with pytest.raises(BadClip, match="train-a_flow_y.mp4: mismatch: its pictures are"): load(root, "flow")


def test_sound_without_samples(root):
    "A WAV of no samples is an error; a window beyond the end of one that has some is silence, as published."
    write_sound(root/"human"/AUDIO, np.zeros(0))
    with pytest.raises(BadClip, match="train-a.wav: silent: there is no sample in it"): load(root, "video", "audio")
    write_sound(root/"human"/AUDIO, np.ones(100)/2)  # ends before the window begins
    assert load(root, "video", "audio")["audio"].abs().max() < 1e-4


def test_sound_of_another_rate(root):
    write_sound(root/"human"/AUDIO, np.zeros((44100, 2)), 44100)
    with pytest.raises(BadClip, match=r"train-a.wav: format: 44100 Hz, 2 channel\(s\)"): load(root, "audio")
    assert load(root, "audio", audio_format="convert")["audio"].shape == (1, 1, 257, 1004)


# --- EPIC-Kitchens ---

@pytest.fixture
def kitchen(tmp_path) -> Path:
    root = tmp_path/"raw"/"EPIC-Kitchens"
    write_lists(root)
    return root


def epic_list(root: Path, name: str = "D2_train") -> Path: return root/"MM-SADA_Domain_Adaptation_Splits"/f"{name}.pkl"


class Code:
    "A pickle of it calls `function` when a careless reader opens it."

    def __init__(self, function, *args): self.function, self.args = function, args

    def __reduce__(self): return self.function, self.args


@pytest.mark.parametrize("where", ["alone", "in a column", "in a name"])
def test_pickle_with_code(kitchen, tmp_path, where):
    code, table = Code(Path.mkdir, tmp_path/"ran"), segments()
    write_pickle(epic_list(kitchen),
                 {"alone": code, "in a column": table.assign(narration=[code]), "in a name": {"name": code}}[where])
    with pytest.raises(InputError, match=r"D2_train.pkl: it asks for pathlib\.Pa.*can run code"): Epic(tmp_path)
    assert not (tmp_path/"ran").exists()


@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, open, np.load, pd.read_pickle, pickle.loads])
def test_pickle_asks_for(kitchen, tmp_path, function):
    write_pickle(epic_list(kitchen), Code(function, "1"))
    with pytest.raises(InputError, match=rf"D2_train.pkl: it asks for .*{function.__name__}"): Epic(tmp_path)


@pytest.mark.parametrize("fault", ["empty", "text", "half"])
def test_pickle_is_damaged(kitchen, tmp_path, fault):
    change(epic_list(kitchen), fault)
    with pytest.raises(InputError, match="D2_train.pkl is not a pickled table, or is damaged"): Epic(tmp_path)


@pytest.mark.parametrize("table, message", [
    (segments(verb_class=8), "row 0: verb_class 8 is not from 0 to 7"),
    (segments(video="../../x"), "row 0: video_id '../../x'"), (segments(start=9, stop=8), "row 0: frames 9 to 8"),
    (segments(start_timestamp="now"), "row 0: expected a time HH:MM:SS.ss, found 'now'"),
    (segments().drop(columns="stop_frame"), r"column\(s\) stop_frame are missing"),
    (segments()[:0], "the list is empty"), (segments().assign(uid=[1.5]), "row 0: expected whole numbers")])
def test_segments(kitchen, tmp_path, table, message):
    write_pickle(epic_list(kitchen), table)
    with pytest.raises(InputError, match=f"D2_train.pkl.*{message}"): Epic(tmp_path)


def test_recording_is_absent(kitchen, tmp_path):
    data = Epic(tmp_path)
    for modality, path in (("video", "rgb/train/D1/D1_train/frame_*.jpg"),
                           ("flow", "flow/train/D1/D1_train/u/frame_*.jpg"), ("audio", "rgb/train/D1/D1_train.wav")):
        with pytest.raises(BadClip, match="missing") as error: data.load(data.clips[:1], [modality])
        assert error.value.path.relative_to(kitchen).match(path)


def test_get_says_what_to_do(kitchen, tmp_path):
    epic_list(kitchen).unlink()
    with pytest.raises(InputError,
                       match="(?s)D2_train.pkl: not in .*MM-SADA_Domain_Adaptation_Splits.*download_script.sh"):
        get_epic(tmp_path)
