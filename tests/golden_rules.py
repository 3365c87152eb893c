"""How the golden files were made: the rule for weights, and where to read the files from (tests/golden/README.md)."""
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from moosa.extractors.base import Extractor
from moosa.extractors.audio import vggsound
from moosa.extractors.resnet3d import slowfast, slowonly
from moosa.extractors.checkpoints import load_published, name_table, published_name
from moosa.extractors.entries import PUBLISHED

FOLDER = Path(os.environ.get("MOOSA_GOLDEN") or Path(__file__).parent/"golden")
BASE = int(os.environ.get("MOOSA_GOLDEN_BASE") or 1000)
SALT = os.environ.get("MOOSA_GOLDEN_SALT") or "pub"


def golden_weight(name: str, shape) -> torch.Tensor:
    "The value of the parameter or buffer called `name` in the reference's modules."
    r = np.random.RandomState(zlib.crc32(f"{SALT}:{name}".encode()) & 0xFFFFFFFF)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked": return torch.zeros(tuple(shape), dtype=torch.int64)
    if leaf == "running_mean": value = 0.1*r.standard_normal(shape)
    elif leaf == "running_var": value = r.uniform(0.5, 1.5, shape)
    elif leaf == "bias": value = 0.05*r.standard_normal(shape)
    elif leaf == "in_proj_bias": value = r.standard_normal(shape)*np.sqrt(2)  # of attention
    elif len(shape) == 1: value = r.uniform(0.3, 0.7, shape)
    else: value = r.standard_normal(shape)*np.sqrt(2/np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value).astype(np.float32))


def fill(module: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    "Give `module` its golden weights; returns its live parameters and buffers under the reference's names."
    live = {prefix + k: v for k, v in module.state_dict(keep_vars=True).items()}
    with torch.no_grad():
        for name, tensor in live.items(): tensor.copy_(golden_weight(name, tensor.shape))
    return live


def no_dropout(module: torch.nn.Module) -> torch.nn.Module:
    "The golden files were made with dropout switched off and everything else in training mode."
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout): part.p = 0.0
    return module.train()


MAKERS = {"slowfast": slowfast, "slowonly": slowonly, "vggsound": vggsound}
# what the published files hold beyond our extractors
HEADS = {"slowfast": {"cls_head.fc_cls.weight": (400, 2304), "cls_head.fc_cls.bias": (400,)},
         "slowonly": {"cls_head.fc_cls.weight": (400, 2048), "cls_head.fc_cls.bias": (400,)},
         "vggsound": {"audnet.fc.weight": (309, 512), "audnet.fc.bias": (309,)}}


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    "Names and shapes of a published file, by going back from our extractor's names."
    table = name_table(name, "from_checkpoint")
    with torch.device("meta"): ours = MAKERS[name]().state_dict()
    return {published_name(n, table): tuple(t.shape) for n, t in ours.items()} | HEADS[name]


def published_file(name: str, folder: Path) -> Path:
    "A file such as is published, with golden weights in it; written once into `folder`."
    path = folder/PUBLISHED[name].filename
    if not path.exists():
        tensors = {n: golden_weight(f"{name}.{n}", shape) for n, shape in published_shapes(name).items()}
        if name == "vggsound":
            torch.save({"epoch": 1, "model_state_dict": tensors}, path, _use_new_zipfile_serialization=False)
        else: torch.save({"meta": {"epoch": 1}, "state_dict": tensors}, path)
    return path


def golden_extractor(name: str, folder: Path, **settings) -> Extractor:
    """An extractor with golden weights, through the same loading as a published file.

    Audio's tail, which no file fills, gets its own.
    """
    extractor = MAKERS[name](**settings)
    load_published(name, extractor, published_file(name, folder))
    if name == "vggsound": fill(extractor.tail.layer4, "audio_cls.layer4.")
    return extractor


def golden_names(name: str, extractor: Extractor) -> dict[str, torch.Tensor]:
    "An extractor's live parameters and buffers under the reference's names."
    table, live = name_table(name), extractor.state_dict(keep_vars=True)
    return {f"{name}.{theirs}" if (theirs := published_name(n, table)) else f"audio_cls.{n.removeprefix('tail.')}": t
            for n, t in live.items()}


def golden_input(offset: int, shape) -> torch.Tensor:
    "Standard normal numbers."
    return torch.from_numpy(np.random.RandomState(BASE + offset).standard_normal(shape).astype(np.float32))


def close(ours, theirs, rtol=1e-5, floor=0.0):
    """Equal to `rtol` of the largest entry: an array's small entries carry the rounding of its large ones.

    Below `floor` all is rounding.
    """
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=rtol,
                               atol=max(floor, rtol*np.abs(theirs).max(initial=0)))


def stats(tensor) -> np.ndarray:  # [sum, L2, first 4 entries]
    flat = tensor.detach().double().flatten()
    return np.concatenate([[flat.sum().item(), flat.norm().item()], flat[:4].numpy()])


def close_stats(ours, theirs, name, tensor, rtol=1e-5, floor=1e-9):
    "A sum of many entries rounds in proportion to their L1 norm, single entries in proportion to the largest."
    tensor = tensor.detach().double().abs()
    scale = np.array([tensor.sum().item(), theirs[1]] + [tensor.max().item()]*(len(theirs) - 2))
    bad = np.abs(ours - theirs) > rtol*np.maximum(scale, floor)
    # A bias before a BatchNorm has no effect: its gradient is rounding noise on both sides.
    noise = theirs[1] < 1e-6 and ours[1] < 1e-6
    assert noise or not bad.any(), f"{name}: {ours} against {theirs}"


def wave(seed: int, samples: int) -> np.ndarray:
    "The golden file's rule for sound: three tones and noise, 16 kHz."
    rs, t = np.random.RandomState(seed), np.arange(samples)/16000
    pitches, loudness = rs.uniform(80, 6000, 3), rs.uniform(.1, .6, 3)
    return sum(a*np.sin(2*np.pi*f*t) for a, f in zip(loudness, pitches)) + .05*rs.standard_normal(samples)
