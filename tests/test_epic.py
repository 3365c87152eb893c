"""EPIC-Kitchens from end to end, on made-up kitchens: numbered JPEGs, flow at half rate, sound by the hour, lists in
pickles.
"""
import json

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import call
from epic_lists import segments, write_lists

from moosa.data.media import FrameFolder
from moosa.data.sounds import write_sound

VERBS = (0, 1, 2, 3)  # take, put, open, close: the last is unknown


@pytest.fixture(scope="module")
def kitchens(tmp_path_factory):
    """Three domains, one recording for each list; a segment of 40 frames per verb, a bar that moves at a speed of its
    own.
    """
    data_dir = tmp_path_factory.mktemp("epic")
    root, lists = data_dir/"raw"/"EPIC-Kitchens", {}
    for d, domain in enumerate(("D1", "D2", "D3")):
        for split, rounds in (("train", 2), ("test", 1)):
            video, verbs = f"P{d:02d}_{rounds:02d}", [v for v in VERBS for _ in range(rounds)]
            rows = [segments(video, 1 + 40*i, 41 + 40*i, v, uid=10*i + d, start_timestamp=f"00:00:{i:02d}.00",
                             stop_timestamp=f"00:00:{i + 1:02d}.00") for i, v in enumerate(verbs)]
            lists[f"{domain}_{split}"] = pd.concat(rows, ignore_index=True)
            write_recording(root, f"{split}/{domain}/{video}", verbs, 60 + 60*d)
    write_lists(root, **lists)
    return data_dir


def write_recording(root, place, verbs, light):
    for folder in (root/"rgb"/place, root/"flow"/place/"u", root/"flow"/place/"v"): folder.mkdir(parents=True)
    for n in range(40*len(verbs) + 2):
        speed = 1 + verbs[min(max(n - 1, 0)//40, len(verbs) - 1)]
        picture = np.full((72, 96, 3), light, np.uint8)
        picture[:, (speed*n) % 80:(speed*n) % 80 + 12] = 230
        cv2.imwrite(str(root/"rgb"/place/(FrameFolder.pattern % n)), picture)
        for part in "uv":
            cv2.imwrite(str(root/"flow"/place/part/(FrameFolder.pattern % (n//2))),
                        np.full((36, 48), 128 + 10*speed, np.uint8))
    seconds = np.arange(16000*len(verbs))/16000
    write_sound(root/"rgb"/f"{place}.wav", np.sin(2*np.pi*200*(1 + np.repeat(verbs, 16000))*seconds)/2)


def test_a_run_from_lists_to_record(kitchens):
    done = call("data", "check", "epic", "--data-dir", kitchens, "--workers", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Other than the official numbers" in done.stdout
    assert "D1, train, take: 2 clips, officially 421" in done.stdout
    small = [word for m in ("video", "audio", "flow") for word in ("--extractors", f"{m}=small-{m}")]
    unseen = "close,wash,cut,mix,pour"  # made-up kitchens show four verbs
    done = call("run", "--dataset", "epic", "--target", "D3", "--sources", "D1,D2", "--unknown", unseen, *small,
                "--method", "moosa", "--epochs", 1, "--batch-size", 4,
                "--hyper", "jigsaw_samples=8", "--hyper", "jigsaw_num_splits=2", "--data-dir", kitchens)
    assert done.returncode == 0, done.stderr
    (record,) = (kitchens/"runs").glob("*/record.json")
    assert json.loads(record.read_text())["spec"]["modalities"] == ["video", "audio", "flow"]
    target = pd.read_csv(record.parent/"clips.csv").query("part == 'target'")
    assert len(target) == 4 and target["clip"].str.startswith("D3/").all()  # the target's test list only


def test_doctor_finds_a_missing_picture(kitchens):
    lost = kitchens/"raw"/"EPIC-Kitchens"/"rgb"/"test"/"D2"/"P01_01"/(FrameFolder.pattern % 60)
    content = lost.read_bytes()
    lost.unlink()
    try: done = call("data", "check", "epic", "--data-dir", kitchens, "--workers", 1)
    finally: lost.write_bytes(content)
    assert done.returncode == 1 and "missing" in done.stdout and "60" in done.stdout
