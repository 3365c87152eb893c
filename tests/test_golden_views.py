"""What a network sees of a clip, against the published code: which frames, which part of them, spectrograms.

Exact where whole numbers and bytes decide (tests/golden/README.md).
"""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from epic_lists import segments, write_lists
from golden_rules import BASE, FOLDER, wave

from moosa.data.epic import Epic
from moosa.data.hac import Hac
from moosa.data.media import FrameFolder, to_flow
from moosa.data.in_files import load_clip
from moosa.data.views import FLOW, RGB, SOUND, Draws, random_box, sample_indices, spectrogram

RECIPES = {"rgb": RGB, "flow": FLOW}


def load(name: str): return np.load(FOLDER/f"{name}.npz", allow_pickle=False)


def frames(seed: int, count: int, height: int, width: int, channels: int) -> np.ndarray:
    "The golden files' rule for made-up frames: blocks of 8x8 pixels."
    low = np.random.RandomState(seed).randint(0, 256, (count, -(-height//8), -(-width//8), channels)).astype(np.uint8)
    return low.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]


class Memory:
    "Frames that lie in memory."

    path = "memory"

    def __init__(self, array: np.ndarray): self.array, self.frames = array, len(array)

    def read(self, indices): return self.array[indices]


class Fixed:
    "A view whose draws start where the golden file's generators started."

    def __init__(self, **seeds): self.seeds = seeds

    def draws(self, clip, modality): return Draws.published(*self.seeds[modality])


def compare(x, golden, key):
    "Shape and a slice, exactly; sums to the rounding of adding in another order."
    assert (1, *x.shape) == tuple(golden[f"{key}/shape"])
    _, count, height, width = x.shape
    np.testing.assert_array_equal(x[:, [0, count//2, count - 1]][:, :, ::max(1, height//14), ::max(1, width//14)],
                                  golden[f"{key}/slice"])
    total = np.abs(x.astype(np.float64)).sum()
    assert total == pytest.approx(float(golden[f"{key}/abs_sum"]), rel=1e-6)
    assert abs(x.astype(np.float64).sum() - float(golden[f"{key}/sum"])) < 1e-6*total


@pytest.mark.parametrize("kind", ["rgb", "flow"])
def test_which_frames(kind):
    golden = load("pipeline_HAC")
    for n, seed, train, test in zip(*(golden[f"sample_{kind}/{k}"]
                                      for k in ("num_frames", "train_seed", "train", "test"))):
        np.testing.assert_array_equal(sample_indices(RECIPES[kind], int(n), Draws.published(int(seed))), train)
        np.testing.assert_array_equal(sample_indices(RECIPES[kind], int(n)), test)


def test_which_box():
    golden = load("pipeline_HAC")
    height, width = golden["rrc/img_hw"].tolist()
    boxes = [random_box(height, width, Draws.published(int(s), int(s))) for s in golden["rrc/seed"]]
    np.testing.assert_array_equal(boxes, golden["rrc/boxes_xyxy"])


class HacInMemory(Hac):
    "HAC's way of counting and looking, on frames in memory: H.264 would change them."

    def __init__(self, **media):
        self.in_memory = media
        self.frame_index = "published"
        self.sound_rule = "published"
        self.recipes = {"video": RGB, "flow": FLOW, "audio": SOUND}

    def media(self, clip, modality): return self.in_memory[modality]

    def file_numbers(self, indices, medium):
        self.indices = indices
        return super().file_numbers(indices, medium)


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("j", range(3))
def test_hac(j, part):
    golden, clip = load("pipeline_HAC"), SimpleNamespace(clip="clip")
    view = Fixed(video=(BASE + 50 + j, BASE + 60 + j), flow=(BASE + 90 + j, BASE + 91 + j)) if part == "train" else None
    rgb, flow = (golden[f"{kind}{j}_{part}/THW"].tolist() for kind in ("rgb", "flow"))
    data = HacInMemory(video=Memory(frames(BASE + 40 + j, *rgb, 3)),
                       flow=Memory(to_flow(frames(BASE + 70 + j, *flow, 3), frames(BASE + 80 + j, *flow, 3))))
    for kind, modality in (("rgb", "video"), ("flow", "flow")):
        x = load_clip(data, clip, [modality], view)[modality].numpy()
        np.testing.assert_array_equal(data.indices, golden[f"{kind}{j}_{part}/frame_inds"])
        compare(x, golden, f"{kind}{j}_{part}")


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> Epic:
    "One recording of 90 pictures, stored without loss: OpenCV reads a PNG by its content, whatever the file's name."
    data_dir = tmp_path_factory.mktemp("data")
    root = data_dir/"raw"/"EPIC-Kitchens"
    start, stop, count = load("pipeline_EPIC")["start_stop_T"].tolist()
    write_lists(root, D1_train=segments("P08_01", start, stop))
    for folder, film in (("rgb/train/D1/P08_01", frames(BASE + 140, count, 256, 456, 3)),
                         ("flow/train/D1/P08_01/u", frames(BASE + 170, count, 128, 228, 1)),
                         ("flow/train/D1/P08_01/v", frames(BASE + 180, count, 128, 228, 1))):
        (root/folder).mkdir(parents=True)
        for n, picture in enumerate(film):
            # OpenCV writes blue first
            png = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
            (root/folder/(FrameFolder.pattern % n)).write_bytes(png.tobytes())
    return Epic(data_dir)


@pytest.mark.parametrize("part", ["train", "val"])
def test_epic(kitchen, part):
    golden, clip = load("pipeline_EPIC"), next(kitchen.clips.itertuples())
    view = Fixed(video=(BASE + 150, BASE + 160), flow=(BASE + 190, BASE + 191)) if part == "train" else None
    for kind, modality in (("rgb", "video"), ("flow", "flow")):
        compare(load_clip(kitchen, clip, [modality], view)[modality].numpy(), golden, f"{kind}_{part}")


def spectrogram_cases() -> list[str]: return sorted({key.split("/")[0] for key in load("spectrogram").files})


@pytest.mark.parametrize("case", spectrogram_cases())
def test_spectrogram(case):
    golden = load("spectrogram")

    def get(key): return golden[f"{case}/{key}"]

    (start, end), seed = get("start_end").tolist(), int(get("np_seed"))
    piece = wave(int(get("wave_seed")), int(get("n_samples")))[round(start*16000):round(end*16000)]
    ours = spectrogram(piece, draws=None if seed < 0 else Draws.published(seed))
    assert ours.shape == tuple(get("shape")) and ours.dtype == np.float32
    if len(piece) == 0:  # silence: rounding noise, there as here
        assert np.abs(ours).max() < 1e-4
        return
    exact = ours.astype(np.float64)
    for found, expected in ((ours[::8, ::25], "slice"), (exact.mean(axis=1), "row_mean"),
                            (exact.mean(axis=0), "col_mean")):
        np.testing.assert_allclose(found, get(expected), rtol=1e-6, atol=2e-6)
    assert np.abs(exact).sum() == pytest.approx(float(get("abs_sum")), rel=1e-6)


def test_every_case_is_covered():
    "No golden array of frames is left out."
    used = {f"{kind}{j}_{part}" for kind in RECIPES for j in range(3)
            for part in ("train", "val")} | {"sample_rgb", "sample_flow", "rrc"}
    assert {key.split("/")[0] for key in load("pipeline_HAC").files} == used
    assert {key.split("/")[0] for key in load("pipeline_EPIC").files} == {
        f"{kind}_{part}" for kind in RECIPES for part in ("train", "val")} | {"start_stop_T"}


def test_the_published_window_of_sound():
    """From the first to the last golden index, at 24 frames per second; empty for the lengths at which the indices end
    where they began.
    """
    hac, golden = HacInMemory(), load("pipeline_HAC")
    for n, theirs in zip(golden["sample_rgb/num_frames"].tolist(), golden["sample_rgb/test"]):
        assert hac.sound_window(None, {"video": sample_indices(RGB, n), "flow": sample_indices(FLOW, n)},
                                {}) == (theirs[0]/24, theirs[-1]/24)
    windows = {n: hac.sound_window(None, {"video": sample_indices(RGB, n)}, {}) for n in range(1, 200)}
    assert [n for n, (start, end) in windows.items() if start == end] == [1, 2, 31, 62]
