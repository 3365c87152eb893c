"""What a newcomer typed, and what it said: names that are none, folders that are files, questions without an answer."""
import json
import subprocess
import sys

import pytest
from conftest import call

import moosa
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
