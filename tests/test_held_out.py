"""Runs without one of the sources, and the threshold that is read from them, by command."""
import json

import pandas as pd
import pytest
from conftest import call

from moosa.core import write_json
from moosa.explore.opened import open_run
from moosa.runs.grid import load_grid
from moosa.runs.held_out import with_held_out
from moosa.runs.record import run_folder, write_record

GRID = """about: one run, for its threshold
base: {dataset: av-digits, method: erm, epochs: 1, train_share: 0.2}
axes:
  target: [mfeat]
"""
PROTOCOL = ["--score", "max_logit", "--protocol", "leave-one-domain-out"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, archives):
    folder = tmp_path_factory.mktemp("held-out")
    (folder/"raw").mkdir()
    (folder/"raw"/"av-digits").symlink_to(archives)
    (folder/"one.yaml").write_text(GRID)
    done = call("grid", folder/"one.yaml", "--data-dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def rescored(place, *options):
    done = call("rescore", place/"one.yaml", *options, "--data-dir", place)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_threshold_from_runs_without_a_source(place):
    "Before they are done it is refused, with the command that does them; then the threshold is of known clips alone."
    refused = call("rescore", place/"one.yaml", *PROTOCOL, "--data-dir", place)
    assert refused.returncode == 2 and f"moosa grid {place}/one.yaml --held-out --data-dir {place}" in refused.stderr
    first = {folder.name for folder in (place/"runs").iterdir() if folder.is_dir()}
    done = call("grid", place/"one.yaml", "--held-out", "--data-dir", place)
    assert done.returncode == 0 and "3 cells" in done.stdout, done.stderr
    assert len([folder for folder in (place/"runs").iterdir() if folder.is_dir()]) == 3
    said = rescored(place, *PROTOCOL)
    assert "HOS, leave-one-domain-out" in said and "not done" not in said
    (run,) = first
    numbers = pd.read_csv(place/"runs"/run/"scores.csv").set_index(["score", "group", "number"]).value.sort_index()
    at = numbers["max_logit", "leave-one-domain-out"]
    seen, unseen = at["of sources"], at["of domains left out"]
    assert at["threshold"] == pytest.approx((seen + unseen)/2)  # two sources: half way
    opened = open_run(run, place).by_score("max_logit")
    assert opened.thresholds()["leave-one-domain-out"] == pytest.approx(at["threshold"])


def test_a_score_named_twice_is_computed_once(place):
    said = rescored(place, "--score", "max_softmax", "--score", "energy", "--score", "energy")
    assert said.count("max_softmax") == said.count("energy") == 1
    (run,) = (path.parent for path in (place/"runs").glob("*/scores.csv"))
    numbers = pd.read_csv(run/"scores.csv")
    assert not numbers.duplicated(["score", "group", "number"]).any()


def test_a_grid_says_which_command_makes_its_report(place):
    said = call("grid", place/"one.yaml", "--data-dir", place).stdout
    assert f"`moosa report {place}/one.yaml --data-dir {place}` makes" in said


def test_status_says_how_far_they_are(tmp_path):
    "In a line of their own, once one of them was started: they are no cells of the grid."
    (tmp_path/"two.yaml").write_text(GRID.replace("[mfeat]", "[mfeat, mnist]"))
    grid = load_grid(tmp_path/"two.yaml")

    def said(*options):
        done = call("status", tmp_path/"two.yaml", "--data-dir", tmp_path, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pretend_done(spec):
        run_folder(spec, tmp_path).mkdir(parents=True)
        write_record(run_folder(spec, tmp_path), spec, {}, 0, "cpu", 1.)

    for spec in grid.specs: pretend_done(spec)
    assert "two: 2 of 2 cells done" in said() and "held" not in said() + said("--json")
    first, second, *_ = with_held_out(grid).specs[2:]
    pretend_done(first)
    write_json(run_folder(second, tmp_path)/"error.json", {"error": "no such luck"})
    assert said().splitlines()[:2] == ["two: 2 of 2 cells done, 0 running, 0 failed, 0 left",
                                       "two, held-out runs: 1 of 4 cells done, 0 running, 1 failed, 2 left"]
    assert "no such luck" in said()
    told = json.loads(said("--json"))
    counts = {name: told["held_out"][name] for name in ("cells", "done", "running", "failed", "missing")}
    assert counts == dict(cells=4, done=1, running=0, failed=1, missing=2) and told["cells"] == told["done"] == 2
