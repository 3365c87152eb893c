"""Every method trains on both data sets that need no download by hand, and a run can be made of it by its name."""
import pytest
import torch
import yaml
from conftest import call

from moosa.runs.experiment import build_learner, open_experiment
from moosa.runs.predictions import load_head, load_predictions
from moosa.results.alternatives import rescore_run
from moosa.runs.record import read_record, run_folder
from moosa.methods.catalogue import METHODS
from moosa.methods.model import joined
from moosa.methods.registry import create_objective, trial
from moosa.runs.given import spec_from
from moosa.training.compute import make_fabric
from moosa.training.trainer import fit

NAMES = [name for name in METHODS if "+" not in name] + ["moosa+outliers", "moosa+sam"]
NARROW = dict(simmmdg=dict(trans_hidden_num=16, hidden_dim=16),
              moosa=dict(trans_hidden_num=16, hidden_dim=16, jigsaw_hidden=16, jigsaw_samples=8))


# of the history, beside terms
COLUMNS = {"epoch", "loss", "train_accuracy", "target_kept", "validation_accuracy", "validation_loss", "seconds"}


def trained(name: str, folder, source: str, **more):
    "One epoch; the losses, and whether every part of the learner that can move has moved."
    setting = dict(setting="osda", sources=[source]) if METHODS[name].only_adapts else {}
    s = spec_from({"method": name, "epochs": 1, "hyper": NARROW.get(name.split("+")[0], {}), **setting, **more})
    experiment, fabric, learner = open_experiment(s, folder), make_fabric("cpu", threads=1), build_learner(s, folder)
    experiment.precompute()
    before = {n: p.detach().clone() for n, p in learner.objective.named_parameters()}
    state = fit(fabric, learner, experiment.train, experiment.validation, experiment.config())
    assert all(not torch.equal(p, before[n]) for n, p in learner.objective.named_parameters() if p.requires_grad)
    return state.history[0], learner.objective


@pytest.mark.parametrize("name", NAMES)
def test_on_digits(name, data_dir):
    row, objective = trained(name, data_dir, dataset="av-digits", target="mfeat", source="mnist", batch_size=256)
    terms = terms_in(row, objective)
    assert row["loss"] == pytest.approx(sum(objective.weights.get(t, 1)*row[t] for t in terms), rel=1e-4)


def terms_in(row: dict, objective) -> set[str]:
    "The terms of a row of the history; all that the objective weighs are there, but for those that return several."
    terms = set(row) - COLUMNS
    assert set(objective.weights) - {"own"} <= terms and terms
    assert terms == set(objective.weights) or "own" in objective.weights
    return terms


@pytest.mark.parametrize("name", NAMES)
def test_on_generated_clips(name, generated):
    row, objective = trained(name, generated, dataset="mini-hac", target="cartoon", source="human",
                             modalities=["video", "audio"], batch_size=4,
                             views=2 if METHODS[name].two_views else 1)
    terms_in(row, objective)


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("name", ["mixup", "coral", "mmd", "miro", "grad-blend", "erm+sam", "dann", "osbp"])
def test_any_number_of_modalities(name, modalities):
    dims = dict(list(dict(video=8, audio=4, pose=6).items())[:modalities])
    objective = create_objective(name, dims, setting="osda" if METHODS[name].only_adapts else "osdg")
    found = trial(objective, dims)
    assert all(value.isfinite() for value in found.values()) and found["total"].requires_grad


def test_by_name_on_the_command_line(data_dir):
    done = call("run", "--dataset", "av-digits", "--target", "mfeat", "--method", "coral+outliers", "--epochs", 1,
                "--train-share", .1, "--data-dir", data_dir, env=dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    asked = dict(dataset="av-digits", method="coral+outliers", epochs=1, train_share=.1)
    folder = run_folder(spec_from({**asked, "target": "mfeat"}), data_dir)
    parts = load_predictions(folder)
    assert all(len(e) == len(p.labels) and e.isfinite().all() for p in parts.values() for e in p.embeddings.values())
    assert len(parts["target"].embeddings) == 2
    assert len(parts["train"].labels) == 128 and (parts["train"].labels < 8).all()
    (data_dir/"one.yaml").write_text(yaml.safe_dump(dict(about="One run", base=asked, axes=dict(target=["mfeat"]))))
    rescored = call("rescore", data_dir/"one.yaml", "--data-dir", data_dir)
    assert rescored.returncode == 0 and "mahalanobis" in rescored.stdout, rescored.stderr
    table = rescored.stdout[rescored.stdout.index("| case"):]
    assert all(name in table for name in ("vim", "react", "ash", "gradnorm", "kl_matching"))
    assert "agreement" not in table  # coral trains no head but the fused one
    kept = (folder/"scores.csv").stat().st_mtime_ns
    reported = call("report", data_dir/"one.yaml", "--data-dir", data_dir, "--out", data_dir/"out")
    assert reported.returncode == 0, reported.stderr
    assert "Other scores for unknown" in (data_dir/"out"/"report.ipynb").read_text()
    assert (folder/"scores.csv").stat().st_mtime_ns == kept  # the report computes none


def test_what_pretext_tasks_say_is_kept_and_scored(data_dir):
    "MOOSA's translators and its jigsaw are asked of every clip that is tested; a method without them says so."
    narrow = [word for k, v in NARROW["moosa"].items() for word in ("--hyper", f"{k}={v}")]
    done = call("run", "--target", "mfeat", "--method", "moosa", "--epochs", 1, "--train-share", .1, *narrow,
                "--score", "translation", "--data-dir", data_dir, env=dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    asked = dict(target="mfeat", method="moosa", epochs=1, train_share=.1, hyper=NARROW["moosa"], score="translation")
    folder = run_folder(spec_from(asked), data_dir)
    parts = load_predictions(folder)
    for part in ("validation", "target"):
        assert set(parts[part].pretext) == {"jigsaw", "translation/image2speech", "translation/speech2image"}
        assert all(said.shape == parts[part].labels.shape for said in parts[part].pretext.values())
    found = rescore_run(folder, True, ["translation", "jigsaw"], ["source-quantile"])
    values = found.set_index(["score", "group", "number"]).value
    assert {"translation", "jigsaw"} == set(found.score) and 0 < values["jigsaw", "threshold-free", "AUROC"] < 1
    chosen = read_record(folder)["results"]["chosen"]["HOS"]  # of the run itself, which had them at hand
    assert values["translation", "source-quantile", "HOS"] == pytest.approx(chosen, abs=1e-12)


def test_the_teacher_is_tested_and_stored(data_dir):
    "What is predicted, what is kept of the model, and what modalities alone say, is all of the same network."
    asked = dict(dataset="av-digits", target="mfeat", method="mbcd", epochs=2, train_share=.1,
                 hyper=dict(ema_beta=.9, perturb=False))
    words = [f"{k}={v}" for k, v in asked["hyper"].items()]
    done = call("run", "--target", "mfeat", "--method", "mbcd", "--epochs", 2, "--train-share", .1, "--missing", "zero",
                "--hyper", words[0], "--hyper", words[1], "--data-dir", data_dir, env=dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    folder = run_folder(spec_from({**asked, "missing": ["zero"]}), data_dir)
    target = load_predictions(folder)["target"]
    with torch.no_grad(): again = load_head(folder)(joined(target.embeddings))
    torch.testing.assert_close(again, target.fused, rtol=0, atol=2e-3)  # kept in half precision
    alone = next(logits for name, logits in target.missing.items() if name.startswith("zero/") and "+" not in name)
    assert not torch.equal(alone, target.fused)
    for e in target.embeddings.values():  # normalised
        torch.testing.assert_close(e.mean(dim=1), torch.zeros(len(e)), rtol=0, atol=1e-3)
