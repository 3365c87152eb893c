"""Pairs of source and target clips tell nothing of the target's labels, on every built-in data set; lists here are
sorted by class, as most are on disk.
"""
from dataclasses import asdict

import pandas as pd
import pytest
import torch

from moosa.runs import experiment
from moosa.data.dataset import DataSet
from moosa.data.digits import AVDigits
from moosa.data.catalogue import dataset_class
from moosa.data.loader import ClipList, Pairs, train_batches
from moosa.data.minihac import items
from moosa.data.views import View
from moosa.runs.given import spec_from
from moosa.runs.spec import mended, spec_hash

EPOCHS = 4
TARGETS = {"av-digits": "mfeat", "mini-hac": "cartoon", "hac": "animal", "epic": "D1"}


class Told(DataSet):
    "A data set whose clips' data are their classes, so that a batch tells what it shows."
    threads = 1

    def __init__(self, described, clips: pd.DataFrame):
        self.clips = clips
        self.classes = described.classes
        self.modalities = described.modalities
        self.test_parts = described.test_parts
        self.told = dict(zip(clips["clip"], clips["class"]))

    def load(self, clips, modalities, view=None):
        return {m: torch.tensor([self.told[c] for c in clips["clip"]]) for m in modalities}


def table(dataset: str) -> pd.DataFrame:
    "A data set's clips, without its files."
    described = dataset_class(dataset)
    if dataset == "av-digits": return AVDigits().clips
    if dataset == "mini-hac":
        counts = {(i.domain, "validation" if i.index >= 32 else "train",
                   described.classes[i.label]): (8 if i.index >= 32 else 32) for i in items(40)}
    else: counts = described.official_counts
    rows = [(f"{domain}/{part}/{name}-{k}", domain, described.classes.index(name), part)
            for (domain, part, name), n in counts.items() for k in range(n)]
    return pd.DataFrame(rows, columns=["clip", "domain", "class", "part"])


def epochs(dataset: str, sources: int, monkeypatch, **how) -> tuple[pd.DataFrame, pd.DataFrame, object]:
    """Pairs as training sees them: columns epoch, source, target, the two clips' classes; chance: shares of classes in
    source and target; the experiment.
    """
    clips, target = table(dataset), TARGETS[dataset]
    there = [d for d in clips.domain.unique() if d != target][:sources]
    spec = spec_from(dict(dataset=dataset, setting="osda", sources=there, target=target, features="live", **how))
    monkeypatch.setattr(experiment, "open_dataset", lambda spec, folder: Told(dataset_class(dataset), clips))
    opened, m = experiment.open_experiment(spec), spec.modalities[0]
    batches = [(epoch, b) for epoch in range(EPOCHS)
               for b in train_batches(opened.train, spec.batch_size, spec.seed, epoch)]
    found = pd.concat([pd.DataFrame(dict(epoch=epoch, source=b.data[m], target=b.unlabelled[m]))
                       for epoch, b in batches])
    lists = dict(source=opened.split.train["class"],
                 target=opened.split.unlabelled["clip"].map(opened.train.target.dataset.told))
    chance = pd.DataFrame({name: classes.value_counts(normalize=True) for name, classes in lists.items()}).fillna(0)
    return found, chance, opened


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("dataset", TARGETS)
def test_pairs_are_blind_to_labels(dataset, sources, archives, monkeypatch):
    found, chance, opened = epochs(dataset, sources, monkeypatch)
    assert isinstance(opened.train, Pairs) and opened.spec.pairing == "shuffled"
    equal = (chance.source*chance.target).sum()
    assert abs((found.source == found.target).mean() - equal) < 4*(equal*(1 - equal)/len(found))**.5 + 1e-3
    for _, epoch in found.groupby("epoch"):
        for name in ("source", "target"):
            shares = epoch[name].value_counts(normalize=True).reindex(chance.index, fill_value=0)
            assert (shares - chance[name]).abs().max() < .03


def test_the_published_pairs_stay_reachable_and_tell_labels(archives, monkeypatch):
    """The very thing that the others are held against: by position, AV-digits' sorted lists agree in the digit far more
    often than one in ten.
    """
    found, chance, _ = epochs("av-digits", 2, monkeypatch, pairing="published")
    assert (found.source == found.target).mean() > .4 and (found.target >= 8).mean() < .15


@pytest.mark.parametrize("lengths", [(30, 50), (50, 30), (40, 40), (7, 50)])
def test_every_clip_comes_equally_often_up_to_one(lengths):
    lists = [pd.DataFrame(dict(clip=[f"{k}/{i}" for i in range(n)], label=0)) for k, n in enumerate(lengths)]
    stub = type("Stub", (DataSet,), dict(modalities=("video",), load=lambda *_: {}))()
    seen = [ClipList(stub, clips, ["video"]) for clips in lists]
    twice = []
    for epoch in range(60):
        rows = Pairs(*seen).seen(View(0, epoch)).rows()
        counts = [pd.Series(r).value_counts().reindex(range(n), fill_value=0) for r, n in zip(rows, lengths)]
        assert all(c.max() - c.min() <= 1 and c.min() >= 1 for c in counts)
        twice.append(counts)
    means = [sum(c[k] for c in twice)/len(twice) for k in (0, 1)]  # over epochs, none is favoured for where it stands
    assert all(abs(m - max(lengths)/n).max() < .3 for m, n in zip(means, lengths))


def test_presets_keep_the_published_pairs_and_others_do_not():
    task = dict(sources="D1", target="D2")
    for kind in ("published", "shared"): assert spec_from(dict(preset=f"{kind}-osda", **task)).pairing == "published"
    assert spec_from(dict(preset="shared-osda", pairing="shuffled", **task)).pairing == "shuffled"
    assert spec_from(dict(dataset="epic", setting="osda", **task)).pairing == "shuffled"


def test_a_run_that_was_shuffled_before_is_not_taken_for_one_of_now():
    names = [spec_from(dict(setting="osda", target="mfeat", pairing=pairing)) for pairing in ("shuffled", "published")]
    assert mended(asdict(names[0])) and not mended(asdict(names[1])) and spec_hash(names[0]) != spec_hash(names[1])
