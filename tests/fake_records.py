"""Thousands of finished runs that nobody trained: one stored record and one set of files, under many specs."""
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from conftest import ROOT

from moosa.core import file_sha256
from moosa.runs.spec import Spec, spec_hash

METHODS = ("erm", "rna-net", "mixup", "simmmdg", "moosa")


def grid_text(cells: int) -> str:  # YAML
    "A grid of so many cells, a multiple of 50 (two targets, five methods, five learning rates, some seeds), all quick."
    targets, rates = ("mfeat", "mnist"), (.0001, .0003, .001, .003, .01)
    seeds, rest = divmod(cells, len(targets)*len(METHODS)*len(rates))
    assert seeds and not rest, f"{cells} is no multiple of 50"
    axes = dict(target=targets, method=METHODS, lr=rates, seed=range(seeds))
    lines = [f"  {name}: [{', '.join(map(str, values))}]" for name, values in axes.items()]
    return "\n".join(["base: {dataset: av-digits, epochs: 1}", "axes:", *lines]) + "\n"


def kept_files(folder: Path, clips: int):
    "Write the predictions, clips and history of a run of two networks for so many clips of each part."
    import torch

    from moosa.evaluation.openset import Predictions
    from moosa.runs.predictions import save_predictions

    generator = torch.Generator().manual_seed(0)

    def part(known: int, classes: int) -> Predictions:
        labels = torch.arange(clips) % classes
        embeddings = {m: torch.randn(clips, 64, generator=generator) for m in ("image", "speech")}
        logits = {m: torch.randn(clips, known, generator=generator) for m in ("image", "speech")}
        return Predictions(torch.randn(clips, known, generator=generator), logits, labels,
                           [f"clip-{i}" for i in range(clips)], embeddings, {})

    folder.mkdir(parents=True)
    save_predictions(folder, validation=part(8, 8), train=part(8, 8), target=part(8, 10))
    (folder/"history.csv").write_text('"epoch","train_loss","validation_loss"\n"0","1.5","1.25"\n')


def fill(
    data_dir: Path,
    specs: Iterable[Spec],  # resolved
    clips: int = 100,  # in each part of what is kept of a run
):
    "Make a finished run of each spec: a record of its own, and hard links to the files that all share."
    like = json.loads((ROOT/"tests"/"records"/"demo.jsonl").read_text().splitlines()[0])
    kept = data_dir/"kept"
    if not kept.exists(): kept_files(kept, clips)
    facts = {p.name: dict(bytes=p.stat().st_size, sha256=file_sha256(p)) for p in sorted(kept.iterdir())}
    for number, spec in enumerate(specs):
        name = spec_hash(spec)
        place = data_dir/"runs"/name
        place.mkdir(parents=True)
        for file in facts: os.link(kept/file, place/file)
        results = {group: dict(values) for group, values in like["results"].items()}
        results["source-quantile"]["HOS"] = results["oracle"]["HOS"] = number % 97/97  # no two alike by chance
        record = like | dict(hash=name, spec=asdict(spec), selected_epoch=0, files=facts, results=results)
        (place/"record.json").write_text(json.dumps(record, indent=1))
