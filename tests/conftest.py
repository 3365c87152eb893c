"""What the black-box tests share: the `moosa` command in a process of its own, and a data folder with the archives of
AV-digits.
"""
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from moosa.runs.notebook import NEEDED
from moosa.runs.warm import CAN_FORK, Nursery

# How fast examples are made says something about the machine, nothing about moosa.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
pytest.register_assert_rewrite("golden_rules")  # its comparisons are asserts

ROOT = Path(__file__).resolve().parent.parent
# What `make quick` runs: files, and notebooks (folders, or single ones without their number).
QUICK = ("test_openset.py", "test_golden.py", "test_golden_osda.py", "test_commands.py", "test_tables.py",
         "test_compare.py")
QUICK_NOTEBOOKS = ("core", "words", "pretext/", "methods/", "evaluation/openset", "data/settings", "runs/presets",
                   "runs/spec", "runs/lock")
# Minutes each, so that they begin first, and nobody is left alone with one at the end. Who has the notebooks is through
# with them before the docs begin, which show what they have printed, and would execute the others.
LONG = ("test_notebooks.py", "test_golden_e2e.py", "test_lab.py", "test_cli.py", "test_lookups.py", "test_minihac.py",
        "test_keep_models.py", "test_cache.py", "test_grids_run.py", "test_corruptions.py", "test_explore_training.py",
        "test_holes.py", "test_gpu_check.py", "test_wheel.py", "test_warm.py", "test_docs.py", "test_not_finite.py",
        "test_methods.py", "test_explore_compare.py", "test_resume.py", "test_settings.py", "test_figures.py",
        "test_front.py", "test_stale.py", "test_cluster.py", "test_epic.py", "test_parallel.py")
MOOSA = str(Path(sys.executable).parent/"moosa")


# Of a fork's environment: what is read as a command runs, not as something is imported.
READ_LATE = ("MOOSA_", "COLUMNS", "TERM")
NURSERIES = threading.local()  # of each thread one, that does one thing at a time
AS_MOOSA = f"import sys; sys.path.insert(0, {str(ROOT/'tests')!r}); from as_moosa import main; main(*sys.argv[1:-1])"


def call(*args, env=None, cwd=ROOT, timeout=600, fresh=False) -> subprocess.CompletedProcess:
    """Run `moosa ARGS`; stdout and stderr as text. It is a process of its own, forked from one that has imported other
    people's packages, unless `fresh`, or unless its environment might matter to an import.
    """
    env = {name: value for name, value in (env or {}).items() if os.environ.get(name) != value}
    words = [*map(str, args)]
    if fresh or not CAN_FORK or not all(name.startswith(READ_LATE) for name in env):
        return subprocess.run([MOOSA, *words], capture_output=True, text=True, cwd=cwd, timeout=timeout,
                              env={**os.environ, **env})
    if not hasattr(NURSERIES, "own"): NURSERIES.own = Nursery(NEEDED)
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(cwd):
        out, err = Path(place)/"out", Path(place)/"err"
        command = [sys.executable, "-c", AS_MOOSA, str(out), str(err), *words]
        child = NURSERIES.own.start(command, "", Path(place)/"log", {**os.environ, **env})
        try: code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        return subprocess.CompletedProcess([MOOSA, *words], code, out.read_text(), err.read_text())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "Bring long files to the front; mark what `make quick` runs."
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    for item in items:
        if item.path.name in QUICK and "data_dir" not in item.fixturenames: item.add_marker("quick")
        if item.path.name != "test_notebooks.py": continue
        notebook = re.sub(r"(^|/)\d+_", r"\1", item.callspec.id)  # without its number
        if notebook.startswith(QUICK_NOTEBOOKS): item.add_marker("quick")


@pytest.fixture(autouse=True)
def own_threads():
    """Give back the number of threads: a run sets it for the process, and the last digits of those who come after would
    depend on it.
    """
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    "What a test changes in this process's environment would change those that come after it."
    def settings(): return {name: value for name, value in os.environ.items() if name.startswith(("MOOSA_", "PYTHON"))}

    before = settings()
    yield
    monkeypatch.undo()  # what the test itself set by it
    assert settings() == before


@pytest.fixture(scope="session")
def archives() -> Path:
    "The folder of AV-digits's archives, fetched if need be."
    from moosa.data import digits

    digits.get(report=lambda line: None)
    return digits.wheel_folder()


@pytest.fixture
def data_dir(tmp_path, archives) -> Path:
    "A data folder of its own, with the archives linked in."
    folder = tmp_path/"data"
    (folder/"raw").mkdir(parents=True)
    (folder/"raw"/"av-digits").symlink_to(archives)
    return folder


def shared(tmp_path_factory, name: str, make) -> Path:
    "A folder that `make(folder)` has filled, once for all processes of pytest: tests only read it, or copy it."
    from filelock import FileLock

    place = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"): place = place.parent
    with FileLock(place/f"{name}.lock"):
        if not (place/f"{name}.made").exists():
            make(place/name)
            (place/f"{name}.made").touch()
    return place/name


@pytest.fixture(scope="session")
def generated(tmp_path_factory) -> Path:
    "A data folder with 63 clips of mini-HAC."
    from moosa.data import minihac

    return shared(tmp_path_factory, "minihac",
                  lambda folder: minihac.get(folder, report=lambda line: None, clips_per_class=3))


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory, archives) -> Path:
    "A data folder with two finished runs of `moosa run`, ERM for one epoch, and the grid of them in two.yaml."
    def make(folder):
        (folder/"raw").mkdir(parents=True)
        (folder/"raw"/"av-digits").symlink_to(archives)
        (folder/"two.yaml").write_text("base: {dataset: av-digits, method: erm, epochs: 1}\n"
                                       "axes: {target: [mfeat, mnist]}\n")
        for target in ("mfeat", "mnist"):
            done = call("run", "--target", target, "--method", "erm", "--epochs", 1, "--data-dir", folder,
                        fresh=target == "mfeat")  # once as it is installed
            assert done.returncode == 0, done.stderr

    return shared(tmp_path_factory, "two-runs", make)
