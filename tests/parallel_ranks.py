"""What one process of several computes, for test_parallel.py: run by torchrun, or alone. On CUDA with
MOOSA_RANKS_DEVICE=cuda, for tools/gpu_check.py.
"""
import os
import sys

import pandas as pd
import torch
from torch import nn

from moosa.data.dataset import DataSet
from moosa.data.loader import Batch, ClipList
from moosa.methods.registry import create_objective
from moosa.methods.model import Model
from moosa.training.parallel import rank, ranks, share_of
from moosa.training.compute import make_fabric
from moosa.training.learner import Learner
from moosa.training.trainer import TrainConfig, change_gradients, predict

DIMS = dict(video=8, audio=12)
SMALL = dict(moosa=dict(jigsaw_samples=4, jigsaw_num_splits=2, mask_ratio=0.0, trans_hidden_num=16, hidden_dim=16,
                        out_dim=4, target_filter_thr=0.3),
             simmmdg=dict(trans_hidden_num=16, hidden_dim=16, out_dim=4), nel=dict(hidden_dim=16, out_dim=4),
             cmrf=dict(hidden_dim=16, out_dim=4, sma_start_step=0), mbcd=dict(inner_lr=0.1))


class Linear(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim, self.net = dim, nn.Linear(5, dim)

    def forward(self, x): return self.net(x).tanh()


class Numbers(DataSet):
    modalities = ("video", "audio")

    def load(self, clips, modalities, view=None):
        return {m: torch.tensor(clips["value"].tolist())[:, None].repeat(1, 5) for m in modalities}


def make_learner(method, setting):
    torch.manual_seed(0)
    model = Model({m: Linear(d) for m, d in DIMS.items()}, 4, num_sources=3)
    hyper = {k: v for k, v in SMALL.get(method.split("+")[0], {}).items() if setting == "osda"
             or k != "target_filter_thr"}
    learner = Learner(model, create_objective(method, model.dims, hyper, 0, setting))
    for module in learner.modules():
        if isinstance(module, nn.Dropout): module.p = 0.0
    return learner.double()


def gradients(fabric, method, setting, holes="", clips=12):
    "Loss and gradients of a step on a batch that all ranks share."
    learner = make_learner(method, setting)
    torch.manual_seed(1)

    def draw(): return {m: torch.randn(clips, 5, dtype=torch.float64) for m in DIMS}

    data = draw()
    unlabelled = draw() if setting == "osda" else {}
    labels = torch.arange(clips) % 4
    domains = torch.arange(clips) % 3
    mine = share_of(clips, rank(), ranks())

    def of(parts): return {m: x[mine] for m, x in parts.items()}

    wrapped = fabric.setup(learner)
    wrapped.train()
    lacking = {"audio": torch.arange(clips) % 3 > 0, "video": torch.arange(clips) > 6}  # the first rank has no video
    if not holes: lacking = {}
    second = draw() if method == "nel" else {}
    who = dict(present=of(lacking), unlabelled_present=of(lacking) if unlabelled else {})
    batch = Batch(of(data), labels[mine], [], of(unlabelled), domains[mine], of(second), **who).to(fabric.device)
    _, loss, terms = wrapped(batch)
    fabric.backward(loss)
    change_gradients(fabric, wrapped, torch.optim.SGD(learner.parameters(), lr=0.1), batch)
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in learner.named_parameters()
             if p.requires_grad}
    return {"loss": loss.detach(), **{f"term {k}": v.detach() for k, v in terms.items()}, **found}


def main(out, *cases):
    fabric = make_fabric(os.environ.get("MOOSA_RANKS_DEVICE", "cpu"), "64-true", threads=1)
    fabric.launch()
    found = {case: gradients(fabric, *case.split("/")) for case in cases}
    wrapped = fabric.setup(make_learner("erm", "osdg"))
    config = TrainConfig(batch_size=4)
    for n in (1, 2, 7, 16):
        clips = ClipList(Numbers(),
                         pd.DataFrame(dict(clip=[f"clip {i}" for i in range(n)], label=0,
                                           value=[i/10 for i in range(n)])), list(DIMS))
        p = predict(fabric, wrapped, clips, config, with_embeddings=True)
        found[f"predictions of {n}"] = dict(clips=p.clips, fused=p.fused, **p.logits,
                                            **{f"embedding {m}": e for m, e in p.embeddings.items()})
    torch.save(dict(ranks=ranks(), found=found), f"{out}-{rank()}")


if __name__ == "__main__": main(*sys.argv[1:])
