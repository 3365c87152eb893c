"""`make bench` at toy sizes: the table is whole, the file and the page are written. Nothing here asserts a speed."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a minute and a half for one command
ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
from moosa.bench.report import LINES, bench, publish
from moosa.bench.timing import SMALL
begin = ("Step", "Jigsaw alone, V+A", "Growth with the batch", "Reading a clip, keyframe every 15",
         "Epoch of mini-HAC from stem", "GPU: fused")
chosen = tuple(line for line in LINES if line.what.startswith(begin))
bench(SMALL, chosen, methods=("jat", "mbcd", "moosa"))
print(publish(out=OUT))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    env = {**os.environ, "MOOSA_DATA": str(folder/"data"), "MOOSA_NO_PROGRESS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT.replace("OUT", repr(str(folder/"page")))], capture_output=True,
                          text=True, cwd=ROOT, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout, json.loads((folder/"data"/"bench.json").read_text())


def test_every_line_is_in_the_table_and_in_the_file(made):
    _, printed, result = made
    assert len(result["lines"]) == 8
    for line in result["lines"]: assert f"| {line['what']} " in printed
    measured = [line for line in result["lines"] if "missing" not in line]
    assert len(measured) >= 6, [line["missing"] for line in result["lines"] if "missing" in line]
    for line in measured:
        assert line["value"] > 0 and line["reached"] in (True, False, None)
        if line["low"] is not None: assert line["low"] <= line["value"]*1.5 and line["value"] <= line["high"]*1.5


def test_raw_times_and_the_machine_are_kept(made):
    _, _, result = made
    step = result["lines"][0]
    assert {len(times) for times in step["raw"]["cpu"].values()} == {result["sizes"]["rounds"]}
    assert set(step["raw"]["wall"]) == {"yardstick", "ours"}
    assert result["environment"]["torch"] and result["environment"]["threads"] and len(result["load_before"]) == 3
    assert set(result["profiles"]) == {"V+A, 4 parts", "V+F+A, 2 parts"} and result["limits"]["gflops"] > 0


def test_what_cannot_be_measured_says_why(made):
    _, printed, result = made
    why = {line["what"]: line["missing"] for line in result["lines"] if "missing" in line}
    assert why["Epoch of mini-HAC from stem features, V+A"] == "not measured: left out"
    assert "not measured: left out" in printed


def test_the_page_is_executed(made):
    folder, printed, result = made
    page = folder/"page"/"report.ipynb"
    assert printed.strip().endswith(str(page))
    text = page.read_text()
    assert all(line["what"] in text for line in result["lines"]) and "Traceback" not in text
    for name in ("speed", "growth", "profile"):
        assert (folder/"page"/f"{name}.png").stat().st_size > 5000 and (folder/"page"/f"{name}.svg").exists()


def test_without_a_result_the_page_says_what_to_do(tmp_path):
    done = subprocess.run([sys.executable, "-c",
                           f"from moosa.bench.report import read_bench; read_bench({str(tmp_path)!r})"],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode and "make bench" in done.stderr and "does not exist" in done.stderr


def test_methods_stand_beside_erm(made):
    folder, printed, result = made
    assert [row["method"] for row in result["methods"]] == ["erm", "jat", "mbcd", "moosa"]
    text = (folder/"page"/"report.ipynb").read_text()
    for row in result["methods"]:
        assert row["seconds"] > 0 and row["peak"] >= row["held"] > 0
        assert f"| {row['method']} " in printed and f"| {row['method']} " in text
        assert (row["plain"] is not None) == (row["method"] == "moosa")  # of it the yardstick is
    assert "2 passes" in text and "weights that ERM has not" in text
