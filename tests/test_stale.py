"""Results that are stale, mixed up or damaged: a run that is done is believed only as long as all it came from, and all
it left, is what it was.
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moosa.results.timeline import attempts_of
from moosa.core import InputError
from moosa.places import Store, data_folder
from moosa.data import minihac
from moosa.runs.predictions import load_predictions, save_predictions
from moosa.runs.record import Changed, KEPT, finished, read_record, run_folder, write_record
from moosa.runs.run import run
from moosa.runs.fingerprint import changes, fingerprint_of
from moosa.runs.grid import expand
from moosa.runs.status import cell_status, overview
from moosa.runs.sweep import run_grid
from moosa.evaluation.openset import Predictions, evaluate
from moosa.results.report import publish_example
from moosa.runs.given import spec_from
from moosa.runs.resolve import resolve
from moosa.runs.spec import Spec, spec_hash
from moosa.results.alternatives import epochs_of_grid, rescore_grid
from moosa.results.tables import collect_results, make_tables

GRID = {"axes": {"target": ["mfeat"], "method": ["erm"], "seed": [0, 1]}}
SMALL = {"base": {"watch_target": True, "epochs": 2}, **GRID}


def sounds(root: Path, level: float = .1) -> Path:
    "Own data: 2 domains, 2 classes, 3 clips each, all files of one size."
    for n, place in enumerate(root/d/c for d in ("field", "hall") for c in ("bell", "horn")):
        place.mkdir(parents=True, exist_ok=True)
        for i in range(3): soundfile.write(place/f"{i}.wav", np.full(1600, level*(n + i + 1)/10), 16000)
    return root


def predictions(n: int = 40, seed: int = 0) -> Predictions:
    draw = torch.Generator().manual_seed(seed)
    x, labels = torch.randn(n, 8, generator=draw), torch.arange(n) % 10
    return Predictions(x, {"image": x.clone(), "speech": x.clone()}, labels, [f"clip {i}" for i in range(n)])


def finish(spec: Spec, folder: Path, seen: bool = True):
    "A run's folder, as a run leaves it, without the run; or without embeddings, as one of before they were kept."
    place = run_folder(spec, folder)
    place.mkdir(parents=True)
    target, validation = predictions(), predictions(seed=1)
    validation.labels %= 8
    if seen: target.embeddings, validation.embeddings = target.logits, validation.logits
    save_predictions(place, validation=validation, target=target)
    columns = "epoch,seconds,validation_accuracy,target known accuracy,target AUROC,\"target HOS, source-quantile\"\n"
    (place/"history.csv").write_text(columns + "0,1.0,.5,.5,.5,.5\n1,1.0,.5,.5,.5,.5\n")
    (place/"attempts.jsonl").write_text(
        '{"time": 1, "event": "start", "host": "h", "pid": 1, "where": ""}\n'
        '{"time": 9, "event": "end", "status": "done", "host": "h", "pid": 1, "where": ""}\n')
    (place/"split.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    write_record(place, spec, evaluate(target, validation), 1, "cpu", 2., {"peak_memory_mb": 1.},
                 fingerprint_of(spec, folder))


# what a run was made from

@pytest.fixture
def own(tmp_path):
    "A finished run of own data."
    spec = resolve(Spec(dataset=str(sounds(tmp_path/"own")), target="hall", setting="closed", method="erm"))
    write_record(run_folder(spec, tmp_path), spec, {"accuracy": {"fused": .5}}, 0, "cpu", 1., {},
                 fingerprint_of(spec, tmp_path))
    assert finished(spec, tmp_path)
    return spec, tmp_path


def test_a_file_replaced_under_its_name_is_seen(own):
    spec, folder = own
    sounds(folder/"own", .2)  # the same names and sizes
    with pytest.raises(Changed, match="data files field audio.*other contents.*--again"): run(spec, folder)
    assert cell_status(spec, folder)[0] == "failed"
    assert collect_results(expand("g",
                                  {"cells": [dict(dataset=spec.dataset, target="hall", setting="closed",
                                                  method="erm")]}), folder).value.isna().all()


def test_a_copied_folder_is_the_same_data(own, tmp_path):
    spec, folder = own
    for path in (folder/"own").rglob("*.wav"): path.touch()
    assert finished(spec, folder)
    first = next((folder/"own").rglob("*.wav"))
    first.unlink()
    with pytest.raises(InputError): resolve(spec)  # its table has changed; `data_hash` says so


def test_large_data_go_by_times_and_by_contents_on_request(own, monkeypatch):
    spec, folder = own
    shutil.rmtree(folder/"fingerprints")
    monkeypatch.setattr("moosa.runs.fingerprint.CHEAP", 0)
    from moosa.runs.fingerprint import file_facts

    def facts(store, root, places, cheap=0):
        return file_facts(root, places, folder/"fingerprints", store.contents, cheap)

    monkeypatch.setattr("moosa.runs.fingerprint._facts", facts)

    plain, known = fingerprint_of(spec, folder), fingerprint_of(spec, Store(folder, contents=True))
    assert plain["data"]["files"]["hall"]["audio"]["sha256"] is None
    assert known["data"]["files"]["hall"]["audio"]["sha256"]
    for path in (folder/"own").rglob("*.wav"): path.touch()
    assert "times of change" in changes(plain, fingerprint_of(spec, folder))[0]
    assert "--contents" in changes(known, fingerprint_of(spec, folder))[0]
    assert not changes(known, fingerprint_of(spec, Store(folder, contents=True)))
    assert not changes(known, fingerprint_of(spec, folder)), "what was read once is known to all"
    sounds(folder/"own", .3)
    assert "other contents" in changes(known, fingerprint_of(spec, Store(folder, contents=True)))[0]


def test_a_guest_that_changes_is_another_run(tmp_path, monkeypatch):
    "Whatever is named and is not in the package: its source is part of the hash, with what it imports beside it."
    (tmp_path/"stale_nets.py").write_text("from stale_layers import width\n\ndef net(): return width\n")
    (tmp_path/"stale_layers.py").write_text("width = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def name(**fields) -> str: return spec_hash(spec_from(dict(target="mfeat", **fields)))

    named = [dict(method="erm", extractors={"image": "stale_nets:net"}), dict(method="stale_nets:net"),
             dict(method=f"{tmp_path}/stale_nets.py:net+outliers"), dict(callbacks=[f"{tmp_path}/stale_nets.py:net"])]
    before = [name(**fields) for fields in named]
    assert len(set(before)) == len(named)
    (tmp_path/"stale_layers.py").write_text("width = 1  # as it was\n")
    assert [name(**fields) for fields in named] == before
    (tmp_path/"stale_layers.py").write_text("width = 2\n")
    assert not set(before) & {name(**fields) for fields in named}
    assert "stale_nets" not in sys.modules, "nothing is imported to find out"


def test_a_study_that_is_moved_keeps_its_runs(tmp_path):
    for place in ("here", "there"):
        (tmp_path/place).mkdir()
        (tmp_path/place/"mine.py").write_text("def f(outputs, labels): return outputs.fused.mean()")
    methods = [f"{tmp_path/place}/mine.py:f" for place in ("here", "there")]
    assert len({spec_hash(spec_from(dict(target="mfeat", method=method))) for method in methods}) == 1


def test_weights_are_seen_to_change(tmp_path):
    from moosa.extractors.entries import weights_path

    spec = Spec(dataset="hac", target="human", sources=("animal",), modalities=("video",),
                extractors={"video": "slowfast"}, weights="pretrained")
    path = weights_path("slowfast", tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"one")
    before = fingerprint_of(spec, tmp_path)
    path.write_bytes(b"two")
    assert "weights video" in changes(before, fingerprint_of(spec, tmp_path))[0]
    path.unlink()
    assert not changes(before, fingerprint_of(spec, tmp_path)), "what is not here cannot be compared"


def test_times_of_epics_sounds_are_in_the_key_of_kept_features(tmp_path):
    from moosa.data.epic import Epic
    from moosa.extractors.features import data_hash

    dataset = Epic.__new__(Epic)
    dataset.root, dataset.audio_format = tmp_path, "strict"
    row = dict(clip="D1/P08_01/7", domain="D1", part="train", video="P08_01", start_frame=1, stop_frame=9,
               start_timestamp="00:00:01.0", stop_timestamp="00:00:02.0")

    def key(**other): return data_hash(dataset, pd.DataFrame([{**row, "class": 1, **other}]), "audio")

    assert key() == key() == key(**{"class": 2})
    assert key() != key(start_timestamp="00:00:01.5") and key() != key(stop_timestamp="00:00:02.5")


@pytest.mark.parametrize("what", ["generator", "list", "file"])
def test_generated_data_are_seen_to_change(tmp_path, what):
    root = tmp_path/"raw"/"mini-hac"
    for item in minihac.items(2):
        for path in item.files(root).values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"clip")
    minihac.write_lists(root, 2)
    (root/"recipe.json").write_text('{"generator": 1, "seed": 0}')
    (root/"manifest.json").write_text('{"generator": 1, "seed": 0, "clips_per_class": 2, "files": {}}')
    spec = resolve(Spec(dataset="mini-hac", target="human", sources=("animal",), method="erm"))
    before = fingerprint_of(spec, tmp_path)
    match what:
        case "generator": (root/"manifest.json").write_text(
            '{"generator": 2, "seed": 0, "clips_per_class": 2, "files": {}}')
        case "list":
            path = root/"HAC_Splits"/"HAC_train_only_animal.csv"
            path.write_text(path.read_text().replace(",0\n", ",1\n", 1))
        case "file": next((root/"animal"/"audio").iterdir()).write_bytes(b"CLIP")
    said = changes(before, fingerprint_of(spec, tmp_path))
    assert {"generator": "data made generator was 1, is 2", "list": "data lists animal hash",
            "file": "data files animal audio"}[what] in said[0]
    shutil.rmtree(root)
    assert not changes(before, fingerprint_of(spec, tmp_path))


def test_files_are_looked_at_once_for_a_grid(own, monkeypatch):
    spec, folder = own
    looked = []
    from moosa.runs import fingerprint

    real = fingerprint.look
    monkeypatch.setattr(fingerprint, "look", lambda place, root: looked.append(place) or real(place, root))
    store = Store(folder)
    for _ in range(20): finished(spec, store)
    assert len([p for p in looked if p.suffix == ".wav"]) == 12


def test_again_computes_only_what_cannot_be_used(tmp_path):
    grid, calls = expand("small", GRID), []
    (tmp_path/"raw").symlink_to(data_folder()/"raw")
    for spec in grid.specs: finish(spec, tmp_path)
    path = run_folder(grid.specs[0], tmp_path)/"record.json"
    path.write_text(path.read_text().replace("fsdd_speakers.csv\": \"", "fsdd_speakers.csv\": \"0"))

    def engine(cells, carry):
        for spec, _ in cells:
            calls.append(spec.seed)
            finish(spec, tmp_path)
        return iter(())

    said = []

    def run(**how): return [row["status"] for row in run_grid(grid, tmp_path, report=said.append, engine=engine, **how)]

    assert run() == ["failed", "done"]
    assert not calls
    assert "seed=0" in said[0] and "fsdd_speakers.csv was" in said[0]
    assert run(again=True) == ["done", "done"]
    assert calls == [0]


# records

def wrong(record: dict) -> dict:  # what is wrong -> record
    "Records that must not be believed."
    def edit(**how): return json.loads(json.dumps(record)) | how

    def results(value): return edit(results={"accuracy": {"fused": value}})

    return {"share above 1": results(1.5), "share below 0": results(-.1), "text": results("0.5"),
            "infinite": results(float("inf")), "true": results(True),
            "epoch": edit(selected_epoch=record["spec"]["epochs"]), "negative epoch": edit(selected_epoch=-1),
            "epoch as text": edit(selected_epoch="1"),
            "other hash": edit(hash="0"*12), "other spec": edit(spec={**record["spec"], "lr": .5}),
            "spec is a list": edit(spec=[]), "no spec": {k: v for k, v in record.items() if k != "spec"},
            "seconds": edit(seconds=-1), "schema": edit(schema=2), "results are a list": edit(results=[1]),
            "group is a number": edit(results={"oracle": 1}),
            "missing": edit(missing=[1]),
            "missing results": edit(missing=[dict(rule="zero", present="image", results={"accuracy": {"fused": 2}})]),
            "fingerprint": edit(fingerprint=None), "files": edit(files={"clips.csv": 1}), "nested": {"record": record},
            "list": [record]}


def test_records_that_are_not_believed(tmp_path):
    spec = resolve(Spec(target="mfeat", method="erm"))
    path = write_record(run_folder(spec, tmp_path), spec, {"accuracy": {"fused": .5}}, 0, "cpu", 1.)
    record = read_record(path.parent)
    for what, edited in wrong(record).items():
        path.write_text(json.dumps(edited))
        with pytest.raises(InputError, match="record.json"): pytest.fail(f"{what}: {read_record(path.parent)}")
    path.write_text(json.dumps(record))
    moved = path.parent.rename(path.parent.with_name("0123456789ab"))
    with pytest.raises(InputError, match="its folder is 0123456789ab"): read_record(moved)


# predictions

NAMES = st.text(min_size=1,
                max_size=8) | st.sampled_from(["0080", "NA", "null", "nan", "1e5", "True", "a,b", 'say "x"',
                                               "two\nlines", "\r", "\r\n", " ", "labels", "fused", "missing",
                                               "logits/x", "é", "e\u0301"])


@settings(max_examples=40, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=5), st.lists(NAMES, min_size=1, max_size=4, unique=True),
       st.lists(NAMES, max_size=3, unique=True))
def test_predictions_keep_every_name(tmp_path_factory, clips, modalities, rules):
    folder = tmp_path_factory.mktemp("predictions")

    def x(i): return torch.full((len(clips), 2), float(i))

    given_ = Predictions(x(0), {m: x(i + 1) for i, m in enumerate(modalities)}, torch.arange(len(clips)), clips,
                         {m: x(i + 100) for i, m in enumerate(modalities)},
                         {f"zero/{r}": x(i + 200) for i, r in enumerate(rules)})
    save_predictions(folder, **{"target": given_, modalities[0]: given_})
    for back in load_predictions(folder).values():
        assert back.clips == clips and torch.equal(back.labels, given_.labels) and torch.equal(back.fused, given_.fused)
        for kind in ("logits", "embeddings", "missing"):
            one, other = getattr(back, kind), getattr(given_, kind)
            assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one), kind


def test_a_list_of_clips_cut_short_is_an_error(tmp_path):
    save_predictions(tmp_path, target=predictions())
    path = tmp_path/"clips.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:20]))
    with pytest.raises(InputError, match="19 names of target, but there are 40 labels"): load_predictions(tmp_path)


# damaged files

FILES = ("record.json", "attempts.jsonl", "error.json", "lock.0", "history.csv", "clips.csv", "predictions.safetensors",
         "embeddings.safetensors", "scores.csv", "split.ipynb", "kernel.log")
DAMAGE = {"empty": lambda p: p.write_bytes(b""), "garbage": lambda p: p.write_bytes(bytes(range(256))*3),
          "half": lambda p: p.write_bytes(p.read_bytes()[:len(p.read_bytes())//2] if p.exists() else b'{"a'),
          "list": lambda p: p.write_text("[1, 2]"), "deep": lambda p: p.write_text("["*100_000),
          "number": lambda p: p.write_text("9"*5000), "folder": lambda p: (p.unlink(missing_ok=True), p.mkdir()),
          "other object": lambda p: p.write_text('{"time": "x", "error": 1}\n')}


def rescored_quickly(*_, **how) -> pd.DataFrame:
    return pd.DataFrame([dict(score="max_softmax", group="threshold-free", number="AUROC", value=.5)])


def is_used(name: str, kind: str, done: bool) -> bool:
    "Does anybody read this file of a run, and can it be told from a whole one?"
    if name in ("kernel.log", "split.ipynb", "scores.csv") or (name, kind) == ("attempts.jsonl", "empty"): return False
    if done: return name != "error.json"
    return name not in ("clips.csv", "predictions.safetensors", "embeddings.safetensors", "record.json")


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_damaged_files_stop_nobody_else(tmp_path, done, monkeypatch):
    "A grid in which every run but one has a file that is damaged in some way."
    monkeypatch.setattr("moosa.results.alternatives.rescore", rescored_quickly)
    monkeypatch.setattr("moosa.runs.record.environment", dict)
    ways = [(name, kind) for name in FILES for kind in DAMAGE]
    grid = expand("small", {"base": SMALL["base"],
                            "axes": {"target": ["mfeat"], "method": ["erm"], "seed": list(range(len(ways) + 1))}})
    for spec, (name, kind) in zip(grid.specs, [*ways, ("", "")]):
        finish(spec, tmp_path)
        place = run_folder(spec, tmp_path)
        if not done and name: (place/"record.json").unlink()
        if name: DAMAGE[kind](place/name)
    said = []
    seen, rescored = overview(grid, tmp_path), rescore_grid(grid, tmp_path, report=said.append)
    epochs, results = epochs_of_grid(grid, tmp_path, said.append), collect_results(grid, tmp_path)
    make_tables(results)
    assert len(attempts_of(grid, tmp_path)) >= len(ways) - len(DAMAGE)
    publish_example(grid, tmp_path/"example.ipynb", tmp_path)
    assert (tmp_path/"example.ipynb").exists()
    for table in (rescored, epochs, results): assert table[table.seed == len(ways)].value.notna().any()
    told = {cell["run"]: cell["about"] for cell in seen["attention"]}
    for spec, (name, kind) in zip(grid.specs, ways):
        about = told.get(run_folder(spec, tmp_path).name, "")
        assert not is_used(name, kind, done) or name in about, (name, kind, about)
    if done:
        assert {"failed"} == {s for s, n in zip(results.drop_duplicates("seed").sort_values("seed").status,
                                                [n for n, _ in ways]) if n in ("record.json", *KEPT)}


def test_flipped_bits_are_noticed(tmp_path):
    spec = expand("small", SMALL).specs[0]
    finish(spec, tmp_path)
    place = run_folder(spec, tmp_path)
    for name in ("predictions.safetensors", "embeddings.safetensors", "clips.csv", "history.csv"):
        content = (place/name).read_bytes()
        (place/name).write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        assert name in cell_status(spec, tmp_path)[1], name
        with pytest.raises(InputError, match=name):
            load_predictions(place) if name != "history.csv" else finished(spec, tmp_path)
        (place/name).write_bytes(content)
    assert cell_status(spec, tmp_path) == ("done", "")


# the notebook and the commands

def test_the_notebook_of_a_finished_run_shows_and_changes_nothing(tmp_path, two_runs):
    import nbformat
    from nbclient import NotebookClient

    folder = Path(shutil.copytree(two_runs, tmp_path/"own", symlinks=True))
    place = min((folder/"runs").iterdir())
    text = (place/"split.ipynb").read_text()
    (place/"split.ipynb").write_text(text.replace(str(two_runs), str(folder)))
    before = {p.name: p.read_bytes() for p in place.iterdir()}
    nb = nbformat.read(place/"split.ipynb", as_version=4)
    given = next(cell for cell in nb.cells if "injected-parameters" in cell.metadata.get("tags", []))
    given.source += "\npictures = False  # as of a run whose grid keeps no models: now they are drawn"
    NotebookClient(nb, resources={"metadata": {"path": str(place)}}, kernel_name="python3", timeout=300).execute()
    said = "".join(o.get("text", "") for c in nb.cells for o in c.get("outputs", []))
    assert "This run is done" in said and "delete that folder" in said and str(two_runs) not in said
    assert {p.name: p.read_bytes() for p in place.iterdir()} == before
    drawn = sum("image/png" in o.get("data", {}) for c in nb.cells for o in c.get("outputs", []))
    assert drawn >= 4, drawn


def test_records_are_shown_and_compared(tmp_path):
    from typer.testing import CliRunner

    from moosa.cli import app

    def say(*words): return CliRunner().invoke(app, [*map(str, words), "--data-dir", str(tmp_path)])

    for spec in expand("small", SMALL).specs: finish(spec, tmp_path)
    one, other = sorted(p.name for p in (tmp_path/"runs").iterdir())
    shown = say("record", "show", one[:8])
    as_json = say("record", "show", tmp_path/"runs"/one, "--json")
    differ = say("record", "diff", one, other)
    assert shown.exit_code == 0 and "results.source-quantile.HOS" in shown.output
    assert "fingerprint.data.made" in shown.output
    assert json.loads(as_json.output)["hash"] == one
    assert differ.exit_code == 1 and "spec.seed" in differ.output and "results" not in differ.output
    assert say("record", "diff", one, one).exit_code == 0
