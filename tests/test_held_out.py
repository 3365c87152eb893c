"""Runs without one of the sources, and the threshold that is read from them, by command."""
import pandas as pd
import pytest
from conftest import call

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


def rescored(place):
    done = call("rescore", place/"one.yaml", *PROTOCOL, "--data-dir", place)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_threshold_from_runs_without_a_source(place):
    "Before they are done it says so, and remembers nothing of it; then the threshold is there, of known clips alone."
    assert "the run without mnist is not done" in rescored(place).replace("\n", " ")
    first = {folder.name for folder in (place/"runs").iterdir() if folder.is_dir()}
    done = call("grid", place/"one.yaml", "--held-out", "--data-dir", place)
    assert done.returncode == 0 and "3 cells" in done.stdout, done.stderr
    assert len([folder for folder in (place/"runs").iterdir() if folder.is_dir()]) == 3
    said = rescored(place)
    assert "HOS, leave-one-domain-out" in said and "not done" not in said
    (run,) = first
    numbers = pd.read_csv(place/"runs"/run/"scores.csv").set_index(["score", "group", "number"]).value.sort_index()
    at = numbers["max_logit", "leave-one-domain-out"]
    seen, unseen = at["of sources"], at["of domains left out"]
    assert at["threshold"] == pytest.approx((seen + unseen)/2)  # two sources: half way
