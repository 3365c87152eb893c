"""Stored records give the stored tables, byte for byte; and the words about them."""
import json

import pytest
from conftest import ROOT

from moosa.runs.grid import load_grid
from moosa.results.cases import case_labels, task_labels
from moosa.results.compare import comparisons
from moosa.results.sensitivity import varied
from moosa.results.tables import collect_results, make_tables, save_table


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    "The numbers of demo.yaml, from records that were kept."
    folder = tmp_path_factory.mktemp("records")
    for line in (ROOT/"tests"/"records"/"demo.jsonl").read_text().splitlines():
        record = json.loads(line)
        place = folder/"runs"/record["hash"]
        place.mkdir(parents=True)
        (place/"record.json").write_text(line)
    return collect_results(load_grid("demo.yaml"), folder)


def test_records_to_tables(results, tmp_path):
    written = [path for table in make_tables(results) for path in save_table(table, tmp_path)]
    assert len(written) >= 15
    for path in written: assert path.read_bytes() == (ROOT/"figures"/"demo"/path.name).read_bytes(), path.name


def test_records_to_words(results):
    "All cells are paired; a change of one record changes the words."
    said = comparisons(results)
    assert said.count("n = 9 cells") == 3, said
    better = results.assign(value=results.value.where(results.method == "erm", results.value + .5))
    assert comparisons(better).count("moosa is better than erm") == 3 and said != comparisons(better)


LABELS = json.loads((ROOT/"tests"/"records"/"labels.json").read_text())


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_grids(name):
    "Cases, series and tasks of a grid's cells are named as they always were; seeds aside, each once."
    grid = load_grid(name)
    labels = [(*case_and_series, task) for case_and_series, task in zip(case_labels(grid), task_labels(grid))]
    assert list(dict.fromkeys(labels)) == [tuple(row) for row in LABELS[name]]
    assert len(labels) == len(grid.specs) and len(set(zip(labels, (s.seed for s in grid.specs)))) == len(labels)


def test_studies_of_sensitivity():
    "What a grid varies, and the usual values; a grid of methods is no such study."
    assert varied(load_grid("sensitivity-size")) == {"train_share": 0.1}
    assert varied(load_grid("sensitivity-mask")) == {"mask_ratio": 0.0}
    assert not any(varied(load_grid(name)) for name in ("demo", "ablation", "closed-set"))
