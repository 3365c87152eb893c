"""Films of many kinds, whose brightness tells the frame's number: whatever frames are asked for come, as a player shows
them. Debian's ffmpeg, where it is there, tells the same numbers.
"""
import os
import shutil
import subprocess
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from moosa.data.films import AnyFilm, PlainFilm, VideoFile
from moosa.data.badclip import BadClip

FRAMES, HEIGHT, WIDTH = 44, 48, 64
HEVC = "log-level=none:pools=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"
KINDS = {  # kind -> ending, codec, pixels, options
    "h264": ("mp4", "libx264", "yuv420p", dict(bf="3", g="12")),
    "h264 in mov": ("mov", "libx264", "yuv420p", dict(bf="3", g="12")),
    "h264 in m4v": ("m4v", "libx264", "yuv420p", dict(bf="3", g="12")),
    "h264 in mkv": ("mkv", "libx264", "yuv420p", dict(bf="8", g="30")),
    "h264 in avi": ("avi", "libx264", "yuv420p", dict(bf="3", g="12")),
    "h264, open groups": ("mp4", "libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}),
    "h264, 10 bits": ("mp4", "libx264", "yuv420p10le", dict(bf="3", g="12")),
    "h264, interlaced": ("mp4", "libx264", "yuv420p", {"x264-params": "tff=1:bframes=3:keyint=12"}),
    "h264, fragments": ("mp4", "libx264", "yuv420p", dict(bf="3", g="12")),
    "hevc": ("mp4", "libx265", "yuv420p", {"x265-params": HEVC + ":open-gop=0"}),
    "hevc, open groups, 10 bits": ("mkv", "libx265", "yuv420p10le", {"x265-params": HEVC + ":open-gop=1"}),
    "vp8": ("webm", "libvpx", "yuv420p", {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1",
                                          "lag-in-frames": "16", "g": "12", "b": "2000000"}),
    "vp9, live": ("webm", "libvpx-vp9", "yuv420p",
                  {"deadline": "realtime", "cpu-used": "8", "g": "12", "b": "2000000"}),
    "vp9": ("mkv", "libvpx-vp9", "yuv420p",
            {"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "24", "b": "2000000"}),
    "av1": ("mp4", "libsvtav1", "yuv420p", {"preset": "12", "crf": "20", "svtav1-params": "keyint=12"}),
    "av1 in webm": ("webm", "libsvtav1", "yuv420p", {"preset": "12", "crf": "20"}),
    "mpeg4 with B-frames": ("avi", "mpeg4", "yuv420p", dict(bf="2", g="12", b="2000000")),
    "mpeg4 with B-frames in mp4": ("mp4", "mpeg4", "yuv420p", dict(bf="2", g="12", b="2000000")),
    "mpeg2": ("mkv", "mpeg2video", "yuv420p", dict(bf="2", g="12", b="3000000")),
    "msmpeg4": ("avi", "msmpeg4", "yuv420p", dict(g="12", b="2000000")), "mjpeg": ("avi", "mjpeg", "yuvj420p", {}),
}
CONTAINER = {"h264, fragments": dict(movflags="frag_keyframe+empty_moov+default_base_moof"),
             "vp9, live": dict(live="1")}
ASKED = [range(3, 35, 2), range(20, 44), [0, 22, 43], [37], [43], range(0, 44), [11, 12, 13, 11], range(5, 21, 4)]


def encode(path: Path, codec="libx264", pixels="yuv420p", options=None, container=None, frames=FRAMES) -> Path:
    "Frame n has brightness 16 + 5 n."
    if codec not in av.codecs_available: pytest.skip(f"this PyAV does not encode {codec}")
    with schedule_kept(), av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=25, options={"threads": "1", **(options or {})})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixels
        for n in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 16 + 5*n, np.uint8),
                                                             format="rgb24")))
        out.mux(stream.encode())
    return path


@contextmanager
def schedule_kept():
    """SVT-AV1 makes a process of root's a real-time one, for good: whatever it and its children do after that comes
    before all else on the machine.
    """
    if not hasattr(os, "sched_getscheduler"):  # macOS
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try: yield
    finally: os.sched_setscheduler(0, *before)


def told(pictures: np.ndarray) -> list[int]:
    "The numbers that pictures tell."
    levels = np.array([p[HEIGHT//4:-HEIGHT//4, WIDTH//4:-WIDTH//4].mean() for p in pictures])
    numbers = np.round((levels - 16)/5)
    assert np.abs(levels - 16 - 5*numbers).max() < 2.4, levels
    return numbers.astype(int).tolist()


def by_ffmpeg(path: Path) -> list[int]:
    done = subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", path, "-fps_mode", "passthrough", "-pix_fmt",
                           "rgb24", "-f", "rawvideo", "-"], capture_output=True, check=True)
    return told(np.frombuffer(done.stdout, np.uint8).reshape(-1, HEIGHT, WIDTH, 3))


def examine(path: Path, numbers: list[int], asked=None):
    "Does the film have these frames, however it is asked? `numbers` are what the pictures tell."
    film = VideoFile(path)
    assert film.frames == len(numbers)
    for indices in asked or [range(len(numbers)), [len(numbers) - 1], [0, len(numbers)//2], range(2, len(numbers), 3)]:
        assert told(VideoFile(path).read(indices)) == told(film.read(indices)) == [numbers[i] for i in indices]
    if shutil.which("ffmpeg"): assert by_ffmpeg(path) == numbers


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux only")
def test_encoding_leaves_the_schedule_as_it_was(tmp_path):
    before = os.sched_getscheduler(0)
    encode(tmp_path/"film.mp4", *KINDS["av1"][1:])
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize("kind", KINDS)
def test_kind(tmp_path, kind):
    ending, codec, pixels, options = KINDS[kind]
    path = encode(tmp_path/f"film.{ending}", codec, pixels, options, CONTAINER.get(kind))
    examine(path, list(range(FRAMES)), ASKED)
    film = VideoFile(path)
    assert film.fps == 25 and film.even
    film = VideoFile(path)
    # one stretch after the other, as for flow
    assert told(np.concatenate([film.read(range(n, n + 11)) for n in range(0, FRAMES, 11)])) == list(range(FRAMES))


@pytest.mark.parametrize("kind", ["h264", "h264 in mkv", "h264, open groups", "hevc, open groups, 10 bits", "vp9",
                                  "mpeg4 with B-frames"])
def test_too_large_for_memory(tmp_path, monkeypatch, kind):
    "Then packets are looked up in the file."
    ending, codec, pixels, options = KINDS[kind]
    path = encode(tmp_path/f"film.{ending}", codec, pixels, options)
    for reader in (AnyFilm, PlainFilm): monkeypatch.setattr(reader, "largest", 0)
    assert VideoFile(path)._film.packets.kept is None
    examine(path, list(range(FRAMES)), ASKED)


def remux(source: Path, target: Path, first: int, zero: int) -> Path:
    "Copy packets from number `first` on; frame `zero` is shown first, those before it are hidden by an edit list."
    with av.open(str(source)) as file, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(file.streams.video[0])
        packets = [p for p in file.demux(video=0) if p.size]
        shift = sorted(p.pts for p in packets)[zero]
        for packet in packets[first:]:
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
            out.mux(packet)
    return target


@pytest.mark.parametrize("codec, options",
                         [("libx264", dict(bf="3", g="48")), ("libx264", dict(bf="0", g="48")),
                          ("libx265", {"x265-params": HEVC.replace("12", "48")}),
                          ("mpeg4", dict(bf="0", g="48", b="2000000"))])
def test_what_an_edit_list_hides(tmp_path, codec, options):
    "A clip cut without encoding begins at the key frame before."
    whole = encode(tmp_path/"whole.mp4", codec, options=options)
    path = remux(whole, tmp_path/"cut.mp4", 0, 17)
    assert PlainFilm.open(path) is None
    examine(path, list(range(17, FRAMES)))


def test_cut_in_an_open_group(tmp_path):
    "Frames that need others, which were cut off, are not shown and do not count."
    whole = encode(tmp_path/"whole.mkv", "libx265", options={"x265-params": HEVC + ":open-gop=1"})
    with av.open(str(whole)) as file:
        keys = [i for i, p in enumerate(p for p in file.demux(video=0) if p.size) if p.is_keyframe]
    path = remux(whole, tmp_path/"cut.mkv", keys[1], 12)
    examine(path, list(range(12, FRAMES)))


@pytest.mark.parametrize("first", ["film", "cover"])
def test_cover_beside_the_film(tmp_path, first):
    film, cover = encode(tmp_path/"film.mp4"), encode(tmp_path/"cover.avi", "mjpeg", "yuvj420p", frames=1)
    path = tmp_path/"both.mp4"
    with av.open(str(film)) as a, av.open(str(cover)) as b, av.open(str(path), "w") as out:
        streams = {}
        for file in ((a, b) if first == "film" else (b, a)):
            streams[file] = out.add_stream_from_template(file.streams.video[0])
        streams[b].disposition = av.stream.Disposition.attached_pic
        for file in (b, a):
            for packet in file.demux(video=0):
                if not packet.size: continue
                packet.stream = streams[file]
                out.mux(packet)
    examine(path, list(range(FRAMES)))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_names_in_latin_1(tmp_path, ending):
    path = tmp_path/f"film.{ending}"
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "Fuxxball in Muxxnchen"
        stream = out.add_stream("mpeg4" if ending == "avi" else "libx264", rate=25,
                                options={"threads": "1", "b": "2000000"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for n in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 16 + 5*n, np.uint8),
                                                             format="rgb24")))
        out.mux(stream.encode())
    content = path.read_bytes()
    assert content.count(b"xx") >= 2
    path.write_bytes(content.replace(b"Fuxxball in Muxxnchen", b"Fu\xdf\xdfball in M\xfc\xfcnchen"))
    examine(path, list(range(5)))


@pytest.mark.parametrize("ending, codec",
                         [("mp4", "libx264"), ("avi", "mpeg4"), ("mkv", "libvpx-vp9"), ("mp4", "libx265")])
def test_end_is_missing(tmp_path, ending, codec):
    "An mp4 whose table of contents comes first, an AVI without its index, an mkv: none is taken for a shorter film."
    options = {"x265-params": HEVC} if codec == "libx265" else {}
    path = encode(tmp_path/f"film.{ending}", codec, options=options,
                  container=dict(movflags="faststart") if ending == "mp4" else None)
    content = path.read_bytes()
    path.write_bytes(content[:-200] if ending == "mp4" else content[:len(content)*2//3])
    with pytest.raises(BadClip, match="truncated") as error: VideoFile(path).read([0])
    assert error.value.path == path


@pytest.mark.parametrize("content, says", [
    ("png", "it is a picture, not a film"), ("jpg", "it is a picture, not a film"), ("wav", "only sound"),
    ("text", "no video"), ("playlist", "a list of other files"), ("npy", "no video")])
def test_no_film_at_all(tmp_path, content, says):
    "Other things under a film's name."
    import cv2
    import soundfile

    path = tmp_path/"film.mp4"
    match content:
        case "png" | "jpg":
            cv2.imwrite(str(tmp_path/f"a.{content}"), np.zeros((48, 64, 3), np.uint8))
            (tmp_path/f"a.{content}").rename(path)
        case "wav": soundfile.write(path, np.zeros(999), 16000, format="WAV")
        case "text": path.write_text("no film\n"*99)
        case "playlist":
            encode(tmp_path/"other.mp4")
            path.write_text("ffconcat version 1.0\nfile other.mp4\n")
        case "npy":
            with path.open("wb") as f: np.save(f, np.zeros(99))
    with pytest.raises(BadClip, match=f"film.mp4: unreadable: .*{says}"): VideoFile(path).read([0])


def test_uneven_times(tmp_path):
    "Times are those of the file; number n is still the n-th picture."
    path, times = tmp_path/"film.mp4", [0, 40, 80, 400, 440, 460, 900, 940, 980, 1020]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"threads": "1"})
        stream.height = HEIGHT
        stream.width = WIDTH
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for n, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 16 + 5*n, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    examine(path, list(range(10)))
    assert not VideoFile(path).even
