"""Every notebook of nbs/ runs from top to bottom, in a process of its own; its cells hold the unit tests.

What was executed is kept with its outputs: the docs site shows it, and need not execute it again. The experiment
notebooks are run by papermill elsewhere.
"""
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import executed
import pytest

NOTEBOOKS = [path for path in executed.notebooks() if not path.startswith("experiments/")]


def run_apart(staged: Path, ran: Path) -> str:  # what went wrong
    "Run a notebook in a process that is forked from one with all that notebooks import."
    with executed.workers(1) as pool: return pool.submit(executed.run_notebook, staged, ran).result()


@pytest.fixture(scope="module")
def runner(archives):
    "A process for `run_apart`, since other tests fork from what they have imported; a place for copies of notebooks."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executed, "BUILD", executed.ROOT/"build"/f"tests-{os.getpid()}")
        patch.setenv("MOOSA_NO_PROGRESS", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        executed.clear()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process: yield process
        shutil.rmtree(executed.BUILD)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.removesuffix(".ipynb"))
def test_notebook(path, runner):
    staged = executed.stage(path)
    failure = runner.submit(run_apart, staged, executed.RAN/executed.page_name(path, staged)).result()
    assert not failure, failure
