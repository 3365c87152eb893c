"""The preset `benchmark-2026`: each method as the benchmark of 2026 trains it, and whose weights are tested."""
import csv
from pathlib import Path

import pytest
from conftest import call
from hypothesis import given, settings
from hypothesis import strategies as st

from moosa.core import InputError
from moosa.runs.given import spec_from
from moosa.runs.presets import PRESETS
from moosa.runs.predictions import load_predictions
from moosa.runs.record import read_history, read_record, run_folder
from moosa.training.trainer import TrainConfig

with (Path(__file__).parent/"golden_rivals"/"hyper.csv").open(newline="") as file: TABLE = list(csv.DictReader(file))
METHODS = {"ERM": "erm", "RNA": "rna-net", "SimMMDG": "simmmdg", "MOOSA": "moosa", "CMRF": "cmrf", "NEL": "nel",
           "JAT": "jat", "MBCD": "mbcd", "GMP": "gmp"}
FIELDS = {"lr": "lr", "batch_size": "batch_size", "nepochs": "epochs", "weight_decay (effective)": "weight_decay"}
HYPER = {"alpha_RNA": "rna_weight", "project_out_dim": "projection_dim", "global_discriminator_hidden_dim": "joint_dim",
         "PredHead hidden": "head_dim"}  # the table's name -> ours, where they differ
# what is no number of ours: how it is written there, what all have, and what other values of a switch would need
NO_NUMBER = {"optimiser", "seed", "lr schedule", "flags needed", "num_modals", "val_noise", "weight_decay", "use_dsu",
             "DSU p", "DSU eps", "alpha_trans (only without --vanilla_learning)",
             "explore_loss_coeff (only without --vanilla_learning)"}
AVERAGED = {"MOOSA": dict(batch_mean_weights=True)}  # said in words, by no line of the table
LAST = {"GMP", "JAT", "MBCD"}
DIGITS = dict(preset="benchmark-2026", dataset="av-digits", target="mfeat")


def table_of(script: str) -> tuple[dict, dict]:
    "Fields of a run and hyper-parameters that the benchmark's script has."
    lines = {line["name"]: line["default"] for line in TABLE if line["method"] == f"{script}/action"}
    assert lines
    values = {"beta": 1/16} if script == "NEL" else {}
    numbers = {name: float(values.get(name) or text.split(" (")[0]) for name, text in lines.items()
               if name not in NO_NUMBER}
    hyper = {HYPER.get(name, name): value for name, value in numbers.items() if name not in FIELDS}
    return {FIELDS[name]: value for name, value in numbers.items() if name in FIELDS}, hyper


@pytest.mark.parametrize("script", METHODS)
def test_each_method_is_as_in_the_benchmarks_table(script):
    fields, hyper = table_of(script)
    assert fields.keys() == set(FIELDS.values())
    spec = spec_from(DIGITS | dict(method=METHODS[script]))
    assert {name: getattr(spec, name) for name in fields} == fields
    for name, value in (hyper | AVERAGED.get(script, {})).items(): assert spec.hyper[name] == value, name
    assert spec.tested_epoch == ("last" if script in LAST else "best")
    assert (spec.setting, spec.unknown) == ("closed", ())
    if script == "GMP": assert spec.hyper["train_adversary"] is spec.hyper["permuted_test"] is False


@pytest.mark.parametrize("preset, dataset, targets, early", [
    ("benchmark-hac", "hac", ("human", "animal", "cartoon"), 100),
    ("benchmark-epic", "epic-clips", ("D1", "D2", "D3"), 400)])
def test_the_tasks_have_the_same_values(preset, dataset, targets, early):
    "Nine tasks of four sets of modalities; methods differ from each other as in `benchmark-2026`."
    runs = PRESETS[preset]
    assert len(runs) == 36 and {run.target for run in runs} == set(targets)
    for run in runs:
        asked = dict(preset=preset, target=run.target, sources=run.sources, modalities=run.modalities)
        for script, method in METHODS.items():
            spec, alone = spec_from(asked | dict(method=method)), spec_from(DIGITS | dict(method=method))
            names = ("epochs", "weight_decay", "lr", "batch_size", "tested_epoch", "setting")
            assert [getattr(spec, n) for n in names] == [getattr(alone, n) for n in names]
            assert spec.dataset == dataset and spec.audio_tail == ("from_checkpoint" if method == "mbcd" else "random")
            if method == "cmrf": assert spec.hyper["sma_start_step"] == early
            if method == "moosa": assert spec.hyper["jigsaw_num_splits"] == (2 if len(run.modalities) == 3 else 4)


def test_what_is_said_wins_and_others_are_trained_as_erm():
    erm = spec_from(DIGITS | dict(method="erm"))
    mixup = spec_from(DIGITS | dict(method="mixup"))
    for name in ("epochs", "weight_decay", "lr", "batch_size", "tested_epoch"):
        assert getattr(mixup, name) == getattr(erm, name)
    said = spec_from(DIGITS | dict(method="jat", epochs=3, tested_epoch="best", hyper=dict(cls_loss=1)))
    assert (said.epochs, said.tested_epoch, said.weight_decay, said.hyper["cls_loss"]) == (3, "best", 0, 1)
    option = spec_from(DIGITS | dict(method="gmp+outliers"))
    assert (option.epochs, option.weight_decay, option.tested_epoch) == (15, 0, "last")


@pytest.mark.parametrize("wrong, says", [
    (dict(setting="osda", method="dann"), "preset benchmark-2026 is for setting closed; found setting osda"),
    (dict(unknown=["8"]), "in setting=closed all classes are known"),
    (dict(tested_epoch="lst"), "Did you mean 'last'"),
    (dict(preset="benchmark-2025"), "Did you mean 'benchmark-2026'"),
    (dict(method="jat", hyper=dict(permuted_test=True)), "permuted_test"),
    (dict(method="gmp", hyper=dict(permuted_test=3)), "expected bool"),
    (dict(target=""), "target: none was given"),
])
def test_bad_input(wrong, says):
    with pytest.raises(InputError, match=says): spec_from(DIGITS | wrong)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, .25, .5, 1.0]), min_size=1, max_size=12))
def test_the_selected_epoch(accuracies):
    "The best on source validation, ties to the later; or the last, whatever the others were."
    for tested, expected in (("best", max(range(len(accuracies)), key=lambda i: (accuracies[i], i))),
                             ("last", len(accuracies) - 1)):
        config, best, selected = TrainConfig(tested_epoch=tested), -1.0, None
        for epoch, accuracy in enumerate(accuracies):
            if config.selects(accuracy, best): best, selected = accuracy, epoch
        assert selected == expected


def test_a_run_of_the_preset(data_dir):
    "JAT, by the command line, on a tenth of AV-digits."
    done = call("run", "--preset", "benchmark-2026", "--dataset", "av-digits", "--target", "mfeat", "--method", "jat",
                "--epochs", 2, "--train-share", .1, "--data-dir", data_dir, env=dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    spec = spec_from(DIGITS | dict(method="jat", epochs=2, train_share=.1))
    record = read_record(run_folder(spec, data_dir))
    assert record["selected_epoch"] == 1 and record["selection"].startswith("the last epoch")
    assert (record["spec"]["weight_decay"], record["spec"]["batch_size"], record["spec"]["lr"]) == (0, 16, 1e-4)
    assert "accuracy" in record["results"] and "source-quantile" not in record["results"]


OWN = """
from torch.nn import functional as F
from moosa.methods.own import OwnMethod

class Spoilt(OwnMethod):
    "ERM that learns in the first epoch, and forgets in the second."

    def loss(self, outputs, labels): return F.cross_entropy(outputs.fused, labels)

    def schedule(self, step, steps): return 1 if 2*step < steps else 1e4
"""


def test_own_methods_have_the_same_choice(data_dir, tmp_path):
    "What is predicted is what the selected epoch's weights say: as right on source validation as that epoch was."
    (tmp_path/"mine.py").write_text(OWN)
    for tested, selected in (("best", 0), ("last", 1)):
        asked = dict(dataset="av-digits", target="mfeat", method=f"{tmp_path}/mine.py:Spoilt", epochs=2,
                     train_share=.2, tested_epoch=tested)
        words = [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", value)]
        done = call("run", *words, "--data-dir", data_dir, env=dict(OMP_NUM_THREADS="1"))
        assert done.returncode == 0, done.stderr
        folder = run_folder(spec_from(asked), data_dir)
        accuracies, validation = read_history(folder).validation_accuracy, load_predictions(folder)["validation"]
        assert read_record(folder)["selected_epoch"] == selected and accuracies[0] > accuracies[1]
        right = (validation.fused.argmax(dim=1) == validation.labels).double().mean().item()
        assert right == pytest.approx(accuracies[selected], abs=1e-3)
