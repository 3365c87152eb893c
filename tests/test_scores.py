"""Scores and protocols by name: what is kept of them beside a run, what is added, and what a run has not got."""
import ast
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save
from test_stale import SMALL, finish

from moosa.commands.grids import rescore_command
from moosa.core import InputError
from moosa.evaluation.protocols import PROTOCOLS, Protocol
from moosa.evaluation.scores import SCORES, Score
from moosa.evaluation.sources import pretend, pretend_sources
from moosa.results.alternatives import ROOMS, read_scores, rescore_grid, rescore_run, scores_table
from moosa.runs.predictions import sources_of
from moosa.runs.grid import expand
from moosa.runs.predictions import save_predictions
from moosa.runs.record import run_folder

# of what runs did not keep before
NEW = {"react", "ash", "gradnorm", "vim", "normalised", "translation", "jigsaw"}


def margin(fused):
    first, second = fused.softmax(dim=1).topk(2, dim=1).values.T
    return first - second


def lowest(confidence): return confidence.min()


@pytest.fixture
def guests(monkeypatch):
    "A score and a protocol that are not built in."
    monkeypatch.setitem(SCORES, "margin", Score(margin, "these tests"))
    monkeypatch.setitem(PROTOCOLS, "lowest", Protocol(lowest, "these tests"))


@pytest.fixture
def old_run(tmp_path):
    "A run of before embeddings and training clips were kept; a grid with it alone."
    grid = expand("small", SMALL | {"axes": {"target": ["mfeat"], "method": ["erm"], "seed": [0]}})
    finish(grid.specs[0], tmp_path, seen=False)
    return grid, run_folder(grid.specs[0], tmp_path)


def test_a_run_of_before_has_the_scores_that_it_had(old_run, tmp_path):
    grid, place = old_run
    said = []
    scores = set(rescore_grid(grid, tmp_path, report=said.append).score)
    assert scores == {"max_softmax", "max_logit", "energy", "entropy", "kl_matching", "class_rank", "temperature",
                      "vector"}
    for name in NEW | {"knn", "mahalanobis", "agreement", "weighted_agreement"}:
        assert any(line.startswith(f"not scored in 1 run(s): {name}: ") for line in said), name
    kept = (place/"scores.csv").stat().st_mtime_ns
    rescore_run(place)
    assert (place/"scores.csv").stat().st_mtime_ns == kept  # reasons are kept, too


def test_named_scores_limit_and_add(old_run, tmp_path, guests, monkeypatch):
    grid, place = old_run
    only = rescore_grid(grid, tmp_path, scores=["margin"], protocols=["lowest"], report=print)
    assert set(only.score) == {"margin"} and set(read_scores(place/"scores.csv").score) == {"margin"}
    assert list(scores_table(only))[-2:] == ["HOS, lowest", "n"] and "source-quantile" not in set(only.group)
    both = rescore_grid(grid, tmp_path, scores=["margin", "energy"], report=print)
    assert set(both.score) == {"margin", "energy"} and {"lowest", "source-quantile"} <= set(both.group)
    shown = rescore_grid(grid, tmp_path, compute=False)
    assert set(shown.score) == {"margin", "energy"}
    whole = rescore_grid(grid, tmp_path, report=lambda line: None)
    assert {"margin", "energy", "entropy"} <= set(whole.score)
    monkeypatch.delitem(SCORES, "margin")  # its file is gone
    assert "margin" not in set(read_scores(place/"scores.csv").score)
    with pytest.raises(InputError, match="score: 'margin' is not known"):
        rescore_grid(grid, tmp_path, scores=["margin"])
    with pytest.raises(InputError, match="protocol: 'low'"): rescore_grid(grid, tmp_path, protocols=["low"])


def test_the_command_shows_a_score_beside_the_published_one(old_run, tmp_path, guests, capsys):
    "So there is something to compare it with, also where it cannot be had; and the report has its curves."
    grid = tmp_path/"small.yaml"
    grid.write_text(json.dumps(SMALL | {"axes": {"target": ["mfeat"], "method": ["erm"], "seed": [0]}}))
    for score in ("margin", "knn"): rescore_command(str(grid), score=[score], data_dir=tmp_path)
    first, second = capsys.readouterr().out.split("not scored in 1 run(s): knn")
    assert "max_softmax" in first and "margin" in first and "max_softmax" in second


def test_a_score_that_fails_is_told_and_nothing_is_kept(old_run, tmp_path, monkeypatch):
    grid, place = old_run
    monkeypatch.setitem(SCORES, "wrong", Score(lambda fused: fused.argmax(1)/0*0., "these tests"))
    said = []
    assert not len(rescore_grid(grid, tmp_path, scores=["wrong"], report=said.append))
    assert "score wrong" in said[0] and "test_scores.py, line" in said[0] and "NaN" in said[0]
    assert not (place/"scores.csv").exists()


def test_a_guests_file_is_part_of_what_is_kept(old_run, tmp_path):
    _, place = old_run
    file = tmp_path/"mine.py"

    def auroc(power: int, compute: bool = True):
        file.write_text(f"def mine(fused): return fused.softmax(1).pow({power}).sum(1)\n")
        found = rescore_run(place, compute, [f"{file}:mine"])
        return None if found is None else found.value[found.number == "AUROC"].item()

    first = auroc(2)
    assert auroc(2, compute=False) == first and auroc(-1, compute=False) is None and auroc(-1) != first


def test_what_a_run_keeps_comes_back(old_run, tmp_path):
    _, place = old_run
    made = pretend_sources(60, hidden=8)
    head = {f"fused.{name}": x for name, x in made.head.state_dict().items()}
    record = (place/"record.json").read_text()
    for name in ("clips.csv", "predictions.safetensors", "embeddings.safetensors"):  # others are put there
        record = record.replace(name, f"gone-{name}")
    (place/"record.json").write_text(record)
    (place/"model.safetensors").write_bytes(save(head))
    with torch.no_grad():
        lists = {"validation": made.validation, "train": made.train, "target": pretend(50)}
        for p in lists.values(): p.fused = made.head(torch.cat(list(p.embeddings.values()), dim=1))
    save_predictions(place, **lists)
    target, sources = sources_of(place)
    assert len(target.labels) == 50 and len(sources.train.labels) == 120 and not sources.trained_heads
    assert all(torch.equal(x, made.head.state_dict()[name]) for name, x in sources.head.state_dict().items())
    assert NEW <= set(rescore_run(place).query("group == 'threshold-free'").score)
    for p in lists.values(): p.fused = p.fused.flip(1)  # a method that reads its logits in another way
    save_predictions(place, **lists)
    assert sources_of(place)[1].head is None


def test_rooms_are_all_that_scores_are_made_of():
    def imports(room: str) -> set[str]:
        tree = ast.parse(Path(__import__(room, fromlist=["x"]).__file__).read_text())
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        return {f"{room.rsplit('.', node.level)[0]}.{node.module}" for node in nodes}

    used = {room for name in ROOMS for room in imports(name) if room.startswith("moosa.evaluation.")}
    assert {"moosa.evaluation.openset", "moosa.evaluation.post_hoc"} <= used <= set(ROOMS)


def test_scores_are_told_apart_in_a_table():
    numbers = pd.DataFrame([dict(case="erm", task="t", seed=s, data="made up", score=name, group=group, number="HOS",
                                 value=.5) for name in SCORES for group in ("oracle", "mine") for s in range(2)])
    table = scores_table(numbers)
    assert list(table) == ["HOS, oracle", "HOS, mine", "n"] and len(table) == len(SCORES)
