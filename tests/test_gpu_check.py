"""tools/gpu_check.py in short on this machine, and the page of what it found."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from moosa.bench.checks import FAILED, NOT_RUN, PASSED, RESULT, Check, checks_table, run_checks, where_checked, within
from moosa.bench.timing import NotMeasured

ONLY_CUDA = ("Peak memory", "Three steps by a CUDA graph", "GPU: ")


def absent(): raise NotMeasured("no CUDA device")


CHECKS = [Check("a small difference", "at most 1e-5", lambda: within(1e-6, 1e-5)),
          Check("a large one", "at most 1e-5", lambda: within(1e-4, 1e-5)),
          Check("no number", "at most 1e-5", lambda: within(float("nan"), 1e-5)),
          Check("an error", "none", lambda: [][0]), Check("a GPU", "it is there", absent),
          Check("what comes later", "it is asked", lambda: "asked")]


@pytest.fixture
def rows(tmp_path): return run_checks(CHECKS, tmp_path/"made"/"check.json", "cpu")


def test_a_failing_check_is_failed_and_stops_no_other(rows, tmp_path):
    assert [r["verdict"] for r in rows["rows"]] == [PASSED, FAILED, FAILED, FAILED, NOT_RUN, PASSED]
    assert rows["rows"][3]["found"].startswith("IndexError") and rows["rows"][4]["found"] == "no CUDA device"
    assert json.loads((tmp_path/"made"/"check.json").read_text())["rows"] == rows["rows"]


def test_the_page_shows_every_verdict(rows):
    table = checks_table(rows)
    assert table["verdict"].tolist() == [r["verdict"] for r in rows["rows"]]
    assert table["found"][1] == "0.0001, more than 1e-05"
    on_gpu = where_checked(rows | dict(device="cuda", name="A GPU", driver="580", cuda="13.0"))
    assert on_gpu.startswith("A GPU, driver 580") and "2 passed, 3 failed, 1 not run" in on_gpu


def test_without_a_gpu_the_page_says_so(rows):
    assert where_checked(None).startswith("No GPU was at hand") and checks_table(None).empty
    assert where_checked(rows).startswith("No GPU was at hand: the script ran on a CPU")


def test_in_short_on_this_machine(tmp_path, generated):
    (tmp_path/"raw").mkdir()
    (tmp_path/"raw"/"mini-hac").symlink_to(generated/"raw"/"mini-hac")
    command = [sys.executable, str(ROOT/"tools"/"gpu_check.py"), "--short", "--data-dir", str(tmp_path), "--out",
               str(tmp_path/"check.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "MOOSA_NO_PROGRESS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(Path(tmp_path/"check.json").read_text())
    verdicts = {row["what"]: row["verdict"] for row in found["rows"]}
    assert len(verdicts) == len(found["rows"]) > 20 and FAILED not in verdicts.values()
    for what, verdict in verdicts.items():
        assert what in done.stdout
        if what.startswith(ONLY_CUDA): assert verdict == NOT_RUN, what
    for begin in ("Losses", "Gradients of 1 golden", "VGGSound", "An epoch of mini-HAC, live", "Total of the plain"):
        assert [v for what, v in verdicts.items() if what.startswith(begin) and v == PASSED], begin


def test_a_failed_check_ends_with_1(tmp_path, monkeypatch, capsys):
    import gpu_check

    monkeypatch.setattr(gpu_check, "all_checks", lambda *_: CHECKS)
    assert gpu_check.main(["--out", str(tmp_path/"check.json")]) == 1
    assert "3 of 6 checks failed" in capsys.readouterr().out


def test_git_keeps_what_the_page_shows():
    "The rows of a GPU that was lent once were lost: git was told to leave them out."
    if not (ROOT/".git").exists(): pytest.skip("no git checkout")
    assert subprocess.run(["git", "check-ignore", "-q", RESULT], cwd=ROOT).returncode == 1
