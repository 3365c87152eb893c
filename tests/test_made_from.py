"""A report is executed again when something of what it is made from has changed, and not otherwise."""
import json
import os
import shutil

import nbformat
import pytest
from fake_records import fill

from moosa.commands import grids as commands
from moosa.places import experiments_folder
from moosa.results import made_from as room
from moosa.runs import notebook as notebooks
from moosa.runs.grid import load_grid
from moosa.runs.record import run_folder

GRID = "base: {dataset: av-digits, method: erm, epochs: 1}\naxes: {target: [mfeat, mnist]}\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A data folder with the finished runs of two.yaml, and an experiments folder of its own with the report's notebook."
    (tmp_path/"two.yaml").write_text(GRID)
    specs = load_grid(tmp_path/"two.yaml").specs
    fill(tmp_path, specs, 20)
    for spec in specs: _write_notebook(run_folder(spec, tmp_path)/"split.ipynb", "a run")
    (tmp_path/"experiments").mkdir()
    shutil.copy(experiments_folder()/"report.ipynb", tmp_path/"experiments")
    monkeypatch.setattr(commands, "experiments_folder", lambda: tmp_path/"experiments")
    return tmp_path


def _write_notebook(path, text: str):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="only")]), path)


@pytest.fixture
def executed(place, monkeypatch) -> list:
    "The parameters of each execution of a report's notebook; instead of executing it, a page and a table are written."
    seen = []

    def execute(notebook, output, parameters):
        seen.append(parameters)
        output.parent.mkdir(parents=True, exist_ok=True)
        _write_notebook(output, f"execution {len(seen)}")
        (output.parent/"summary.md").write_text("HOS")

    monkeypatch.setattr(notebooks, "execute_notebook", execute)
    return seen


@pytest.fixture
def report(place, executed, capsys):
    "Call `moosa report`: was its notebook executed? It says so itself, too."
    def call(**options) -> bool:
        before = len(executed)
        commands.report_command(str(place/"two.yaml"), out=place/"out", data_dir=place, **options)
        said, hint = capsys.readouterr()
        assert hint.startswith(f"next: `moosa explore {place/'two.yaml'} --data-dir {place}`")
        assert said.startswith("HOS") and str(place/"out") in said.splitlines()[-1]
        assert ("unchanged: " in said) == (len(executed) == before)
        return len(executed) > before

    return call


def _run(place, number: int = 0):
    return run_folder(load_grid(place/"two.yaml").specs[number], place)


def _of_record(place):
    path = _run(place)/"record.json"
    record = json.loads(path.read_text())
    record["results"]["oracle"]["HOS"] = .5
    path.write_text(json.dumps(record))


def _of_attempt(place):
    (_run(place)/"record.json").unlink()
    (_run(place)/"error.json").write_text(json.dumps({"error": "the loss is nan"}))


CHANGES = {
    "a record": _of_record,
    "a record is gone": lambda place: (_run(place, 1)/"record.json").unlink(),
    "a run failed": _of_attempt,
    "scores by moosa rescore": lambda place: (_run(place)/"scores.csv").write_text("score,group,number,value,code\n"),
    "a comment in the grid's file": lambda place: (place/"two.yaml").write_text("# two\n" + GRID),
    "a cell": lambda place: (place/"two.yaml").write_text(GRID.replace("[mfeat, mnist]", "[mfeat]")),
    "the notebook": lambda place: _write_notebook(place/"experiments"/"report.ipynb", "another page"),
    "a file of the report": lambda place: (place/"out"/"summary.md").write_text("HOS 99"),
    "a file of the report is gone": lambda place: (place/"out"/"report.ipynb").unlink(),
    "the note is gone": lambda place: (place/"out"/room.NOTE).unlink(),
    "the note is damaged": lambda place: (place/"out"/room.NOTE).write_text("{"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_report(place, report, change):
    assert report() and not report()
    CHANGES[change](place)
    assert report() and not report()


@pytest.mark.parametrize("part, other", [("DRAWN_WITH", ("numpy",)), ("package_hash", lambda: "other code")])
def test_other_code_makes_other_reports(report, monkeypatch, part, other):
    assert report() and not report()
    monkeypatch.setattr(room, part, other)
    assert report() and not report()


def test_a_score_of_ones_own_that_changes(place, report):
    "Runs were rescored by it: numbers of other code are not shown."
    own = place/"mine.py"
    own.write_text("def score(fused): return fused.max(dim=1).values\n")
    scores = f'"score","group","number","value","code"\n"{own}:score","oracle","HOS","0.5","0"\n'
    (_run(place)/"scores.csv").write_text(scores)
    assert report() and not report()
    own.write_text("def score(fused): return fused.sum(dim=1)\n")
    assert report() and not report()
    own.unlink()
    assert report() and not report()


def test_what_does_not_change_a_report(place, report):
    "Another run in the same folder, a file of one's own, another report of another search."
    assert report()
    shutil.copytree(_run(place), place/"runs"/"0123456789ab")
    (place/"out"/"notes.txt").write_text("mine")
    os.utime(place/"two.yaml")
    assert not report()


def test_again_makes_it_anew(report):
    assert report() and report(again=True) and not report()


def test_a_report_that_fails_midway_is_no_report(place, report, monkeypatch):
    "Files of before, of which some may be overwritten, must not be taken for whole."
    assert report()
    _of_record(place)

    def fail(*args): raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(notebooks, "execute_notebook", fail)
        with pytest.raises(RuntimeError, match="out of memory"): report()
    assert report() and not report()
