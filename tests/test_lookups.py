"""What is only looked up imports no large library, and data that are not there are noticed before anything starts.

What counts is which modules were imported: seconds would say more about the machine.
"""
import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
import yaml
from conftest import ROOT

from moosa.runs.grid import load_grid
from moosa.runs.record import run_folder, write_record
from moosa.runs.given import spec_from

# Compute, draw, decode, execute: seconds each.
HEAVY = ("torch", "cv2", "matplotlib", "sklearn", "scipy", "papermill", "distributed", "dask", "av", "decord",
         "soundfile", "lightning_fabric", "safetensors")
TABLES = ("numpy", "pandas")  # half a second
TELL = f"""
import atexit, sys
watched = {HEAVY + TABLES!r}
atexit.register(lambda: print("imported:", *(name for name in watched if name in sys.modules), file=sys.stderr))
sys.argv[0] = "moosa"
from moosa.cli import main
main()
"""


def look_up(*args, folder=None, env=None) -> tuple[subprocess.CompletedProcess, list[str]]:
    "Run `moosa ARGS` in a process of its own; what it said, and which of the watched libraries it imported."
    where = {"MOOSA_DATA": str(folder)} if folder else {}
    done = subprocess.run([sys.executable, "-c", TELL, *map(str, args)], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, **where, **(env or {})})
    said, _, imported = done.stderr.rpartition("imported:")
    assert "Traceback" not in said, said
    return done, imported.split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A data folder with a grid of two cells, both done, and a third run that is no cell; nothing else is in it."
    folder = tmp_path_factory.mktemp("data")
    content = dict(base=dict(method="erm", epochs=1), axes=dict(target=["mnist", "mfeat"]))
    (folder/"small.yaml").write_text(yaml.safe_dump(content))
    other = spec_from(dict(target="mnist", method="moosa", epochs=1))
    results = {"accuracy": {"fused": .5}, "threshold-free": {"AUROC": .5}}
    for spec in (*load_grid(folder/"small.yaml").specs, other):
        place = run_folder(spec, folder)
        place.mkdir(parents=True)
        (place/"history.csv").write_text('"epoch","loss"\n"0","1"\n')
        write_record(place, spec, results, 0, "cpu", 1., extra=dict(peak_memory_mb=100))
    return folder


RUN = ("run", "--target", "mnist", "--method", "erm", "--epochs", 1)
LOOKUPS = {  # arguments; exit code; what is said
    "data sets": (("data", "list"), 0, "mini-hac"),
    "status": (("status", "demo.yaml"), 0, "0 of 18 cells done"),
    "status of what is done": (("status", "small.yaml"), 0, "2 of 2 cells done"),
    "status of a search": (("status", "demo.yaml", "--search", 3), 0, "0 of 54 cells done"),
    "dry run": (("grid", "demo.yaml", "--dry-run"), 0, "18 missing"),
    "dry run of presets": (("grid", "published-osda.yaml", "--dry-run"), 0, "missing"),
    "grid, done before": (("grid", "small.yaml"), 0, "2 done"),
    "run, done before": (RUN, 0, "done before"),
    "weights": (("weights", "list"), 0, "slowonly"),
    "cache": (("cache", "list"), 0, "0 shards"),
    "mistyped command": (("rnu",), 2, "No such command"),
    "mistyped option": (("run", "--tarjet", "mnist"), 2, "No such option"),
    "mistyped data set": (("run", "--target", "mnist", "--dataset", "av-digit"), 2, "Did you mean 'av-digits'?"),
    "mistyped data set to fetch": (("data", "get", "av-digit"), 2, "Did you mean 'av-digits'?"),
    "mistyped domain": (("run", "--target", "mnits"), 2, "Did you mean 'mnist'?"),
    "mistyped method": (("run", "--target", "mnist", "--method", "mosa"), 2, "Did you mean 'moosa'?"),
    "mistyped hyper-parameter": (("run", "--target", "mnist", "--hyper", "mask_ration=1"), 2, "mask_ratio"),
    "mistyped extractor": (("run", "--target", "mnist", "--extractors", "image=smal-image"), 2, "small-image"),
    "mistyped corruption": (("corrupt", "demo.yaml", "--corruption", "frog"), 2, "Did you mean 'fog'?"),
    "corruptions": (("list", "corruptions"), 0, "defocus-blur"),
    "mistyped grid": (("status", "dmeo"), 2, "Did you mean 'demo.yaml'?"),
    "data that are not there": (("run", "--target", "mnist", "--seed", 7), 2, "moosa data get av-digits"),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups_import_neither_torch_nor_tables(name, finished):
    args, code, says = LOOKUPS[name]
    args = [finished/arg if arg == "small.yaml" else arg for arg in args]
    done, imported = look_up(*args, folder=finished)
    assert done.returncode == code and says in done.stdout + done.stderr, done.stdout + done.stderr
    assert not imported


def test_records_are_looked_up_without_torch(finished):
    one, other = sorted(path.name for path in (finished/"runs").iterdir())[:2]
    shown, imported = look_up("record", "show", one, folder=finished)
    assert shown.returncode == 0 and "spec.target" in shown.stdout and not imported
    differ, imported = look_up("record", "diff", one, other, folder=finished)
    assert differ.returncode == 1 and "hash" in differ.stdout and not imported
    same, imported = look_up("record", "diff", one, one, folder=finished)
    assert same.returncode == 0 and "agree in everything" in same.stdout and not imported


HELPS = [(), ("run",), ("plan",), ("grid",), ("status",), ("rescore",), ("corrupt",), ("report",), ("ood",), ("data",),
         ("data", "check"), ("weights",), ("cache",), ("record",), ("record", "show"), ("runs",), ("runs", "prune")]


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_imports_nothing(command):
    done, imported = look_up(*command, "--help")
    assert done.returncode == 0 and "Usage" in done.stdout and not imported


@pytest.mark.parametrize("words, says", [("moosa sta", "status"), ("moosa grid dem", "demo.yaml"),
                                         ("moosa run --targ", "--target")])
def test_completion_imports_nothing(words, says):
    "What the shell asks for when the tab key is pressed; `moosa --install-completion` tells it to."
    asks = dict(_MOOSA_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    done, imported = look_up(env=asks)
    assert done.returncode == 0 and says in done.stdout.split() and not imported, done.stderr


def test_own_data_and_lists_of_files_need_tables_but_not_torch(tmp_path):
    "Whose data lie in files: their lists are read by pandas, and no file is opened."
    from moosa.data.sounds import write_sound
    import numpy as np

    for domain in ("street", "home"):
        for name in ("walk/a", "walk/b", "run/a", "run/b", "sit/a", "sit/b"):
            path = tmp_path/"own"/domain/f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sound(path, np.zeros(160), 16_000)
    done, imported = look_up("run", "--dataset", tmp_path/"own", "--target", "hoem", folder=tmp_path)
    assert done.returncode == 2 and "Did you mean 'home'?" in done.stderr and not set(imported) & set(HEAVY), imported


# --- data that are not there ------------------------------------------------------------------------------------------

NEEDED = {"av-digits": "mnist", "mini-hac": "human", "hac": "human", "epic": "D1",
          "utd-mhad": "subjects-1-2"}  # data set -> a domain


@pytest.mark.parametrize("name", NEEDED)
def test_a_run_says_at_once_that_its_data_are_not_there(name, tmp_path):
    done, imported = look_up("run", "--dataset", name, "--target", NEEDED[name], folder=tmp_path)
    assert done.returncode == 2 and f"`moosa data get {name}`" in done.stderr, done.stderr
    assert not set(imported) & set(HEAVY), imported  # papermill among them: no kernel was started
    assert not list(tmp_path.iterdir())  # nor a run's folder made


def test_a_grid_names_all_data_that_are_not_there(tmp_path, data_dir):
    "Those that are there do not start either: somebody who asked for all should not find half an hour later."
    cells = [dict(dataset=name, target=target) for name, target in NEEDED.items()]
    (tmp_path/"all.yaml").write_text(yaml.safe_dump(dict(base=dict(method="erm", epochs=1), cells=cells)))
    done, imported = look_up("grid", tmp_path/"all.yaml", folder=data_dir)
    assert done.returncode == 2 and "nothing was started (4 of 5)" in done.stderr, done.stderr
    for name in ("mini-hac", "hac", "epic", "utd-mhad"): assert f"`moosa data get {name}`" in done.stderr
    assert "av-digits" not in done.stderr and not set(imported) & {"torch", "papermill"}, imported
    assert not (data_dir/"runs").exists()


def test_what_was_done_is_found_without_its_data(finished):
    "A record is believed as long as nothing contradicts it: data that are not here do not."
    done, _ = look_up("grid", finished/"small.yaml", folder=finished)
    assert done.returncode == 0 and not (finished/"raw").exists()
    record = json.loads(next((finished/"runs").glob("*/record.json")).read_text())
    assert record["spec"] == json.loads(json.dumps(asdict(spec_from(record["spec"]))))


def test_executing_a_notebook_builds_no_grammar():
    "jsonschema, which papermill brings, would spend three seconds on one; who wants it later still gets it."
    program = """
import sys
from moosa.places import experiments_folder
from moosa.runs.notebook import notebook_parameters
assert "target" in notebook_parameters(experiments_folder()/"split.ipynb")
assert "lark" not in sys.modules and "rfc3987_syntax" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
