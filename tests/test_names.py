"""Names that people, other languages and attackers choose are harmless wherever they are shown or become a file's name.
"""
import csv
import re
import warnings
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from moosa.explore import clips as explore
from moosa.cli import app
from moosa.places import Store, user_path
from moosa.results.compare import compare, paired, sentence
from moosa.data import catalogue
from moosa.runs.lists import make_split
from moosa.runs.record import run_folder, write_record
from moosa.runs.fingerprint import fingerprint_of
from moosa.extractors.cache import cache_folder, make_shard
from moosa.results.run_figures import confusion, plot_setting, spec_table
from moosa.runs.grid import expand
from moosa.results.grid_figures import make_figures
from moosa.results.report import describe, how_much, made_by
from moosa.results.style import legend
from moosa.results.cases import task_labels
from moosa.results.tables import collect_results, make_tables, save_table

NAMES = ["mean", "a|b", "a+b", "$x$ costs $5", "two\nlines", "<script>alert(1)</script>", "x/../../../../escaped",
         "L"*300, "_hidden", "50 % & {#}",
         "playing violin, fiddle", "\\alpha ~ ^", "[x](javascript:1)", "no", "007", "'mean'"]


@pytest.fixture(scope="module")
def read_once():
    "Own data is read again by whoever asks for its names; here it does not change."
    plain = catalogue.folder_data.FolderData
    kept = lru_cache(lambda path: plain(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue.folder_data, "FolderData",
                      lambda path, **how: plain(path, **how) if how else kept(path))
        yield


@pytest.fixture(scope="module")
def named(tmp_path_factory, read_once):
    "A grid over own data whose domains and classes have all these names, with records."
    root = tmp_path_factory.mktemp("named")
    np.save(root/"clip.npy", np.zeros((13, 40), np.float32))
    with open(root/"manifest.csv", "w", newline="") as f:
        lines = csv.writer(f)
        lines.writerow(["clip", "class", "domain", "part", "array"])
        for i, domain in enumerate(NAMES):
            for j, name in enumerate(NAMES):
                if (j - i) % len(NAMES) > 2 and j not in (1, 10): continue
                for part in ("train", "validation"):
                    np.save(root/f"{i}-{j}-{part}.npy", np.full((13, 40), i + 20*j + 400*len(part), np.float32))
                    lines.writerow([f"{i}-{j}-{part}", name, domain, part, f"{i}-{j}-{part}.npy"])
    base = dict(dataset=str(root), extractors={"array": "moosa.extractors.small:small_speech"})
    grid = expand("named",
                  dict(about="", base=base, axes=dict(unknown=[[NAMES[1], NAMES[10]]], target=NAMES, seed=[0])))
    store = Store(root)
    for i, spec in enumerate(grid.specs):
        group = {"OS*": .5 + .001*i, "UNK": .5, "HOS": .5, "OS*-class": .5, "HOS-class": .5, "threshold": .5}
        results = {"oracle": group, "source-quantile": group,
                   "threshold-free": dict.fromkeys(("AUROC", "FPR95", "AUPR-known", "AUPR-unknown", "OSCR"), .5),
                   "accuracy": {"fused": .5, "array": .5}, "class-mean accuracy": {"fused": .5},
                   "calibration": {"ECE": .1}, "validation accuracy": {"fused": .5}}
        write_record(run_folder(spec, root), spec, results, 0, "cpu", 1., fingerprint=fingerprint_of(spec, store))
    results = collect_results(grid, root)
    assert (results.status == "done").all(), results.reason.iloc[0]
    return SimpleNamespace(root=root, base=base, grid=grid, results=results, tables=make_tables(results))


def drawn(fig):
    "Draw a figure; nothing is said, and nothing grows beyond all bounds."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig.canvas.draw()
        box = fig.get_tightbbox()
    plt.close(fig)
    assert box.width < 3*fig.get_figwidth() and box.height < 3*fig.get_figheight(), (box, fig.get_size_inches())


def test_every_task_has_a_label_of_its_own(named):
    pairs = [["a+b"], ["a|b"], ["a+b", "a|b"], ["a|b", "a+b"]]
    grid = expand("named", dict(base=named.base | {"target": "mean"},
                                axes=dict(unknown=[[NAMES[1], NAMES[10]], [NAMES[3], NAMES[11]]], sources=pairs)))
    labels = [*task_labels(named.grid), *task_labels(grid)]
    assert len(set(labels)) == len(labels) and "mean" not in labels


def test_tables(named, tmp_path):
    assert len(named.tables) >= 4
    for table in named.tables:
        lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1 and len(lines) == len(table.wide) + 2
        assert "<script" not in table.markdown() and not re.search(r"(?<!\\)\$", table.markdown().split("\n\n", 1)[1])
        rows = re.search(r"\\midrule\n(.*?)\\bottomrule", table.latex(), re.S)[1].strip().splitlines()
        assert len(rows) == len(table.wide)
        assert all(row.endswith(r"\\") and len(re.findall(r"(?<!\\)&", row)) == len(table.wide.columns) + 1
                   for row in rows)
        assert not any(row.lstrip().startswith("[") for row in rows)
        paths = save_table(table, tmp_path)
        back = pd.read_csv(next(p for p in paths if p.suffix == ".csv"), keep_default_na=False)
        assert list(back.task) == list(table.tidy.task)


def test_the_mean_is_that_of_all_domains(named):
    "A domain called mean is one domain among others."
    summary = next(t for t in named.tables if t.name == "oracle").tidy
    rows = summary[(summary.number == "OS*") & (summary.task == "mean")]
    assert len(rows) == rows.case.nunique()
    assert rows["mean"].iloc[0] == pytest.approx(
        summary[(summary.number == "OS*") & (summary.task != "mean")]["mean"].mean())


def test_figures_of_a_grid(named):
    for fig in make_figures(named.results).values(): drawn(fig)


def test_legend_leaves_out_nothing():
    fig = plt.figure()
    legend(fig, dict.fromkeys(NAMES, "red"), dict.fromkeys(NAMES, "o"))
    shown = [text.get_text() for text in fig.legends[0].get_texts()]
    assert len(shown) == 2*len(NAMES) and all(len(text) <= 52 and "\n" not in text for text in shown)
    plt.close(fig)


def test_figures_of_a_run(named):
    spec = named.grid.specs[3]
    split = make_split(spec, catalogue.dataset_class(spec.dataset))
    drawn(plot_setting(split))
    known = split.classes.known
    target = SimpleNamespace(fused=torch.eye(len(known)), labels=torch.arange(len(known)), num_known=len(known),
                             open_set=False)
    assert list(confusion(target, None, known).index) == list(known)


def test_pages(named):
    status = pd.Series(["done"]*len(named.grid.specs))
    assert "<script" not in how_much(named.grid, named.results, status) + describe(named.grid, named.results)
    results = pd.DataFrame([dict(case=case, task=f"t{i}", unknown=2, seed=seed, group="oracle", number="HOS",
                                 value=.5 + .3*(case != "erm") + .01*i, rule=None)
                            for case in ("erm", NAMES[5] + "|$") for i in range(8) for seed in (0, 1, 2)])
    said = sentence(compare(paired(results, "oracle", "HOS"), "erm"), "HOS")
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;\|\$ is better than erm" in said, said
    html = spec_table(named.grid.specs[5]).to_html()
    assert "<script" not in html and "&lt;script" in html and "mathjax_ignore" in html


def test_widgets_show_names_as_they_are(monkeypatch):
    clip = pd.DataFrame([dict(clip="c", domain=NAMES[5])])
    dataset, loaded = SimpleNamespace(clips=clip, recipes={"video": None}), {"video": [None]}
    for name, value in dict(is_film=lambda *_: True, sample_clips=lambda *_: clip, pictures=lambda *_: None,
                            animation=lambda *_: b"",
                            ClipList=lambda *_: SimpleNamespace(load=lambda rows: loaded)).items():
        monkeypatch.setattr(explore, name, value)
    monkeypatch.delenv("MOOSA_NO_PROGRESS", raising=False)
    shown = explore.play_clips(SimpleNamespace(spec=SimpleNamespace(modalities=("video",)),
                                               dataset=dataset)).children[0].children[0].value
    assert "<script" not in shown and "&lt;script&gt;" in shown


def test_cache_stays_in_its_folder(tmp_path):
    places = []
    for domain in [*NAMES, "a/b", "a_b", "..", "", "é"*200]:
        about = dict(modality="video", domain=domain, part="train", kind="stem", view=0, dtype="float32")
        for dataset in ("hac", "/x/..", "/data/" + "y"*250):
            shard = make_shard(tmp_path, dataset, about)
            assert shard.place.resolve().is_relative_to(cache_folder(tmp_path))
            assert shard.place.parent.parent == cache_folder(tmp_path)
            assert max(len(part.encode()) for part in shard.building.parts) <= 255
            places.append(shard.place)
    assert len(set(places)) == len(places)


def test_report_names_its_grid():
    assert "moosa report methods.yaml" in made_by("methods.yaml") and "--search 8" in made_by("x.yaml", 8)
    assert "/home/somebody" not in made_by("/home/somebody/own.yaml")
    assert "own.yaml" in made_by("/home/somebody/own.yaml")
    page = (Path(__file__).resolve().parent.parent/"nbs"/"experiments"/"report.ipynb").read_text()
    assert "made_by(grid, search)" in page and "moosa report demo.yaml" not in page


def test_home_is_written_out_in_every_path():
    "Every option and argument of a command that is a path is read by `user_path`."
    def commands(group):
        yield from (command.callback for command in group.registered_commands)
        for inner in group.registered_groups: yield from commands(inner.typer_instance)

    paths = [(call.__name__, name, hint.__metadata__[0]) for call in commands(app)
             for name, hint in get_type_hints(call, include_extras=True).items()
             if get_origin(hint) is Annotated and "Path" in str(hint.__origin__)]
    assert len(paths) > 15
    for call, name, about in paths: assert about.parser is user_path, (call, name)
