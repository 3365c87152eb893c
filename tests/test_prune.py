"""`moosa runs prune`: what goes, what is only named, and what nobody may touch."""
import json
import os
import time

import pytest
from conftest import call

from moosa.runs.given import spec_from
from moosa.runs.lock import hold
from moosa.runs.record import run_folder, write_record

DAY = 86_400


def made_old(folder, days: float):
    for path in (folder, *folder.rglob("*")): os.utime(path, (time.time() - days*DAY,)*2)


@pytest.fixture
def runs(tmp_path) -> dict:
    "Name -> folder of one run of every kind, all of them 20 days old; `fresh` has no record either."
    names = ("whole", "trained", "given up", "fresh", "edited", "cut", "elsewhere", "held")
    places = {name: run_folder(spec_from(dict(target="mfeat", method="erm", seed=i)), tmp_path)
              for i, name in enumerate(names)}
    for i, (name, place) in enumerate(places.items()):
        place.mkdir(parents=True)
        (place/"history.csv").write_text('"epoch","loss"\n"0","1"\n')
        if name in ("given up", "fresh", "held"): continue
        write_record(place, spec_from(dict(target="mfeat", method="erm", seed=i)), {"accuracy": {"fused": .5}}, 0,
                     "cpu", 1.)
    (places["trained"]/"checkpoint").mkdir()
    (places["trained"]/"checkpoint"/"epoch-0014.safetensors").write_bytes(bytes(3_000_000))
    (places["trained"]/".predictions.safetensors.k3j_9zq1").write_text("half")
    (places["trained"]/"lock.0").write_text(json.dumps(dict(host="gone", pid=1, started=1.)))
    (places["edited"]/"history.csv").write_text("another")
    (places["cut"]/"record.json").write_text('{"schema": 3')
    record = places["elsewhere"]/"record.json"
    record.write_text(record.read_text().replace('"schema": 3', '"schema": 2'))
    for name, place in places.items():
        if name != "fresh": made_old(place, 20)
    return places


def rows(said: str) -> set[tuple[str, str]]:  # run, kind
    "The rows of the table that is printed."
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in said.splitlines() if line[:1] == "|"]
    return {(row[0], row[1]) for row in cells[2:]}


def test_a_dry_run_names_all_and_deletes_nothing(runs, tmp_path):
    before = {path: path.lstat().st_mtime for path in tmp_path.rglob("*")}
    said = call("runs", "prune", "--dry-run", "--data-dir", tmp_path)
    assert said.returncode == 0, said.stderr
    assert rows(said.stdout) == {
        (runs["trained"].name, "leftovers"), (runs["trained"].name, "checkpoints"), (runs["edited"].name, "damaged"),
        (runs["cut"].name, "damaged"), (runs["given up"].name, "unfinished"), (runs["held"].name, "unfinished")}
    assert "would be deleted: 6 of 6, 3.0 MB" in said.stdout and "history.csv is damaged" in said.stdout
    assert {path: path.lstat().st_mtime for path in tmp_path.rglob("*")} == before


def test_what_is_named_goes_and_what_a_process_holds_stays(runs, tmp_path):
    with hold(runs["held"]): said = call("runs", "prune", "--data-dir", tmp_path)
    assert said.returncode == 0 and "deleted: 5 of 5" in said.stdout, said.stdout + said.stderr
    assert (runs["held"].name, "unfinished") not in rows(said.stdout)
    left = {name for name, place in runs.items() if place.exists()}
    assert left == {"whole", "trained", "fresh", "elsewhere", "held"}
    assert sorted(path.name for path in runs["trained"].iterdir()) == ["history.csv", "record.json"]
    again = call("runs", "prune", "--data-dir", tmp_path)  # now nobody holds it
    assert "deleted: 1 of 1" in again.stdout and not runs["held"].exists()


KINDS = {"leftovers": {"trained"}, "checkpoints": {"trained"}, "damaged": {"edited", "cut"},
         "unfinished": {"given up", "held"}}


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_alone(runs, tmp_path, kind):
    said = call("runs", "prune", "--only", kind, "--data-dir", tmp_path)
    assert rows(said.stdout) == {(runs[name].name, kind) for name in KINDS[kind]}, said.stdout + said.stderr
    rest = call("runs", "prune", "--dry-run", "--data-dir", tmp_path)
    assert {found for _, found in rows(rest.stdout)} == KINDS.keys() - {kind}


@pytest.mark.parametrize("days, gone", [(0, {"given up", "held", "fresh"}), (19, {"given up", "held"}), (21, set())])
def test_days_say_when_a_run_is_given_up(runs, tmp_path, days, gone):
    said = call("runs", "prune", "--only", "unfinished", "--days", days, "--data-dir", tmp_path)
    assert f"deleted: {len(gone)} of {len(gone)}" in said.stdout, said.stdout + said.stderr
    assert {name for name, place in runs.items() if not place.exists()} == gone


def test_two_kinds_and_bad_input(runs, tmp_path):
    two = call("runs", "prune", "--only", "leftovers", "--only", "damaged", "--dry-run", "--data-dir", tmp_path)
    assert {kind for _, kind in rows(two.stdout)} == {"leftovers", "damaged"}
    wrong = call("runs", "prune", "--only", "checkpoint", "--data-dir", tmp_path)
    assert wrong.returncode == 2 and "Did you mean 'checkpoints'?" in wrong.stderr
    negative = call("runs", "prune", "--days", "-1", "--data-dir", tmp_path)
    assert negative.returncode == 2 and "Traceback" not in negative.stderr
    assert all(place.exists() for place in runs.values())


def test_what_is_no_run_is_not_touched(tmp_path):
    "A folder of another name, a file, and a link to a folder that lies elsewhere."
    (tmp_path/"runs"/"my-notes").mkdir(parents=True)
    (tmp_path/"runs"/"0123456789ab").write_text("a file")
    (tmp_path/"elsewhere").mkdir()
    (tmp_path/"runs"/"ba9876543210").symlink_to(tmp_path/"elsewhere")
    said = call("runs", "prune", "--days", 0, "--data-dir", tmp_path)
    assert "deleted: 0 of 0" in said.stdout, said.stdout + said.stderr
    assert len(list((tmp_path/"runs").iterdir())) == 3
    assert "deleted: 0 of 0" in call("runs", "prune", "--data-dir", tmp_path/"nothing").stdout


def test_help_names_every_kind_and_option():
    said = call("runs", "prune", "--help", env=dict(COLUMNS="200", TERM="dumb"))
    assert said.returncode == 0
    for word in (*KINDS, "--only", "--days", "--dry-run", "--data-dir"): assert word in said.stdout
    assert "prune" in call("runs", "--help").stdout
