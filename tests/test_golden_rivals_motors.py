"""Numbers of the 2026 benchmark's code for motors (ref: tests/golden_rivals/README.md), by our networks and terms.

Its scripts for motors differ from those for actions in details: halves of unit length, a contrast whose mask belongs to
other rows, no factor of the temperature. Where a test has to prepare something for that, it says so."""
from functools import partial

import numpy as np
import pytest
import torch
from golden_rules import BASE, SALT, close, close_stats, fill, no_dropout, stats
from test_golden_rivals import BEFORE_NORM, FOLDER
from torch import nn
from torch.nn import functional as F

from moosa.extractors.base import ByName
from moosa.extractors.signals import motor_cnn
from moosa.methods.adversaries import domain_classifier
from moosa.data.loader import Batch
from moosa.methods.catalogue import CmrfHyper, GmpHyper, JatHyper, MbcdHyper
from moosa.methods.cmrf import cmrf, draw_shares
from moosa.methods.contrast import halves, split_distance, supcon
from moosa.methods.gmp import gmp
from moosa.methods.jat import jat
from moosa.methods.mbcd import divergence, mbcd
from moosa.methods.model import Model, Outputs, fused_head, joined
from moosa.methods.nel import found_again, mean_shift, spectral_concentration
from moosa.methods.objectives import Hooks
from moosa.methods.teacher import MovingAverage
from moosa.pretext.translation import MaskedTranslation
from moosa.training.learner import asked_again
from moosa.training.trainer import Rates

SIGNALS = ("vibration", "acoustic")
FILE, STEPS = (np.load(FOLDER/f"{name}.npz", allow_pickle=False) for name in ("hust", "hust_steps"))
PUBLIC = (BASE, SALT) == (1000, "pub")


def tensor(key: str) -> torch.Tensor: return torch.from_numpy(FILE[key])


def embeddings() -> dict[str, torch.Tensor]:
    return dict(zip(SIGNALS, (tensor(f"terms/{s}_emd").requires_grad_() for s in ("vib", "aud"))))


LABELS = tensor("terms/labels")


def unit_columns(first: int, last: int) -> dict[str, torch.Tensor]:
    "What stands for projections there."
    return {m: F.normalize(e[:, first:last], dim=1) for m, e in embeddings().items()}


def motors_contrast(labels: torch.Tensor) -> torch.Tensor:
    """Our contrast of the first twelve columns with a label for each row of each signal, and without the factor.

    There the rows go clip by clip, and the labels signal by signal: `labels` are all of them, row by row."""
    rows = torch.stack(list(unit_columns(0, 12).values()), dim=1).flatten(0, 1)
    return supcon(rows[:, None], labels, temperature=0.1, base_temperature=0.1)


# --- terms ------------------------------------------------------------------------------------------------------------

def test_split_distance_of_unit_halves():
    halved = [torch.cat([F.normalize(half, dim=1) for half in halves(e)], dim=1) for e in embeddings().values()]
    close(split_distance(halved), FILE["terms/explore"])


def test_translation():
    network = no_dropout(MaskedTranslation({m: 256 for m in SIGNALS}, hidden=32, mask_ratio=0.0))
    fill(network.translators["vibration2acoustic"], "vib_to_aud.enc_net.")
    close(network.directions(embeddings())["vibration2acoustic"], FILE["terms/trans_v2a"])


def test_contrast_with_the_benchmarks_mask_and_with_the_right_one():
    theirs = motors_contrast(LABELS.repeat(2))  # row r is of clip r//2, and gets the label of clip r mod B
    close(theirs, FILE["terms/supcon_T0.1"])
    right = motors_contrast(LABELS.repeat_interleave(2))
    whole = supcon(torch.stack(list(unit_columns(0, 12).values()), dim=1), LABELS, 0.1, 0.1)
    close(right, whole.item())
    assert abs(right - theirs) > 1e-3
    if PUBLIC: close(right, 5.547, rtol=2e-4)  # as their specification says of this example


def test_neighbours_between_signals_and_spread():
    z = unit_columns(0, 12)
    close(mean_shift(z["vibration"], 4), FILE["terms/nel_mean_shift_k4"])
    both = [found_again(z[a], z[b], 0.25) for a, b in (SIGNALS, SIGNALS[::-1])]  # the term alone, of what it is given
    close(sum(both)/2, FILE["terms/nel_unsup_T0.25"])
    raw = {m: e[:, :12] for m, e in embeddings().items()}
    close(spectral_concentration(joined(raw)), FILE["terms/nel_nee"])


# --- losses -----------------------------------------------------------------------------------------------------------

class Given(nn.Module):
    "Stands for projections, and says what is given."

    def __init__(self, points: torch.Tensor):
        super().__init__()
        self.points = points

    def of(self, *_): return self.points

    def forward(self, *_): return self.points


def test_cmrf():
    "The sound weighs one half there, too: here it is called audio, by which our CMRF knows it."
    names = dict(zip(SIGNALS, ("vibration", "audio")))

    def called(found: dict) -> dict: return {names[m]: value for m, value in found.items()}

    logits = {m: tensor(f"cmrf/{s}_pred") for m, s in zip(names.values(), ("vib", "aud"))}
    given = called(embeddings())
    taught = {m: tensor(f"cmrf/teacher_{s}_proj") for m, s in zip(names.values(), ("vib", "aud"))}
    outputs = Outputs(given, logits, tensor("cmrf/fusion_pred"))
    outputs.teacher = Outputs(given, logits, outputs.fused)
    hyper = CmrfHyper(mix_alpha=1.0, sma_start_step=0, hidden_dim=4, out_dim=12)
    term = cmrf({m: 256 for m in given}, hyper).hooks
    term.projections = ByName({m: Given(z) for m, z in called(unit_columns(0, 12)).items()})
    term.mean_projections.copy = ByName({m: Given(z) for m, z in taught.items()})
    seed = int(FILE["cmrf/np_seed"])
    term.shares = lambda a, b, clips, _: draw_shares(clips, hyper.mix_alpha, np.random.RandomState(seed))
    found = term.loss(outputs, LABELS)
    close(found["classification"], FILE["cmrf/cls_loss"])
    close(found["heads"], hyper.mix_coef*FILE["cmrf/unimodal_loss"])
    close(found["distillation"], hyper.distill_coef*FILE["cmrf/distill_loss"])
    contrast = hyper.alpha_contrast*motors_contrast(LABELS.repeat(2))
    more = contrast + 0.7*FILE["cmrf/explore_loss"]  # the split distance is no part of CMRF elsewhere
    close(found["classification"] + found["heads"] + found["distillation"] + more, FILE["cmrf/loss"])


def test_jat():
    logits = {m: tensor(f"jat/{s}_logit") for m, s in zip(SIGNALS, "va")}
    outputs = Outputs(embeddings(), logits, tensor("jat/fusion_logit"), domains=tensor("terms/domains"))
    term = jat({m: 256 for m in SIGNALS}, JatHyper()).hooks  # the weights there are the same as for actions
    term.several = True
    letters = dict(zip(SIGNALS, "va"))
    modal = {m: tensor(f"jat/{s}_modal_logit") for m, s in letters.items()}
    domain = {m: tensor(f"jat/{s}_domain_logit") for m, s in letters.items()}
    term.modality_guess = lambda m, _: F.cross_entropy(modal[m], torch.full((10,), SIGNALS.index(m)))
    term.domain_guess = lambda m, seen: (domain[m], seen.domains)
    term.joint_guess = lambda _: tensor("jat/global_domain_logit")
    found = term.loss(outputs, LABELS)
    close(sum(found.values()), FILE["jat/total_multi"])
    # of one source: for motors, unlike for actions, the weights are those of the domain classifiers all the same
    close(found["classification"] + found["modality"] + found["heads"], FILE["jat/total_single"])


# --- a step -----------------------------------------------------------------------------------------------------------

def numbered(offset: int, draw: str, *given) -> torch.Tensor:
    return torch.from_numpy(np.asarray(getattr(np.random.RandomState(BASE + offset), draw)(*given)))


def motor_model() -> tuple[Model, dict[str, torch.Tensor]]:
    "Our two networks and heads with golden weights, and these by the reference's names."
    model, live = Model({m: motor_cnn() for m in SIGNALS}, 6, fused_hidden=256, num_sources=3), {}
    for m, net, head in zip(SIGNALS, ("vib_net", "aud_net"), ("cls_v", "cls_a")):
        extractor = model.extractors[m]
        for i, block in enumerate([*extractor.stem, *list(extractor.tail)[:3]], 1):
            live |= fill(block, f"gmp.{net}.layer{i}.")
        live |= fill(model.heads[m], f"gmp.{head}.")
    live |= fill(model.fused, "gmp.cls_fusion.enc_net.")
    return no_dropout(model), live


def test_gmp_step():
    model, live = motor_model()
    term = (objective := gmp(model.dims, GmpHyper(projection_dim=128))).hooks
    term.start(model)
    term.domain_guess.classifier = domain_classifier(128, 3, hidden=128).requires_grad_(False)
    no_dropout(objective)
    for m, letter in zip(SIGNALS, "va"):
        live |= fill(term.domain_guess.projections[m], f"gmp.{letter}_proj_domain.proj.")
    live |= fill(term.domain_guess.classifier, "gmp.domain_disc_local.net.")
    signals = {m: numbered(620 + i, "uniform", 0, 1, (8, 1024)).float()[:, None] for i, m in enumerate(SIGNALS)}
    labels, domains = numbered(622, "randint", 0, 6, 8), numbered(623, "randint", 0, 3, 8)
    outputs = model(signals)
    outputs.model, outputs.domains = model, domains
    total, _ = objective(outputs, labels)
    total.backward()
    close(outputs.fused, STEPS["gmp/predict"])
    close(total, STEPS["gmp/display_loss"])
    for name, theirs in zip(map(str, STEPS["gmp/names"]), STEPS["gmp/stats"]):
        ours = live[f"gmp.{name}"].grad
        before_norm = ".0.bias" in name and "layer" in name  # their gradient is rounding noise
        if np.isnan(theirs).all(): assert ours is None or not ours.any(), name
        elif before_norm or name.endswith(BEFORE_NORM): assert ours is None or ours.abs().max() < 1e-4, name
        else: close_stats(stats(ours), theirs[:2 + ours.numel()], name, ours, floor=1e-2)


def filled(module: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    "Give a part of MBCD's model its golden weights, and return these by the reference's names."
    return {name.removeprefix("mbcd."): tensor for name, tensor in fill(module, f"mbcd.{prefix}").items()}


def taught_model() -> tuple[Model, dict[str, torch.Tensor]]:
    "The networks of MBCD for motors: a LayerNorm that learns ends each of ours, and heads have a hidden layer."
    model, live = Model({m: motor_cnn() for m in SIGNALS}, 6, fused_hidden=128), {}
    model.heads = ByName({m: fused_head(128, 6, 128) for m in SIGNALS})
    for m, net, letters in zip(SIGNALS, ("sharedNet1", "sharedNet2"), ("vib", "aud")):
        extractor, norm = model.extractors[m], nn.LayerNorm(128)
        for i, block in enumerate([*extractor.stem, *list(extractor.tail)[:3]], 1):
            live |= filled(block, f"{net}.layer{i}.")
        extractor.tail.append(norm)
        live |= {f"{letters}_norm.layernorm.{name}": p for name, p in norm.named_parameters()}
        live |= filled(model.heads[m], f"{letters}_cls.enc_net.")
    live |= filled(model.fused, "fusion_cls.enc_net.")
    return no_dropout(model), live


def test_mbcd_over_two_iterations():
    """Our inner step, second pass, divergence and teacher make the benchmark's step for motors; our MBCD's is another.

    All that is taught is taught to the second pass, no modality is left out, and the teacher's buffers are copies."""
    model, live = taught_model()
    term = mbcd(model.dims, MbcdHyper(inner_lr=0.001, perturb=False)).hooks
    teacher = MovingAverage(model, 0.9)
    copies = {name: teacher.copy.state_dict(keep_vars=True)[key] for name, tensor in live.items()
              for key, own in model.state_dict(keep_vars=True).items() if own is tensor}
    for i, lr in enumerate(STEPS["mbcd/lr"]):
        data = {m: numbered(o + i, "uniform", 0, 1, (8, 1024)).float()[:, None] for m, o in zip(SIGNALS, (630, 640))}
        labels = numbered(650 + i, "randint", 0, 6, 8)
        losses = {m: F.cross_entropy(logits, labels) for m, logits in model(data).logits.items()}
        second = asked_again(model, Batch(data, labels, []), None, term.inner_step(model, losses))
        taught = teacher(data).fused.softmax(dim=1).clamp(min=1e-12)
        total = sum(losses.values()) + F.cross_entropy(second.fused, labels)
        total = total + sum(divergence(taught, logits) for logits in second.heads)
        optimiser = torch.optim.Adam(model.parameters(), lr=float(lr), weight_decay=5e-4)  # a new one each time
        total.backward()
        optimiser.step()
        optimiser.zero_grad()
        teacher.follow(model)
        for mine, theirs in zip(teacher.copy.buffers(), model.buffers()): mine.copy_(theirs)
    close(total, STEPS["mbcd/last_total"])
    for kind, found in (("student", live), ("teacher", copies)):
        for name, theirs in zip(map(str, STEPS[f"mbcd/{kind}_names"]), STEPS[f"mbcd/{kind}_stats"]):
            # a bias before a BatchNorm goes by rounding noise alone, one lr a step, and takes the running mean along
            loose = "layer" in name and name.endswith((".0.bias", "running_mean"))
            ours = found[name]
            close_stats(stats(ours), theirs[:2 + ours.numel()], name, ours, 1e-2 if loose else 1e-5, floor=1e-2)


# --- how it is trained ------------------------------------------------------------------------------------------------

class Falling(Hooks):
    "The benchmark's learning rate for motors, as a method of one's own would say it."

    def schedule(self, step, steps): return (1 + 10*step/steps)**-0.75


def test_a_falling_rate_by_the_door_for_own_methods():
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1e-3)
    rates = Rates(optimiser, Falling())
    for iteration, value in zip(FILE["lr/iter"], FILE["lr/value"]):
        rates.set(int(iteration) - 1, 10_000)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(value, rel=1e-12)


def test_a_new_adam_in_every_iteration_is_an_adam_that_remembers_nothing():
    "So what the benchmark does to motors is `optimiser` of a method of one's own: betas of 0."
    draw = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(5, generator=draw), torch.randn(4, 5, generator=draw)
    adam = partial(torch.optim.Adam, lr=1e-3, weight_decay=5e-4)

    def walked(new_each_time: bool) -> torch.Tensor:
        weight = nn.Parameter(start.clone())
        optimiser = adam([weight], betas=(0.0, 0.0))
        for gradient in gradients:
            if new_each_time: optimiser = adam([weight])
            weight.grad = gradient.clone()
            optimiser.step()
        return weight.detach()

    torch.testing.assert_close(walked(False), walked(True), rtol=0, atol=1e-6)
