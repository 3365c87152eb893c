"""Numbers that papers report: those of the file, and ours beside them where the settings agree."""
import os
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from moosa.methods.catalogue import METHODS as OURS
from moosa.results.literature import METHODS, NOT_RUN, beside_literature, literature_numbers, reported_table
from moosa.results.report import literature_part
from moosa.results.tables import collect_results
from moosa.runs.grid import expand, load_grid
from moosa.runs.record import run_folder, write_record

SHARED = Path(os.environ.get("MOOSA_SHARED") or ROOT.parent/"shared")/"data"/"published_closed_set.csv"


@pytest.mark.skipif(not SHARED.is_file(), reason=f"no reported numbers at {SHARED}")
def test_the_numbers_are_those_that_were_collected():
    pd.testing.assert_frame_equal(literature_numbers(), pd.read_csv(SHARED))


def test_every_reported_method_is_one_of_ours():
    assert set(literature_numbers().method) == set(METHODS) and set(METHODS.values()) <= set(OURS)
    assert literature_numbers().url.str.startswith("https://").all()


@pytest.mark.parametrize("name", ["closed-set", "single-source"])
def test_cells_that_are_not_run_say_so(name, tmp_path):
    grid = load_grid(name)
    table = literature_part(collect_results(grid, tmp_path))
    ours = table.wide["ours"][table.wide.index.get_level_values("method") == "MOOSA"]
    assert len(ours) and set(ours) == {"not run"} and table.tidy.ours.isna().all()
    assert (reported_table(collect_results(grid, tmp_path))["ours"] == NOT_RUN).all()


@pytest.mark.parametrize("method", METHODS.values())
@pytest.mark.parametrize("dataset", ["epic", "epic-clips"])
def test_a_run_of_the_same_problem_stands_beside(dataset, method, tmp_path):
    base = dict(dataset=dataset, setting="closed", method=method, modalities=["audio", "video"], target="D1")
    grid = expand("x", dict(base=base, axes=dict(seed=[0, 1])))
    for spec, accuracy in zip(grid.specs, (.5, .6)):
        write_record(run_folder(spec, tmp_path), spec, {"accuracy": {"fused": accuracy}}, 0, "cpu", 1.)
    results = collect_results(grid, tmp_path)
    both = beside_literature(results)
    mine = both[both.n > 0]
    assert len(both) == 6 and [METHODS[m] for m in mine.method] == [method]
    assert mine.ours.tolist() == pytest.approx([55.]) and mine.difference.tolist() == pytest.approx(
        [55 - mine.accuracy.iloc[0]])
    assert "55.0" in reported_table(results)["ours"]["epic", "video+audio", "D2+D3 → D1"]
