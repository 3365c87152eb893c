"""Grids of thousands of cells: what is done per cell is done once, and nothing grows with the square of them.

Calls are counted, since seconds say more about the machine. The slow test does it with ten thousand finished runs.
"""
import cProfile
import json
import os
import subprocess
import sys
from collections import Counter
from functools import partial

import pytest
from conftest import MOOSA, ROOT
from fake_records import fill, grid_text

from moosa.places import Store
from moosa.results import confidence
from moosa.results.compare import compare, paired
from moosa.results.mistaken import mistaken
from moosa.results.cases import case_labels
from moosa.results.tables import collect_results, make_tables
from moosa.runs import grid as grids, lists, record, resolve, run, search, spec as specs, status, sweep
from moosa.runs.grid import load_grid
from moosa.runs.held_out import held_out_alone, with_held_out
from moosa.runs.lock import hold
from moosa.runs.process import DONE, Outcome


def big(folder, cells: int, done: bool = True, clips: int = 20):
    "The data folder of a grid with so many cells, all done or none, and the grid."
    folder.mkdir()
    (folder/"big.yaml").write_text(grid_text(cells))
    grid = load_grid(folder/"big.yaml")
    if done: fill(folder, grid.specs, clips)
    return grid


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> dict:
    "Cells -> data folder and grid, with all of its runs done; tests only read them."
    place = tmp_path_factory.mktemp("done")
    return {cells: (place/str(cells), big(place/str(cells), cells)) for cells in (100, 200)}


@pytest.fixture
def counted(monkeypatch):
    "Count the calls of functions, wherever they were imported to."
    calls = Counter()

    def count(function):
        def counting(*args, **named):
            calls[function.__name__] += 1
            return function(*args, **named)

        for module in [m for name, m in sys.modules.items() if name.startswith("moosa.")]:
            if vars(module).get(function.__name__) is function:
                monkeypatch.setattr(module, function.__name__, counting)

    for function in (resolve.resolve, specs.fields_hash, record.read_record, record.check_files,
                     run.notebook_parameters, lists.make_split, status.holder, status.cell_status, search.case_of,
                     grids.cell_texts):
        count(function)
    return calls


def of_each(counted, done, look) -> dict[int, dict[str, int]]:
    "Cells -> calls of each function, for two grids of which one is twice the other."
    found = {}
    for cells, (folder, grid) in done.items():
        (folder/"fingerprints"/"numbers.sqlite").unlink(missing_ok=True)
        counted.clear()
        look(load_grid(folder/"big.yaml"), folder)
        found[cells] = dict(counted)
    return found


LOOKS = {  # what is looked at -> how often a cell's record is read, and how often a hash is made for each cell
    "status": (lambda grid, folder: status.overview(grid, folder), 1, 2),
    "dry run": (lambda grid, folder: status.status_rows(grid, folder), 1, 2),
    "tables": (lambda grid, folder: make_tables(collect_results(grid, folder)), 1, 2),
    "launch": (lambda grid, folder: sweep.run_grid(grid, folder, report=str), 2, 3),
}


@pytest.mark.parametrize("name", LOOKS)
def test_each_cell_is_hashed_once_and_read_a_fixed_number_of_times(counted, done, name):
    "One hash of the cell's spec, and one of each record that is read, which says whether it is the run's."
    look, reads, hashes = LOOKS[name]
    for cells, calls in of_each(counted, done, look).items():
        assert calls["read_record"] == reads*cells and calls["fields_hash"] == hashes*cells, (cells, calls)
        assert calls.get("cell_texts", 0) <= 1


def test_runs_without_a_source_are_counted_in_a_fixed_number_of_steps_each(counted, tmp_path):
    "And not looked for where there are no other runs than the grid's own."
    found = {}
    for cells in (50, 100):
        folder = tmp_path/str(cells)
        grid = big(folder, cells)
        counted.clear()
        assert held_out_alone(load_grid(folder/"big.yaml"), folder) is None
        assert counted["resolve"] == counted["fields_hash"] == cells
        record.run_folder(with_held_out(grid).specs[-1], folder).mkdir()
        counted.clear()
        alone = held_out_alone(load_grid(folder/"big.yaml"), folder)
        found[cells] = len(alone.specs), counted["fields_hash"], counted["resolve"]
        counted.clear()
    assert found[100] == tuple(2*number for number in found[50])


def test_a_record_is_read_again_if_it_is_another(counted, tmp_path):
    "What is kept of records that did not change is neither read nor checked again, by no store."
    folder = tmp_path/"own"
    grid = big(folder, 50)
    first, store = collect_results(grid, folder), Store(folder)
    counted.clear()
    for where in (store, store, folder): assert collect_results(grid, where).equals(first)
    assert not (counted["read_record"] or counted["check_files"] or counted["cell_status"])

    place = record.run_folder(grid.specs[7], folder)
    changed = json.loads((place/"record.json").read_text())
    changed["results"]["threshold-free"]["AUROC"] = .123
    (place/"record.json").write_text(json.dumps(changed))
    other = collect_results(grid, folder)
    assert (other.value != first.value).sum() == 1 and (other.value == .123).any() and counted["read_record"] == 1
    (place/"clips.csv").unlink()
    (place/"clips.csv").write_text("part,clip\n")  # another file than its record speaks of
    assert collect_results(grid, folder).set_index("run").status[place.name] == "failed"


def test_twice_the_seeds_take_at_most_twice_the_calls(done, monkeypatch):
    "From records to the tables of a report. Numbers are asked for by case and task, of which there are no more."
    from moosa.results import ranking, tables

    asked, spent, real = Counter(), {}, tables.seeds_by_tasks
    for cells, (folder, grid) in done.items():
        def counting(*args, cells=cells):
            asked[cells] += 1
            return real(*args)

        monkeypatch.setattr(tables, "seeds_by_tasks", counting)
        profile = cProfile.Profile()
        with profile:
            results = confidence.with_confidence(collect_results(grid, folder), folder)
            make_tables(results), confidence.risk_curves(results)
            ranking.first_place(results, ranking.ranked(results))
        spent[cells] = sum(entry.callcount for entry in profile.getstats())
    assert asked[100] == asked[200] > 100 and spent[200] <= 2*spent[100]


def test_labels_of_a_search_are_found_at_once(counted, done):
    "Each label of a searched grid without a walk through its cells."
    for cells, (folder, grid) in done.items():
        wide = search.widen(load_grid(folder/"one.yaml") if (folder/"one.yaml").exists() else _one_default(folder), 3)
        counted.clear()
        labels = [wide.label(spec) for spec in wide.specs]
        assert len(set(labels)) == len(labels) and counted["fields_hash"] <= len(labels) and counted["cell_texts"] == 1
        counted.clear()
        seen = search.may_see("shared", wide.base.specs)
        assert counted["case_of"] == len(seen) == len(wide.base.specs)


def _one_default(folder):
    (folder/"one.yaml").write_text("base: {dataset: av-digits, method: erm}\n"
                                   "axes: {target: [mfeat, mnist], seed: [0, 1, 2, 3, 4, 5, 6, 7]}\n")
    return load_grid(folder/"one.yaml")


def test_a_launcher_does_everything_once(counted, tmp_path, archives, monkeypatch):
    "The notebook's parameters are read once, lists are made once for cells that share them, no lock is asked twice."
    monkeypatch.setattr(sweep, "watch_epochs", partial(sweep.watch_epochs, every=3600))  # how often it looks is time's
    kept = {}
    for cells in (100, 200):
        source, folder = tmp_path/f"done-{cells}", tmp_path/f"new-{cells}"
        grid = big(source, cells)
        (folder/"raw").mkdir(parents=True)
        (folder/"raw"/"av-digits").symlink_to(archives)
        (folder/"runs").mkdir()

        counted.clear()
        said = []
        rows = sweep.run_grid(grid, folder, report=said.append, engine=partial(_moving, source))
        assert {row["status"] for row in rows} == {"done"} and said[-1].startswith(f"{cells}/{cells} done: ")
        assert (counted["notebook_parameters"], counted["make_split"]) == (1, 2)  # of two targets
        assert counted["holder"] <= cells
        kept[cells] = counted["read_record"] + counted["fields_hash"]
    assert kept[200] <= 2*kept[100]


def _moving(source, cells, execute):
    "An engine whose runs are done elsewhere, and moved to their place."
    for spec, job in cells:
        (source/"runs"/job.folder.name).rename(job.folder)
        yield spec, Outcome(DONE)


def test_a_watch_looks_at_few_cells(counted, done, tmp_path):
    "Nobody runs: it looks further each time. Somebody does: at about as many as run."
    _, grid = done[200]
    watched = sweep.Watched([(spec, str(spec.seed)) for spec in grid.specs], tmp_path)
    for looks in (16, 32, 64, 128, 200, 200):
        counted.clear()
        assert watched.running() == [] and counted["holder"] == looks
    place = record.run_folder(grid.specs[3], tmp_path)
    place.mkdir(parents=True)
    with hold(place):
        assert len(watched.running()) == 1
        counted.clear()
        assert len(watched.running()) == 1 and counted["holder"] == 18


def test_lists_are_made_of_what_their_key_names():
    "Cells share lists if these fields agree: no other field is read while they are made, but the seed of a share."
    from moosa.runs.given import spec_from

    class Watching:
        def __init__(self, spec): self.spec, self.read = spec, set()

        def __getattr__(self, name):
            self.read.add(name)
            return getattr(self.spec, name)

    whole = spec_from(dict(target="mfeat", method="erm"))
    watching = Watching(whole)
    lists.make_split(watching, lists.open_dataset(whole))
    assert watching.read <= {*lists.LISTED, "seed"}, watching.read - {*lists.LISTED}


def test_predictions_are_read_once_for_all_reports(done, monkeypatch):
    "Numbers that are kept are those that were computed, and a lost or damaged file of them loses nothing."
    folder, grid = done[100]
    cases, reads = [case for case, _ in case_labels(grid)], Counter()
    (folder/"fingerprints"/"numbers.sqlite").unlink(missing_ok=True)

    def report():
        results = confidence.with_confidence(collect_results(grid, folder), folder)
        return results.to_csv(), mistaken(grid, cases, folder).to_csv()

    for module in (confidence, sys.modules["moosa.results.mistaken"]):
        monkeypatch.setattr(module, "load_predictions", partial(_reading, reads, module.load_predictions))
    first, again = report(), report()
    assert first == again and reads["predictions"] == 200
    (folder/"fingerprints"/"numbers.sqlite").write_bytes(b"nonsense")
    assert report() == first and reads["predictions"] == 400
    assert report() == first


def _reading(reads, load, place):
    reads["predictions"] += 1
    return load(place)


def test_comparisons_look_for_planned_cells_once_a_case(done, monkeypatch):
    from moosa.results import compare as room

    asked, real = Counter(), room._has_and_planned

    def asking(pairs, case):
        asked[case] += 1
        return real(pairs, case)

    monkeypatch.setattr(room, "_has_and_planned", asking)
    pairs = paired(collect_results(done[100][1], done[100][0]), "threshold-free", "AUROC")
    table = compare(pairs)
    assert len(table) == 25*24/2 and set(asked.values()) == {1}


# --- ten thousand, by the clock of the processor ----------------------------------------------------------------------

def spent(*args, folder) -> tuple[float, float]:  # seconds of CPU, MB at the peak
    "Run `moosa ARGS`, and say what it and its processes took."
    program = ("import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
               "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
               "print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss/1024)")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MOOSA_DATA": str(folder)}
    told = subprocess.run([sys.executable, "-c", program, MOOSA, *map(str, args)], capture_output=True, text=True,
                          cwd=ROOT, env=env)
    code, seconds, peak = map(float, told.stdout.split())
    assert code == 0, told.stderr
    return seconds, peak


@pytest.mark.slow
def test_ten_thousand_cells(tmp_path, capsys):
    "Dry run and status: CPU seconds and memory. Report and rescore, which take longer (CHANGELOG), are not asked."
    folder = tmp_path/"many"
    big(folder, 10_000, clips=800)
    asked = {"dry run": ("grid", folder/"big.yaml", "--dry-run"), "status": ("status", folder/"big.yaml")}
    found = {name: spent(*args, folder=folder) for name, args in asked.items()}
    with capsys.disabled():
        for name, (seconds, peak) in found.items(): print(f"\n10,000 cells, {name}: {seconds:.1f} s CPU, {peak:.0f} MB")
    assert max(seconds for seconds, _ in found.values()) < 20 and max(peak for _, peak in found.values()) < 1000
