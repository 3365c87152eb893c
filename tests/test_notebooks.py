"""Every notebook of nbs/ runs from top to bottom; its cells hold the unit tests.

The experiment notebooks are run by papermill elsewhere.
"""
from pathlib import Path

import pytest
from nbdev.test import test_nb as run_notebook

NBS = Path(__file__).resolve().parent.parent/"nbs"
NOTEBOOKS = [p for p in sorted(NBS.rglob("*.ipynb")) if "experiments" not in p.parts
             and not any(part.startswith((".", "_")) for part in p.parts[-2:])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(NBS).with_suffix("").as_posix())
def test_notebook(path, monkeypatch, capfd, archives):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("MOOSA_NO_PROGRESS", "1")
    passed, _ = run_notebook(path, skip_flags=["slow"])
    assert passed, capfd.readouterr().err[-3000:]
