"""Runs in forks of a warm process: the same bytes as in a new Python, and nothing of one run in the next."""
import json
import os
import subprocess
import sys

import nbformat
import pytest

from moosa.places import experiments_folder
from moosa.runs.notebook import NEEDED
from moosa.runs.warm import CAN_FORK, warm

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="forks of a warm process need Linux")

GRID = """
import sys, yaml
import moosa.runs.warm
from moosa.runs.grid import load_grid
from moosa.runs.sweep import run_grid

moosa.runs.warm.CAN_FORK = sys.argv[1] == "warm"
run_grid(load_grid(sys.argv[2]), sys.argv[3])
"""
CELLS = "base: {dataset: av-digits, target: mfeat, epochs: 1, train_share: .2}\naxes: {method: [erm, erm-heads]}\n"


@pytest.fixture(scope="module")
def both(tmp_path_factory, archives):
    "The runs of a grid, computed cold and warm: way -> run's name -> folder."
    found = {}
    for way in ("cold", "warm"):
        place = tmp_path_factory.mktemp(way)
        (place/"raw").mkdir()
        (place/"raw"/"av-digits").symlink_to(archives)
        (place/"two.yaml").write_text(CELLS)
        subprocess.run([sys.executable, "-c", GRID, way, place/"two.yaml", place], check=True)
        found[way] = {folder.name: folder for folder in (place/"runs").iterdir()}
    return found


def test_a_fork_computes_what_a_new_python_computes(both):
    assert both["cold"].keys() == both["warm"].keys() and len(both["cold"]) == 2
    for name, cold in both["cold"].items():
        warm = both["warm"][name]
        for file in ("predictions.safetensors", "embeddings.safetensors", "model.safetensors"):
            assert (cold/file).read_bytes() == (warm/file).read_bytes(), file
        results = [json.loads((folder/"record.json").read_text())["results"] for folder in (cold, warm)]
        assert results[0] == results[1]


def shown(folder):
    "What the cells of a run's notebook put out, by kind; pictures whole."
    cells = nbformat.read(folder/"split.ipynb", 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [(output.output_type, output.get("name"), sorted(output.get("data", {})),
             output.get("data", {}).get("image/png")) for output in outputs]


def test_its_notebook_shows_the_same(both):
    for name, cold in both["cold"].items():
        assert shown(cold) == shown(both["warm"][name])
        assert any(picture for *_, picture in shown(cold))


IMPORTS = """
import nbformat, sys
before = set(sys.modules)
cells = nbformat.read({notebook!r}, 4).cells
exec(next(cell.source for cell in cells if cell.source.startswith("from copy import")))
print(len(set(sys.modules) - before))
"""


def test_what_a_run_needs_is_there_already(tmp_path):
    "What is missing here is missing in `moosa.runs.notebook.NEEDED`."
    code = IMPORTS.format(notebook=str(experiments_folder()/"split.ipynb"))
    env = {**os.environ, "MPLBACKEND": "agg"}
    child = warm([sys.executable, "-P", "-c", code], "", tmp_path/"log", env, modules=NEEDED)
    said = (tmp_path/"log").read_text() if child.wait() == 0 else f"failed: {(tmp_path/'log').read_text()}"
    assert int(said) < 30
