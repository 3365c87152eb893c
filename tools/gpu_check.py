"""Does a GPU compute what it should, and what is it worth? One script, some minutes, one file of rows.

    python tools/gpu_check.py [--short] [--data-dir FOLDER] [--out FILE] [--commit SHA]

Golden losses and networks of tests/golden on the device, an epoch of mini-HAC, several processes, compiled and captured
steps, memory, and speed against the plain formulation. Without a GPU it does on the CPU what can be done there; --short
takes toy sizes, and leaves out what takes long. Rows are printed and kept as they are found, in FILE
(default: figures/gpu/check.json, from which nbs/gpu_checked.ipynb is made). Ends with 1 if a check failed.

Mini-HAC is generated where FOLDER (default: a temporary one) has none. The extractors are the published networks with
weights made by the rule of the golden files: published weights are not needed.
"""
from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT/"tests")]

from moosa.bench.checks import (BFLOAT16, FAILED, FLOAT32, GOLDEN, RESULT, TF32, Check, gradient_limit,  # noqa: E402
                                run_checks, value_limit, within)
from moosa.bench.gpu import PAIRS  # noqa: E402
from moosa.bench.on_device import (channels_last_agree, choice_ratio, compiled_agrees, graph_agrees,  # noqa: E402
                                   minihac_epoch_on, peak_ratio, same_gradients, same_total, small_minihac,
                                   stem_agrees, step_ratio, tensor_float)
from moosa.bench.timing import SMALL, NotMeasured, Sizes  # noqa: E402

VA, VFA = ("video", "audio"), ("video", "audio", "flow")
UNITS = {"float64": FLOAT32, "float32": FLOAT32, "TensorFloat-32": TF32, "bfloat16": BFLOAT16}
HEADS, DEEP = 3, 50  # layers one after the other: of heads, of the networks
TERMS = dict(classification="cls_weighted", jigsaw="loss_jigsaw", translation="trans_mean",
             contrastive="loss_contrast", split_distance="split_distance")


def arithmetic(device: str, precision: str):  # a dtype; what to compute in
    "Of a key of UNITS."
    autocast = torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    return torch.float64 if precision == "float64" else torch.float32, autocast


def as_array(x) -> np.ndarray: return x.detach().cpu().double().numpy()


def worst(ours, theirs) -> float:  # share of the largest entry
    return float(np.abs(as_array(ours).reshape(theirs.shape) - theirs).max()/np.abs(theirs).max())


@cache
def golden_step(device: str, precision: str, letters: str, case: str):
    from test_golden import Step

    dtype, autocast = arithmetic(device, precision)
    step = Step(letters, case, device, dtype)
    step.run(autocast)
    return step


def golden_values(device: str, precision: str, cases) -> str:
    "All terms and the total, of every case."
    found = []
    for step in (golden_step(device, precision, *case) for case in cases):
        found.append(worst(step.total, step["total"]))
        found += [worst(step.values[ours], step[theirs]) for ours, theirs in TERMS.items()]
        found.append(worst(step.values["entropy_min"]*step.hyper.entropy_min_weight, step["loss_ent_min"]))
    return within(max(found), value_limit(UNITS[precision], HEADS))


def golden_gradients(device: str, precision: str, cases) -> str:
    "The gradients of all embeddings: the norm of the difference."
    from test_golden import NAMES

    found = []
    for step in (golden_step(device, precision, *case) for case in cases):
        for m in step.order:
            theirs = step[f"grad_{m}_emd"]
            found.append(np.linalg.norm(as_array(step.embeddings[NAMES[m]].grad) - theirs)/np.linalg.norm(theirs))
    return within(float(max(found)), gradient_limit(UNITS[precision], HEADS))


def golden_network(device: str, precision: str, case: str, folder: Path, limit: float) -> str:
    "Features, embedding and logits of a published network."
    from test_golden_backbones import FILE, Case

    if precision == "TensorFloat-32" and device != "cuda": raise NotMeasured("no CUDA device")
    dtype, autocast = arithmetic(device, precision)
    with tensor_float(precision == "TensorFloat-32"): found = Case(case, folder, device, dtype, autocast).found
    apart = []
    for key, x in found.items():
        name = f"{case}/{key}"
        if name in FILE.files: apart.append(worst(x, FILE[name]))
        else: apart.append(worst(x.flatten()[::int(FILE[f"{name}/stride"])][:512], FILE[f"{name}/strided"]))
    return within(max(apart), limit)


def loss_checks(device: str, short: bool) -> Iterator[Check]:
    cases = [("VA", "s4")] if short else [(of, splits) for of in ("VA", "VF", "FA", "VFA") for splits in ("s4", "s2")]
    for precision in ("float64", "float32", "bfloat16"):
        unit, given = UNITS[precision], f"{len(cases)} golden step{'s'[len(cases) == 1:]}, {precision}"
        yield Check(f"Losses of {given}", f"at most {value_limit(unit, HEADS):.1e} of the value",
                    partial(golden_values, device, precision, cases))
        yield Check(f"Gradients of {given}", f"at most {gradient_limit(unit, HEADS):.1e} of the norm",
                    partial(golden_gradients, device, precision, cases))


def network_checks(device: str, short: bool, folder: Path) -> Iterator[Check]:
    names = {"rgb_eval_small": "SlowFast", "flow_eval_small": "SlowOnly", "aud_eval": "VGGSound's network"}
    if short: names = {"aud_eval": names["aud_eval"]}
    for case, name in names.items():
        for precision in ("float32",) if short else ("float32", "TensorFloat-32", "bfloat16"):
            limit = value_limit(UNITS[precision], DEEP)
            yield Check(f"{name}, stem and tail, {precision}", f"at most {limit:.1e} of the largest entry",
                        partial(golden_network, device, precision, case, folder, limit))
    if short: return
    # in training mode, statistics over a few pixels amplify rounding: only float64 leaves the file's rounding alone
    for case, name, limit in (("rgb_train_small", "SlowFast", 1e-3), ("flow_train_small", "SlowOnly", 3e-4),
                              ("rgb_eval_224", "SlowFast, 224 x 224", GOLDEN)):
        mode = "in training mode" if "train" in case else "in evaluation"
        yield Check(f"{name}, {mode}, float64", f"at most {limit:.1e} of the largest entry",
                    partial(golden_network, device, "float64", case, folder, limit))


def left_out(long: Callable[[], str], short: bool) -> Callable[[], str]:
    "What takes long is left out of a short check."
    def say(): raise NotMeasured("left out by --short")
    return say if short else long


def speed_checks(device: str, short: bool, sizes: Sizes) -> Iterator[Check]:
    told = "both times; speeds are measured, not judged"
    for of, splits in ((VA, 4), (VFA, 2)):
        kind = f"{'+'.join(of)}, {splits} parts"
        yield Check(f"Total of the plain formulation, {kind}", f"at most {value_limit(FLOAT32, HEADS):.1e} of it",
                    partial(same_total, sizes, of, splits, device))
        yield Check(f"Step against the plain formulation, {kind}", told, partial(step_ratio, sizes, of, splits, device))
        yield Check(f"Peak memory of a step, {kind}", "no more than the plain formulation",
                    partial(peak_ratio, sizes, of, splits))
    for modality in ("audio",) if short else VFA:
        for dtype in ("float32", "bfloat16"):
            limit = value_limit(UNITS[dtype], DEEP)
            yield Check(f"Frozen stem as it runs, {modality}, {dtype}", f"at most {limit:.1e} from the plain module",
                        partial(stem_agrees, sizes, modality, device, dtype))
    yield Check("Video stem, channels last", f"at most {value_limit(FLOAT32, DEEP):.1e} of the largest entry",
                partial(channels_last_agree, sizes, device))
    yield Check("Three steps by a CUDA graph", f"at most {value_limit(TF32, HEADS):.1e} from the usual steps",
                partial(graph_agrees, sizes, device))
    yield Check("Three steps compiled", f"at most {value_limit(TF32, HEADS):.1e} from the usual steps",
                left_out(partial(compiled_agrees, sizes, device), short))
    for line in PAIRS: yield Check(f"GPU: {line}", told, partial(choice_ratio, sizes, line, device))


def run_checks_of(device: str, short: bool, data_dir: Path) -> Iterator[Check]:
    "An epoch, and several processes."
    def epoch(features: str, precision: str) -> str:
        small_minihac(data_dir, 2 if short else 4)
        return minihac_epoch_on(device, data_dir, features, precision)

    for features in ("live", "stem") if short else ("live", "stem", "embedding"):
        for precision in ("32-true",) if short else ("32-true", "bf16-mixed"):
            yield Check(f"An epoch of mini-HAC, {features}, {precision}", "finite loss and logits",
                        partial(epoch, features, precision))
    program, kind = ROOT/"tests"/"parallel_ranks.py", "NCCL" if device == "cuda" else "gloo"
    for processes in (1, 2):
        ask = partial(same_gradients, program, data_dir, device, processes)
        yield Check(f"Gradients of {processes} process{'es' if processes > 1 else ''} that meet by {kind}, float64",
                    "at most 1e-9 from one on the CPU", left_out(ask, short))


def all_checks(device: str, short: bool, data_dir: Path, folder: Path) -> Iterator[Check]:
    sizes = SMALL if short or device == "cpu" else Sizes()
    yield from loss_checks(device, short)
    yield from network_checks(device, short, folder)
    yield from speed_checks(device, short, sizes)
    yield from run_checks_of(device, short, data_dir)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="toy sizes; leave out what takes long")
    parser.add_argument("--data-dir", type=Path, help="a data folder; mini-HAC is generated there if need be")
    parser.add_argument("--commit", help="of the code, where git has another history, or none")
    parser.add_argument("--out", type=Path, default=ROOT/RESULT, help="the file of rows")
    given = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="moosa-gpu-check-") as folder:
        data_dir = (given.data_dir or Path(folder)/"data").resolve()
        data_dir.mkdir(parents=True, exist_ok=True)
        checks = all_checks(device, given.short, data_dir, Path(folder))
        result = run_checks(checks, given.out, device, given.short, given.commit)
    failed = [row["what"] for row in result["rows"] if row["verdict"] == FAILED]
    print(f"{len(failed)} of {len(result['rows'])} checks failed, {result['seconds']:.0f} s: {given.out}", flush=True)
    return int(bool(failed))


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
