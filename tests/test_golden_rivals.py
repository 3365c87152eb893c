"""Numbers of the 2026 benchmark's own code for the rivals (tests/golden_rivals/README.md)."""
import copy
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rules import close, close_stats, fill, no_dropout, stats
from torch import nn

from moosa.data.loader import Batch
from moosa.extractors.base import Extractor
from moosa.methods.catalogue import CmrfHyper, GmpHyper, JatHyper, MbcdHyper, NelHyper, RnaHyper, SimmmdgHyper
from moosa.methods.cmrf import cmrf, draw_shares
from moosa.methods.erm import erm
from moosa.methods.gmp import gmp
from moosa.methods.jat import jat
from moosa.methods.mbcd import mbcd, perturbed_statistics
from moosa.methods.model import Model, Outputs, fused_head, joined
from moosa.methods.nel import mean_shift, nel
from moosa.methods.rna_net import rna_net
from moosa.methods.simmmdg import simmmdg
from moosa.training.learner import Learner

FOLDER = Path(os.environ.get("MOOSA_GOLDEN_RIVALS") or Path(__file__).parent/"golden_rivals")
NAMES = {"v": "video", "a": "audio", "f": "flow"}
ORDERS = {"VA": "va", "VF": "vf", "FA": "fa", "VFA": "vaf", "AF": "af", "VAF": "vaf", "VA_k20": "va"}
CASES = ["VA", "VF", "FA", "VFA"]
BEFORE_NORM = ("head.0.bias", "head.3.bias", "domainclassifier.0.bias")  # their gradient is rounding noise


class Golden:
    "One case of a file."

    def __init__(self, name: str, case: str):
        self.file, self.case = np.load(FOLDER/f"{name}.npz", allow_pickle=False), case
        self.order = ORDERS.get(case.split("/")[0].removesuffix("_steps"), "")
        self.live = {}  # parameters and buffers under the reference's names

    def __getitem__(self, key): return self.file[f"{self.case}/{key}"]

    def __contains__(self, key): return f"{self.case}/{key}" in self.file

    def tensor(self, key) -> torch.Tensor: return torch.from_numpy(self[key])

    def leaves(self, suffix: str) -> dict[str, torch.Tensor]:
        return {NAMES[m]: self.tensor(f"{m}_{suffix}").requires_grad_() for m in self.order}

    def head(self, dims) -> nn.Module:
        head = no_dropout(fused_head(sum(dims.values()), 5, 20))
        self.live |= fill(head, "mlp_cls.enc_net.")
        return head

    def fill(self, module: nn.Module, prefix: str): self.live |= fill(module, prefix)

    def check_gradients(self, skip=()):
        for name, theirs in zip(map(str, self["param_grad_names"]), self["param_grad_stats"]):
            if name.startswith(skip): continue
            ours = self.live[name].grad
            if np.isnan(theirs).all(): assert ours is None or not ours.any(), name
            elif name.endswith(BEFORE_NORM): assert ours is None or ours.abs().max() < 1e-5, name
            else: close_stats(stats(ours), theirs[:2 + ours.numel()], name, ours, floor=1e-2)

    def check_buffers(self):
        for name, theirs in zip(map(str, self["bn_names"]), self["bn_stats"]):
            close_stats(stats(self.live[name]), theirs, name, self.live[name])


def leaf_case(golden: Golden, logits: bool = True) -> Outputs:
    "What a model would say: given embeddings and unimodal logits, and the golden fused head."
    embeddings = golden.leaves("emd")
    head = golden.head({m: e.shape[1] for m, e in embeddings.items()})
    unimodal = golden.leaves("logits") if logits else {m: torch.zeros(len(e), 5) for m, e in embeddings.items()}
    return Outputs(embeddings, unimodal, head(joined(embeddings)))


def dims_of(outputs: Outputs) -> dict[str, int]: return {m: e.shape[1] for m, e in outputs.embeddings.items()}


def check_inputs(golden: Golden, outputs: Outputs, logits: bool = True, prefix: str = "grad_"):
    for letter in golden.order:
        close(outputs.embeddings[NAMES[letter]].grad, golden[f"{prefix}{letter}_emd"])
        if logits: close(outputs.logits[NAMES[letter]].grad, golden[f"{prefix}{letter}_logits"])


def permuted(weight: torch.Tensor, outputs: Outputs, order: str) -> torch.Tensor:
    "Columns of a layer on joined embeddings, of the reference's order, in ours."
    parts = dict(zip(order, weight.split([outputs.embeddings[NAMES[m]].shape[1] for m in order], dim=1)))
    return torch.cat([parts[letter] for letter in (next(k for k, v in NAMES.items() if v == m)
                                                   for m in outputs.embeddings)], dim=1)


@pytest.mark.parametrize("case", CASES)
def test_erm(case):
    golden = Golden("erm", case)
    outputs = leaf_case(golden, logits=False)
    total, _ = erm(dims_of(outputs))(outputs, golden.tensor("labels"))
    total.backward()
    close(outputs.fused, golden["predict"])
    close(total, golden["total"])
    check_inputs(golden, outputs, logits=False)
    golden.check_gradients()


@pytest.mark.parametrize("case", CASES)
def test_rna_net(case):
    golden = Golden("rna", case)
    outputs = leaf_case(golden, logits=False)
    total, values = rna_net(dims_of(outputs), RnaHyper(*golden["hyper"].tolist()))(outputs, golden.tensor("labels"))
    total.backward()
    close(values["norm_alignment"], golden["rna"])
    close(total, golden["total"])
    check_inputs(golden, outputs, logits=False)
    golden.check_gradients()


@pytest.mark.parametrize("case", CASES)
def test_simmmdg(case):
    golden = Golden("simmmdg", case)
    outputs = leaf_case(golden, logits=False)
    trans, contrast, explore, temp = golden["hyper"].tolist()
    hyper = SimmmdgHyper(trans, contrast, explore, trans_hidden_num=28, hidden_dim=40, out_dim=12, temp=temp)
    objective = no_dropout(simmmdg(dims_of(outputs), hyper))
    letters = {name: letter for letter, name in NAMES.items()}
    for name, net in objective.terms["translation"].task.translators.items():
        golden.fill(net, "mlp_{}2{}.enc_net.".format(*(letters[m] for m in name.split("2"))))
    for m, net in objective.terms["contrastive"].projections.items(): golden.fill(net.head, f"{letters[m]}_proj.head.")
    total, values = objective(outputs, golden.tensor("labels"))
    total.backward()
    for ours, theirs in dict(translation="trans_mean", contrastive="loss_contrast", split_distance="split_distance",
                             classification="ce").items(): close(values[ours], golden[theirs])
    close(total, golden["total"])
    check_inputs(golden, outputs, logits=False)
    golden.check_gradients()
    golden.check_buffers()


@pytest.mark.parametrize("sources", ["multi", "single"])
@pytest.mark.parametrize("case", CASES)
def test_jat(case, sources):
    golden = Golden("jat", f"{case}/{sources}")
    outputs = replace(leaf_case(golden), domains=golden.tensor("domains"))
    calls = [m for m in "vfa" if m in golden.order]  # in which the reference asks its one domain classifier
    outputs = replace(outputs, embeddings={NAMES[m]: outputs.embeddings[NAMES[m]] for m in calls})
    rev, rev2, of_joined, local, modal, heads, _ = golden["hyper"].tolist()
    hyper = JatHyper(rev, rev2, of_joined, local, modal, heads, projection_dim=18, joint_dim=22)
    objective = no_dropout(jat(dims_of(outputs), hyper))
    model, term = Model({m: _OfSize(d) for m, d in dims_of(outputs).items()}, 5, num_sources=2), objective.hooks
    if sources == "single": model.num_sources = 1
    term.start(model)
    no_dropout(objective)
    golden.fill(term.modality_guess.classifier, "modal_disc.classifier.0.")
    numbers = [int(golden[f"modal_label_{m}"]) for m in calls]  # of the modalities, in the reference
    with torch.no_grad():
        for p in term.modality_guess.classifier.parameters(): p.copy_(p[numbers].clone())
    for m in calls: golden.fill(term.modality_guess.projections[NAMES[m]], f"{m}_proj.proj.")
    if sources == "multi":
        for m in calls: golden.fill(term.domain_guess.projections[NAMES[m]], f"{m}_proj2.proj.")
        golden.fill(term.domain_guess.classifier, "domain_disc.domainclassifier.")
        golden.fill(term.joint_guess, "domain_disc_global.enc_net.")
        first = term.joint_guess[0].weight
        with torch.no_grad(): first.copy_(permuted(first, outputs, golden.order))
    total, values = objective(outputs, golden.tensor("labels"))
    total.backward()
    close(values["modality"], modal*golden["modal_adv_loss"])
    close(values["heads"], heads*golden["cls_loss"])
    close(values["classification"], golden["ce"])
    if sources == "multi":
        close(values["domain"], local*golden["domain_adv_loss_local"])
        close(values["joint_domain"], of_joined*golden["domain_adv_loss_global"])
        golden.check_buffers()
    close(total, golden["total"])
    check_inputs(golden, outputs)
    unused = ("domain_disc", *(f"{m}_proj2" for m in calls)) if sources == "single" else ()
    golden.check_gradients(skip=("modal_disc", "domain_disc_global.enc_net.0.weight", *unused))  # rows, columns differ


class _OfSize(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim


@pytest.mark.parametrize("case", ["VA", "VF", "AF", "VAF", "VA_k20"])
def test_nel(case):
    golden = Golden("nel", case)
    both = leaf_case(golden, logits=False)
    labels = golden.tensor("labels")
    first = torch.arange(2*len(labels)) < len(labels)
    alpha, beta, temp_s, temp_u, k = golden["hyper"].tolist()
    hyper = NelHyper(alpha, beta, temp_s, temp_u, int(k), hidden_dim=40, out_dim=12)
    objective = no_dropout(nel(dims_of(both), hyper))
    for letter in golden.order: golden.fill(objective.hooks.projections[NAMES[letter]].head, f"{letter}_proj.head.")
    total, values = objective(replace(both.rows(first), second=both.rows(~first)), labels)
    total.backward()
    close(2*values["classification"], golden["cls_loss"])
    close(2*values["neighbours"], alpha*golden["loss_unsupervised"])
    close(2*values["contrast"], (1 - alpha)*golden["loss_supervised"])
    close(2*values["spread"], beta*golden["loss_nee"])
    close(total, golden["total"])
    z = golden.tensor("proj")
    close(torch.stack([mean_shift(z[:, i], int(k)) for i in range(z.shape[1])], 1), golden["mean_shift"])
    check_inputs(golden, both, logits=False)
    golden.check_gradients()
    golden.check_buffers()


def pair_shares(golden: Golden, step: str = ""):
    "The golden file's shares, by the names of two modalities in any order."
    def shares(a: str, b: str, clips: int, generator) -> torch.Tensor:
        a, b = (next(k for k, v in NAMES.items() if v == m) for m in (a, b))
        if f"{step}lam_{a}{b}" in golden: return golden.tensor(f"{step}lam_{a}{b}")
        return (1 - golden.tensor(f"{step}lam_{b}{a}")).flip(0)  # of the other one

    return shares


@pytest.mark.parametrize("early", [True, False], ids=["before-the-start", "teaching"])
@pytest.mark.parametrize("case", CASES)
def test_cmrf(case, early):
    golden = Golden("cmrf", case)
    outputs = leaf_case(golden)
    taught = {NAMES[m]: golden.tensor(f"{m}_emd_teacher") for m in golden.order}
    outputs = replace(outputs, teacher=Outputs(taught, outputs.logits, outputs.fused))
    mix_alpha, mix, distill, contrast, temp = golden["hyper"].tolist()
    hyper = CmrfHyper(contrast, distill, mix, mix_alpha=mix_alpha, temp=temp, sma_start_step=400, hidden_dim=40,
                      out_dim=12)
    term = (objective := no_dropout(cmrf(dims_of(outputs), hyper))).hooks
    for letter in golden.order:
        golden.fill(term.projections[NAMES[letter]].head, f"{letter}_proj_m.head.")
        fill(term.mean_projections.copy[NAMES[letter]].head, f"{letter}_proj_m_sma.head.")
    term.shares = pair_shares(golden)
    term.mean_projections.steps += 399 if early else 400
    total, values = objective(outputs, golden.tensor("labels"))
    total.backward()
    prefix = "early_" if early else ""
    close(total, golden[f"{prefix}total"])
    check_inputs(golden, outputs, prefix=f"{prefix}grad_")
    if early: return
    close(values["contrast"], contrast*golden["loss_contrast"])
    close(values["classification"], golden["ce"])
    golden.check_gradients()
    golden.check_buffers()


@pytest.mark.parametrize("alpha", [.1, .5, 1.])
def test_cmrf_draws_shares_as_published(alpha):
    file = np.load(FOLDER/"cmrf.npz")
    generator = np.random.RandomState(int(file["lam_rule/np_seed"]))
    close(draw_shares(6, alpha, generator), file[f"lam_rule/alpha{alpha}"])


def tiny_model(golden: Golden) -> Model:
    "Extractors of one layer, heads and the fused head, with golden weights."
    widths, inputs = dict(v=32, a=16, f=24), dict(v=10, a=6, f=8)
    tails = {m: nn.Sequential(nn.Linear(inputs[m], widths[m]), nn.ReLU()) for m in golden.order}
    extractors = {NAMES[m]: Extractor(nn.Identity(), tail, widths[m]) for m, tail in tails.items()}
    model = Model(extractors, 5, fused_hidden=20, num_sources=2)
    for m in golden.order:
        golden.fill(model.extractors[NAMES[m]].tail[0], f"ext_{m}.layer4.")
        golden.fill(model.heads[NAMES[m]], f"ext_{m}.fc.")
    golden.fill(model.fused, "mlp_cls.enc_net.")
    return no_dropout(model)


def inputs_of(golden: Golden, prefix: str = "") -> dict[str, torch.Tensor]:
    return {NAMES[m]: golden.tensor(f"{prefix}{m}_x") for m in golden.order}


def cases_of(name: str) -> list[str]: return [str(c) for c in np.load(FOLDER/f"{name}.npz")["cases"]]


@pytest.mark.parametrize("case", cases_of("gmp"))
def test_gmp(case):
    golden = Golden("gmp", case)
    golden.order = "".join(map(str, golden["order"]))  # in which the reference trains
    model = tiny_model(golden)
    alpha_rev2, alpha_k, alpha_p, heads, domains, several = golden["hyper"].tolist()
    if not several: model.num_sources = 1
    hyper = GmpHyper(alpha_rev2, alpha_k, alpha_p, heads, domains, projection_dim=18)
    term = (objective := gmp(model.dims, hyper)).hooks
    term.start(model)
    no_dropout(objective)
    if several:
        for m in golden.order: golden.fill(term.domain_guess.projections[NAMES[m]], f"{m}_proj2.proj.")
        golden.fill(term.domain_guess.classifier, "domain_disc.domainclassifier.")
    outputs = replace(model(inputs_of(golden)), domains=golden.tensor("domains"), model=model)
    total, values = objective(outputs, golden.tensor("labels"))
    total.backward()
    close(outputs.fused, golden["predict"])
    close(values["classification"], golden["fusion_ce"])
    close(total, golden["display_loss"])
    golden.check_gradients(skip=() if several else ("domain_disc", *(f"{m}_proj2" for m in golden.order)))
    if several: golden.check_buffers()


@pytest.mark.parametrize("case", CASES)
def test_gmp_answers_in_the_order_it_was_trained_in(case):
    golden = Golden("gmp_val", case)
    golden.order = "".join(m for m in "vfa" if m in golden.order)
    model = tiny_model(golden).eval()
    with torch.no_grad(): close(model(inputs_of(golden)).fused, golden["train_order_predict"])


@pytest.mark.parametrize("users_order", ["vfa", "vaf"])
@pytest.mark.parametrize("case", CASES)
def test_gmp_answers_as_the_reference_if_it_is_asked_to(case, users_order):
    "The benchmark's own mistake, whatever the order in which the user lists the modalities."
    golden = Golden("gmp_val", case)
    golden.order = "".join(m for m in "vfa" if m in golden.order)
    theirs = tiny_model(golden).eval()  # the head's columns are in the reference's order of training
    dims = {NAMES[m]: theirs.dims[NAMES[m]] for m in users_order if m in golden.order}
    ours = Model({m: theirs.extractors[m] for m in dims}, 5, fused_hidden=20).eval()
    ours.heads, ours.fused = theirs.heads, copy.deepcopy(theirs.fused)
    columns = dict(zip(theirs.dims, theirs.fused[0].weight.split(list(theirs.dims.values()), dim=1)))
    with torch.no_grad(): ours.fused[0].weight.copy_(torch.cat([columns[m] for m in dims], dim=1))
    learner = Learner(ours, gmp(dims, GmpHyper(permuted_test=True))).eval()
    inputs = inputs_of(golden)
    with torch.no_grad():
        close(learner.tested(inputs).fused, golden["val_predict"])
        close(ours(inputs).fused, golden["train_order_predict"])


@pytest.mark.parametrize("case", CASES)
def test_cmrf_over_four_steps(case):
    "Through the learner: the teacher is asked before each step, and is the mean of what was before."
    golden = Golden("cmrf", f"{case}_steps")
    model = tiny_model(golden)
    mix_alpha, mix, distill, contrast, temp = np.load(FOLDER/"cmrf.npz")[f"{case}/hyper"].tolist()
    hyper = CmrfHyper(contrast, distill, mix, mix_alpha=mix_alpha, temp=temp, sma_start_step=1, hidden_dim=40,
                      out_dim=12)
    objective = no_dropout(cmrf(model.dims, hyper))
    for m in golden.order: golden.fill(objective.hooks.projections[NAMES[m]].head, f"{m}_proj_m.head.")
    objective.hooks.mean_projections.copy.load_state_dict(objective.hooks.projections.state_dict())
    learner = Learner(model, objective)
    optimiser = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=1e-3, weight_decay=1e-4)
    for step in range(4):
        objective.hooks.shares = pair_shares(golden, f"step{step}/")
        labels = golden.tensor(f"step{step}/labels")
        outputs, total, _ = learner(Batch(inputs_of(golden, f"step{step}/"), labels, [""]*len(labels)))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        learner.follow()
        objective.hooks.after_step(learner, step + 1)
        close(outputs.fused, golden[f"step{step}/predict"], rtol=1e-4)
        close(total, golden[f"step{step}/total"], rtol=1e-4)
    taught = teacher_state(golden, learner)
    for name, theirs in zip(map(str, golden["step3/teacher_names"]), golden["step3/teacher_stats"]):
        if name.endswith("num_batches_tracked"): continue
        rough = name.endswith((*BEFORE_NORM, "running_mean"))  # moved by rounding noise, see the README
        close_stats(stats(taught[name]), theirs, name, taught[name], rtol=1e-2 if rough else 1e-4)
    learner.eval()
    with torch.no_grad():
        for asked, key in ((learner.model, "predict"), (learner.teacher, "predict_sma")):
            close(asked(inputs_of(golden, "val/")).fused, golden[f"val/{key}"], rtol=1e-3)


def teacher_state(golden: Golden, learner: Learner) -> dict[str, torch.Tensor]:
    "The teacher's weights under the reference's names."
    found, copy, projections = {}, learner.teacher.copy, learner.objective.hooks.mean_projections.copy
    parts = {"mlp_cls.enc_net.": copy.fused}
    for m in golden.order:
        parts |= {f"ext_{m}.layer4.": copy.extractors[NAMES[m]].tail[0], f"ext_{m}.fc.": copy.heads[NAMES[m]],
                  f"{m}_proj_m.head.": projections[NAMES[m]].head}
    for prefix, part in parts.items(): found |= {prefix + k: v for k, v in part.state_dict().items()}
    return found


@pytest.mark.parametrize("dims", ["dsu2d", "dsu3d"])
def test_perturbed_statistics(dims):
    golden = Golden("mbcd", dims)
    x = golden.tensor("x").requires_grad_()
    y = perturbed_statistics(x, golden.tensor("noise_beta"), golden.tensor("noise_gamma"))
    (y.flatten()*torch.linspace(-1, 1, y.numel())).sum().backward()
    close(y, golden["y"])
    close(x.grad, golden["grad"])


@pytest.mark.parametrize("case", CASES)
def test_mbcd_over_three_steps(case):
    golden = Golden("mbcd", case)
    model = tiny_model(golden)
    inner_lr, ema_beta, kl_mm, kl_um, base = golden["hyper"].tolist()
    objective = mbcd(model.dims, MbcdHyper(inner_lr, ema_beta, kl_mm, kl_um, base, head_dim=20))
    learner, term = Learner(model, objective), objective.hooks
    no_dropout(learner)
    for m in golden.order: golden.fill(model.heads[NAMES[m]], f"{m}_cls.enc_net.")
    golden.fill(model.fused, "mm_cls.enc_net.")
    learner.teacher.copy.load_state_dict(model.state_dict())
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=1e-4)
    for at in ("step0/", "step1/", "step2/"):
        term.keep = partial(golden_mask, golden, at, asked := {})
        labels = golden.tensor(f"{at}labels")
        _, total, values = learner(Batch(inputs_of(golden, at), labels, [""]*len(labels)))
        optimiser.zero_grad()
        total.backward()
        for m in golden.order: close(asked[NAMES[m]], golden[f"{at}drop_prob_{m}"], floor=1e-6)
        close(values["classification"], golden[f"{at}ce_mm"], rtol=1e-4)
        close(values["distillation"], kl_mm*golden[f"{at}kd_mm"], rtol=1e-4, floor=1e-6)
        close(total, golden[f"{at}total"], rtol=1e-4)
        if at == "step0/": check_mbcd_gradients(golden)
        optimiser.step()
        learner.follow()
        for whose, key in ((model, "student"), (learner.teacher.copy, "teacher")):
            if f"{at}{key}_stats" in golden: check_mbcd_weights(golden, whose, at, key)
    learner.eval()
    with torch.no_grad():
        for asked, key in ((model, "predict"), (learner.tested, "predict_ema")):
            close(asked(inputs_of(golden, "val/")).fused, golden[f"val/{key}"], rtol=1e-3)


def golden_mask(golden: Golden, at: str, asked: dict, modality: str, dropped: torch.Tensor, clips: int) -> torch.Tensor:
    "The file's mask, in place of a random one; notes with which probability it was asked for."
    asked[modality] = dropped
    letter = next(k for k, v in NAMES.items() if v == modality)
    return golden.tensor(f"{at}keep_mask_{letter}")


def check_mbcd_gradients(golden: Golden):
    for name, theirs in zip(map(str, golden["step0/param_grad_names"]), golden["step0/param_grad_stats"]):
        if "_norm." in name: continue  # computed there, and never used
        ours = golden.live[name].grad
        close_stats(stats(ours), theirs[:2 + ours.numel()], name, ours, floor=1e-2)


def check_mbcd_weights(golden: Golden, model: Model, at: str, key: str):
    parts = {"mm_cls.enc_net.": model.fused}
    for m in golden.order: parts[f"ext_{m}.layer4."] = model.extractors[NAMES[m]].tail[0]
    found = {prefix + k: v for prefix, part in parts.items() for k, v in part.state_dict().items()}
    for name, theirs in zip(map(str, golden[f"{at}teacher_names"]), golden[f"{at}{key}_stats"]):
        close_stats(stats(found[name]), theirs[:2 + found[name].numel()], name, found[name], rtol=1e-4)
