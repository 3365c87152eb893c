"""The doctor finds each planted fault, in the right clip, modality and file, and nothing in clean clips."""
import shutil
from fractions import Fraction

import cv2
import numpy as np
import pandas as pd
import pytest
import soundfile

from moosa.core import InputError
from moosa.data.checkup import ADVICE, bytes_lost
from moosa.data.dataset import DataSet
from moosa.data.doctor import cache_estimate, disk_use, examine, examine_clips, playable, report, summary
from moosa.data.folder import FolderData
from moosa.data.badclip import PROBLEMS
from moosa.data.media import FlowFolders, FrameFolder, write_video
from moosa.data.sounds import SoundFile, write_sound
from moosa.data.in_files import MediaData
from moosa.data.views import FLOW, RGB, SOUND

FRAMES, RATE = 70, 24


def film(frames=FRAMES, height=240, width=320):
    out = np.zeros((frames, height, width, 3), np.uint8)
    out[:] = np.linspace(60, 180, width)[:, None] + np.array([20, 0, -40])
    for t, picture in enumerate(out): cv2.circle(picture, (20 + 3*t % width, 100), 30, (230, 120, 40), -1)
    return out


def tone(seconds=FRAMES/RATE, loud=0.5, rate=16000): return np.sin(np.arange(int(seconds*rate))/9)*loud


def encode(path, frames, pixels="yuv420p", times=None, options=None):
    "A film as `write_video` does not make them."
    import av

    with av.open(str(path), "w", options=options or {}) as out:
        stream = out.add_stream("libx264", rate=RATE, options={"threads": "1"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        if times is not None: stream.codec_context.time_base = Fraction(1, 240)
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None: picture.pts, picture.time_base = times[i], Fraction(1, 240)
            out.mux(stream.encode(picture))
        out.mux(stream.encode())


def cut(path, share=0.6): path.write_bytes(path.read_bytes()[:int(path.stat().st_size*share)])


# 24 per second on average
def uneven(path): encode(path, film(), times=np.cumsum(np.where(np.arange(FRAMES) % 7 == 0, 22, 8)).tolist())


def cut_with_header_first(path):
    encode(path, film(), options={"movflags": "faststart"})
    cut(path)


VIDEO, AUDIO, X, Y, ARRAY = ".mp4", ".wav", "_flow_x.mp4", "_flow_y.mp4", ".npy"
FAULTS = [  # clip, ending of the file, what is done to it, findings: modality, level, problem
    ("absent-video", VIDEO, lambda p: p.unlink(), {("video", "error", "missing")}),
    ("absent-audio", AUDIO, lambda p: p.unlink(), {("audio", "error", "missing")}),
    ("absent-y", Y, lambda p: p.unlink(), {("flow", "error", "missing")}),
    ("empty-video", VIDEO, lambda p: p.write_bytes(b""), {("video", "error", "empty")}),
    ("empty-audio", AUDIO, lambda p: p.write_bytes(b""), {("audio", "error", "empty")}),
    ("no-video", VIDEO, lambda p: p.write_text("this is not a video"), {("video", "error", "unreadable")}),
    ("no-audio", AUDIO, lambda p: p.write_text("this is not a sound"), {("audio", "error", "unreadable")}),
    ("cut", VIDEO, cut, {("video", "error", "truncated")}),
    ("cut-header-first", VIDEO, cut_with_header_first, {("video", "error", "truncated")}),
    ("cut-x", X, cut, {("flow", "error", "truncated")}),
    ("cut-audio", AUDIO, cut, {("audio", "error", "truncated")}),
    ("one-frame", VIDEO, lambda p: write_video(p, film(1), RATE),
     {("video", "warning", "loops"), ("flow", "warning", "mismatch"), ("audio", "warning", "mismatch")}),
    ("odd", VIDEO, lambda p: encode(p, film(FRAMES, 241, 321), "yuv444p"), {("video", "warning", "size")}),
    ("small", VIDEO, lambda p: write_video(p, film(FRAMES, 120, 160), RATE), {("video", "warning", "size")}),
    ("gray", VIDEO, lambda p: write_video(p, film()[..., 1], RATE), {("video", "warning", "gray")}),
    ("uneven", VIDEO, uneven, {("video", "warning", "variable-rate")}),
    ("short-flow", X, lambda p: [write_video(p.parent/p.name.replace("_x", axis), film(40)[..., 0], RATE)
                                 for axis in ("_x", "_y")], {("flow", "warning", "mismatch")}),
    ("short-y", Y, lambda p: write_video(p, film(40)[..., 0], RATE), {("flow", "error", "mismatch")}),
    ("small-y", Y, lambda p: write_video(p, film(FRAMES, 120, 160)[..., 0], RATE), {("flow", "error", "mismatch")}),
    ("square-flow", X, lambda p: [write_video(p.parent/p.name.replace("_x", axis), film(FRAMES, 240, 240)[..., 0], RATE)
                                  for axis in ("_x", "_y")], {("flow", "warning", "mismatch")}),
    ("44-kHz", AUDIO, lambda p: write_sound(p, tone(rate=44100), 44100), {("audio", "error", "format")}),
    ("stereo", AUDIO, lambda p: write_sound(p, np.stack([tone()]*2, 1)), {("audio", "error", "format")}),
    ("silent", AUDIO, lambda p: write_sound(p, tone(loud=0)), {("audio", "warning", "silent")}),
    ("faint", AUDIO, lambda p: write_sound(p, tone(loud=2e-4)), {("audio", "warning", "silent")}),
    ("no-sample", AUDIO, lambda p: write_sound(p, np.zeros(0)), {("audio", "error", "silent")}),
    ("short-audio", AUDIO, lambda p: write_sound(p, tone(1)), {("audio", "warning", "mismatch")}),
    ("other-shape", ARRAY, lambda p: np.save(p, np.zeros((4, 5))), {("array", "error", "mismatch")}),
    ("nan", ARRAY, lambda p: np.save(p, np.full((3, 5), np.nan)), {("array", "error", "not-finite")}),
    ("infinite", ARRAY, lambda p: np.save(p, np.append(np.zeros(14), -np.inf).reshape(3, 5)),
     {("array", "error", "not-finite")}),
    ("too-large", ARRAY, lambda p: np.save(p, np.full((3, 5), 1e300)), {("array", "error", "not-finite")}),
    ("no-number", ARRAY, lambda p: np.save(p, np.zeros((0, 5))), {("array", "error", "empty")}),
    ("nan-audio", AUDIO, lambda p: soundfile.write(p, np.append(tone(), np.nan), 16000, subtype="FLOAT"),
     {("audio", "error", "not-finite")}),
    ("pickle", ARRAY, lambda p: np.save(p, np.array([{}]), allow_pickle=True), {("array", "error", "unreadable")}),
]
CLEAN = {"clean": FRAMES, "half-rate-flow": FRAMES, "three-frames-less": FRAMES}


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    root = tmp_path_factory.mktemp("ward")
    bed = root/"sea"/"run"
    write_video(bed/"clean.mp4", film(), RATE)
    for end in (X, Y): write_video(bed/f"clean{end}", film()[..., 0], RATE)
    write_sound(bed/"clean.wav", tone())
    np.save(bed/"clean.npy", np.ones((3, 5)))
    for name in [*CLEAN, *(f[0] for f in FAULTS)]:
        for end in (VIDEO, AUDIO, X, Y, ARRAY):
            if name != "clean": shutil.copy(bed/f"clean{end}", bed/f"{name}{end}")
    for end in (X, Y):
        write_video(bed/f"half-rate-flow{end}", film(FRAMES//2)[..., 0], RATE/2)
        write_video(bed/f"three-frames-less{end}", film(FRAMES - 3)[..., 0], RATE)
    data = FolderData(root)
    for name, end, spoil, _ in FAULTS: spoil(bed/f"{name}{end}")
    return data


@pytest.fixture(scope="module")
def findings(ward): return examine(ward, workers=2)


# the clips are copies of one
def found(table, clip):
    return {(f.modality, f.level, f.problem) for f in table.itertuples() if f.clip == f"sea/run/{clip}"
            and f.problem not in ("leak", "twice")}


@pytest.mark.parametrize("clip, end, _, expected", FAULTS, ids=[f[0] for f in FAULTS])
def test_finds_what_was_planted(ward, findings, clip, end, _, expected):
    assert found(findings, clip) == expected
    assert any(f.file.endswith(clip + end) for f in findings.itertuples() if f.clip == f"sea/run/{clip}")


@pytest.mark.parametrize("clip", CLEAN)
def test_finds_nothing_in_clean_clips(findings, clip): assert found(findings, clip) == set()


def test_one_process_finds_the_same(ward, findings): assert examine(ward, workers=1).equals(findings)


def test_files_named_are_those_that_were_spoiled(ward, findings):
    of_single_clips = findings[~findings.problem.isin(["leak", "twice"])]
    files = of_single_clips.file.str.split("/").str[-1]

    def of(clip): return set(files[of_single_clips["clip"] == f"sea/run/{clip}"])

    assert of("absent-y") == {"absent-y_flow_y.mp4"} and of("cut-x") == {"cut-x_flow_x.mp4"}
    assert of("stereo") == {"stereo.wav"}


def test_every_problem_has_advice(findings):
    assert set(PROBLEMS) <= set(ADVICE) and set(findings.problem) <= set(ADVICE)


def test_playable_clips_can_be_loaded_and_others_cannot(ward):
    some = ["clean", "absent-audio", "cut-header-first", "one-frame", "stereo", "no-sample", "absent-y"]
    clips = ward.clips[ward.clips["clip"].isin([f"sea/run/{name}" for name in some])].assign(label=0)
    good, skipped = playable(ward, clips, ["video", "audio"], workers=1)
    assert len(good) == 3 and len(skipped) == 4  # flow is not loaded, so a missing y film does not matter
    assert list(skipped.columns) == ["clip", "modality", "file", "problem", "detail"] and "label" in good
    assert set(good["clip"]) | set(skipped["clip"]) == set(clips["clip"])
    assert not set(good["clip"]) & set(skipped["clip"])
    for clip in clips["clip"]:
        row = ward.clips[ward.clips["clip"] == clip]
        if clip in set(good["clip"]): ward.load(row, ["video", "audio"])
        else:
            with pytest.raises(InputError): ward.load(row, ["video", "audio"])


def test_report(ward, findings, tmp_path):
    text = report(ward, findings, tmp_path/"new"/"findings.csv")
    # no cache is known for arrays
    assert str(tmp_path) in text and "what to do:" in text
    assert f"{len(ward.clips)} examined (video, flow, audio, array)" in text and "unknown" in text
    written = pd.read_csv(tmp_path/"new"/"findings.csv", keep_default_na=False)
    assert written.to_numpy().tolist() == findings.to_numpy().tolist()
    assert report(ward, examine(ward, ["video"], sample=1,
                                workers=1)).startswith(f"{ward.name}: {len(ward.clips)} clips, 1 examined (video)")


def test_counts_beside_official_ones(ward, findings, monkeypatch):
    assert summary(ward, findings)["clips"].sum() == len(ward.clips) and "official" not in summary(ward, findings)
    monkeypatch.setattr(FolderData, "official_counts", {("sea", "train", "run"): 99}, raising=False)
    assert summary(ward, findings)["official"].tolist() == [99, 0] and "officially 99" in report(ward, findings)


def test_sizes(ward):
    video = disk_use(ward).set_index("modality").loc["video"]
    assert video.files == len(ward.clips) - 1
    assert video.bytes == sum(p.stat().st_size for p in ward.root.rglob("*.mp4") if "_flow_" not in p.name)
    train = (ward.clips.part == "train").sum()
    assert cache_estimate(ward, ["flow"], train_views=2).fp32[0] == len(ward.clips)*8_388_608 + 2*train*6_422_528


def test_bytes_lost(tmp_path):
    write_sound(tmp_path/"a.wav", tone())
    whole = (tmp_path/"a.wav").read_bytes()
    assert bytes_lost(tmp_path/"a.wav") == 0
    (tmp_path/"a.wav").write_bytes(whole[:-1000])
    assert bytes_lost(tmp_path/"a.wav") == 1000
    (tmp_path/"a.wav").write_bytes(whole[:4] + b"\xff"*4 + whole[8:])  # written to a pipe
    assert bytes_lost(tmp_path/"a.wav") == 0
    for content in (b"", b"\0\0\0\x10ftyp", b"RIFF", bytes(64)):
        (tmp_path/"b").write_bytes(content); assert bytes_lost(tmp_path/"b") in (0, 8)


class Recordings(MediaData):
    "Numbered pictures, a folder per recording, flow at half rate: as EPIC-Kitchens has them."
    name = "recordings"
    classes = ("take", "put")
    domains = ("D1",)
    modalities = ("video", "flow", "audio")
    recipes = {"video": RGB, "flow": FLOW, "audio": SOUND}

    def __init__(self, root, clips): self.root, self.clips = root, clips

    def media(self, clip, modality):
        if modality == "video": return FrameFolder(self.root/"rgb"/clip.video, clip.start, clip.stop - clip.start)
        if modality == "flow":
            return FlowFolders(self.root/"flow"/clip.video, clip.start//2, (clip.stop - clip.start)//2)
        return SoundFile(self.root/f"{clip.video}.wav")

    def file_numbers(self, indices, medium): return indices + medium.start

    def sound_window(self, clip, seen, media): return clip.start/60, clip.stop/60


def test_folders_of_pictures(tmp_path):
    for folder, last, shape in (("rgb/P01", 300, (240, 320, 3)), ("flow/P01/u", 150, (240, 320)),
                                ("flow/P01/v", 150, (240, 320)), ("rgb/P02", 90, (240, 320, 3))):
        (tmp_path/folder).mkdir(parents=True)
        picture = np.full(shape, 100, np.uint8)
        picture[:60] = 30 if len(shape) == 2 else (30, 90, 200)
        for n in range(last + 1): cv2.imwrite(str(tmp_path/folder/(FrameFolder.pattern % n)), picture)

    def at(folder, n): return tmp_path/folder/(FrameFolder.pattern % n)

    at("rgb/P01", 120).unlink()
    at("rgb/P01", 121).unlink()
    at("flow/P01/v", 101).write_bytes(b"")
    at("rgb/P01", 299).write_text("no picture")
    write_sound(tmp_path/"P01.wav", tone(4))
    rows = [("clean", "P01", 0, 66), ("gap", "P01", 100, 170), ("empty", "P01", 180, 250), ("damaged", "P01", 230, 300),
            ("short", "P01", 10, 30), ("none", "P01", 10, 10), ("no-flow", "P02", 5, 80)]
    clips = pd.DataFrame(rows,
                         columns=["clip", "video", "start", "stop"]).assign(domain="D1", part="train", **{"class": 0})
    table = examine(Recordings(tmp_path, clips), workers=1)

    def short(clip): return {(f.modality, f.level, f.problem) for f in table.itertuples() if f.clip == clip}

    assert short("clean") == set()
    assert short("gap") == {("video", "error", "missing")}
    assert "2 of the clip's 70 pictures: 120, 121." in table[table["clip"] == "gap"].detail.iloc[0]
    assert short("empty") == {("flow", "error", "empty")}
    assert short("damaged") == {("video", "error", "unreadable"), ("audio", "warning", "mismatch")}
    assert short("short") == {("video", "warning", "loops"), ("flow", "warning", "loops")}
    assert short("none") >= {("video", "error", "too-short"), ("flow", "error", "too-short")}
    assert short("no-flow") == {("flow", "error", "missing"), ("audio", "error", "missing")}


class OneFrameFewer(FolderData):
    "A data set that counts frames as HAC's published code does."
    def __init__(self, other):
        self.__dict__.update(other.__dict__)
        self.clips = other.clips[other.clips["clip"] == "sea/run/one-frame"]

    def clip_length(self, medium): return medium.frames - 1


def test_a_single_frame_is_too_short_for_a_data_set_that_wants_two(ward):
    assert found(examine(OneFrameFewer(ward), ["video"], workers=1), "one-frame") == {("video", "error", "too-short")}


def test_what_cannot_be_examined(ward):
    with pytest.raises(InputError, match="Did you mean 'audio'"): examine(ward, ["audios"])
    with pytest.raises(InputError, match="sample: 0"): examine(ward, sample=0)
    with pytest.raises(InputError, match="workers: 0"): examine(ward, workers=0)
    with pytest.raises(InputError, match="not made of files"): examine_clips(DataSet(), ward.clips)
