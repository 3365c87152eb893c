"""Films that are decoded packet by packet give the bytes that decord gives, and that decoding the whole film gives;
damaged ones are named.
"""
import struct
from pathlib import Path

import av
import cv2
import decord
import numpy as np
import pytest

from moosa.data.films import PlainFilm, VideoFile
from moosa.data.badclip import BadClip

FRAMES = 60
KINDS = {  # kind -> pixel format, x264's options
    "as usual": ("yuv420p", "keyint=250"), "many keys": ("yuv420p", "keyint=15"),
    "no B-frames": ("yuv420p", "keyint=15:bframes=0"), "B on B": ("yuv420p", "keyint=40:bframes=6:b-pyramid=normal"),
    "full range": ("yuvj420p", "keyint=20"),
    "HD colours": ("yuv420p", "keyint=20:colormatrix=bt709:colorprim=bt709:transfer=bt709"),
    "wide pixels": ("yuv420p", "sar=4/3"),
}
OTHER = {"interlaced": ("yuv420p", "tff=1"), "10 bits": ("yuv420p10le", "keyint=15"), "4:4:4": ("yuv444p", "keyint=15")}
WINDOWS = [range(0, 60), range(7, 47, 2), [59], [0, 31, 58], range(20, 28), [13, 13, 2]]


def encode(path: Path, pixels: str, params: str, height=68, width=90) -> Path:
    rng = np.random.default_rng(0)
    ground = cv2.normalize(cv2.GaussianBlur(rng.normal(0, 1, (height + FRAMES, width + FRAMES, 3)), (0, 0), 2), None, 0,
                           255, cv2.NORM_MINMAX).astype(np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24, options={"threads": "1", "x264-params": params})
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        for t in range(FRAMES):
            frame = cv2.circle(np.ascontiguousarray(ground[t:t + height, t:t + width]), (t, 30), 12, (230, 120, 40), -1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    return path


def outcome(path: Path, indices) -> str | np.ndarray:
    try: return VideoFile(path).read(indices)
    except BadClip as e: return e.problem


def by_decord(path: Path, indices) -> np.ndarray:
    wanted, inverse = np.unique(list(indices), return_inverse=True)
    return decord.VideoReader(str(path), num_threads=1).get_batch(wanted).asnumpy()[inverse]


def in_one_go(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


@pytest.mark.parametrize("kind", [*KINDS, *OTHER])
def test_bytes(tmp_path, kind):
    path = encode(tmp_path/"film.mp4", *(KINDS | OTHER)[kind])
    whole = in_one_go(path)
    for indices in WINDOWS: np.testing.assert_array_equal(outcome(path, indices), whole[list(indices)])
    read = PlainFilm.open(path) and PlainFilm.open(path).read([3, 30])
    assert (read is not None) == (kind in KINDS)
    if kind in KINDS:
        for indices in WINDOWS: np.testing.assert_array_equal(outcome(path, indices), by_decord(path, indices))


@pytest.mark.parametrize("container, plain", [("mov", True), ("m4v", True), ("mkv", False)])
def test_other_files(tmp_path, container, plain):
    path = encode(tmp_path/f"film.{container}", *KINDS["as usual"])
    assert (PlainFilm.open(path) is not None) == plain
    np.testing.assert_array_equal(outcome(path, [3, 30]), in_one_go(path)[[3, 30]])


def test_read_on(tmp_path):
    "Sixteen frames at once, as for flow; then back again."
    path = encode(tmp_path/"film.mp4", *KINDS["B on B"])
    film, whole = VideoFile(path), in_one_go(path)
    for start in (0, 16, 32, 48):
        np.testing.assert_array_equal(film.read(range(start, min(start + 16, 60))), whole[start:start + 16])
    for indices in WINDOWS: np.testing.assert_array_equal(film.read(indices), whole[list(indices)])


def test_turned(tmp_path):
    "A telephone's film comes upright, as players show it."
    path = encode(tmp_path/"film.mp4", "yuv420p", "keyint=15")
    content = path.read_bytes()
    matrix = content.index(b"tkhd") + 44  # nine numbers in the track's header
    path.write_bytes(content[:matrix] + struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 68 << 16, 0, 0x40000000)
                     + content[matrix + 36:])
    assert PlainFilm.open(path).read([3]) is None
    whole = in_one_go(path)
    np.testing.assert_array_equal(outcome(path, [3, 30]), np.rot90(whole[[3, 30]], -1, axes=(1, 2)))
    np.testing.assert_array_equal(outcome(path, [3]), by_decord(path, [3]))


@pytest.mark.parametrize("params", ["open-gop=1:keyint=8:bframes=3", "intra-refresh=1:keyint=10"])
def test_key_frames_that_need_others(tmp_path, params):
    """A reader that starts at such a key frame spoils what follows (decord does); here every frame is as in the whole
    film.
    """
    path = encode(tmp_path/"film.mp4", "yuv420p", params)
    with av.open(str(path)) as file: whole = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
    for indices in WINDOWS: np.testing.assert_array_equal(outcome(path, indices), whole[indices])


@pytest.mark.parametrize("seed", range(12))
def test_damaged(tmp_path, seed):
    """Some bytes are changed, of every third film the end is missing: a problem that is named, or pictures (damage can
    look like anything).
    """
    path, rng = encode(tmp_path/"film.mp4", *KINDS["B on B"]), np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for at in rng.integers(0, len(content), 6): content[at] = rng.integers(256)
    path.write_bytes(content if seed % 3 else content[:rng.integers(1000, len(content))])
    found = outcome(path, range(11, 51, 2))
    if isinstance(found, str): assert found in {"truncated", "too-short", "unreadable"}
    else: assert found.shape[0] == 20 and set(found.shape[1:]) == {3, 68, 90}
    if not seed % 3: assert isinstance(found, str)
