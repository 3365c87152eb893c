"""Runs without one of the sources, and the threshold that is read from them, by command."""
import pandas as pd
import pytest
from conftest import call

from moosa.explore.opened import open_run

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
