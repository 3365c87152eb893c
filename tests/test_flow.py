"""Flow films from videos: in several processes, resumed, and past bad files."""
import cv2
import numpy as np
import pytest

from moosa.core import InputError
from moosa.data.flow import find_videos, make_flow
from moosa.data.folder import FolderData
from moosa.data.films import VideoFile
from moosa.data.media import FlowFiles, write_video
from moosa.data.motion import to_pixels


def film(frames=12, speed=3, height=64, width=96):
    noise = np.random.default_rng(0).normal(size=(height, width + 200, 3))
    ground = cv2.normalize(sum(cv2.GaussianBlur(noise, (0, 0), s)*s for s in (2, 8)), None, 0, 255,
                           cv2.NORM_MINMAX).astype(np.uint8)
    return np.stack([ground[:, 100 - speed*t:100 - speed*t + width] for t in range(frames)])


@pytest.fixture
def hac(tmp_path):
    "Two domains as HAC has them: three good videos, one cut short, one empty."
    for domain, name, frames in (("sea", "a", 12), ("sea", "b", 1), ("lake", "a", 9)):
        write_video(tmp_path/domain/"videos"/f"{name}.mp4", film(frames), fps=25)
    whole = (tmp_path/"sea"/"videos"/"a.mp4").read_bytes()
    (tmp_path/"lake"/"videos"/"cut.mp4").write_bytes(whole[:len(whole)//2])
    (tmp_path/"lake"/"videos"/"empty.mp4").write_bytes(b"")
    return tmp_path


def films(root):
    "Name -> pictures."
    return {p.relative_to(root).as_posix(): (v := VideoFile(p)).read(range(v.frames)).astype(int)
            for p in sorted(root.rglob("*_flow_?.mp4"))}


def alike(one, other):
    "The same films, but for a few grey levels: x264 does not always choose alike."
    return list(one) == list(other) and all(one[k].shape == other[k].shape and np.abs(one[k] - other[k]).max() <= 10
                                            for k in one)


def test_in_several_processes_as_in_one(hac, tmp_path):
    one, two = tmp_path/"one", tmp_path/"two"
    made = make_flow(hac, one, workers=1)
    assert made.status.tolist() == ["done", "bad", "bad", "done", "done"]
    bad = made[made.status == "bad"]
    assert bad.file.str.contains("lake/videos").all()
    assert bad.detail.str.split(":").str[0].tolist() == ["unreadable", "empty"]
    assert make_flow(hac, two, workers=2).equals(made) and alike(films(one), films(two))
    assert list(films(one)) == [f"{d}/flow/{n}_flow_{axis}.mp4" for d, n in (("lake", "a"), ("sea", "a"), ("sea", "b"))
                                for axis in "xy"]
    assert not [p for p in tmp_path.rglob(".*")]  # no half-written films


def test_films_are_in_hacs_format(hac):
    make_flow(hac/"sea"/"videos"/"a.mp4", hac, workers=1)
    flow = FlowFiles(hac/"a_flow_x.mp4", hac/"a_flow_y.mp4")
    assert (flow.frames, flow.y.frames, flow.fps) == (12, 12, 25)
    assert np.abs(to_pixels(flow.read([6]))[0, 16:-16, 16:-16].mean((0, 1)) - [3, 0]).max() < 0.5
    make_flow(hac/"sea"/"videos"/"b.mp4", hac, workers=1)
    # a single frame does not move
    assert np.abs(FlowFiles(hac/"b_flow_x.mp4", hac/"b_flow_y.mp4").read([0]).astype(int) - 128).max() <= 1


def test_goes_on_where_it_was(hac):
    make_flow(hac, workers=1)
    whole = films(hac)
    (hac/"sea"/"flow"/"a_flow_y.mp4").unlink()  # stopped between x and y
    write_video(hac/"lake"/"flow"/"a_flow_x.mp4", film(4)[..., 0])  # of another length
    kept = (hac/"sea"/"flow"/"b_flow_x.mp4").stat().st_mtime_ns
    made = make_flow(hac, workers=1)
    assert made.status.tolist() == ["done", "bad", "bad", "done", "there"]
    assert alike(films(hac), whole) and (hac/"sea"/"flow"/"b_flow_x.mp4").stat().st_mtime_ns == kept
    assert make_flow(hac, workers=1).status.tolist() == ["there", "bad", "bad", "there", "there"]


def test_folders_become_a_data_set_with_flow(tmp_path):
    for kind in ("run", "swim"): write_video(tmp_path/"sea"/kind/"a.mp4", film(10, height=65, width=97))
    assert make_flow(tmp_path, workers=1).status.tolist() == ["done", "done"]
    data = FolderData(tmp_path)
    assert data.modalities == ("video", "flow") and data.load(data.clips, ["flow"])["flow"].shape == (2, 2, 8, 256, 256)
    assert make_flow(tmp_path, workers=1).status.tolist() == ["there", "there"]  # flow films are no videos


def test_smaller_pictures(hac):
    make_flow(hac/"sea"/"videos"/"a.mp4", hac, workers=1, short_side=40)
    assert VideoFile(hac/"a_flow_x.mp4").read([0]).shape == (1, 40, 60, 3)


@pytest.mark.parametrize("options, says", [
    (dict(method="lucas"), "expected one of|Expected one of"), (dict(bound=0), "bound: 0"),
    (dict(short_side=8), "short_side: 8"), (dict(workers=0), "workers: 0"),
    pytest.param(dict(method="tvl1"), "opencv-contrib-python-headless",
                 marks=pytest.mark.skipif(hasattr(cv2, "optflow"), reason="this OpenCV has TV-L1")),
])
def test_wrong_options(hac, options, says):
    with pytest.raises(InputError, match=says): make_flow(hac, **options)


def test_nothing_to_do(tmp_path):
    with pytest.raises(InputError, match="does not exist"): make_flow(tmp_path/"none")
    with pytest.raises(InputError, match="there is no video"): make_flow(tmp_path)
    for ending in (".mp4", ".avi"): (tmp_path/f"a{ending}").write_bytes(b"")
    with pytest.raises(InputError, match="the same file would be made"): make_flow(tmp_path)


def test_videos_behind_links_and_none_of_the_systems(tmp_path):
    for name in ("disk/a.mp4", "own/b.mp4", "own/._b.mp4", "own/@eaDir/c.mp4"):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).touch()
    (tmp_path/"own"/"disk").symlink_to("../disk")
    (tmp_path/"own"/"circle").symlink_to(".")
    (tmp_path/"own"/"gone.mp4").symlink_to("/nowhere.mp4")
    assert [str(video.relative_to(tmp_path))
            for video, _ in find_videos(tmp_path/"own")] == ["own/b.mp4", "own/disk/a.mp4", "own/gone.mp4"]
    (tmp_path/"own"/"films").symlink_to("/nowhere")
    with pytest.raises(InputError, match="is a link to /nowhere, which is not there"): find_videos(tmp_path/"own")
