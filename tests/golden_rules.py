"""How the golden files were made: the rule for weights, and where to read the files from (tests/golden/README.md)."""
import os
import zlib
from pathlib import Path

import numpy as np
import torch

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
