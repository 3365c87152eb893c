"""What the black-box tests share: the `moosa` command in a process of its own, and a data folder with the archives of
AV-digits.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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
# Minutes each, so that they begin first: with two processes none of them is left alone at the end. Notebooks come
# before the docs, which show what they have printed.
LONG = ("test_notebooks.py", "test_cli.py", "test_grids_run.py", "test_minihac.py", "test_cache.py", "test_cluster.py",
        "test_docs.py", "test_parallel.py", "test_resume.py", "test_golden_e2e.py", "test_methods.py",
        "test_settings.py", "test_stale.py", "test_wheel.py", "test_bench.py")
MOOSA = str(Path(sys.executable).parent/"moosa")


def call(*args, env=None, cwd=ROOT, timeout=600) -> subprocess.CompletedProcess:
    "Run `moosa ARGS`; stdout and stderr as text."
    return subprocess.run([MOOSA, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=timeout,
                          env={**os.environ, **(env or {})})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "Bring long files to the front; mark what `make quick` runs."
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    for item in items:
        if item.path.name in QUICK: item.add_marker("quick")
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


@pytest.fixture(scope="session")
def generated(tmp_path_factory) -> Path:
    "A data folder with 63 clips of mini-HAC."
    from filelock import FileLock
    from moosa.data import minihac

    folder = tmp_path_factory.getbasetemp()/"minihac"
    if os.environ.get("PYTEST_XDIST_WORKER"): folder = folder.parent.parent/"minihac"  # shared: made once, in a minute
    with FileLock(f"{folder}.lock"): minihac.get(folder, report=lambda line: None, clips_per_class=3)
    return folder
