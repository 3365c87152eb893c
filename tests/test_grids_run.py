"""One reduced cell of every grid file trains, tests and is reported, through the `moosa` command.

What it keeps of its grid: setting, method, modalities, hyper-parameters that are no widths; of mini-HAC's, how features
are computed.
"""
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from conftest import ROOT, call

from moosa.runs.grid import load_grid
from moosa.runs.spec import spec_hash

GRIDS = {  # setting -> grids of which one cell is run, and which cell
    "osdg": {"mini-hac": 1},
    "osda": {"digits-adaptation": 2},
    "open-partial": {"open-partial": 1},
    "closed": {"digits-closed": 0},
    "in-domain": {"digits-in-domain": 0},
}
# Of the same kinds, with other data sets and numbers: run by `pytest -m slow`.
SIBLINGS = {
    "osdg": {"published-hac": -1, "published-epic": 4, "shared-epic": 18, "shared-hac": 0, "openness": 3,
             "mini-hac-methods": 9, "conditions-mini-hac": -1,
             "methods": -1, "ablation": 20, "sensitivity-mask": 30, "sensitivity-jigsaw": 10, "sensitivity-size": 0,
             "selection": 0, "features": -1},
    "osda": {"published-osda": 0, "shared-osda": 0, "adaptation": 1, "adaptation-methods": 80},
    "open-partial": {"published-open-partial": 0, "shared-open-partial": -1},
    "closed": {"single-source": 18, "digits-single-source": 3, "closed-set": 9},
    "in-domain": {"in-domain": 1},
}
# differ from others by a number
TOGETHER = (("osdg",), ("osda", "open-partial", "in-domain"), ("closed",))  # settings whose cells make one grid
ALIKE = {"parts", "moosa-x", "moosa-x-mini-hac",
         "sensitivity-entropy-min", "sensitivity-weights", "sensitivity-temperature", "sensitivity-unknown"}
ELSEWHERE = {"utd-mhad", "moosa-x-utd-mhad", "utd-mhad-methods", "utd-mhad-few",
             "conditions-utd-mhad", "weights-utd-mhad"}  # test_utd.py has stand-ins
PLANNED = {"published-seeds", "benchmark-2026"}  # test_plan.py; their cells are of the others' kinds
DOMAINS = dict(D1="human", D2="animal", D3="cartoon")
NARROW = dict(jigsaw_hidden=16, trans_hidden_num=16, hidden_dim=16, out_dim=8)
OPEN_SET = {"oracle", "source-quantile", "threshold-free"}


def reduced(spec, seed: int) -> dict:
    "A cell on generated clips, or on digits; another seed for each, so that no two are the same."
    hyper = {k: NARROW.get(k, min(v, 8) if k == "jigsaw_samples" else v) for k, v in spec.hyper.items()}
    cell = dict(setting=spec.setting, method=spec.method, hyper=hyper, train_share=spec.train_share,
                watch_target=spec.watch_target, target=DOMAINS.get(spec.target, spec.target), epochs=1, seed=seed)
    if spec.setting != "in-domain": cell["sources"] = [DOMAINS.get(s, s) for s in spec.sources]
    if spec.setting != "closed": cell["unknown"] = len(spec.unknown)
    if spec.dataset == "av-digits":
        return cell | dict(dataset="av-digits", modalities=list(spec.modalities), batch_size=128)
    kept = dict(features=spec.features, frozen_bn=spec.frozen_bn) if spec.dataset == "mini-hac" else {}
    return cell | kept | dict(dataset="mini-hac", modalities=list(spec.modalities), batch_size=4, views=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generated, archives):
    "A data folder with 63 clips of mini-HAC and the digits."
    place = tmp_path_factory.mktemp("grids")
    (place/"raw").mkdir()
    (place/"raw"/"mini-hac").symlink_to(generated/"raw"/"mini-hac")
    (place/"raw"/"av-digits").symlink_to(archives)
    return place


@pytest.fixture(scope="module", params=[pytest.param("grids"), pytest.param("siblings", marks=pytest.mark.slow)])
def finished(request, folder):
    """Cells of every setting, run and reported, two grids at a time: the grids whose cells they are, and setting -> its
    cells, their grid's file, results of the two commands.
    """
    grids, first_seed = dict(grids=(GRIDS, 0), siblings=(SIBLINGS, 100))[request.param]

    def run_and_report(settings: tuple[str, ...]) -> dict:
        specs = {s: [load_grid(name).specs[cell] for name, cell in grids[s].items()] for s in settings}
        cells = {s: [reduced(spec, seed) for seed, spec in enumerate(specs[s], first_seed)] for s in settings}
        path = folder/f"{request.param}-{'-'.join(settings)}.yaml"
        about = f"Reduced cells, {', '.join(settings)}"
        path.write_text(yaml.safe_dump(dict(about=about, cells=sum(cells.values(), [])), sort_keys=False))
        options = dict(env=dict(OMP_NUM_THREADS="1"), timeout=1200)  # up to 11 cells, beside other tests
        ran = call("grid", path, "--data-dir", folder, **options)
        reported = call("report", path, "--data-dir", folder, "--out", path.with_suffix(""), **options)
        return {s: (cells[s], path, ran, reported) for s in settings}

    with ThreadPoolExecutor(2) as pool: parts = list(pool.map(run_and_report, TOGETHER))
    return grids, {setting: found for part in parts for setting, found in part.items()}


@pytest.mark.parametrize("setting", GRIDS)
def test_a_cell_of_every_grid_runs_and_is_reported(finished, folder, setting):
    grids, done = finished
    cells, path, ran, reported = done[setting]
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert reported.returncode == 0, reported.stderr
    assert {"summary.md", "summary.csv", "report.ipynb"} <= {p.name for p in path.with_suffix("").iterdir()}
    page = json.loads((path.with_suffix("")/"report.ipynb").read_text())["cells"]
    begun = next(k for k, cell in enumerate(page) if "parameters" in cell["metadata"].get("tags", []))
    assert "Reduced cells" in json.dumps([cell.get("outputs") for cell in page[:begun]])  # its title, above parameters
    specs = [spec for spec in load_grid(path).specs if spec.setting == setting]
    assert len(specs) == len(cells)
    records = {r["hash"]: r for r in (json.loads(p.read_text()) for p in (folder/"runs").glob("*/record.json"))}
    for spec, (name, cell) in zip(specs, grids[setting].items()):
        whole, record = load_grid(name).specs[cell], records[spec_hash(spec)]
        assert record["spec"]["setting"] == whole.setting == setting
        assert record["spec"]["modalities"] == list(whole.modalities)
        if whole.dataset == "mini-hac":
            assert record["features"]["kind"] == record["spec"]["features"] == whole.features
            assert len(record["features"]["differs_from_live"]) >= 2
        for k in {"mask_ratio", "alpha_trans", "entropy_min_weight", "jigsaw_num_splits",
                  "target_filter_thr"} & set(whole.hyper):
            assert record["spec"]["hyper"][k] == whole.hyper[k], (name, k)
        assert (OPEN_SET <= set(record["results"])) == bool(spec.unknown), name
        assert 0 <= record["results"]["accuracy"]["fused"] <= 1


def test_every_grid_file_has_its_cell():
    there = {path.stem for path in (ROOT/"nbs"/"experiments"/"grids").glob("*.yaml")}
    elsewhere = {"demo", "tiny"}  # demo.yaml is run by test_cli.py and `make reproduce`, tiny.yaml by test_cluster.py
    run = {name for group in (GRIDS, SIBLINGS) for grids in group.values() for name in grids}
    assert run == there - ALIKE - ELSEWHERE - PLANNED - elsewhere
