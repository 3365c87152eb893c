"""A wheel works without a clone: built from the sources, put into a fresh environment, used in an empty folder."""
import json
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "moosa", "nbs/experiments", "pyproject.toml", "settings.ini",
           "setup.py")
# One short run, as a grid of one cell and as a command.
ONE = """about: One short run
base: {dataset: av-digits, method: erm, epochs: 1, train_share: 0.1}
axes: {target: [mfeat]}
"""
RUN = ["run", "--target", "mfeat", "--method", "erm", "--epochs", "1", "--train-share", "0.1"]
COMMAND = """#!{python}
import sys
from moosa.cli import main
if __name__ == '__main__': sys.exit(main())
"""  # as pip writes it; workers of a grid import it again


def files(folder: Path, *, below: str = "") -> dict[str, bytes]:
    "What lies in a folder, without what Python and JupyterLab leave there; names begin with `below`."
    left = {"__pycache__", ".ipynb_checkpoints"}
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and not left & set(p.parts)]
    return {below + p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def build(what: str, source: Path, folder: Path) -> Path:
    "Build an `sdist` or a `wheel` with the setuptools of this environment, as pip does without isolation."
    code = f"from setuptools import build_meta; print(build_meta.build_{what}({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0 and "absent from the `packages`" not in done.stderr, done.stderr[-3000:]
    return folder/done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    "The wheel made from the source distribution, which therefore holds all that it needs."
    folder = tmp_path_factory.mktemp("wheel")
    (folder/"clone").mkdir()
    for name in SOURCES:  # not in place: setuptools leaves build/ and moosa.egg-info there
        place = ROOT/name
        given = files(place, below=f"{name}/") if place.is_dir() else {name: place.read_bytes()}
        for path, content in given.items():
            (folder/"clone"/path).parent.mkdir(parents=True, exist_ok=True)
            (folder/"clone"/path).write_bytes(content)
    with tarfile.open(build("sdist", folder/"clone", folder)) as archive:
        archive.extractall(folder/"sdist", filter="data")
    (source,) = (folder/"sdist").iterdir()
    return build("wheel", source, folder)


def test_what_is_in_it(wheel):
    "The package as it is here, and the experiments' notebooks and grids as they are in nbs/experiments."
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    experiments = files(ROOT/"nbs"/"experiments", below="moosa/experiments/")
    assert {"moosa/experiments/split.ipynb", "moosa/experiments/grids/tiny.yaml"} <= experiments.keys()
    assert not (ROOT/"moosa"/"experiments").exists()  # there is no second copy
    wanted = files(ROOT/"moosa", below="moosa/") | experiments
    assert packed.keys() == wanted.keys()
    assert packed == wanted
    assert wheel.stat().st_size < 2e6


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """The `bin` of a fresh environment without pip, with the wheel unpacked in it.

    Other packages are those of this environment: a `.pth` file names their folder. Files of the same kind in there,
    such as the one that leads to our clone, are not followed.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    place = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    with zipfile.ZipFile(wheel) as archive: archive.extractall(place)
    (place/"others.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}) + "\n")
    command = folder/"bin"/"moosa"
    command.write_text(COMMAND.format(python=folder/"bin"/"python"))
    command.chmod(0o755)
    return folder/"bin"


@pytest.fixture
def study(bare, tmp_path, archives, monkeypatch) -> Path:
    """The current folder: nothing in it but data as they were fetched, and what only looks like a clone.

    And a kernel named `python3`, as another environment may have installed it for the user; it does not run.
    """
    for name in ("MOOSA_DATA", "MOOSA_PROJECT", "PYTHONPATH", "VIRTUAL_ENV"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kernel = tmp_path/"jupyter"/"kernels"/"python3"
    kernel.mkdir(parents=True)
    (kernel/"kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path/"jupyter"))
    folder = tmp_path/"study"
    (folder/"data"/"raw").mkdir(parents=True)
    (folder/"data"/"raw"/"av-digits").symlink_to(archives)
    (folder/"nbs"/"experiments"/"grids").mkdir(parents=True)
    for trap in ("settings.ini", "nbs/experiments/split.ipynb", "nbs/experiments/grids/demo.yaml"):
        (folder/trap).write_text("not moosa's")
    return folder


def python(bare: Path, study: Path, code: str) -> str:
    "What a few lines print in the fresh environment, in the folder `study`."
    return said([bare/"python", "-P", "-c", code], study)


def moosa(bare: Path, study: Path, *words: str) -> str:
    "What a command prints, in the folder `study`."
    return said([bare/"moosa", *words], study)


def said(command: list, study: Path) -> str:
    done = subprocess.run(command, cwd=study, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, (command, done.stdout[-1000:], done.stderr[-3000:])
    return done.stdout.strip()


SEVERAL = """
from moosa.cli import app
for words in {commands!r}:
    print("\\n$", *words)
    app(words, standalone_mode=False)
"""  # commands one after the other, so that torch is imported once


def test_it_is_the_wheel_that_runs(bare, study):
    "The package, its experiments and its data folder; and data can be fetched without a pip in the environment."
    code = ("import moosa; from moosa.places import data_folder, experiments_folder, project_root\n"
            "print(moosa.__file__, experiments_folder(), project_root(), data_folder(), sep='\\n')")
    package, experiments, project, data = map(Path, python(bare, study, code).splitlines())
    assert bare.parent in package.parents and experiments == package.parent/"experiments"
    assert (project, data) == (study, study/"data")
    code = ("import subprocess, sys; sys.modules['pip'] = None\nfrom moosa.data.digits import pip_command\n"
            "subprocess.run([*pip_command(), '--version'], check=True)")
    assert python(bare, study, code).startswith("pip ")


def test_one_run_and_its_report(bare, study, wheel):
    "By a worker; and what other commands make of it."
    (study/"one.yaml").write_text(ONE)
    assert "1 done" in moosa(bare, study, "grid", "one.yaml", "--workers", "2")
    (path,) = (study/"data"/"runs").glob("*/record.json")
    record = json.loads(path.read_text())
    assert record["environment"]["commit"] is None and record["selected_epoch"] == 0
    commands = [["data", "get", "av-digits"], RUN, ["status", "one.yaml"], ["rescore", "one.yaml"],
                ["record", "show", record["hash"][:6]], ["report", "one.yaml"]]
    printed = python(bare, study, SEVERAL.format(commands=commands))
    _, data, run, status, rescored, shown, report = f"\n{printed}".split("\n$ ")
    assert data.count("here already") == 3 and "1 of 1 cells done" in status and "energy" in rescored
    assert "done before" in run and str(path.parent) in run and record["hash"] in shown
    assert f"tables and figures: {study/'figures'/'one'}" in report
    made = {p.name for p in (study/"figures"/"one").iterdir()}
    assert {"report.ipynb", "split.ipynb", "oracle.md", "summary.csv", "accuracy.png"} <= made
    assert str(study) not in (study/"figures"/"one"/"report.ipynb").read_text()
    assert {p.name for p in study.iterdir()} == {"data", "figures", "nbs", "one.yaml", "settings.ini"}
    (package,) = bare.parent.glob("lib/*/site-packages/moosa")
    with zipfile.ZipFile(wheel) as archive: given = set(archive.namelist())
    assert files(package, below="moosa/").keys() <= given  # nothing was written there


def test_grids_of_the_package_are_found_by_name(bare, study):
    "The folder's own demo.yaml is in no place where moosa looks."
    assert "18 missing" in moosa(bare, study, "grid", "demo.yaml", "--dry-run")


@pytest.mark.slow
def test_a_grid_with_workers_and_its_report(bare, study):
    assert "6 done" in moosa(bare, study, "grid", "tiny.yaml", "--workers", "2")
    assert "6 of 6 cells done" in moosa(bare, study, "status", "tiny.yaml")
    moosa(bare, study, "report", "tiny.yaml")
    assert "6 of 6 runs are done" in (study/"figures"/"tiny"/"report.ipynb").read_text()
    assert len(list((study/"data"/"runs").glob("*/record.json"))) == 6


def write_arrays(folder: Path):
    "Series of three channels and any length, by domain and class; how fast they swing tells classes apart."
    draw = np.random.default_rng(0)
    for number, domain in enumerate(("calm", "loud", "noisy")):
        for speed, name in enumerate(("slow", "walk", "run", "race"), start=1):
            (folder/domain/name).mkdir(parents=True)
            for i in range(12):
                t = np.arange(draw.integers(30, 50))[None]
                swing = np.sin(t*speed/4 + draw.uniform(0, 6, (3, 1)))
                array = (1 + number)*swing + draw.normal(0, .3, swing.shape)
                np.save(folder/domain/name/f"{i}.npy", array.astype(np.float32))


METHOD = """
from torch.nn import functional as F

from moosa.methods.own import OwnMethod


class Steady(OwnMethod):
    "Cross entropy, and logits that stay small; at test time they are read at a temperature."
    weight: float = 0.1

    def loss(self, outputs, labels):
        return {"classification": F.cross_entropy(outputs.fused, labels),
                "size": self.weight*outputs.fused.square().mean()}

    def read(self, outputs): return outputs.fused/2
"""
CELLS = """about: A method of mine against ERM, on arrays of mine
base: {dataset: clips, unknown: [race], epochs: 2}
axes: {method: [erm, "methods.py:Steady"], target: [calm, noisy], seed: [0, 1, 2]}
"""


@pytest.mark.slow
def test_a_study_from_nothing(bare, study):
    "An own method, arrays that need no extractor, a grid, its paired test; a changed method gives new runs."
    moosa(bare, study, "new", "mine")
    mine = study/"mine"
    write_arrays(mine/"clips")
    (mine/"methods.py").write_text(METHOD)
    (mine/"grid.yaml").write_text(CELLS)
    assert "12 done" in moosa(bare, mine, "grid", "--workers", "2")
    moosa(bare, mine, "report")
    report = (mine/"figures"/"grid"/"report.ipynb").read_text()
    assert "12 of 12 runs are done" in report and "signed-rank" in report and "Steady" in report
    assert len(list((mine/"data"/"runs").glob("*/record.json"))) == 12 and not (study/"data"/"runs").exists()
    (mine/"methods.py").write_text(METHOD.replace("0.1", "0.2"))
    assert "6 done, 6 missing" in moosa(bare, mine, "grid", "--dry-run")
