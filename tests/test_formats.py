"""The formats of the benchmark of 2026, on made-up files: EPIC-Kitchens as films, HUST motor, MOSI, MOSEI and CH-SIMS.

Readers and networks are held to numbers that the benchmark's own code gave, where these are at hand: in the folder
MOOSA_GOLDEN_RIVALS, or in golden_rivals/ of MOOSA_SHARED, by default `shared` beside the project.
"""
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import ROOT
from epic_lists import segments, write_lists
from golden_rules import golden_weight, wave
from scipy.io import savemat
from torch import nn
from typer.testing import CliRunner

from moosa.cli import app
from moosa.core import InputError
from moosa.data import hust
from moosa.data.catalogue import absence_of, create_dataset
from moosa.data.corrupted import FirstChannel
from moosa.data.epic_clips import EpicClips, film_names
from moosa.data.loader import ClipList, train_batches
from moosa.data.media import write_video
from moosa.data.sentiment import FEATURES, Sentiment
from moosa.data.sounds import write_sound
from moosa.data.views import spectrogram
from moosa.extractors.signals import late_transformer, motor_cnn
from moosa.runs.experiment import build_learner, open_experiment
from moosa.runs.given import spec_from
from moosa.training.compute import make_fabric
from moosa.training.trainer import fit

SHARED = Path(os.environ.get("MOOSA_SHARED") or ROOT.parent/"shared")
GOLDEN = Path(os.environ.get("MOOSA_GOLDEN_RIVALS") or SHARED/"golden_rivals")
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no {GOLDEN}: set MOOSA_GOLDEN_RIVALS")


def numbers(name: str): return np.load(GOLDEN/f"{name}.npz", allow_pickle=False)


def cli(*words) -> tuple[int, str]:  # exit code, or 2 for an `InputError`; what was said
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, InputError): return 2, str(done.exception)
    if done.exception and not isinstance(done.exception, SystemExit): raise done.exception
    return done.exit_code, done.output


def one_epoch(data_dir, **fields) -> dict:  # the last row of its history
    "Train for an epoch in this process."
    spec = spec_from(dict(epochs=1, **fields))
    experiment = open_experiment(spec, data_dir)
    learner = build_learner(spec, data_dir, experiment.shapes)
    config = experiment.config(workers=0)
    state = fit(make_fabric("cpu"), learner, experiment.train, experiment.validation, config)
    assert np.isfinite(state.history[-1]["loss"])
    return spec


# --- opinions ---------------------------------------------------------------------------------------------------------

def corpus(top=3.0, clips=(24, 9, 12), times=(5, 7, 4), sizes=(6, 4, 3), seed=0) -> dict:
    rng, found = np.random.default_rng(seed), {}
    for part, n in zip(("train", "valid", "test"), clips):
        labels = rng.choice(np.array([-1, -0.4, 0, 0.4, 1]), n)*top
        arrays = {m: rng.normal(size=(n, t, d)).astype(np.float32) for m, t, d in zip(FEATURES, times, sizes)}
        found[part] = arrays | {"regression_labels": labels, "id": [f"clip {i}" for i in range(n)]}
    return found


@pytest.fixture
def opinions(tmp_path):
    "A data folder with the three corpora."
    root = tmp_path/"raw"/"sentiment"
    root.mkdir(parents=True)
    for seed, (domain, top) in enumerate(dict(mosi=3, mosei=3, sims=1).items()):
        times = (6, 9, 4) if domain == "sims" else (5, 7, 4)
        (root/f"{domain}.pkl").write_bytes(pickle.dumps(corpus(top, times=times, seed=seed), 4))
    return tmp_path


def test_opinions_from_files_to_a_step(opinions):
    spec = one_epoch(opinions, preset="benchmark-sentiment", target="sims", sources=["mosi", "mosei"])
    assert (spec.setting, spec.batch_size, spec.weight_decay, spec.unknown) == ("closed", 24, 0, ())
    assert set(spec.extractors.values()) == {"late-transformer"} and spec.hyper["jigsaw_num_splits"] == 2
    spec = one_epoch(opinions, preset="benchmark-sentiment-2", target="sims", sources=["mosi"], method="erm",
                     batch_size=12, modalities=["text", "audio", "vision"])
    data = create_dataset(spec.dataset, opinions)
    batch = next(train_batches(ClipList(data, data.clips.assign(label=data.clips["class"]), ["audio"]), 8, 0, 0))
    assert batch.data["audio"].shape == (8, 9, 4) and set(batch.labels.tolist()) <= {0, 1}


def test_opinions_that_are_not_there(opinions, tmp_path_factory):
    (opinions/"raw"/"sentiment"/"mosei.pkl").unlink()
    assert absence_of("sentiment", opinions) == ""
    with pytest.raises(InputError, match=r"(?s)mosei: .*mosei.pkl is missing. The features of CMU-MOSI.*--from FOLDER"):
        one_epoch(opinions, preset="benchmark-sentiment", target="mosei", sources=["mosi", "sims"])
    one_epoch(opinions, preset="benchmark-sentiment", target="sims", sources=["mosi"], method="erm")


class Command:
    def __init__(self, function, *args): self.function, self.args = function, args
    def __reduce__(self): return self.function, self.args


GOOD = corpus()


def with_part(part: str, **arrays) -> dict: return GOOD | {part: GOOD[part] | arrays}
def without(key: str) -> dict: return GOOD | {"valid": {k: v for k, v in GOOD["valid"].items() if k != key}}


holey = GOOD["test"]["audio"].copy()
holey[3, 1, 2] = np.nan
BAD = {  # what is in mosi.pkl -> what is said
    "truncated": (pickle.dumps(GOOD, 4)[:-900], "is not a pickle of a corpus' features, or is damaged"),
    "no pickle": (b"\x93NUMPY", "is damaged"), "empty": (b"", "is damaged"),
    "a list": ([GOOD], "expected a dictionary, found list"),
    "a missing part": ({"train": GOOD["train"]}, "valid, test missing"),
    "missing features": (without("vision"), "valid: vision missing"),
    "missing labels": (without("regression_labels"), "valid: regression_labels missing"),
    "fewer labels": (with_part("test", regression_labels=np.zeros(5)), "different numbers of clips"),
    "no label": (with_part("test", regression_labels=np.full(12, np.nan)), "label nan of clip 0 is not from -3 to 3"),
    "a wild label": (with_part("train", regression_labels=np.full(24, 4.0)), "label 4 of clip 0"),
    "no time": (with_part("train", text=np.zeros((24, 6))), "expected (clips, time, features)"),
    "no clip": (with_part("train", text=np.zeros((0, 5, 6))), "none of them 0"),
    "texts": (with_part("train", text=np.array(["a"]*24)), "expected an array of numbers, found an array of <U1"),
    "other features in a part": (with_part("valid", audio=np.zeros((9, 7, 5))), "expected one number"),
    "other features in a corpus": (corpus(sizes=(6, 5, 3)), "audio: different numbers of features"),
    "a class of torch's": (with_part("train", text=torch.zeros(24, 5, 6)), "it asks for torch"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pickles(opinions, case):
    content, says = BAD[case]
    path = opinions/"raw"/"sentiment"/"mosi.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, 4))
    with pytest.raises(InputError) as error: Sentiment(opinions)
    assert says in str(error.value) and "Traceback" not in str(error.value), str(error.value)
    if "different numbers of features" not in says: assert "mosi.pkl" in str(error.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_nothing(opinions, protocol):
    trap, path = opinions/"trap", opinions/"raw"/"sentiment"/"mosi.pkl"
    call = Command(os.system, f"touch {trap}")
    hidden = with_part("train", text=np.array([call], object)), with_part("train", id=call)
    for content in (call, {"train": call}, *hidden):
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(InputError, match="it asks for posix.system.*so it was not read"): Sentiment(opinions)
        code, said = cli("data", "check", "sentiment", "--data-dir", opinions)
        assert code == 1 and "WRONG  mosi.pkl" in said and "it asks for posix.system" in said
    assert not trap.exists()


def test_check_and_get_opinions(opinions, tmp_path_factory):
    code, said = cli("data", "check", "sentiment", "--data-dir", opinions)
    assert code == 0 and "train 24 clips (text 5x6, audio 7x4, vision 4x3)" in said, said
    assert "mosei, test, positive:" in said and "officially 2284" in said
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    code, said = cli("data", "get", "sentiment", "--data-dir", elsewhere)
    assert code == 2 and "https://github.com/thuiar/MMSA" in said and str(elsewhere/"raw"/"sentiment") in said
    code, said = cli("data", "get", "sentiment-2", "--from", opinions/"raw"/"sentiment", "--data-dir", elsewhere)
    assert code == 0 and said.count("a link to") == 3
    path = opinions/"raw"/"sentiment"/"mosi.pkl"
    path.write_bytes(pickle.dumps(with_part("test", audio=holey)))
    code, said = cli("data", "check", "sentiment", "--data-dir", elsewhere)
    assert code == 1 and "mosi.pkl, test, audio: 1 of 12 clips hold NaN" in said
    clips = Sentiment(opinions).clips.query("domain == 'mosi' and part == 'test'").assign(label=0)
    with pytest.raises(InputError, match="mosi/test/00003: not-finite"):
        ClipList(Sentiment(opinions), clips, ["audio"]).load(range(12))
    mended = ClipList(Sentiment(opinions, not_finite="zero"), clips, ["audio"]).load(range(12))["audio"]
    assert mended[3, 1, 2] == 0 and torch.isfinite(mended).all()


@golden
def test_opinions_are_the_benchmarks(tmp_path):
    z, root = numbers("mmsa"), tmp_path/"raw"/"sentiment"
    root.mkdir(parents=True)
    for domain in ("mosi", "mosei", "sims"):
        parts = {part: {key: z[f"data/{domain}/{part}/{key}"] for key in (*FEATURES, "regression_labels")}
                 for part in ("train", "valid", "test")}
        (root/f"{domain}.pkl").write_bytes(pickle.dumps(parts))
    data = Sentiment(tmp_path)
    assert [data.sizes[m] for m in FEATURES] == z["loader/orig_dim"].tolist()
    for part, sources, key in (("train", ("mosi", "sims"), "train"), ("test", ("mosei",), "test")):
        rows = pd.concat([data.clips[(data.clips.domain == d) & (data.clips.part == part)] for d in sources])
        np.testing.assert_allclose(rows.sentiment, z[f"loader/{key}_label"], atol=1e-6)
        if key == "train": assert [data.domains.index(d) for d in rows.domain] == z["loader/train_domain"].tolist()
    assert Sentiment.label_of(z["metrics/truth"]).tolist() == z["metrics/sentiment_class"].tolist()


@golden
def test_late_transformer_is_the_benchmarks():
    z, found = numbers("mmsa"), []
    names = {"linear1": "fc1", "linear2": "fc2", "norm1": "layer_norms.0", "norm2": "layer_norms.1"}
    for i, m in enumerate(FEATURES):
        x = torch.from_numpy(z[f"net/{m}"])
        net = late_transformer(x.shape[1:], width=8, layers=2, heads=2).eval()
        with torch.no_grad():
            for name, p in net.stem.project.named_parameters():
                shape = (*p.shape, 1) if name == "weight" else p.shape  # there, a convolution of width 1
                p.copy_(golden_weight(f"latefusion.proj.{i}.{name}", shape).reshape(p.shape))
            for name, p in net.tail[0].named_parameters():
                theirs = name.replace("norm.", "layer_norm.") if name.startswith("norm.") else name
                for ours, other in names.items(): theirs = theirs.replace(f".{ours}.", f".{other}.")
                p.copy_(golden_weight(f"latefusion.encoders.{i}.{theirs}", p.shape))
            found.append(net(x))
    np.testing.assert_allclose(torch.cat(found, dim=1), z["net/latefusion_hidden"], atol=1e-5)


# --- motors -----------------------------------------------------------------------------------------------------------

def write_motors(root: Path, train: int = 8, test: int = 4) -> Path:
    "Windows whose frequency tells the state."
    root.mkdir(parents=True)
    rng, time = np.random.default_rng(0), np.arange(1024)[:, None]/1024
    for file in hust.FILES.values():
        variables = {}
        for number in range(1, 5):
            for part, n in (("train", train), ("test", test)):
                states = np.repeat(np.arange(6), n)
                wave = np.sin(2*np.pi*(number + 3*states)*time)
                variables[f"load{number}_{part}"] = wave + 0.1*rng.normal(size=wave.shape)
        savemat(root/file, variables)
    return root


@pytest.fixture
def motors(tmp_path):
    write_motors(tmp_path/"raw"/"HUST-motor")
    return tmp_path


def test_motors_from_files_to_a_step(motors):
    task = dict(preset="benchmark-hust", target="30HZ", sources=["10HZ"], batch_size=8)
    spec = one_epoch(motors, method="erm", **task)
    assert (spec.setting, spec.lr, spec.weight_decay, set(spec.extractors.values())) == (
        "closed", 1e-3, 5e-4, {"motor-cnn"})
    spec = one_epoch(motors, hyper=dict(jigsaw_samples=8), data_options={"signals": "spectrum"}, **task)
    assert set(spec.extractors.values()) == {"motor-encoder"}


def test_check_and_get_motors(motors, tmp_path_factory):
    code, said = cli("data", "check", "hust-motor", "--data-dir", motors)
    assert code == 0 and "30HZ, validation, UNBAL: 4 clips, officially 200" in said, said
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for words in ((), ("--from", elsewhere), ("--from", "nowhere")):
        code, said = cli("data", "get", "hust-motor", *words, "--data-dir", elsewhere)
        assert code == 2 and "Motor_Vib.mat, Motor_Aud.mat: windows" in said, said
    assert cli("data", "get", "hust-motor", "--from", motors/"raw"/"HUST-motor", "--data-dir", elsewhere)[0] == 0
    path = motors/"raw"/"HUST-motor"/"Motor_Aud.mat"
    path.write_bytes(path.read_bytes()[:70_000])
    code, said = cli("data", "check", "hust-motor", "--data-dir", elsewhere)
    assert code == 1 and "WRONG  Motor_Aud.mat" in said and "is damaged" in said, said


@golden
def test_motors_are_the_benchmarks(tmp_path):
    z = numbers("hust")
    (tmp_path/"a.txt").write_text(str(z["txt/text"]))
    signals = hust.read_recording(tmp_path/"a.txt")
    np.testing.assert_array_equal(signals["vibration"], z["txt/vib_fused"])
    np.testing.assert_array_equal(signals["acoustic"], z["txt/aud"])
    seed, *sizes = z["split/params"].tolist()
    rng = np.random.default_rng(seed)
    for turn in (0, 1):
        cut = dict(zip(("train", "test"), hust.cut_windows(signals, rng, *sizes)))
        for part in cut:
            for m, short in (("vibration", "vib"), ("acoustic", "aud")):
                np.testing.assert_array_equal(cut[part][m], z[f"split/call{turn}/{short}_{part}"])
    windows = z["norm/mat"].T
    np.testing.assert_allclose(hust.scaled(windows), z["norm/fft_off"], atol=1e-12)
    np.testing.assert_allclose(hust.spectra(windows, 20), z["norm/fft_on"], atol=1e-12)
    domains, classes, each, most, seed = z["source_split/params"].tolist()
    held = hust.validation_rows([each]*domains*classes, most, seed)
    rows = [group*each + i for group, chosen in enumerate(held) for i in chosen]
    assert sorted(rows) == sorted(z["source_split/val_rows"].tolist())
    assert len(set(rows) | set(z["source_split/train_rows"].tolist())) == each*domains*classes


@golden
def test_motor_cnn_is_the_benchmarks():
    z, net = numbers("hust"), motor_cnn()
    blocks = [*net.stem, *list(net.tail)[:3]]
    with torch.no_grad():
        for i, block in enumerate(blocks, 1):
            for j, layer in ((0, block[0]), (1, block[1])):
                for name, value in layer.state_dict(keep_vars=True).items():
                    value.copy_(golden_weight(f"cnn.layer{i}.{j}.{name}", value.shape))
        x = torch.from_numpy(np.random.RandomState(int(z["cnn/x_seed"])).uniform(0, 1, (3, 1024))).float()[:, None]
        np.testing.assert_allclose(net.eval()(x), z["cnn/eval_out"], atol=1e-5)
        np.testing.assert_allclose(net.train()(x), z["cnn/train_out"], atol=1e-5)
    assert all(isinstance(block[1], nn.BatchNorm1d) for block in blocks)


# --- kitchens ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def kitchens(tmp_path_factory):
    "Two domains with a film per class in the train list, and one in the test list; the third has one of each."
    data_dir = tmp_path_factory.mktemp("films")
    root, lists = data_dir/"raw"/"EPIC-clips", {}
    for d, domain in enumerate(("D1", "D2", "D3")):
        for split, verbs in (("train", range(8) if domain != "D3" else [0]), ("test", [0])):
            video = f"P0{d}_{split}"
            rows = [segments(video, 1 + 40*i, 31 + 40*i, v, uid=i) for i, v in enumerate(verbs)]
            lists[f"{domain}_{split}"] = pd.concat(rows, ignore_index=True)
            place = root/"MM-SADA_Domain_Adaptation_Splits"
            for folder in ("video", "audio"): (place/folder/split/domain).mkdir(parents=True)
            for i, v in enumerate(verbs):
                film = np.full((16, 32, 48, 3), 40 + 20*v, np.uint8)
                write_video(place/"video"/split/domain/f"{domain}_{video}_{1 + 40*i}_{31 + 40*i}_{v}.mp4", film)
            write_sound(place/"audio"/split/domain/f"{video}.wav", np.sin(np.arange(32_000)/9)/2)
    write_lists(root, **lists)
    return data_dir


def test_films_from_files_to_a_step(kitchens):
    small = dict(video="small-video", audio="small-audio")
    spec = one_epoch(kitchens, preset="benchmark-epic", target="D3", sources=["D1", "D2"], method="erm",
                     modalities=["video", "audio"], extractors=small, batch_size=8, frozen_bn="eval")
    assert (spec.setting, spec.unknown, spec.lr, spec.weight_decay) == ("closed", (), 1e-4, 1e-4)


def test_check_and_get_films(kitchens, tmp_path_factory):
    options = ("--modalities", "video,audio", "--workers", 1, "--data-dir", kitchens)
    code, said = cli("data", "check", "epic-clips", *options)
    assert code == 0 and "D1, train, put: 1 clips, officially 383" in said, said
    code, said = cli("data", "get", "epic-clips", "--data-dir", kitchens)
    assert code == 2 and "20 files" not in said and "_u.mp4" in said and "are missing" in said  # there is no flow
    film = next((kitchens/"raw"/"EPIC-clips").rglob("video/test/D2/*.mp4"))
    content = film.read_bytes()
    film.write_bytes(content[:300])
    try: code, said = cli("data", "check", "epic-clips", *options)
    finally: film.write_bytes(content)
    assert code == 1 and film.name in said
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(InputError, match="(?s)_Splits is missing.*FIRST_LAST_CLASS"): EpicClips(empty)


@golden
def test_names_of_films_are_the_benchmarks():
    z = numbers("data_action")
    for i, row in enumerate(z["epic/rows"]):
        place, start, stop, began, ended, verb = str(row).split("\t")
        domain, video = place.split("/")
        clips = pd.DataFrame([[domain, int(verb), video, int(start), int(stop)]],
                             columns=["domain", "class", "video", "start_frame", "stop_frame"])
        named = film_names(clips).iloc[0]
        data = EpicClips.__new__(EpicClips)
        data.root, data.audio_format = Path("/data"), "strict"
        split = str(z["epic/rgb"][2*i]).split("/")[4]
        part = {"train": "train", "test": "validation"}[split]
        clip = pd.DataFrame([dict(named, part=part, start_timestamp=began, stop_timestamp=ended)])
        clip = next(clip.drop(columns="class").itertuples())
        flow_split = str(z["epic/flow_u"][2*i]).split("/")[4]
        assert data.media(clip, "video").path == Path(str(z["epic/rgb"][2*i]))
        flow = [f.path.name for f in (data.media(clip, "flow").x, data.media(clip, "flow").y)]
        assert flow == [Path(str(z[f"epic/flow_{x}"][2*i])).name for x in "uv"] and flow_split in ("train", "test")
        assert data.media(clip, "audio").path.name == Path(str(z["epic/audio"][2*i])).name
        np.testing.assert_allclose(data.sound_window(clip, {}, {}), z["epic/seconds"][i])


@golden
def test_sound_of_a_corrupted_file_is_the_benchmarks(tmp_path):
    "Of two channels the first counts."
    z = numbers("data_action")
    heard = wave(int(z["wind/wave_seed"]), int(z["wind/n_samples"]))
    both = np.stack([heard, np.random.default_rng(0).normal(size=len(heard))], axis=1)
    soundfile.write(tmp_path/"a.wav", both, 16000, subtype="DOUBLE")
    first, last = z["wind/frame_inds_first_last"]
    exact = spectrogram(FirstChannel(tmp_path/"a.wav").read(first/24, last/24))
    assert exact.shape == tuple(z["wind/shape"])
    for found, expected in ((exact[::8, ::25], "slice"), (exact.astype(float).mean(axis=1), "row_mean")):
        np.testing.assert_allclose(found, z[f"wind/{expected}"], rtol=1e-6, atol=3e-6)


# --- all of them ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["epic-clips", "hust-motor", "sentiment", "sentiment-2"])
def test_what_is_not_there_says_what_is_expected_where(name, tmp_path):
    assert f"`moosa data get {name}`" in absence_of(name, tmp_path)
    with pytest.raises(InputError) as error: create_dataset(name, tmp_path)
    assert str(tmp_path/"raw") in str(error.value) and "--from FOLDER" in str(error.value)


@pytest.mark.parametrize("name, target", [("hust-motor", "5HZ"), ("sentiment", "sims"), ("sentiment-2", "sims")])
def test_an_open_set_is_asked_for(name, target):
    with pytest.raises(InputError, match="no class is unknown.*set setting=closed"):
        spec_from(dict(dataset=name, target=target))
