"""The published networks' numbers, from input to logits, in evaluation and in training mode (tests/golden/README.md).
"""
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from golden_rules import (FOLDER, fill, golden_extractor, golden_input, golden_names, golden_weight, no_dropout,
                          published_file)
from torch import nn

from moosa.extractors.audio import vggsound
from moosa.extractors.checkpoints import load_published, read_checkpoint

C = 7
HEAD = {"slowfast": "slowfast.cls_head.fc_cls.", "slowonly": "slowonly.cls_head.fc_cls.", "vggsound": "audio_cls.fc."}
CASES = {  # name in the file -> extractor, seed after BASE, shape
    "rgb_eval_small": ("slowfast", 1, (2, 3, 32, 64, 64)), "rgb_eval_224": ("slowfast", 2, (1, 3, 32, 224, 224)),
    "rgb_train_small": ("slowfast", 1, (2, 3, 32, 64, 64)), "flow_eval_small": ("slowonly", 3, (2, 2, 8, 64, 64)),
    "flow_eval_224": ("slowonly", 4, (1, 2, 8, 224, 224)),
    "flow_eval_256": ("slowonly", 5, (1, 2, 8, 256, 256)), "flow_train_small": ("slowonly", 3, (2, 2, 8, 64, 64)),
    "aud_eval": ("vggsound", 6, (2, 1, 257, 1004)), "aud_train": ("vggsound", 6, (2, 1, 257, 1004))}
# The published code's own reruns differ by 1e-6 in evaluation. In training, statistics over the few pixels of small
# maps amplify rounding: 3e-4 (video), 6e-5 (flow).
TOLERANCE = {"rgb_train_small": 1e-3, "flow_train_small": 3e-4}
FILE = np.load(FOLDER/"backbones.npz", allow_pickle=False)


class Case:
    "One forward pass; `found` holds what the file calls slow_feat, emb, logits, ..."

    def __init__(self, case: str, folder, device="cpu", dtype=torch.float32, autocast=nullcontext()):
        self.case, self.tolerance = case, TOLERANCE.get(case, 1e-5)
        self.name, seed, shape = CASES[case]
        self.extractor = golden_extractor(self.name, folder).to(device, dtype)
        no_dropout(self.extractor).train("train" in case)
        with torch.no_grad(), autocast:
            self.found = self.forward(golden_input(seed, shape).to(device, dtype), folder)

    def forward(self, x, folder):
        tail, head, found = self.extractor.tail, nn.Linear(self.extractor.dim, C), {}
        hooks = [part.register_forward_hook(lambda m, given, y, key=key: found.update({key: y}))
                 for key, part in self.maps(tail).items()]
        features = self.extractor.features(x)
        found |= dict(zip(("slow_feat", "fast_feat"), features)) if self.name == "slowfast" else {"feat": features}
        found["emb"] = self.extractor.from_features(features)
        for h in hooks: h.remove()
        fill(head, HEAD[self.name])
        found["logits"] = head.to(x.device, x.dtype)(found["emb"])
        return found | (self.discarded(features, folder) if self.name == "vggsound" else {})

    def maps(self, tail):
        "layer4, where the file has what comes out of it."
        return {"slowfast": lambda: {"slow_l4": tail.slow, "fast_l4": tail.fast},
                "slowonly": lambda: {"l4": tail.layer4}, "vggsound": dict}[self.name]()

    def discarded(self, features, folder):
        """What the published audio network computes and throws away: its own layer4 (our tail, when loaded from the
        checkpoint) and 309 classes.
        """
        own = vggsound()
        load_published("vggsound", own, published_file("vggsound", folder), audio_tail="from_checkpoint")
        where = next(self.extractor.parameters())
        pool = own.eval().to(where.device, where.dtype).from_features(features)
        weight, bias = (golden_weight(f"vggsound.audnet.fc.{leaf}", shape).to(where.device, where.dtype)
                        for leaf, shape in (("weight", (309, 512)), ("bias", (309,))))
        return {"own_pool512": pool, "logits309_first16": nn.functional.linear(pool, weight, bias)[:, :16]}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory): return Case(request.param, tmp_path_factory.getbasetemp())


def close(ours, theirs, tolerance, what):
    "Equal to `tolerance` of the largest entry."
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=tolerance*np.abs(theirs).max(), err_msg=what)


def test_values(case):
    keys = [k.removeprefix(f"{case.case}/") for k in FILE.files if k.startswith(f"{case.case}/") and "bn" not in k]
    whole = [k for k in keys if "/" not in k]
    summaries = {k.split("/")[0] for k in keys if "/" in k}
    assert set(case.found) == {*whole, *summaries}  # nothing in the file is left out
    for key in whole: close(case.found[key], FILE[f"{case.case}/{key}"], case.tolerance, key)
    for key in summaries:
        theirs = {part: FILE[f"{case.case}/{key}/{part}"]
                  for part in ("shape", "sum", "abs_sum", "l2", "stride", "strided")}
        flat = case.found[key].flatten()
        assert tuple(case.found[key].shape) == tuple(theirs["shape"]), key
        close(flat[::int(theirs["stride"])][:512], theirs["strided"], case.tolerance, key)
        exact = flat.double()
        assert exact.sum().item() == pytest.approx(float(theirs["sum"]),
                                                   abs=case.tolerance*float(theirs["abs_sum"])), key
        assert exact.abs().sum().item() == pytest.approx(float(theirs["abs_sum"]), rel=case.tolerance), key
        assert exact.norm().item() == pytest.approx(float(theirs["l2"]), rel=case.tolerance), key


def test_batchnorm_after(case):
    """In training the stems of video and flow update their stored statistics, that of audio does not; in evaluation
    nobody does.
    """
    live = golden_names(case.name, case.extractor)
    prefix = {"slowfast": "slowfast.", "slowonly": "slowonly.", "vggsound": "audio_cls."}[case.name]
    for key in [k for k in FILE.files if k.startswith(f"{case.case}/bn_after/")]:
        close(live[prefix + key.split("/")[-1]][:16], FILE[key], case.tolerance, key)
    if f"{case.case}/audnet_bn1_running_mean_unchanged" in FILE:
        np.testing.assert_array_equal(live["vggsound.audnet.bn1.running_mean"][:16],
                                      FILE[f"{case.case}/audnet_bn1_running_mean_unchanged"])
    for name, tensor in live.items():
        moves = "train" in case.case and not name.startswith("vggsound.")
        if name.endswith("num_batches_tracked"): assert int(tensor) == int(moves), name


def test_weight_rule(tmp_path_factory):
    """The rule for weights gives what the published code was filled with.

    Statistics in this part of the file are those after `rgb_train_small`.
    """
    files = {name: published_file(name, tmp_path_factory.getbasetemp()) for name in HEAD}
    for key in [k for k in FILE.files if k.startswith("weight_check/")]:
        extractor, name = key.removeprefix("weight_check/").split(".", 1)
        after = f"rgb_train_small/bn_after/{name}"
        ours = FILE[after][:8] if "running" in name else read_checkpoint(files[extractor])[name].flatten()[:8]
        np.testing.assert_array_equal(ours, FILE[key], err_msg=key)
