"""Numbers of the 2026 benchmark's code for spoken opinions, by our networks and terms.

Its task there is a regression, and ours a classification: no method of ours can take such a step. What the methods are
made of is the same, though, and is held to its numbers here: our series networks, norms, translations, contrast,
neighbours, adversaries, and gradients that are modulated and projected. The heads that predict a number stand in this
file alone."""
from dataclasses import dataclass

import numpy as np
import torch
from golden_rules import close, close_stats, fill, golden_weight, no_dropout, stats
from test_golden_rivals import FOLDER
from torch import nn
from torch.nn import functional as F

from moosa.extractors.signals import late_transformer
from moosa.methods.adversaries import domain_classifier, projection
from moosa.methods.contrast import Projection, halves, split_distance, supcon
from moosa.methods.dann import reverse_gradient
from moosa.methods.gmp import damping_factor, gradient_of, lead, projected, standing_of, with_gradient
from moosa.methods.jat import weights_by_doubt
from moosa.methods.nel import found_again, mean_shift, spectral_concentration
from moosa.methods.rna_net import norm_alignment
from moosa.pretext.translation import MaskedTranslation

FILE = np.load(FOLDER/"mmsa_steps.npz", allow_pickle=False)
NAMES = ("text", "audio", "vision")
LABELS = torch.from_numpy(FILE["batch/label"])
SIGNS = (LABELS.sign() + 1).long()  # below, at and above zero: what contrast takes for classes
DOMAINS = torch.from_numpy(FILE["batch/domain_label"]) - 1  # mosi, sims: the sources, in their order
RENAMED = {"linear1": "fc1", "linear2": "fc2", "norm1": "layer_norms.0", "norm2": "layer_norms.1"}
BEFORE_NORM = ("disc.net.0.bias", "local.net.0.bias", "global.net.0.bias")


def regressor(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, 1))


def off(predicted: torch.Tensor) -> torch.Tensor: return (predicted.squeeze(1) - LABELS).abs().mean()


class Fusion(nn.Module):
    "Our three networks over series, and the reference's layers behind them."

    def __init__(self):
        super().__init__()
        series = {m: torch.from_numpy(FILE[f"batch/{m}"]) for m in NAMES}
        self.series, self.live = series, {}
        self.nets = nn.ModuleDict({m: late_transformer(x.shape[1:], width=8, layers=2, heads=2)
                                   for m, x in series.items()})
        for i, m in enumerate(NAMES):
            for name, p in self.nets[m].stem.project.named_parameters():  # there, a convolution of width 1
                self._take(f"net.proj.{i}.{name}", p, (*p.shape, 1) if name == "weight" else p.shape)
            for name, p in self.nets[m].tail[0].named_parameters():
                theirs = name.replace("norm.", "layer_norm.") if name.startswith("norm.") else name
                for ours, other in RENAMED.items(): theirs = theirs.replace(f".{ours}.", f".{other}.")
                self._take(f"net.encoders.{i}.{theirs}", p, p.shape)
        self.out = nn.ModuleList([nn.Linear(24, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)])
        for layer, name in zip(self.out, ("out_layer_proj0", "out_layer_proj1", "out_layer_proj2", "out_layer")):
            self.live |= fill(layer, f"net.{name}.")
        no_dropout(self)
        for part in self.modules():
            if isinstance(part, nn.MultiheadAttention): part.dropout = 0.0

    def _take(self, name: str, weight: nn.Parameter, shape):
        self.live[name] = weight
        with torch.no_grad(): weight.copy_(golden_weight(name, shape).reshape(weight.shape))

    def feature(self, only: str | None = None) -> torch.Tensor:  # (B, 24)
        "Of all modalities, or of one while the others are zeros."
        given = {m: x if only in (None, m) else torch.zeros_like(x) for m, x in self.series.items()}
        return torch.cat([self.nets[m](x) for m, x in given.items()], dim=1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:  # (B, 1)
        first, second, third, last = self.out
        r = F.relu(first(feature))
        return last(third(F.relu(second(r))) + r)


@dataclass
class Step:
    "What all methods start from, and what is compared in the end."
    method: str

    def __post_init__(self):
        self.net = Fusion()
        self.live = self.net.live
        self.joint = self.net.feature()
        self.raw = off(self.net(self.joint))
        self.features = {m: self.net.feature(m) for m in NAMES}

    def fill(self, module: nn.Module, prefix: str) -> nn.Module:
        self.live |= fill(no_dropout(module), prefix)
        return module

    def each(self, make, suffix: str) -> dict[str, nn.Module]:
        return {m: self.fill(make(), f"{m}{suffix}.") for m in NAMES}

    def says(self, key: str): return FILE[f"{self.method}/{key}"]

    def check(self, total: torch.Tensor, noise: tuple[str, ...] = BEFORE_NORM, rtol: float = 1e-5):
        close(total, self.says("total"))
        total.backward()
        for name, theirs in zip(map(str, self.says("param_grad_names")), self.says("param_grad_stats")):
            ours = self.live[name].grad
            if np.isnan(theirs).all(): assert ours is None or not ours.any(), name
            elif name.endswith(noise): assert ours is None or ours.abs().max() < 1e-5, name
            else: close_stats(stats(ours), theirs[:2 + ours.numel()], name, ours, rtol, floor=1e-2)


def test_norms():
    step = Step("RNA")
    aligned = norm_alignment([step.features[m] for m in ("vision", "audio", "text")])
    close(step.raw, step.says("raw_loss"))
    close(aligned, step.says("loss_RNA"), rtol=1e-4)  # quotients near 1: what is left of them are few digits
    step.check(step.raw + aligned)


def test_simmmdg():
    step = Step("SimMMDG")
    encoders = step.each(lambda: nn.Sequential(nn.Linear(24, 10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 16)),
                         "_encoder.enc_net")
    embeddings = {m: encoders[m](f) for m, f in step.features.items()}
    heads = step.each(lambda: Projection(8, 10, 6).head, "_proj.head")
    translation = no_dropout(MaskedTranslation({m: 16 for m in NAMES}, hidden=10, mask_ratio=0.0))
    for pair, network in translation.translators.items():
        step.fill(network, f"{pair.replace('2', '_to_')}.enc_net.")
    z = torch.stack([F.normalize(heads[m](halves(e)[0]), dim=1) for m, e in embeddings.items()], dim=1)
    unit = [torch.cat([F.normalize(half, dim=1) for half in halves(e)], dim=1) for e in embeddings.values()]
    raw = off(3*torch.tanh(step.fill(regressor(48, 16), "fusion_regressor.net.")(torch.cat([*embeddings.values()], 1))))
    found = dict(translation_loss=translation(embeddings), contrastive_loss=supcon(z, SIGNS, 0.1),
                 explore_loss=split_distance(unit))
    close(raw, step.says("raw_loss"))
    for name, value in found.items(): close(value, step.says(name))
    weights = dict(translation_loss=0.1, contrastive_loss=3, explore_loss=0.7)
    # six rows in two BatchNorms and a contrast of weight 3: the reference's own rounding is 2e-5 of the largest entry
    total = raw + sum(weights[name]*value for name, value in found.items())
    step.check(total, noise=("head.0.bias", "head.3.bias"), rtol=5e-5)


def test_neighbours():
    "Dropout is off, so both views of a clip are one."
    step = Step("NEL")
    heads = step.each(lambda: nn.Sequential(nn.Linear(24, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 6)),
                      "_proj.head")
    z = [F.normalize(heads[m](f), dim=1).repeat(2, 1) for m, f in step.features.items()]
    shifted = F.normalize(torch.cat([mean_shift(points, 3) for points in z], dim=1), dim=1)
    spread = F.normalize(step.joint, dim=1).repeat(2, 1)
    found = dict(loss_unsupervised=found_again(*shifted.chunk(2), 0.25), loss_nee=spectral_concentration(spread),
                 loss_supervised=supcon(torch.stack(z, dim=1), SIGNS.repeat(2), 0.1))
    for name, value in found.items(): close(value, step.says(name))
    weights = dict(loss_unsupervised=0.7, loss_supervised=0.3, loss_nee=1/6)
    step.check(step.raw + 0.2*sum(weights[name]*value for name, value in found.items()))


HIDDEN = 7  # of the regressors


def test_adversaries():
    step = Step("JAT")
    projections = step.each(lambda: projection(24, 7), "_proj.proj")
    regressors = step.each(lambda: regressor(24, HIDDEN), "_reg.net")
    modal = step.fill(domain_classifier(7, 3, hidden=9), "modal_disc.net.")
    local = step.fill(domain_classifier(7, 2, hidden=9), "domain_disc_local.net.")
    joint = step.fill(domain_classifier(24, 2, hidden=9), "domain_disc_global.net.")
    shown = {m: projections[m](f) for m, f in step.features.items()}
    rows = reverse_gradient(torch.cat([*shown.values()]), 0.1)
    told = {m: local(reverse_gradient(x, 0.3)) for m, x in shown.items()}
    of_domain = torch.stack([F.cross_entropy(logits, DOMAINS) for logits in told.values()]).mean()
    weights = weights_by_doubt(told)
    each = sum(weights[m]*off(regressors[m](f)) for m, f in step.features.items())
    step.check(step.raw + 0.2*F.cross_entropy(joint(reverse_gradient(step.joint, 0.3)), DOMAINS) + 0.2*of_domain
               + 0.05*F.cross_entropy(modal(rows), torch.arange(3).repeat_interleave(len(LABELS))) + 0.2*each)


def test_modulated_gradients():
    step = Step("GMP")
    projections = step.each(lambda: projection(24, 7), "_proj.proj")
    regressors = step.each(lambda: regressor(24, HIDDEN), "_reg.net")
    local = step.fill(domain_classifier(7, 2, hidden=9), "domain_disc_local.net.")
    wrong = {m: off(regressors[m](f)) for m, f in step.features.items()}
    domains = {m: standing_of(local(reverse_gradient(projections[m](f), 0.3)), DOMAINS)
               for m, f in step.features.items()}
    sure = {m: (-value).exp().detach() for m, value in wrong.items()}
    network, pushes = list(step.net.parameters()), []
    for m in NAMES:  # every modality's own weights are there those of the whole network
        others = [n for n in NAMES if n != m]
        ratio = lead(sure[m], [sure[n] for n in others])
        hiding = lead(domains[m][1], [domains[n][1] for n in others], inverted=True)
        classes = gradient_of(0.2*wrong[m], network, damping_factor(ratio, 0.5))
        hidden = gradient_of(0.2*domains[m][0], network, damping_factor(hiding, 0.5))
        pushes.append(with_gradient(network, projected(classes, hidden, bool(ratio >= hiding))))
    beside = 0.2*torch.stack([*wrong.values()]).mean() + 0.2*torch.stack([loss for loss, _ in domains.values()]).mean()
    others = [p for name, p in step.live.items() if not name.startswith("net.") and p.requires_grad]
    learnt = with_gradient(others, [gradient_of(beside, others, torch.ones(()))])
    step.check(step.raw + beside.detach() + sum(pushes) + learnt)


def test_left_out_rows_are_those_of_the_reference():
    "Of MBCD, whose step is otherwise sums of absolute and squared errors: our network's features, and whole rows."
    step = Step("MBCD")
    for m, f in step.features.items():
        close(f, step.says(f"{m}_feat"))
        kept = torch.from_numpy(step.says(f"{m}_feat_drop")).any(dim=1)
        close(f*kept[:, None], step.says(f"{m}_feat_drop"))
