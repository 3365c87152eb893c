"""Which models a grid keeps, what is left of one, and what that serves for: through the `moosa` command."""
import json

import pytest
import yaml
from conftest import call

from moosa.core import file_sha256
from moosa.runs.grid import load_grid
from moosa.runs.record import EMBEDDINGS, HEAD, finished, read_record, run_folder, was_let_go

BY_THE_HEAD = ("react", "ash", "gradnorm", "vim")
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def grid(tmp_path_factory, archives):
    "A data folder in which the cells of `keep.yaml` are done, with all their models."
    place = tmp_path_factory.mktemp("kept")
    (place/"raw").mkdir()
    (place/"raw"/"av-digits").symlink_to(archives)
    assert run(place, "all").returncode == 0
    return place


def write(place, keep: str, **more):
    content = dict(base=dict(dataset="av-digits", target="mfeat", method="erm", epochs=1), axes=dict(seed=[*SEEDS]))
    (place/"keep.yaml").write_text(yaml.safe_dump(content | dict(keep_models=keep) | more))
    return place/"keep.yaml"


def run(place, keep: str, *options):
    return call("grid", write(place, keep), *options, "--data-dir", place)


def folders(place) -> dict:  # seed -> folder
    return {spec.seed: run_folder(spec, place) for spec in load_grid(place/"keep.yaml").specs}


def rescored(place) -> dict:  # seed -> bytes of scores.csv
    options = [part for name in BY_THE_HEAD for part in ("--score", name)]
    said = call("rescore", place/"keep.yaml", *options, "--data-dir", place)
    assert said.returncode == 0, said.stderr
    found = {seed: folder/"scores.csv" for seed, folder in folders(place).items()}
    tables = {seed: path.read_bytes() for seed, path in found.items()}
    for path in found.values(): path.unlink()
    return tables


def size(folder) -> int: return sum(path.stat().st_size for path in folder.iterdir())


def test_a_grid_keeps_what_it_says(grid):
    "All, then the best seed, then heads, none, and all again: the same bytes as at first."
    places = folders(grid)
    whole = {seed: file_sha256(folder/"model.safetensors") for seed, folder in places.items()}
    before, large, records = rescored(grid), {s: size(f) for s, f in places.items()}, {}
    for seed, folder in places.items(): records[seed] = (folder/"record.json").read_bytes()
    assert all(name.encode() in before[0] for name in BY_THE_HEAD)

    done = run(grid, "best")
    assert done.returncode == 0 and "2 done" in done.stdout, done.stderr
    results = {seed: read_record(folder)["results"] for seed, folder in places.items()}
    good = {seed: found["validation accuracy"]["fused"] for seed, found in results.items()}
    best = max(SEEDS, key=lambda seed: (good[seed], -seed))
    assert [seed for seed in SEEDS if not was_let_go(places[seed])] == [best]

    assert run(grid, "heads").returncode == 0
    for seed, spec in zip(SEEDS, load_grid(grid/"keep.yaml").specs):
        folder = places[seed]
        assert was_let_go(folder) and finished(spec, grid)  # done, and not damaged
        assert (folder/"record.json").read_bytes() == records[seed]
        assert size(folder) < large[seed] - 150_000 and (folder/"split.ipynb").stat().st_size < 400_000
    assert rescored(grid) == before  # the head is there, and says the same

    assert run(grid, "none").returncode == 0
    for seed, spec in zip(SEEDS, load_grid(grid/"keep.yaml").specs):
        assert finished(spec, grid) and not (places[seed]/EMBEDDINGS).exists() and size(places[seed]) < 1_000_000
    said = call("rescore", grid/"keep.yaml", "--score", "react", "--score", "energy", "--data-dir", grid)
    assert "keep_models: heads" in said.stdout + said.stderr, said
    table = (places[0]/"scores.csv").read_text()
    assert '"energy","threshold-free","AUROC"' in table and '"react","threshold-free","AUROC"' not in table
    said = call("corrupt", places[0], "--data-dir", grid)
    assert said.returncode == 2 and "its model was not kept" in said.stderr and "--again" in said.stderr, said.stderr
    assert "2 done" in run(grid, "all").stdout and was_let_go(places[0])  # not without being asked
    assert run(grid, "all", "--again").returncode == 0
    assert {seed: file_sha256(folder/"model.safetensors") for seed, folder in places.items()} == whole


def test_pictures_are_left_for_later_where_no_models_are_kept(tmp_path, data_dir):
    "Drawn once the notebook is run again: test_stale.py does."
    base = dict(dataset="av-digits", target="mfeat", method="erm", epochs=1, train_share=.1)
    path = write(tmp_path, "none", base=base, axes=dict(seed=[0]))
    assert call("grid", path, "--data-dir", data_dir).returncode == 0
    (folder,) = (data_dir/"runs").iterdir()
    notebook = (folder/"split.ipynb").read_text()
    assert "image/png" not in notebook and "Pictures are drawn once" in notebook
    assert read_record(folder)["results"] and (folder/"split.ipynb").stat().st_size < 100_000


def test_room_is_made_for_models_only_if_asked(grid):
    folder = folders(grid)[1]
    if was_let_go(folder): run(grid, "all", "--again")
    assert "0 of 0" in call("runs", "prune", "--data-dir", grid).stdout
    said = call("runs", "prune", "--only", "models", "--data-dir", grid)
    assert said.returncode == 0 and f"{HEAD} is left of it" in said.stdout and "2 of 2" in said.stdout, said.stderr
    assert all(was_let_go(folder) for folder in folders(grid).values())
    (folder/HEAD).write_bytes((folder/HEAD).read_bytes()[:-1])
    said = call("rescore", grid/"keep.yaml", "--score", "react", "--data-dir", grid)
    assert HEAD in said.stdout + said.stderr and "damaged" in said.stdout + said.stderr
    fields = ("--dataset", "av-digits", "--target", "mfeat", "--method", "erm", "--epochs", "1", "--seed", "1")
    assert "done before" in call("run", *fields, "--data-dir", grid).stdout
    again = call("run", *fields, "--again", "--data-dir", grid)
    assert again.returncode == 0 and (folder/"model.safetensors").is_file(), again.stderr


@pytest.mark.parametrize("content, says", [
    (dict(keep_models="bets"), "Did you mean 'best'?"),
    (dict(keep_models=["best"]), "Expected one of: all, best, heads, none"),
    (dict(keep_model="best"), "Did you mean 'keep_models'?"),
    (dict(keep_models="heads", corruptions=["fog"]), "keep_models: heads, but"),
    (dict(keep_models="none", corruptions=["fog"]), "expected all or best, or no key corruptions")])
def test_what_cannot_be_meant_is_said(tmp_path, content, says):
    path = tmp_path/"wrong.yaml"
    path.write_text(yaml.safe_dump(dict(base=dict(target="mfeat"), axes=dict(seed=[0])) | content))
    said = call("grid", path, "--dry-run", "--data-dir", tmp_path)
    assert said.returncode == 2 and says in said.stderr, said.stderr


def test_a_plan_counts_what_is_kept(tmp_path, data_dir):
    found = {}
    for keep in ("all", "best", "heads", "none"):
        said = call("plan", write(tmp_path, keep), "--json", "--data-dir", data_dir)
        assert said.returncode == 0, said.stderr
        found[keep] = json.loads(said.stdout)["total"]["disk_bytes"]
    assert found["all"] > found["best"] > found["heads"] > found["none"] > 0
    assert found["all"] - found["best"] == pytest.approx((found["all"] - found["heads"])/2)
