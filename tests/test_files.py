"""The kinds of files that people have: what is read of each, and what is said of one that cannot be."""
import importlib.util
import pickle
import sys
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save_file

from moosa.core import InputError
from moosa.data.arrays import StoredArray, holder
from moosa.data.badclip import PROBLEMS, BadClip
from moosa.data.checkup import ADVICE
from moosa.data.doctor import check_before, examine
from moosa.data.folder import FolderData
from moosa.data.loader import ClipList, eval_batches
from moosa.data.media import PictureFile, PictureFilm, read_picture
from moosa.data.twins import twins
from moosa.extractors.features import data_hash
from moosa.runs.fingerprint import file_facts, places_of

POSE = np.arange(6, dtype=np.float32).reshape(2, 3)  # (C, T)


def has(module): return importlib.util.find_spec(module) is not None


needs_h5 = pytest.mark.skipif(not has("h5py"), reason="h5py is not installed: pip install 'moosa[files]'")
needs_parquet = pytest.mark.skipif(not has("pyarrow"), reason="pyarrow is not installed: pip install 'moosa[files]'")
H5, PARQUET = pytest.param("h5", marks=needs_h5), pytest.param("parquet", marks=needs_parquet)


def write_h5(path, **found):
    import h5py

    with h5py.File(path, "w") as file:
        for name, x in found.items(): file.create_dataset(name, data=x)


def write_parquet(path, **columns):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def write(path, **found):
    "Write arrays by name; of csv and parquet, columns by name."
    match path.suffix:
        case ".npz": np.savez(path, **found)
        case ".safetensors": save_file(found, path)
        case ".h5": write_h5(path, **found)
        case ".pt": torch.save({name: torch.tensor(x) for name, x in found.items()}, path)
        case ".parquet": write_parquet(path, **found)
        case ".csv":
            rows = [",".join(found), *(",".join(map(str, row)) for row in zip(*found.values()))]
            path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("ending", ["npz", "safetensors", "pt", H5])
def test_arrays_come_back(tmp_path, ending):
    one = write(tmp_path/f"one.{ending}", whatever=POSE)
    two = write(tmp_path/f"two.{ending}", pose=POSE, face=POSE + 9)
    many = write(tmp_path/f"many.{ending}", **{f"clip-{i}": POSE*i for i in range(50)})
    for found in (StoredArray(one), StoredArray(two, modality="pose"), StoredArray(two, "pose"),
                  StoredArray(many, "clip-1")):
        assert found.read().dtype == np.float32
        np.testing.assert_array_equal(found.read(), POSE)
    np.testing.assert_array_equal(StoredArray(many, "clip-7").read(), POSE*7)


@pytest.mark.parametrize("ending", ["csv", PARQUET])
def test_series_come_channels_first(tmp_path, ending):
    path = write(tmp_path/f"a.{ending}", x=POSE[0], y=POSE[1])
    np.testing.assert_array_equal(StoredArray(path).read(), POSE)
    if ending == "csv":
        path.write_text("\n".join(path.read_text().splitlines()[1:]))  # without its header
        np.testing.assert_array_equal(StoredArray(path).read(), POSE)


ROWS = dict(clip=["b", "a", "é"], x=[1., 2, 3], y=[4., 5, 6e-3])


@pytest.mark.parametrize("ending", ["csv", PARQUET])
def test_a_row_of_a_table(tmp_path, ending):
    path = write(tmp_path/f"t.{ending}", **ROWS)
    for clip, expected in dict(a=[2, 5], b=[1, 4]).items():
        np.testing.assert_array_equal(StoredArray(path, clip).read(), np.float32(expected))
    np.testing.assert_array_equal(StoredArray(path, "e\u0301").read(), np.float32([3, 6e-3]))
    with pytest.raises(BadClip, match="no-part: there is no 'c' in it; found 3 rows"): StoredArray(path, "c").read()
    with pytest.raises(BadClip, match=f"no-part: .*expected a cell with #, as t.{ending}#"): StoredArray(path).read()


@pytest.mark.parametrize("ending", ["npz", H5])
def test_a_row_beside_a_list_of_names(tmp_path, ending):
    path = tmp_path/f"t.{ending}"
    names = np.array(["b", "a"], dtype="S" if ending == "h5" else "U")
    write(path, clip=names, pose=np.stack([POSE, POSE + 1]), face=np.float32([7, 8]))
    np.testing.assert_array_equal(StoredArray(path, "a", "pose").read(), POSE + 1)
    assert StoredArray(path, "b", "face").read().tolist() == [7]
    with pytest.raises(BadClip, match="no 'c' in its list 'clip'"): StoredArray(path, "c", "pose").read()
    with pytest.raises(BadClip, match="expected one array, one named 'other'"): StoredArray(path, "a", "other").read()
    with pytest.raises(BadClip, match="expected a cell with #"): StoredArray(path, modality="pose").read()
    write(path, clip=np.array([1., 2]), pose=POSE)
    with pytest.raises(BadClip, match="not a list of names"): StoredArray(path, "a", "pose").read()
    write(path, clip=np.array(["a", "a"], dtype=names.dtype), pose=POSE)
    with pytest.raises(BadClip, match="a name is there twice"): StoredArray(path, "a", "pose").read()


@needs_parquet
def test_a_column_of_lists_is_many_columns(tmp_path):
    path = tmp_path/"t.parquet"
    write_parquet(path, clip=["a", "b"], embedding=[[1., 2, 3], [4, 5, 6]], length=[7, 8])
    assert StoredArray(path, "b").read().tolist() == [4, 5, 6, 8]
    for column, says in (([[1.], [2, 3]], "not all as long"), (["x", "y"], "holds text"), ([1., None], "not-finite"),
                         ([b"x", b"y"], "holds binary")):
        write_parquet(path, clip=["a", "b"], embedding=column)
        with pytest.raises(BadClip, match=says): StoredArray(path, "b").read()
    write_parquet(path, clip=["a"], x=[1.], __index_level_0__=[0])
    with pytest.raises(BadClip, match="an index without a name"): StoredArray(path, "a").read()


NUMBERS = arrays(np.float32, array_shapes(min_dims=1, max_dims=4, max_side=5),
                 elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@settings(max_examples=40, deadline=None)
@given(NUMBERS)
def test_any_numbers_come_back(tmp_path_factory, x):
    folder = tmp_path_factory.mktemp("any")
    np.testing.assert_array_equal(StoredArray(write(folder/"a.npz", x=x)).read(), x)
    series = x.reshape(len(x), -1)
    lines = [",".join(repr(float(number)) for number in row) for row in series]
    (folder/"a.csv").write_text("\n".join(lines))
    np.testing.assert_array_equal(StoredArray(folder/"a.csv").read(), series.T)


# --- what cannot be read ---------------------------------------------------------------------------------------------

class Evil:
    def __reduce__(self): return print, ("this was run",)


BAD = {  # file -> what is written, what is said
    "nan.npz": (lambda p: write(p, x=np.float32([1, np.nan])), "not-finite"),
    "large.npz": (lambda p: np.savez(p, x=[1e300]), "not-finite"),
    "text.npz": (lambda p: np.savez(p, x=["a"]), "unreadable: it holds <U1"),
    "code.npz": (lambda p: np.savez(p, x=np.array([Evil()], dtype=object)), "unreadable"),
    "none.npz": (lambda p: zipfile.ZipFile(p, "w").close(), "empty: there is no array"),
    "zero.npz": (lambda p: np.savez(p, x=np.zeros((0, 3))), "empty"),
    "words.npz": (lambda p: p.write_text("these are words"), "unreadable: it is no .npz file"),
    "nan.pt": (lambda p: torch.save(torch.tensor([np.inf]), p), "not-finite"),
    "code.pt": (lambda p: torch.save(Evil(), p), "unreadable: .*other objects than tensors, which could run code"),
    "pickle.pt": (lambda p: p.write_bytes(pickle.dumps(Evil())), "unreadable"),
    "list.pt": (lambda p: torch.save([1, 2], p), "unreadable: .*it holds list"),
    "complex.pt": (lambda p: torch.save(torch.zeros(3, dtype=torch.complex64), p), "unreadable: .*complex64"),
    "sparse.pt": (lambda p: torch.save(torch.eye(3).to_sparse(), p), "unreadable"),
    "dict.pt": (lambda p: torch.save(dict(a=1), p), "empty: there is no array"),
    "words.pt": (lambda p: p.write_text("these are words"), "unreadable"),
    "nan.safetensors": (lambda p: save_file(dict(x=np.float32([np.nan])), p), "not-finite"),
    "words.safetensors": (lambda p: p.write_text("these are words"), "unreadable"),
    "nan.csv": (lambda p: p.write_text("1,nan\n"), "not-finite"),
    "short.csv": (lambda p: p.write_text("1,2\n3\n"), "unreadable: line 2: 1 cells, expected 2"),
    "word.csv": (lambda p: p.write_text("x,y\n1,2\n3,four\n"), "line 3, column y: found 'four', expected a number"),
    "hole.csv": (lambda p: p.write_text("x,y\n1,\n"), "line 2, column y: found '', expected a number"),
    "head.csv": (lambda p: p.write_text("x,y\n"), "empty: there is no line of numbers"),
    "bytes.csv": (lambda p: p.write_bytes(bytes(range(256))), "unreadable: not CSV"),
    "nothing.h5": (lambda p: p.write_bytes(b""), "empty: the file has no bytes"),
    "picture.png": (lambda p: p.write_text("this is no picture"), "unreadable: OpenCV cannot decode it"),
    "cut.jpg": (lambda p: p.write_bytes(cv2.imencode(".jpg", np.zeros((99, 99, 3)))[1].tobytes()[:-9]), "unreadable"),
    "pages.tif": (lambda p: cv2.imwritemulti(str(p), [np.zeros((9, 9), np.uint8)]*3), "there are 3 pictures in it"),
    "nan.tif": (lambda p: cv2.imwrite(str(p), np.full((9, 9), np.nan, np.float32)), "not-finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named(tmp_path, name, capfd):
    path, (make, says) = tmp_path/name, BAD[name]
    make(path)
    kind = PictureFile if path.suffix in (".png", ".jpg", ".tif") else StoredArray
    with pytest.raises(BadClip, match=f"{name}: .*{says}|{name}: {says}"): kind(path).read()
    assert "this was run" not in capfd.readouterr().out


@pytest.mark.parametrize("ending", ["npz", "safetensors", "pt", H5, PARQUET])
def test_damage_is_named_wherever_it_is(tmp_path, ending):
    whole = write(tmp_path/f"whole.{ending}", x=POSE[0], y=POSE[1]).read_bytes()
    rng, path = np.random.default_rng(0), tmp_path/f"bad.{ending}"
    for i in range(40):
        content = bytearray(whole)
        for at in rng.integers(0, len(content), 8): content[at] = rng.integers(256)
        path.write_bytes(content[:rng.integers(1, len(content))] if i % 2 else content)
        try: assert StoredArray(path, None, "x").read().dtype == np.float32  # damage can look like other numbers
        except BadClip as e: assert e.path == path


@needs_h5
def test_an_h5_leads_nowhere_else(tmp_path):
    import h5py

    write_h5(tmp_path/"secret.h5", x=POSE)
    (tmp_path/"raw").write_bytes(bytes(24))
    path = tmp_path/"a.h5"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("secret.h5", "x")
        file.create_dataset("outside", (2, 3), "f4", external=[("raw", 0, 24)])
        layout = h5py.VirtualLayout((2, 3), "f4")
        layout[:] = h5py.VirtualSource("secret.h5", "x", (2, 3))
        file.create_virtual_dataset("virtual", layout)
        file["words"], file["number"] = "words", 3.
    for name, says in dict(link="no-part", outside="lie in other files", virtual="lie in other files",
                           words="unreadable", number="a single number").items():
        with pytest.raises(BadClip, match=says): StoredArray(path, name).read()


@pytest.mark.parametrize("ending, module", [("h5", "h5py"), ("parquet", "pyarrow.parquet")])
def test_what_is_not_installed_is_named(tmp_path, ending, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path/f"a.{ending}"
    path.write_bytes(b"x")
    says = f"a.{ending}: {module.split('.')[0]} is not installed.*pip install 'moosa.files.'"
    with pytest.raises(InputError, match=says) as error: StoredArray(path).read()
    assert not isinstance(error.value, BadClip)  # the clip is not at fault


def test_every_problem_has_advice(): assert set(PROBLEMS) <= set(ADVICE)


# --- pictures --------------------------------------------------------------------------------------------------------

def colours(height=9, width=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "tiff", "webp", "jpg", "jpeg"])
def test_pictures_come_back(tmp_path, ending):
    path, rgb = tmp_path/f"a.{ending}", cv2.resize(colours(3, 4), (96, 72))
    cv2.imwrite(str(path), rgb[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])
    off = np.abs(read_picture(path).astype(int) - rgb)
    assert off.max() == 0 if ending not in ("jpg", "jpeg") else off.mean() < 5
    x = PictureFile(path).read()
    assert x.shape == (3, 72, 96) and x.dtype == np.float32 and 0 <= x.min() and .5 < x.max() <= 1


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_depth_is_kept(tmp_path, ending):
    path = tmp_path/f"a.{ending}"
    depth = np.arange(108, dtype=np.uint16).reshape(9, 12)*600
    cv2.imwrite(str(path), depth)
    np.testing.assert_array_equal(PictureFile(path).read(), depth[None].astype(np.float32))
    cv2.imwrite(str(path), np.stack([depth, depth + 1, depth + 2], -1))
    assert PictureFile(path).read()[:, 0, 0].tolist() == [2, 1, 0]
    cv2.imwrite(str(path), np.dstack([colours(), np.zeros((9, 12), np.uint8)]))  # invisible
    assert PictureFile(path).read().shape == (3, 9, 12)


def test_a_folder_of_pictures_is_a_film(tmp_path):
    folder = tmp_path/"film"
    folder.mkdir()
    for t in (10, 9, 100): cv2.imwrite(str(folder/f"f{t}.png"), np.full((6, 8), t, np.uint8))
    (folder/"notes.txt").write_text("nothing")
    assert PictureFilm(folder).read([0, 1, 2, 1])[:, 0, 0, 0].tolist() == [9, 10, 100, 10]
    cv2.imwrite(str(folder/"f101.png"), np.zeros((6, 9), np.uint8))
    with pytest.raises(BadClip, match="film: mismatch: pictures of different sizes"): PictureFilm(folder).read([0, 3])
    with pytest.raises(BadClip, match="film: too-short"): PictureFilm(folder).read([4])


# --- a data set ------------------------------------------------------------------------------------------------------

TABLES = ("csv", "npz", "safetensors", "pt")


@pytest.fixture
def own(tmp_path):
    "Twelve clips with a modality of each kind; films and depth maps in folders of frames."
    root = tmp_path/"own"
    root.mkdir()
    rng, lines, rows = np.random.default_rng(0), [], {}
    for i in range(12):
        clip, label, domain = f"c{i}", f"k{i % 2}", f"d{i//6}"
        (root/clip).mkdir()
        for t in range(5): cv2.imwrite(str(root/clip/f"{t}.jpg"), colours(32, 40, 7*i + t))
        cv2.imwrite(str(root/f"{clip}.png"), rng.integers(0, 60000, (8, 8)).astype(np.uint16))
        soundfile.write(root/f"{clip}.ogg", rng.uniform(-.5, .5, 8000), 16000, format="OGG", subtype="VORBIS")
        np.savetxt(root/f"{clip}.csv", rng.normal(size=(20, 3)), delimiter=",", header="x,y,z", comments="")
        rows[clip] = rng.normal(size=4).astype(np.float32)
        parts = [f"t.{ending}#" for ending in TABLES]
        lines.append(",".join([clip, label, domain, clip, f"{clip}.ogg", f"{clip}.png", f"{clip}.csv", *parts]))
    for ending in TABLES[1:]: write(root/f"t.{ending}", **rows)
    table = [f"{clip},{','.join(map(str, row.tolist()))}" for clip, row in rows.items()]
    (root/"t.csv").write_text("\n".join(["clip,a,b,c,d", *table]))
    head = "clip,class,domain,video,audio,depth,imu," + ",".join(f"by_{ending}" for ending in TABLES)
    (root/"manifest.csv").write_text("\n".join([head, *lines]))
    return SimpleNamespace(root=root, rows=rows)


@pytest.mark.slow
def test_a_manifest_of_all_kinds(own):
    data = FolderData(own.root)
    batch = data.load(data.clips[2:4], data.modalities)
    assert {m: tuple(x.shape) for m, x in batch.items()} == dict(
        video=(2, 3, 32, 224, 224), audio=(2, 1, 257, 1004), depth=(2, 1, 8, 8), imu=(2, 3, 20),
        **{f"by_{ending}": (2, 4) for ending in TABLES})
    for ending in TABLES: np.testing.assert_array_equal(batch[f"by_{ending}"][1], own.rows["c3"])
    arrays = [m for m in data.modalities if m not in ("video", "audio")]
    check_before(data, data.clips, arrays)
    workers = [b.data for b in eval_batches(ClipList(data, data.clips.assign(label=0), arrays), 4, workers=2)]
    for m in arrays:
        assert torch.equal(torch.cat([b[m] for b in workers]), data.load(data.clips, arrays)[m])


def test_the_doctor_looks_at_all_kinds(own):
    data = FolderData(own.root)
    found = examine(data, workers=1)
    assert set(found.problem) <= {"loops", "size", "mismatch"} and set(found.level) <= {"warning"}, found
    (own.root/"c3"/"2.jpg").write_bytes(b"")
    (own.root/"c4.png").write_text("no picture")
    (own.root/"c5.csv").write_text("1,2,3,4,5,6,7\n")
    (own.root/"t.csv").write_text((own.root/"t.csv").read_text().replace("c6,", "c60,"))
    errors = examine(FolderData(own.root), workers=1).query("level == 'error'")
    assert {(e.clip, e.modality): e.problem for e in errors.itertuples()} == {
        ("c3", "video"): "empty", ("c4", "depth"): "unreadable", ("c5", "imu"): "mismatch", ("c6", "by_csv"): "no-part"}


def test_equal_rows_are_twins_and_a_table_is_not(own):
    data = FolderData(own.root)
    assert twins(data) == []
    text = (own.root/"t.csv").read_text().splitlines()
    text[2] = "c1," + text[12].split(",", 1)[1]  # the numbers of c11, which is of another domain
    (own.root/"t.csv").write_text("\n".join(text))
    (found,) = twins(data)
    assert found[:2] == ("c11", "by_csv") and found[3:5] == ("error", "leak") and "of clip c1" in found[5]
    text = (own.root/"manifest.csv").read_text()
    (own.root/"manifest.csv").write_text(text.replace("c2.csv,t.csv#", "c2.csv,t.csv#c0"))
    assert ("c2", "by_csv") in [line[:2] for line in twins(FolderData(own.root))]


def test_what_is_read_is_in_the_fingerprint(own):
    data = FolderData(own.root)
    first = data.clips[:1]
    before = {m: file_facts(data.root, places_of(data, first, m))["sha256"] for m in data.modalities}
    kept = {m: data_hash(data, first, m) for m in data.modalities}
    cv2.imwrite(str(own.root/"c0"/"4.jpg"), colours())
    for name in ("c0.ogg", "c0.png", "c0.csv", *(f"t.{ending}" for ending in TABLES)):
        with (own.root/name).open("ab") as file: file.write(b"\n")
    for m in data.modalities:
        assert file_facts(data.root, places_of(data, first, m))["sha256"] != before[m], m
        assert data_hash(data, first, m) != kept[m], m
    now = data_hash(data, first, "by_csv")
    text = (own.root/"manifest.csv").read_text()
    (own.root/"manifest.csv").write_text(text.replace("c0.csv,t.csv#", "c0.csv,t.csv#c5"))
    other = FolderData(own.root)
    assert data_hash(other, other.clips[:1], "by_csv") != now  # the same file, another row


def test_a_table_is_read_once(own):
    assert holder(own.root/"t.csv") is holder(own.root/"t.csv")
    data = FolderData(own.root)
    data.load(data.clips, ["by_csv"])
    table = holder(own.root/"t.csv")
    data.load(data.clips, ["by_csv"])
    assert holder(own.root/"t.csv") is table
    (own.root/"t.csv").write_text("clip,a\n" + "\n".join(f"c{i},{i}" for i in range(12)))
    assert data.load(data.clips, ["by_csv"])["by_csv"].flatten().tolist() == list(range(12))


def test_folders_of_all_kinds(tmp_path):
    for domain in "ab":
        for i in range(3):
            stem = tmp_path/domain/"run"/str(i)
            stem.mkdir(parents=True)
            for t in range(3): cv2.imwrite(str(stem/f"{t}.png"), colours(8, 8, 10*i + t + (domain == "a")*100))
            cv2.imwrite(f"{stem}.png", colours(8, 8, i))
            np.savez(f"{stem}.npz", np.full(3, i))
            soundfile.write(f"{stem}.mp3", np.sin(np.arange(8000)*(.1 + i/50)), 16000, format="MP3")
    (tmp_path/"overview.png").write_bytes(b"x")
    (tmp_path/"labels.csv").write_text("clip,label\n")
    data = FolderData(tmp_path)
    assert data.modalities == ("video", "audio", "image", "array") and len(data.clips) == 6
    assert data.remarks.passed == {"*.png": 1, "*.csv": 1} and data.remarks.findings == []
    shapes = {m: tuple(x.shape) for m, x in data.load(data.clips[:2], data.modalities).items()}
    assert shapes == dict(video=(2, 3, 32, 224, 224), audio=(2, 1, 257, 1004), image=(2, 3, 8, 8), array=(2, 3))


@pytest.mark.parametrize("cell, column, says", [
    ("none.npz#a", "pose", "there is no file"), ("../x.npz#a", "pose", "leads out of the data folder"),
    ("f", "audio", "is a folder of pictures, which have no sound"),
    ("e", "video", "is a folder without a picture in it"),
    ("g", "video", "is a folder that holds 'x.npy'"), ("p.png", "video", "is a picture; expected a film"),
    ("l", "video", "that holds 'out.png', a link that leads out of the data folder"),
    ("p.png", "flow", "is a picture; flow is two films"), ("x.npz#a", "audio", "is an array; expected a sound"),
    ("x.npy#a", "pose", "is not a file that can be read"),
])
def test_cells_that_do_not_fit(tmp_path, cell, column, says):
    root = tmp_path/"own"
    for name in ("f/1.png", "g/1.png", "g/x.npy", "p.png", "x.npz", "x.npy", "l/1.png", "../out.png"):
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_bytes(b"x")
    (root/"e").mkdir()
    (root/"l"/"out.png").symlink_to(tmp_path/"out.png")
    (root/"manifest.csv").write_text(f"clip,class,domain,{column}\na,run,sea,{cell}\n")
    with pytest.raises(InputError) as error: FolderData(root)
    assert "line 2, column " in str(error.value) and says in str(error.value)


def test_flow_in_folders_of_pictures(tmp_path):
    for axis, value in dict(x=130, y=120).items():
        (tmp_path/f"f_{axis}").mkdir()
        for t in range(4): cv2.imwrite(str(tmp_path/f"f_{axis}"/f"{t}.png"), np.full((8, 8), value + t, np.uint8))
    (tmp_path/"manifest.csv").write_text("clip,class,domain,flow_x,flow_y\na,run,sea,f_x,f_y\n")
    data = FolderData(tmp_path)
    flow = data.media(next(data.clips.itertuples()), "flow")
    assert flow.read([0, 3])[:, 0, 0].tolist() == [[130, 120], [133, 123]]
    assert len(flow.files) == 8 and not (examine(data, workers=1).level == "error").any()
