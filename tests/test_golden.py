"""Numbers of the published code, to the digits that its own reruns agree on (tests/golden/README.md)."""
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from golden_rules import FOLDER, close, close_stats, fill, no_dropout, stats
from torch.nn import functional as F

from moosa.methods.contrast import supcon
from moosa.methods.entropy import entropy, entropy_weights
from moosa.methods.model import Outputs, fused_head
from moosa.methods.catalogue import MoosaHyper
from moosa.methods.moosa import moosa
from moosa.evaluation.openset import published_sweep
from moosa.pretext.jigsaw import Jigsaw, sample_permutations, unrank_permutation

NAMES = {"v": "video", "f": "flow", "a": "audio"}
LOSS_CASES = [(letters, splits) for letters in ("VA", "VF", "FA", "VFA") for splits in ("s4", "s2")]


def load(name: str): return np.load(FOLDER/f"{name}.npz", allow_pickle=False)


class Step:
    "One published training step on given embeddings, computed by our objective on a device, in a precision."

    def __init__(self, letters: str, case: str, device: str = "cpu", dtype: torch.dtype = torch.float32):
        self.where = device, dtype
        self.file, self.case = load(f"losses_{letters}"), case
        self.order = {"VA": "va", "VF": "vf", "FA": "fa", "VFA": "vaf"}[letters]
        mask_ratio, ent_min, ent_temp, trans, contrast, explore, jigsaw_ratio, temp = self["hyper"].tolist()
        splits, self.perms = int(case[1:].split("_")[0]), self["jig_perms"]
        self.hyper = MoosaHyper(alpha_trans=trans, alpha_contrast=contrast, explore_loss_coeff=explore,
                                jigsaw_ratio=jigsaw_ratio,
                                entropy_min_weight=ent_min, entropy_weight_temp=ent_temp, mask_ratio=mask_ratio,
                                temp=temp,
                                jigsaw_num_splits=splits, jigsaw_samples=len(self.perms))

        def leaf(key): return torch.from_numpy(self.file[key]).to(*self.where).requires_grad_()

        self.embeddings = {NAMES[m]: leaf(f"{m}_emd") for m in self.order}
        self.logits = {NAMES[m]: leaf(f"{m}_logits") for m in self.order}
        self.masks = {NAMES[m]: torch.from_numpy(
            np.unpackbits(self.file[f"mask_{m}"], axis=1)[:, :self.file[f"{m}_emd"].shape[1]].astype(bool))
                      .to(device) for m in self.order}
        self.labels = torch.from_numpy(self.file["labels"]).to(device)

    def __getitem__(self, key): return self.file[f"{self.case}/{key}"]

    def run(self, autocast=nullcontext()):
        dims = {m: e.shape[1] for m, e in self.embeddings.items()}
        self.fused = no_dropout(fused_head(sum(dims.values()), int(self.file["num_class"])))
        self.objective = no_dropout(moosa(dims, self.hyper, seed=0))
        self.jigsaw = self.objective.terms["jigsaw"].task = Jigsaw(
            dims, self.perms.tolist(), self.hyper.jigsaw_num_splits)
        self.translation = self.objective.terms["translation"].task
        self.load_weights()
        for part in (self.fused, self.objective): part.to(*self.where)
        with autocast, pytest.MonkeyPatch.context() as patch:  # the masks of the golden file, in place of random ones
            fused = self.fused(torch.cat(list(self.embeddings.values()), 1))
            self.outputs = Outputs(self.embeddings, self.logits, fused)
            patch.setattr("moosa.pretext.translation.draw_masks", lambda embeddings, ratio: self.masks)
            self.total, self.values = self.objective(self.outputs, self.labels)
        self.total.backward()

    def load_weights(self):
        short = {name: letter for letter, name in NAMES.items()}
        self.live = fill(self.fused, "mlp_cls.enc_net.") | fill(self.jigsaw.head, "jigsaw_cls.enc_net.")
        for name, net in self.translation.translators.items():
            s, t = name.split("2")
            self.live |= fill(net, f"mlp_{short[s]}2{short[t]}.enc_net.")
        for m, projection in self.objective.terms["contrastive"].projections.items():
            self.live |= fill(projection.head, f"{short[m]}_proj.head.")


@pytest.fixture(scope="module", params=LOSS_CASES, ids=lambda p: f"{p[0]}-{p[1]}")
def step(request):
    step = Step(*request.param)
    step.run()
    return step


def test_loss_terms(step):
    heads = len(step.outputs.heads)
    close(step.total, step["total"])
    for ours, theirs in dict(classification="cls_weighted", jigsaw="loss_jigsaw", translation="trans_mean",
                             contrastive="loss_contrast", split_distance="split_distance").items():
        close(step.values[ours], step[theirs])
    close(step.values["entropy_min"]*step.hyper.entropy_min_weight, step["loss_ent_min"])

    def single(h): return (-(p := h.softmax(1))*(p + 1e-5).log()).sum(1).mean()

    close(single(step.outputs.fused), step["loss_u"])
    for m in step.order: close(single(step.logits[NAMES[m]]), step[f"loss_u_{m}"])
    assert heads == len(step.order) + 1


def test_heads_entropies_and_weights(step):
    close(step.outputs.fused, step["predict"])
    close(torch.stack([F.cross_entropy(h, step.labels, reduction="none") for h in step.outputs.heads], 1), step["ce"])
    close(entropy_weights(step.outputs.heads, step.hyper.entropy_weight_temp), step["ent_weights"])
    for m, key in (("v", "entropyp"), ("a", "entropya"), ("f", "entropyf")):
        if m in step.order: close(entropy(step.logits[NAMES[m]]), step[key])
    close(entropy(step.outputs.fused), step["entropypa"])


def test_translation_directions(step):
    with torch.no_grad(): directions = step.translation.directions(step.embeddings, step.masks)
    for s in step.order:
        for t in step.order:
            if s != t: close(directions[f"{NAMES[s]}2{NAMES[t]}"], step[f"{s}2{t}_loss"])


def test_input_gradients(step):
    for m in step.order:
        close(step.embeddings[NAMES[m]].grad, step[f"grad_{m}_emd"])
        close(step.logits[NAMES[m]].grad, step[f"grad_{m}_logits"])


def test_parameter_gradients(step):
    names = [str(n) for n in step["param_grad_names"]]
    for name, theirs in zip(names, step["param_grad_stats"]):
        close_stats(stats(step.live[name].grad), theirs, name, step.live[name].grad)
    assert set(names) == {n for n, p in step.live.items() if isinstance(p, torch.nn.Parameter)}


def test_projection_buffers(step):
    names = [str(n) for n in step["proj_bn_names"]]
    for name, theirs in zip(names, step["proj_bn_stats"]):
        close_stats(stats(step.live[name]), theirs, name, step.live[name])
    assert {n for n in names if "running" in n} == {n for n in step.live if "running" in n}


def test_published_permutations(step):
    assert np.array_equal(step["jig_perms"],
                          [unrank_permutation(int(i), step["jig_perms"].shape[1]) for i in step["jig_indices"]])


def cases(name, suffix): return sorted({k.rsplit("/", 1)[0] for k in load(name).files if k.endswith(suffix)})


@pytest.mark.parametrize("case", cases("supcon", "/features"))
def test_supcon(case):
    file = load("supcon")
    features = torch.from_numpy(file[f"{case}/features"]).requires_grad_()
    labels = torch.from_numpy(file[f"{case}/labels"]) if f"{case}/labels" in file else None
    loss = supcon(features, labels, float(file[f"{case}/temperature"]))
    loss.backward()
    close(loss, file[f"{case}/loss"])
    # a lone pair has loss 0, and their gradient is noise of 1e-7
    close(features.grad, file[f"{case}/grad"], floor=1e-6)


@pytest.mark.parametrize("case", [str(n) for n in load("threshold_sweep")["names"]])
def test_threshold_sweep(case):
    file = load("threshold_sweep")

    def get(key): return file[f"{case}/{key}"]

    sweep = published_sweep(torch.from_numpy(get("logits")), torch.from_numpy(get("labels")), int(get("num_class")))
    if str(get("err")):  # where the published code divides by zero, we define the result: nan, and no exception
        assert len(sweep.table) == 10
        return
    np.testing.assert_array_equal(np.float32(sweep.table["threshold"]), np.float32(get("thresholds")))
    for ours, theirs in dict(HOS="HOS", threshold="thr_HOS").items():
        assert np.float32(sweep.best[ours]) == np.float32(get(theirs)), ours
    assert sweep.best["OS*"] == pytest.approx(float(get("OS")), abs=1e-12)
    assert sweep.best["UNK"] == pytest.approx(float(get("UNK")), abs=1e-12)
    assert sweep.best_accuracy["accuracy"] == pytest.approx(float(get("best_overall_acc")), abs=1e-12)
    assert np.float32(sweep.best_accuracy["threshold"]) == np.float32(get("thr_acc"))


@pytest.mark.parametrize("key", [k for k in load("jigsaw_indices").files if not k.endswith("_perms")])
def test_jigsaw_indices(key):
    file = load("jigsaw_indices")
    seed, parts, count = (int(piece.lstrip("seednk")) for piece in key.split("_"))
    ours = sample_permutations(parts, count, seed)
    assert ours == [unrank_permutation(int(i), parts) for i in file[key]]
    if f"{key}_perms" in file: assert np.array_equal(ours, file[f"{key}_perms"])
