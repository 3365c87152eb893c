"""Films that PyAV decodes packet by packet give the bytes that decord gives; films of other kinds, and damaged ones, are left to decord."""
import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from moosa.data.media import BadClip, PlainFilm, VideoFile

FRAMES = 60
KINDS = {  # kind -> pixel format, x264's options
    "as usual": ("yuv420p", "keyint=250"), "many keys": ("yuv420p", "keyint=15"), "no B-frames": ("yuv420p", "keyint=15:bframes=0"), "B on B": ("yuv420p", "keyint=40:bframes=6:b-pyramid=normal"),
    "full range": ("yuvj420p", "keyint=20"), "HD colours": ("yuv420p", "keyint=20:colormatrix=bt709:colorprim=bt709:transfer=bt709"), "wide pixels": ("yuv420p", "sar=4/3"),
}
OTHER = {"interlaced": ("yuv420p", "tff=1"), "10 bits": ("yuv420p10le", "keyint=15"), "4:4:4": ("yuv444p", "keyint=15")}
WINDOWS = [range(0, 60), range(7, 47, 2), [59], [0, 31, 58], range(20, 28), [13, 13, 2]]


def encode(path: Path, pixels: str, params: str, height=68, width=90) -> Path:
    rng = np.random.default_rng(0)
    ground = cv2.normalize(cv2.GaussianBlur(rng.normal(0, 1, (height + FRAMES, width + FRAMES, 3)), (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
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


def by_decord(path: Path, indices) -> str | np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainFilm, "open", lambda path: None)
        return outcome(path, indices)


@pytest.mark.parametrize("kind", [*KINDS, *OTHER])
def test_bytes(tmp_path, kind):
    path = encode(tmp_path/"film.mp4", *(KINDS | OTHER)[kind])
    for indices in WINDOWS: np.testing.assert_array_equal(outcome(path, indices), by_decord(path, indices))
    read = PlainFilm.open(path) and PlainFilm.open(path).read([3, 30])
    assert (read is not None) == (kind in KINDS)


def test_turned(tmp_path):
    "A telephone's film: decord turns it upright."
    path = encode(tmp_path/"film.mp4", "yuv420p", "keyint=15")
    content = path.read_bytes()
    matrix = content.index(b"tkhd") + 44  # nine numbers in the track's header
    path.write_bytes(content[:matrix] + struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 68 << 16, 0, 0x40000000) + content[matrix + 36:])
    assert PlainFilm.open(path).read([3]) is None
    assert outcome(path, [3, 30]).shape == (2, 90, 68, 3)


@pytest.mark.parametrize("params", ["open-gop=1:keyint=8:bframes=3", "intra-refresh=1:keyint=10"])
def test_key_frames_that_need_others(tmp_path, params):
    "decord starts at such a key frame, and what follows is spoiled; here every frame is as in the whole film."
    path = encode(tmp_path/"film.mp4", "yuv420p", params)
    with av.open(str(path)) as file: whole = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
    for indices in WINDOWS: np.testing.assert_array_equal(outcome(path, indices), whole[indices])


@pytest.mark.parametrize("seed", range(12))
def test_damaged(tmp_path, seed):
    "Some bytes are changed, of every third film the end is missing: the same frames, or the same problem."
    path, rng = encode(tmp_path/"film.mp4", *KINDS["B on B"]), np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for at in rng.integers(0, len(content), 6): content[at] = rng.integers(256)
    path.write_bytes(content if seed % 3 else content[:rng.integers(1000, len(content))])
    np.testing.assert_array_equal(outcome(path, range(11, 51, 2)), by_decord(path, range(11, 51, 2)))
