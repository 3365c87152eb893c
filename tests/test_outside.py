"""A finished run, asked again: its model says of its own clips what it has stored, and tells clips from outside."""
import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call

from moosa.core import InputError, read_table
from moosa.evaluation.misclassification import out_of_distribution
from moosa.evaluation.openset import max_softmax
from moosa.runs.diff import find_folder
from moosa.runs.outside import ask_of, ask_outside
from moosa.runs.predictions import load_predictions
from moosa.runs.trained import reopen

METHODS = ("moosa", "mbcd", "cmrf")  # of the last two the teacher is tested, or kept


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, archives):
    "A data folder with a run of each method."
    folder = tmp_path_factory.mktemp("runs")
    (folder/"raw").mkdir()
    (folder/"raw"/"av-digits").symlink_to(archives)
    for method in METHODS:
        done = call("run", "--target", "mfeat", "--method", method, "--epochs", "1", "--train-share", "0.2",
                    "--data-dir", folder)
        assert done.returncode == 0, done.stderr
    return folder


def run_of(data_dir, method: str):
    "The folder of a method's run."
    said = {json.loads(p.read_text())["spec"]["method"]: p.parent for p in data_dir.glob("runs/*/record.json")}
    return said[method]


def own_data(folder, shapes: dict, classes=("hum", "buzz")):
    "Own data of noise: 2 domains, 2 classes, 3 clips each; an array of each modality."
    folder.mkdir()
    noise, rows = np.random.default_rng(0), []
    for domain in "ab":
        for name in classes:
            for i in range(3):
                row = {"clip": f"{domain}-{name}-{i}", "domain": domain, "class": name}
                for m, shape in shapes.items():
                    row[m] = f"{row['clip']}-{m}.npy"
                    np.save(folder/row[m], noise.normal(size=shape).astype(np.float32))
                rows.append(row)
    pd.DataFrame(rows).to_csv(folder/"manifest.csv", index=False)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_reopened_model_says_what_the_run_has_stored(data_dir, method):
    place = run_of(data_dir, method)
    run, stored = reopen(place, data_dir), load_predictions(place)
    for part, clips in (("target", run.experiment.test), ("validation", run.experiment.validation)):
        said = run.predict(clips.dataset, clips.clips)
        assert said.clips == stored[part].clips
        torch.testing.assert_close(said.fused, stored[part].fused, rtol=1e-4, atol=1e-5)
        for m, x in said.logits.items(): torch.testing.assert_close(x, stored[part].logits[m], rtol=1e-4, atol=1e-5)


def test_own_unknown_clips_near_and_far_are_the_same(data_dir):
    "The target's unknown classes, stored, and loaded as another data set's: the same rows, and those of the formula."
    place = run_of(data_dir, "mbcd")
    far = ask_of(place, "av-digits", ["mfeat"], ["8", "9"], data_dir)
    table = ask_outside(place, far).set_index("outside")
    assert table.index.tolist() == ["unknown: 8", "unknown: 9", "unknown", "av-digits: mfeat"]
    numbers = ["clips", "AUROC", "FPR95", "FPR95-in", "AUPR-in", "AUPR-out"]
    near, loaded = (table.loc[row, numbers].tolist() for row in ("unknown", "av-digits: mfeat"))
    assert near == pytest.approx(loaded, abs=1e-4)
    target = load_predictions(place)["target"]
    confidence, known = max_softmax(target.fused).numpy(), (target.labels < 8).numpy()
    expected = out_of_distribution(confidence[known], confidence[~known])
    assert {name: table.loc["unknown", name] for name in expected} == pytest.approx(expected)
    kept = read_table(place/"ood.csv", ["outside", "score", "AUROC"])
    assert kept["outside"].tolist() == table.index.tolist()


def test_ood_of_own_data(data_dir, tmp_path):
    "Noise in the shapes of digits and speech; a class that the run knows by name is not outside."
    first = {m: tuple(x.shape[1:]) for m, x in reopen(run_of(data_dir, "moosa")).experiment.test.load([0]).items()}
    folder = own_data(tmp_path/"noise", first, ("hum", "3"))
    name = run_of(data_dir, "moosa").name[:6]
    done = call("ood", name, "--data", folder, "--score", "energy", "--score", "max_softmax", "--json",
                "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    rows = pd.DataFrame(json.loads(done.stdout))
    far = rows[~rows.outside.str.startswith("unknown")]
    assert far.outside.tolist() == ["noise: a", "noise: b", "noise"]*2 and far.clips.tolist() == [3, 3, 6]*2
    assert set(rows.score) == {"energy", "max_softmax"}
    done = call("ood", name, "--data", folder, "--domains", "a", "--data-dir", data_dir)
    assert done.returncode == 0 and "| noise: a " in done.stdout and "| noise " not in done.stdout, done.stdout


def test_what_cannot_be_asked_is_said(data_dir, tmp_path):
    place = run_of(data_dir, "moosa")
    flat = own_data(tmp_path/"flat", {"image": (5,), "speech": (7,)})
    deaf = own_data(tmp_path/"deaf", {"image": (5,)})
    for text, *options in (("the run needs speech, too", "--data", deaf), ("has shape", "--data", flat),
                           ("it was not given", "--domains", "mnist"), ("begin with 'zz'",),
                           ("the run knows 3", "--data", "av-digits", "--classes", "3"),
                           ("'loudness' is not known", "--score", "loudness"),
                           ("'moon' is not known", "--data", "av-digits", "--domains", "moon")):
        done = call("ood", "zz" if not options else place, *options, "--data-dir", data_dir)
        assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr, (text, done.stderr)
    with pytest.raises(InputError, match="begin with"): find_folder("zz", data_dir)


def test_damaged_or_gone_weights_are_named(data_dir):
    place = run_of(data_dir, "cmrf")
    path = place/"model.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(InputError, match="model.safetensors"): reopen(place, data_dir)
        path.unlink()
        with pytest.raises(InputError, match="its weights are gone"): reopen(place, data_dir)
    finally: path.write_bytes(whole)
