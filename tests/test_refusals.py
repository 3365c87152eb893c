"""What a newcomer typed, and what it said: names that are none, folders that are files, questions without an answer."""
import json

import pytest
from conftest import call

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
    assert f"grid: there is no file {run}" in refused(2, "rescore", run, "--data-dir", two_runs)


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
