"""Clips that lack a modality: `missing_in_training`, from the manifest to the record."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from moosa.core import InputError
from moosa.data.catalogue import create_dataset
from moosa.data.dataset import DataSet
from moosa.data.doctor import examine, report
from moosa.data.folder import FolderData
from moosa.data.loader import ClipList, eval_batches
from moosa.evaluation.missing import with_missing
from moosa.evaluation.openset import evaluate, evaluate_missing
from moosa.evaluation.scores import score
from moosa.evaluation.sources import Sources
from moosa.extractors.base import Extractor
from moosa.extractors.cache import open_shard, read_manifest
from moosa.extractors.features import wanted_shards
from moosa.methods.catalogue import METHODS
from moosa.methods.model import Model, random_outputs
from moosa.methods.registry import create_objective
from moosa.runs.experiment import build_learner, open_experiment
from moosa.runs.lists import check_cells, hole_lines
from moosa.runs.predictions import load_predictions, save_predictions
from moosa.runs.given import spec_from
from moosa.runs.spec import Spec, fields_hash, spec_hash
from moosa.training.compute import make_fabric
from moosa.training.trainer import fit, predict

NETS = """
from torch import nn
from moosa.extractors.base import Extractor

def net(width, frozen_stem, frozen_bn):
    tail = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
    return Extractor(nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8)), tail, 8, frozen_stem, frozen_bn)

def pose(frozen_stem=False, frozen_bn="eval"): return net(6, frozen_stem, frozen_bn)

def tone(frozen_stem=False, frozen_bn="eval"): return net(4, frozen_stem, frozen_bn)
"""
NARROW = dict(trans_hidden_num=8, hidden_dim=8, out_dim=4, jigsaw_hidden=8, jigsaw_samples=4, jigsaw_num_splits=2)
WIDTHS = dict(pose=6, tone=4)
LACKING = dict(pose=9, tone=5)  # every ninth clip lacks its pose, every fifth its tone, every 45th both


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    "The folder of a data set with holes: three domains, four classes, seven clips of each."
    folder, draw = tmp_path_factory.mktemp("holed")/"own", np.random.default_rng(0)
    folder.mkdir()
    codes = {m: draw.normal(size=(4, width)) for m, width in WIDTHS.items()}
    lines, number = ["clip,class,domain,pose,tone,spare"], 0
    for domain in ("a", "b", "c"):
        for label in range(4):
            for i in range(7):
                number += 1
                files = {}
                for m, width in WIDTHS.items():
                    files[m] = "" if number % LACKING[m] == 0 else f"{m}{number}.npy"
                    if files[m]: np.save(folder/files[m], codes[m][label] + .3*draw.normal(size=width))
                np.save(folder/f"spare{number}.npy", np.zeros(1))
                lines.append(f"{domain}{label}{i},k{label},{domain},{files['pose']},{files['tone']},spare{number}.npy")
    (folder/"manifest.csv").write_text("\n".join(lines) + "\n")
    (folder/"holed_nets.py").write_text(NETS)
    return folder


@pytest.fixture
def spec(own, monkeypatch):
    "Makes the spec of a run on it."
    monkeypatch.syspath_prepend(own)

    def made(**given):
        nets = {m: f"holed_nets:{m}" for m in WIDTHS}
        return spec_from(dict(dataset=str(own), target="c", unknown=["k3"], modalities=["pose", "tone"], epochs=2,
                              batch_size=8, extractors=nets, weights="random", hyper=NARROW, lr=.01) | given)

    return made


def test_holes_stop_a_run_until_something_is_said(own, spec):
    with pytest.raises(InputError) as error: open_experiment(spec())
    said = str(error.value)
    assert "--missing-in-training skip" in said and "zero" in said and "mask" in said and "tone: " in said, said
    assert "moosa data check" in said
    with pytest.raises(InputError, match="nothing was started.*lack a modality|lack a modality"): check_cells([spec()])
    spare = dict(modalities=["spare"], extractors={"spare": "holed_nets:tone"}, method="erm", hyper={})
    assert not open_experiment(spec(**spare)).holes  # all have it


@pytest.mark.parametrize("value", ["mask,zero", "masked", "", "none", True, 3])
def test_bad_values(own, spec, value):
    with pytest.raises(InputError, match="missing_in_training"): spec(missing_in_training=value)


def test_runs_of_before_keep_their_names():
    plain = spec_from(dict(target="mfeat"))
    before = {name: value for name, value in vars(plain).items() if name != "missing_in_training"}
    assert fields_hash(before) == spec_hash(plain) != spec_hash(replace(plain, missing_in_training="mask"))
    assert Spec().missing_in_training == "stop"


def computed(spec, tmp_path):
    "What a run does, without its notebook."
    experiment, fabric, learner = open_experiment(spec, tmp_path), make_fabric("cpu", threads=1), build_learner(spec)
    experiment.precompute()
    state = fit(fabric, learner, experiment.train, experiment.validation, experiment.config())
    lists = (experiment.validation, experiment.test)
    parts = [predict(fabric, learner, clips, experiment.config(), with_embeddings=True) for clips in lists]
    validation, test = with_missing(learner.model, learner.objective, spec.missing, *parts)
    return experiment, learner, state, validation, test


@pytest.mark.parametrize("rule, more", [("skip", {}), ("zero", {}), ("mask", {}), ("mask", dict(features="stem",
                         frozen_stems=True, frozen_bn="eval")), ("mask", dict(setting="osda", sources=["a"]))])
def test_from_the_manifest_to_numbers(own, spec, tmp_path, rule, more):
    s = spec(missing_in_training=rule, **more)
    experiment, learner, state, validation, test = computed(s, tmp_path)
    table = FolderData(own).clips
    has = {m: dict(zip(table["clip"], table[m] != "")) for m in WIDTHS}
    for p in (validation, test):
        assert p.fused.isfinite().all() and all(e.isfinite().all() for e in p.embeddings.values())
        for m in WIDTHS:
            there = torch.tensor([has[m][clip] for clip in p.clips])
            assert any(has[other][clip] for other in WIDTHS for clip in p.clips)
            if rule == "skip": assert there.all() and not p.present
            else: assert not p.embeddings[m][~there].any() and p.embeddings[m][there].any(dim=1).all()
            if rule == "mask": assert p.having(m).equal(there)
    assert bool(test.present) == (rule == "mask")
    assert all(np.isfinite(list(row.values())).all() for row in state.history)
    # counted in the record, and said
    lists = experiment.holes["lists"]
    domain = experiment.spec.target
    mine = table[table.domain == domain]
    if "setting" in more: mine = mine[mine.part == "validation"]
    assert experiment.holes["rule"] == rule and lists["test"][domain]["clips"] == len(mine)
    assert lists["test"][domain]["lack"].get("tone", 0) == (mine.tone == "").sum()
    assert any("lack" in line and rule in line for line in hole_lines(experiment.holes))
    # evaluated, also with modalities missing, and kept
    results = evaluate(test, validation)
    assert 0 <= results["accuracy"]["tone"] <= 1 and evaluate_missing(test, validation)
    save_predictions(tmp_path, validation=validation, target=test)
    kept = load_predictions(tmp_path)["target"]
    assert kept.present.keys() == test.present.keys()
    for m, there in test.present.items(): assert kept.present[m].equal(there)
    for name in ("agreement", "ensemble", "knn"):
        assert all(x.isfinite().all() for x in score(name, kept, Sources(load_predictions(tmp_path)["validation"])))


def test_features_that_are_kept_have_zeros_for_holes(own, spec, tmp_path):
    frozen = dict(features="embedding", frozen_stems=True, frozen_bn="eval")
    s = spec(missing_in_training="zero", method="erm", hyper={}, **frozen)
    experiment = open_experiment(s, tmp_path)
    experiment.precompute()
    seen = 0
    for shards in wanted_shards(*experiment._seen()).values():
        for m, shard in shards.items():
            about, arrays = read_manifest(shard.place), open_shard(shard.place)
            holes = [about["clips"].index(clip) for clip in about.get("absent", [])]
            assert not any(a[holes].any() for a in arrays)
            assert all(a[[i for i in range(len(a)) if i not in holes]].any() for a in arrays)
            seen += len(holes)
    assert seen
    live = open_experiment(replace(s, features="live", views=None, features_dtype=None), tmp_path)
    assert experiment.test.present.keys() == live.test.present.keys() == {"pose", "tone"}


class Numbers(DataSet):
    "Clips in memory, of which some lack what they are told to lack."
    name, modalities = "numbers", ("pose", "tone")

    def __init__(self, lacking):
        self.lacking, n = lacking, len(lacking)
        self.clips = pd.DataFrame(dict(clip=[f"c{i}" for i in range(n)], domain="d", label=0, row=range(n)))
        draw = torch.Generator().manual_seed(n)
        self.data = {m: torch.randn(n, width, generator=draw) for m, width in WIDTHS.items()}

    def present(self, clips, modality): return [modality not in self.lacking[row] for row in clips["row"]]

    def load(self, clips, modalities, view=None):
        assert all(all(self.present(clips, m)) for m in modalities), "asked for what is not there"
        return {m: self.data[m][clips["row"].tolist()] for m in modalities}


def small_net(width):
    stem, tail = nn.Sequential(nn.Linear(width, 5), nn.BatchNorm1d(5)), nn.Sequential(nn.Linear(5, 8), nn.ReLU())
    return Extractor(stem, tail, 8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([(), ("pose",), ("tone",)]), min_size=1, max_size=9), st.integers(1, 5))
def test_who_is_whole_does_not_notice_the_others(lacking, batch_size):
    "In evaluation, clips that have all say what they say without the clips that have holes."
    if not any(not holes for holes in lacking): lacking = [*lacking, ()]
    torch.manual_seed(0)
    model, data = Model({m: small_net(width) for m, width in WIDTHS.items()}, 3).eval(), Numbers(lacking)
    batches = eval_batches(ClipList(data, data.clips, data.modalities), batch_size)
    outputs = [model(batch.data, None, batch.present) for batch in batches]
    whole = [row for row, holes in enumerate(lacking) if not holes]
    alone = model({m: data.data[m][whole] for m in WIDTHS})
    for m in WIDTHS:
        said = torch.cat([o.embeddings[m] for o in outputs])
        torch.testing.assert_close(said[whole], alone.embeddings[m], rtol=1e-5, atol=1e-6)
        assert not said[[row for row, holes in enumerate(lacking) if m in holes]].any()
    torch.testing.assert_close(torch.cat([o.fused for o in outputs])[whole], alone.fused, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_batch_norm_sees_only_who_is_there(count):
    torch.manual_seed(0)
    model, x = Model({m: small_net(width) for m, width in WIDTHS.items()}, 3).train(), torch.randn(5, 6)
    there = torch.arange(5) < count
    norm = model.extractors["pose"].stem[1]
    before = norm.running_mean.clone()
    model({"pose": x, "tone": torch.randn(5, 4)}, None, {"pose": there})
    changed = not norm.running_mean.equal(before)
    assert changed == (count > 1) and norm.training
    if count > 1:
        inside = model.extractors["pose"].stem[0](x[there]).mean(dim=0)
        torch.testing.assert_close(norm.running_mean, .9*before + .1*inside.detach())


DIMS = dict(video=8, flow=12, audio=4)


def loss_of(method, lacking, detach_fused=True, seed=0):
    "Terms of a method on outputs with holes, and the outputs; the fused head is left out of it."
    hyper = {k: v for k, v in NARROW.items() if k in vars(METHODS[method].hyper())}
    setting = "osda" if METHODS[method].only_adapts else "osdg"
    torch.manual_seed(0)
    objective = create_objective(method, DIMS, hyper, 0, setting)
    outputs, target = (random_outputs(DIMS, seed=seed + i, lacking=lacking) for i in range(2))
    objective.hooks.start(outputs.model)
    if objective.hooks.overrides("teacher"):
        outputs = replace(outputs, teacher=random_outputs(DIMS, seed=seed + 2, lacking=lacking))
    if METHODS[method].two_views:
        outputs = replace(outputs, second=random_outputs(DIMS, seed=seed + 3, lacking=lacking))
    if detach_fused: outputs, target = (replace(o, fused=o.fused.detach()) for o in (outputs, target))
    torch.manual_seed(1)
    _, terms = objective(outputs, torch.arange(8) % 5, target if objective.adapts else None)
    return terms, outputs, target


PLAIN = [name for name in METHODS if "+" not in name]
OPTIONS = ["moosa+outliers", "moosa+balance", "erm+balance", "mm-sada+balance", "moosa+sam"]
LOOK_AT_ZEROS = ("mixup", "osbp")  # they ask the fused head about embeddings of their own making


@pytest.mark.parametrize("method", [name for name in PLAIN + OPTIONS if name not in LOOK_AT_ZEROS])
@pytest.mark.parametrize("lacking", [dict(audio=[1, 2], flow=[2]), dict(audio=range(8)), dict(video=range(1, 8))])
def test_absent_rows_move_nothing(method, lacking):
    """The gradient of a masked term to an absent embedding is zero, whoever else is there: nobody, one, all but two."""
    # what it does, it does to all gradients together
    terms, outputs, target = loss_of(method, lacking, detach_fused="balance" not in method)
    moving = [value for value in terms.values() if value.requires_grad]
    assert all(value.isfinite() for value in terms.values())
    if not moving: return  # erm: its fused head was left out of this
    torch.stack(moving).sum().backward()
    for o in (outputs, target):
        for m, rows in lacking.items():
            # what nobody has is no embedding that anything flows into
            if "balance" in method and len(rows) == 8: continue
            gradient = o.embeddings[m].grad
            assert gradient is None or not gradient[list(rows)].any(), (method, m)


@pytest.mark.parametrize("method", PLAIN + OPTIONS)
def test_with_everybody_there_nothing_changes(method):
    "Masks that are all true give the numbers that no masks give, up to the order of sums."
    plain, _, _ = loss_of(method, {}, detach_fused=False)
    masked, outputs, _ = loss_of(method, dict(audio=[], flow=[]), detach_fused=False)
    assert outputs.present
    for name, value in plain.items(): torch.testing.assert_close(masked[name], value, rtol=1e-5, atol=1e-6)


def test_the_doctor_counts_holes(own):
    data = create_dataset(str(own))
    found = examine(data, ["pose", "tone"], workers=1)
    lack = {m: (data.clips[m] == "").sum() for m in WIDTHS}
    assert found[found.problem == "hole"].modality.value_counts().to_dict() == lack
    assert not (found.level == "error").any()
    said = report(data, found)
    assert "Clips that lack a modality" in said and "missing_in_training" in said and "- b: of 28 clips" in said


def test_half_a_modality_and_no_modality(tmp_path):
    for name in ("a.mp4", "x.mp4", "y.mp4"): (tmp_path/name).write_bytes(b"")
    def message(*lines):
        (tmp_path/"manifest.csv").write_text("\n".join(["clip,class,domain,video,flow_x,flow_y", *lines]) + "\n")
        with pytest.raises(InputError) as error: FolderData(tmp_path)
        return str(error.value)

    assert "line 2, column flow_y: it is empty, but the clip has the other half" in message("a,run,sea,a.mp4,x.mp4,")
    assert "line 3: the clip has no file; expected one of video, flow" in message("a,run,sea,a.mp4,x.mp4,y.mp4",
                                                                                  "b,run,sea,,,")
    assert "no clip has a file of flow; leave the column out" in message("a,run,sea,a.mp4,,")


def test_a_folder_tree_may_have_holes(tmp_path):
    for name in ("sea/run/a.mp4", "sea/run/a.wav", "sea/run/b.mp4", "sea/run/c.wav"):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).write_bytes(b"")
    data = FolderData(tmp_path)
    assert data.modalities == ("video", "audio")
    assert {m: data.present(data.clips, m) for m in data.modalities} == dict(video=[True, True, False],
                                                                             audio=[True, False, True])
