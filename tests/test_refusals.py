"""What a newcomer typed, and what it said: names that are none, folders that are files, questions without an answer."""
import json
import re
import subprocess
import sys
from dataclasses import fields

import pandas as pd
import pytest
import torch
from conftest import ROOT, call

import moosa
from moosa.core import InputError
from moosa.data.dataset import DataSet
from moosa.methods.catalogue import METHODS, OPTIONS
from moosa.methods.method import hyper_of, with_option
from moosa.methods.own import method_of
from moosa.runs.experiment import open_experiment
from moosa.runs.given import spec_from
from moosa.runs.grid import load_grid
from moosa.runs.record import run_folder

SMALL = "base: {dataset: av-digits, method: erm, epochs: 1}\naxes: {target: [mfeat]}\n"


def refused(code, *args):
    "What a command says that is refused; no traceback."
    done = call(*args)
    assert done.returncode == code and "Traceback" not in done.stderr, (done.returncode, done.stderr)
    return done.stderr


@pytest.mark.parametrize("command", [("record", "show"), ("explore",), ("corrupt",)])
def test_a_run_is_a_name_or_a_folder_and_no_pattern(two_runs, command):
    place = ("--data-dir", two_runs)
    assert "there is no folder /nowhere/run" in refused(2, *command, "/nowhere/run", *place)
    assert "0 runs in" in refused(2, *command, "*", *place)


def test_a_run_s_name_may_end_in_a_slash(two_runs):
    name = next(path.name for path in (two_runs/"runs").iterdir() if path.is_dir())
    assert call("record", "show", f"{name[:6]}/", "--data-dir", two_runs).returncode == 0


def test_a_report_goes_into_a_folder(two_runs, tmp_path):
    (tmp_path/"file").write_text("")
    said = refused(2, "report", two_runs/"two.yaml", "--data-dir", two_runs, "--out", tmp_path/"file")
    assert f"--out: {tmp_path/'file'} is a file; expected a folder" in said and (tmp_path/"file").read_text() == ""


@pytest.mark.parametrize("field, name, meant", [("score", "enrgy", "energy"), ("protocol", "quantil", "quantile")])
def test_scores_and_protocols_are_looked_up_before_a_grid_begins(tmp_path, field, name, meant):
    (tmp_path/"bad.yaml").write_text(SMALL.replace("epochs: 1", f"epochs: 1, {field}: {name}"))
    said = refused(2, "grid", tmp_path/"bad.yaml", "--dry-run", "--data-dir", tmp_path)
    assert f"{field}: '{name}' is not known" in said and meant in said


@pytest.mark.parametrize("asked, says", [
    (dict(score="agreement"), "score: agreement asks for the heads of single modalities, but erm trains none"),
    (dict(score="translation", method="erm-heads"), "asks for the task of translation, but erm-heads trains none"),
    (dict(score="translation", method="moosa", modalities=["speech"]), "several modalities, but there is only speech"),
    (dict(score="jigsaw", method="moosa-x"), "asks for the task of jigsaw, but moosa-x trains none"),
    (dict(score="jigsaw", method="moosa", hyper=dict(jigsaw_ratio=0)), "task of jigsaw, but moosa trains none")])
def test_a_score_that_a_run_cannot_have_is_refused_before_it_begins(tmp_path, asked, says):
    with pytest.raises(InputError, match=says): spec_from(dict(target="mfeat", method="erm") | asked)
    (tmp_path/"bad.yaml").write_text(json.dumps(dict(base=dict(method="erm") | asked, axes=dict(target=["mfeat"]))))
    assert says in refused(2, "grid", tmp_path/"bad.yaml", "--dry-run", "--data-dir", tmp_path)


def test_a_score_of_one_s_own_is_asked_what_it_needs_before_its_run_begins(tmp_path, data_dir):
    (tmp_path/"own.py").write_text("def loudest(logits): return max(logits.values())\n")
    said = refused(2, "run", "--target", "mfeat", "--method", "erm", "--score", f"{tmp_path/'own.py'}:loudest",
                   "--data-dir", data_dir)
    assert "loudest asks for the heads of single modalities, but erm trains none" in said
    assert not (data_dir/"runs").exists()


def test_rescore_says_that_runs_are_there_but_cannot_be_scored(two_runs, tmp_path):
    (tmp_path/"own.py").write_text("def boom(fused): raise ValueError('no')\n")
    said = refused(2, "rescore", two_runs/"two.yaml", "--score", f"{tmp_path/'own.py'}:boom", "--data-dir", two_runs)
    assert "does them" not in said
    asked = ("--score", "energy", "--protocol", "unknown-class", "--data-dir", two_runs)
    assert "has a threshold by unknown-class" in refused(2, "rescore", two_runs/"two.yaml", *asked)


def test_a_run_is_no_grid(two_runs):
    run = next(path for path in (two_runs/"runs").iterdir() if path.is_dir())
    assert f"grid: {run} is a folder; expected a YAML file" in refused(2, "rescore", run, "--data-dir", two_runs)


@pytest.mark.parametrize("command", ["grid", "plan", "status", "rescore", "report"])
def test_a_folder_is_no_grid_wherever_one_stands(tmp_path, command):
    said = refused(2, command, tmp_path, "--data-dir", tmp_path)
    assert f"grid: {tmp_path} is a folder; expected a YAML file, such as {tmp_path/'grid.yaml'}" in said
    (tmp_path/"mine").mkdir()
    done = call(command, "mine", "--data-dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 2 and "grid: mine is a folder" in done.stderr


@pytest.mark.parametrize("name, found", [
    ("t.txt", "ends in .txt"), ("t.pdf", "ends in .pdf"), ("t", "has no ending"), ("folder.png", "is a folder")])
def test_a_timeline_is_a_png_or_an_svg(two_runs, tmp_path, name, found):
    (tmp_path/"folder.png").mkdir()
    said = refused(2, "status", two_runs/"two.yaml", "--timeline", tmp_path/name, "--data-dir", two_runs)
    expected = f"--timeline: {tmp_path/name} {found}; expected a file that ends in .png or .svg"
    assert expected in said and len(said.splitlines()) == 1


def test_a_timeline_is_drawn_as_its_ending_says(tmp_path):
    (tmp_path/"one.yaml").write_text(SMALL)
    place = run_folder(load_grid(tmp_path/"one.yaml").specs[0], tmp_path)
    place.mkdir(parents=True)
    (place/"attempts.jsonl").write_text('{"time": 1, "event": "start", "host": "here", "pid": 1}\n')
    for name, begins in (("t.PNG", b"\x89PNG"), ("new/t.svg", b"<?xml")):
        done = call("status", tmp_path/"one.yaml", "--timeline", tmp_path/name, "--data-dir", tmp_path)
        assert done.returncode == 0 and (tmp_path/name).read_bytes().startswith(begins), done.stderr


@pytest.mark.parametrize("name, found", [("found.xlsx", "ends in .xlsx"), ("folder.csv", "is a folder")])
def test_findings_go_into_a_csv(tmp_path, name, found):
    (tmp_path/"folder.csv").mkdir()
    said = refused(2, "data", "check", "av-digits", "--out", tmp_path/name, "--data-dir", tmp_path)
    assert f"--out: {tmp_path/name} {found}; expected a file that ends in .csv" in said


@pytest.mark.parametrize("port", [-1, 80, 1023, 65536, 99999])
def test_a_port_that_nobody_can_open_is_refused(tmp_path, port):
    said = refused(2, "explore", "--no-browser", "--port", port)
    assert f"--port: {port}; expected 0, any that is free, or 1024 to 65535" in said


@pytest.mark.parametrize("address", ["nobody", "tcp://nobody:99999", "abc://nobody:1", "tcp://nobody:x"])
def test_an_address_that_no_scheduler_has_is_refused(tmp_path, address):
    said = refused(2, "grid", "tiny.yaml", "--scheduler", address, "--data-dir", tmp_path)
    assert f"scheduler: '{address}' is no address; expected HOST:PORT" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("name", ["oracle", "oracle-exact"])
def test_an_oracle_cannot_be_chosen(two_runs, tmp_path, name):
    (tmp_path/"bad.yaml").write_text(SMALL.replace("epochs: 1", f"epochs: 1, protocol: {name}"))
    for words in (("run", "--target", "mfeat", "--protocol", name), ("grid", tmp_path/"bad.yaml", "--dry-run"),
                  ("rescore", two_runs/"two.yaml", "--protocol", name)):
        said = refused(2, *words, "--data-dir", two_runs)
        assert f"protocol: {name} knows the target's labels: it is always reported, and cannot be chosen" in said
        assert "Expected one of: source-quantile" in said and "Did you mean" not in said


@pytest.mark.parametrize("words, names", [
    (("list",), "methods, scores, protocols, extractors, datasets, corruptions, runs."),
    (("data", "get"), "av-digits"), (("data", "check"), "or the path of your own data."),
    (("data", "pack"), "or the path of your own data."), (("weights", "get"), "slowfast, slowonly, vggsound.")])
def test_who_names_nothing_is_told_the_names(words, names):
    said = refused(2, *words)
    assert f"{' '.join(words)}: nothing was named. Expected one of: " in said and names in said


@pytest.mark.parametrize("words, says", [
    (("run", "--target", "mfeat", "--epochs", "two"), "'two'"),
    (("grid", "demo.yaml", "--workers", "none"), "'none'"),
    (("run", "--method", "erm"), "The domain to test on"),
    (("record", "show"), "its hash, as much of its beginning"),
    (("run", "--target", "x", "--dataset", "nothere.csv"), "dataset: there is no file or folder nothere.csv. Expected"),
    (("data", "check", "no/where"), "dataset: there is no file or folder no/where. Expected"),
    (("grid", "nope.yaml"), "'nope.yaml' is no file here, and none of moosa's own grids. Expected one of"),
    (("run", "--target", "mfeat", "--unknown", "8,12"), "unknown: '12' is not known. Expected one of: 0, 1")])
def test_what_was_found_and_what_is_expected(tmp_path, words, says):
    said = refused(2, *words, "--data-dir", tmp_path)
    assert says in re.sub(r"[│\s]+", " ", said), said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("option, value", [("device", "cuda"), ("precision", "16-mixed")])
def test_what_this_machine_lacks_leaves_no_failed_run(data_dir, option, value):
    "Neither of a run, nor of a grid's cells, one after the other or by workers."
    said = [refused(2, "run", "--target", "mfeat", "--method", "erm", f"--{option}", value, "--data-dir", data_dir)]
    base = SMALL if option == "device" else SMALL.replace("epochs: 1", f"epochs: 1, precision: {value}")
    (data_dir/"small.yaml").write_text(base)
    for more in ((), ("--workers", "1")):
        asked = ("--device", value) if option == "device" else ()
        said.append(refused(2, "grid", data_dir/"small.yaml", *asked, *more, "--data-dir", data_dir))
    assert all(f"{option}: " in text and "Use " in text for text in said), said
    assert not list((data_dir/"runs").glob("*/error.json"))


def test_of_nothing_there_is_no_bar(tmp_path):
    (tmp_path/"none.yaml").write_text(SMALL)
    said = refused(2, "rescore", tmp_path/"none.yaml", "--data-dir", tmp_path)
    assert said.startswith("moosa: rescore: no open-set run") and len(said.splitlines()) == 1


def test_the_package_is_the_command():
    done = subprocess.run([sys.executable, "-m", "moosa", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, moosa.__version__, "")
    done = subprocess.run([sys.executable, "-m", "moosa", "list", "run"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("moosa: list: 'run' is not known.")


def test_runs_are_listed_with_what_tells_them_apart(two_runs):
    rows = json.loads(call("list", "runs", "--json", "--data-dir", two_runs).stdout)
    assert {row["sources"] for row in rows} >= {"mnist+optdigits", "optdigits+mfeat"}
    assert {row["epochs"] for row in rows} == {"1"} and {row["why"] for row in rows} == {""}


@pytest.mark.parametrize("command, option, value", [
    ("grid demo.yaml", "--workers", -1), ("grid demo.yaml --dry-run", "--workers", 0),
    ("grid demo.yaml", "--attempts", 0), ("grid demo.yaml --dry-run", "--search", -1),
    ("data check av-digits", "--workers", 0),
    ("data check av-digits", "--sample", 0), ("data pack av-digits", "--workers", 0)])
def test_numbers_out_of_range_are_refused_before_anything_begins(tmp_path, command, option, value):
    said = refused(2, *command.split(), option, value, "--data-dir", tmp_path)
    assert option in said and not list(tmp_path.iterdir())


# --- hyper-parameters, before anything is started ---------------------------------------------------------------------

WITH = {f.name: name for name, method in METHODS.items() for f in fields(method.adapt_hyper or method.hyper)
        if "allowed" in f.metadata}  # hyper-parameter -> a method that has it


def test_ranges_are_those_of_fields(): assert len(WITH) > 30


@pytest.mark.parametrize("name", WITH)
def test_a_hyper_parameter_beyond_its_range_is_refused_while_a_spec_is_made(name):
    setting = dict(setting="osda") if METHODS[WITH[name]].adapt_hyper else {}
    with pytest.raises(InputError, match=f"hyper: {name} is -1, expected "):
        spec_from(dict(target="mfeat", method=WITH[name], hyper={name: -1}, **setting))


def test_run_and_grid_refuse_a_hyper_parameter_before_a_run_has_a_folder(tmp_path):
    says = "hyper: mask_ratio is 7, expected 0 to below 1."
    asked = ("run", "--target", "mfeat", "--hyper", "mask_ratio=7", "--data-dir", tmp_path)
    assert refused(2, *asked).strip() == f"moosa: {says}"
    (tmp_path/"bad.yaml").write_text("base: {hyper: {mask_ratio: 7}}\naxes: {target: [mfeat]}\n")
    asked = ("grid", tmp_path/"bad.yaml", "--data-dir", tmp_path)
    for dry in ((), ("--dry-run",)): assert says in refused(2, *asked, *dry)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_grid_with_batches_larger_than_its_lists_does_not_begin(data_dir, tmp_path):
    (tmp_path/"big.yaml").write_text(SMALL.replace("[mfeat]}", "[mfeat], batch_size: [16, 5000]}"))
    said = refused(2, "grid", tmp_path/"big.yaml", "--data-dir", data_dir)
    assert "batch_size: 5000 is more than the 1280 training clips" in said and "(1 of 2)" in said, said
    assert not (data_dir/"runs").exists()


@pytest.mark.parametrize("asked, says", [
    (dict(hyper=dict(jigsaw_num_splits=3)), "jigsaw_num_splits is 3, which does not divide the embedding of image"),
    (dict(hyper=dict(jigsaw_num_splits=1, jigsaw_samples=3)), "2 parts have only 2! = 2"),
    (dict(method="mm-sada", setting="osda", hyper=dict(late_fusion=True, target_filter_thr=.5)), "Leave one of them")])
def test_hyper_parameters_that_do_not_go_together(asked, says):
    with pytest.raises(InputError, match=re.escape(says)): spec_from(dict(target="mfeat") | asked)


def test_a_method_of_one_s_own_calls_its_hyper_parameters_as_it_likes():
    def loss(outputs, labels, temp=1., k=1): return outputs.fused.square().mean()/temp

    plain, wide = method_of(loss), with_option(method_of(loss), "sam", OPTIONS["sam"])
    assert hyper_of("mine", plain, dict(temp=-1., k=-3)).k == hyper_of("mine+sam", wide, dict(temp=-1., k=-3)).k == -3
    with pytest.raises(InputError, match="sam_rho is 0, expected a number above 0"):
        hyper_of("mine+sam", wide, dict(sam_rho=0))


# --- extractors -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dataset, target, modality, name, shapes", [
    ("av-digits", "mfeat", "speech", "slowfast", "(3, T, H, W), but speech gives data of shape (13, 40)"),
    ("av-digits", "mfeat", "image", "small-speech", "(13, T), but image gives data of shape (1, 16, 16)"),
    ("av-digits", "mfeat", "speech", "small-image", "(1, H, W), but speech gives"),
    ("mini-hac", "human", "audio", "slowfast", "(3, T, H, W), but audio gives data of shape (1, 257, 1004)"),
    ("mini-hac", "human", "video", "vggsound", "(1, H, W), but video gives data of shape (3, T, H, W)"),
    ("hac", "human", "flow", "small-video", "(3, T, H, W), but flow gives data of shape (2, T, H, W)"),
    ("utd-mhad", "subjects-1-2", "skeleton", "motor-cnn", "(1, T), but skeleton gives data of shape (60, 64)")])
def test_an_extractor_is_asked_of_what_it_cannot_take(dataset, target, modality, name, shapes):
    asked = dict(dataset=dataset, target=target, extractors={modality: name})
    says = f"extractors: {name} takes data of shape {shapes}"
    with pytest.raises(InputError, match=re.escape(says)): spec_from(asked)


class Tones(DataSet):
    "Somebody's data, of which nobody knows a shape before a clip was read."
    name, classes, domains, modalities = "tones", ("low", "mid", "high"), ("a", "b"), ("wave",)
    default_unknown = ("high",)

    def __init__(self, data_dir=None, recipes=None):
        rows = [(f"{d}{c}{i}", d, c, "validation" if i == 0 else "train") for d in "ab" for c in range(3)
                for i in range(4)]
        self.clips = pd.DataFrame(rows, columns=["clip", "domain", "class", "part"])

    def load(self, clips, modalities, view=None): return {m: torch.zeros(len(clips), 2, 50) for m in modalities}


@pytest.mark.parametrize("name", ["slowfast", "small-image", "small-speech", "motor-cnn"])
def test_data_whose_shape_nobody_knows_are_looked_at_before_training(name, tmp_path):
    asked = dict(dataset="test_refusals:Tones", target="b", method="erm", batch_size=2, extractors={"wave": name},
                 weights="random")
    with pytest.raises(InputError, match=rf"{name} takes data of shape \(.*, but wave gives data of shape \(2, 50\)"):
        open_experiment(spec_from(asked), tmp_path)
    fits = dict(asked, extractors={"wave": "small-series"})
    assert open_experiment(spec_from(fits), tmp_path).shapes == {"wave": (2, 50)}


# --- a run that failed ------------------------------------------------------------------------------------------------

def test_a_loss_that_is_no_number_is_a_run_that_failed(data_dir):
    """By its exit code, as the page of commands has it; in a sentence, without the name of an exception; and the list
    of runs says which run it was."""
    done = call("run", "--target", "mfeat", "--method", "erm", "--train-share", .1, "--epochs", 1, "--lr", 1e30,
                "--seed", 5, "--data-dir", data_dir)
    said = done.stderr.splitlines()
    assert done.returncode == 1 and said[-2].startswith("moosa: the loss is nan in epoch 0"), done.stderr
    assert said[-1].startswith("The notebook with the error: ") and not re.search("NotFinite|InputError", done.stderr)
    page = json.loads((ROOT/"nbs"/"tutorials"/"commands.ipynb").read_text())
    text = "".join(line for cell in page["cells"] for line in cell["source"])
    rows = dict(re.findall(r"(?m)^\| (\d+) \| (.*) \|", text))
    assert "a run (also by a loss that is no number" in rows["1"] and "unless it is a clip" in rows["2"]
    (row,) = json.loads(call("list", "runs", "--json", "--data-dir", data_dir).stdout)
    assert row["status"] == "failed" and row["why"].startswith("the loss is nan")
    asked = ("dataset", "setting", "method", "target", "seed", "epochs", "sources")
    assert [row[name] for name in asked] == ["av-digits", "osdg", "erm", "mfeat", "5", "1", "mnist+optdigits"]
