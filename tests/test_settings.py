"""Every setting trains and is evaluated, on digits and on video with sound; target labels change nothing before
evaluation; impossible requests stop before training.
"""
import numpy as np
import pytest
import torch

from moosa.core import InputError
from moosa.runs.experiment import Experiment, build_learner, open_experiment
from moosa.runs.lists import make_split
from moosa.data.loader import ClipList, Pairs, train_batches
from moosa.evaluation.openset import evaluate
from moosa.runs.given import spec_from
from moosa.runs.spec import spec_hash
from moosa.training.compute import make_fabric
from moosa.training.trainer import fit, predict

SMALL = dict(jigsaw_num_splits=2, jigsaw_samples=8, jigsaw_hidden=32, trans_hidden_num=32, hidden_dim=32)
SETTINGS = {
    "generalization": dict(setting="osdg"),
    "single source": dict(setting="osdg", sources=1),
    "adaptation": dict(setting="osda", sources=1),
    "adaptation from two sources, shuffled pairs": dict(setting="osda", pairing="shuffled"),
    "open partial": dict(setting="open-partial"),
    "closed": dict(setting="closed"),
    "closed, single source": dict(setting="closed", sources=1),
    "in domain": dict(setting="in-domain"),
    "in domain, all known": dict(setting="in-domain", unknown=()),
    "three unknown classes": dict(setting="osdg", unknown=3),
}
DATA = {"av-digits": (("mnist", "optdigits"), "mfeat"), "mini-hac": (("human", "animal"), "cartoon")}


def make_spec(dataset, **how):
    sources, target = DATA[dataset]
    if isinstance(n := how.get("sources"), int): how["sources"] = sources[:n]
    small = dict(epochs=1, hyper=SMALL) if how.get("method", "moosa") == "moosa" else dict(epochs=1)
    return spec_from({"dataset": dataset, "target": target, "batch_size": 4, "views": 1, **small, **how})


def train(spec, folder, change=lambda experiment: None):
    experiment = open_experiment(spec, folder)
    change(experiment)
    experiment.precompute()
    fabric, learner, config = make_fabric("cpu", threads=1), build_learner(spec, folder), experiment.config(workers=0)
    few(experiment)
    state = fit(fabric, learner, experiment.train, experiment.validation, config)
    return experiment, state, learner, *(predict(fabric, learner, clips, config)
                                         for clips in (experiment.validation, experiment.test))


def few(experiment: Experiment, n: int = 160):
    "Keep only some of the training clips: these tests ask whether it runs, not how well."
    lists = [experiment.train.source,
             experiment.train.target] if isinstance(experiment.train, Pairs) else [experiment.train]
    for clips in lists: clips.clips = clips.clips.sample(min(n, len(clips)), random_state=0)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("dataset", DATA)
def test_every_setting_trains_and_is_evaluated(name, dataset, request):
    folder = request.getfixturevalue("generated" if dataset == "mini-hac" else "data_dir")
    spec = make_spec(dataset, **SETTINGS[name])
    experiment, state, learner, validation, test = train(spec, folder)
    assert np.isfinite(state.history[0]["loss"]) and ("target_kept" in state.history[0]) == (spec.setting == "osda")
    results, open_set = evaluate(test, validation), bool(spec.unknown)
    of_open_sets = {"oracle", "source-quantile", "threshold-free"}
    assert of_open_sets & set(results) == (of_open_sets if open_set else set())
    numbers = [v for group in results.values() for v in group.values()]
    assert np.isfinite(numbers).all() and 0 <= results["calibration"]["ECE"] <= 1
    assert (test.labels >= test.num_known).any() == open_set


def shuffled(experiment: Experiment):
    "Give the target's clips each other's classes. The lists are the same; their labels are not."
    clips = experiment.dataset.clips
    rows = clips.index[clips.domain == experiment.spec.target]
    clips.loc[rows, "class"] = clips.loc[rows, "class"].sample(frac=1, random_state=7).to_numpy()
    split = make_split(experiment.spec, experiment.dataset)
    experiment.test.clips = split.test
    if isinstance(experiment.train, Pairs): experiment.train.target.clips = split.unlabelled
    if not isinstance(experiment.train, Pairs):
        experiment.train = ClipList(experiment.train.dataset, split.train, experiment.spec.modalities)


@pytest.mark.parametrize("setting", ["osda", "osdg"])
def test_target_labels_change_nothing_until_evaluation(setting, data_dir):
    """Weights, history and predictions are equal to the byte; only what the target's clips are said to be differs, and
    so the numbers.
    """
    spec = make_spec("av-digits", setting=setting)
    right, wrong = train(spec, data_dir), train(spec, data_dir, shuffled)
    for a, b in zip(right[2].state_dict().values(), wrong[2].state_dict().values()): assert torch.equal(a, b)

    def drop_time(state): return [{k: v for k, v in row.items() if k != "seconds"} for row in state.history]

    assert drop_time(right[1]) == drop_time(wrong[1])
    order = {name: i for i, name in enumerate(wrong[4].clips)}
    assert set(order) == set(right[4].clips)
    again = torch.tensor([order[name] for name in right[4].clips])
    assert torch.equal(right[4].fused, wrong[4].fused[again])
    assert not torch.equal(right[4].labels, wrong[4].labels[again])
    assert evaluate(right[4], right[3])["accuracy"] != evaluate(wrong[4], wrong[3])["accuracy"]


def test_no_label_of_the_target_is_loaded_in_training(data_dir):
    experiment = open_experiment(make_spec("av-digits", setting="osda", sources=1), data_dir)
    assert not {"class", "label"} & set(experiment.train.target.clips.columns)
    batch = next(iter(train_batches(experiment.train, 8, 0, 0)))
    assert len(batch.labels) == 8 and set(batch.clips) <= set(experiment.split.train["clip"])
    assert len(batch.unlabelled["image"]) == 8


def test_source_only_baseline_never_sees_the_target(data_dir):
    spec = make_spec("av-digits", setting="osda", sources=1, method="erm")
    experiment = open_experiment(spec, data_dir)
    assert isinstance(experiment.train, ClipList) and set(experiment.train.clips.domain) == {"mnist"}


IMPOSSIBLE = {
    "overlap": (dict(sources=("mnist", "mfeat")), "also among the sources"),
    "unknown in sources": (dict(setting="open-partial",
                                source_classes={"mnist": list("0128"), "optdigits": list("34567")},
                                target_classes=list("01")),
                           "'8' is also among the known classes of mnist"),
    "class nobody shows": (dict(setting="open-partial",
                                source_classes={"mnist": list("012"), "optdigits": list("3456")},
                                target_classes=list("01")), "no source shows 7"),
    "not a class": (dict(setting="open-partial", source_classes={"mnist": ["zero"], "optdigits": list("34567")},
                         target_classes=list("01")), "'zero' is not known"),
    "sources without classes": (dict(setting="open-partial", source_classes={"mnist": list("012")}), "each source"),
    "nothing unknown": (dict(unknown=()), "setting=closed"),
    "unknown in closed": (dict(setting="closed", unknown=("8",)), "all classes are known"),
    "too many unknown": (dict(unknown=9), "at least 2 stay known"),
    "pairs without adaptation": (dict(pairing="shuffled"), "setting=osda"),
    "gate without adaptation": (dict(hyper={"target_filter_thr": 0.5}), "setting=osda"),
    "two domains in domain": (dict(setting="in-domain", sources=("mnist",)), "Leave sources out"),
    "translation by erm": (dict(method="erm", missing=("translate",)), "missing"),
    "misspelt setting": (dict(setting="ogsd"), "osdg"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_requests_stop_at_once(name):
    how, message = IMPOSSIBLE[name]
    with pytest.raises(InputError) as error: spec_from({"target": "mfeat", **how})
    assert message in str(error.value)


def test_lists_that_cannot_be_made_stop_before_training(data_dir):
    "What only the table of clips can tell."
    def without(change, **how):
        experiment = open_experiment(spec_from({"target": "mfeat", **how}), data_dir)
        clips = experiment.dataset.clips
        experiment.dataset.clips = clips[~change(clips)]
        with pytest.raises(InputError) as error: make_split(experiment.spec, experiment.dataset)
        return str(error.value)

    def target(c): return c.domain == "mfeat"

    assert "to adapt to" in without(lambda c: target(c) & (c.part == "train"), setting="osda")
    assert "no training clip of known class(es) 3" in without(lambda c: ~target(c) & (c["class"] == 3))
    assert "no test clip of unknown class(es) 8, 9" in without(lambda c: target(c) & (c["class"] >= 8))
    assert "no test clip of known class(es) 0, 1" in without(lambda c: target(c) & (c["class"] < 8))


def test_the_setting_is_part_of_what_names_a_run():
    hashes = {spec_hash(make_spec("av-digits", **how)) for how in SETTINGS.values()}
    assert len(hashes) == len(SETTINGS)
