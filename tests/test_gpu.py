"""On a CUDA device: the loss and gradients of the CPU, the same bytes twice, a stopped run that goes on, runs and grids
by command. Skipped where there is none.
"""
import os
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from conftest import MOOSA, ROOT, call
from parallel_ranks import gradients
from test_parallel import CASES

from moosa.runs.experiment import build_learner, checkpoint_of, open_experiment
from moosa.runs.record import read_record
from moosa.runs.given import spec_from
from moosa.training.compute import make_fabric
from moosa.training.trainer import Callback, fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
DIGITS = dict(dataset="av-digits", target="mfeat", batch_size=128, epochs=2)
KEPT = ("predictions.safetensors", "embeddings.safetensors", "clips.csv", "model.safetensors")
PRECISIONS = ["32-true", "16-mixed", "bf16-mixed"]
ARGS = ["run", "--dataset", "av-digits", "--target", "mfeat", "--epochs", 2, "--hyper", "jigsaw_samples=4"]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_the_cpu(case):
    cpu, gpu = (gradients(make_fabric(device, "64-true"), *case.split("/")) for device in ("cpu", "cuda"))
    assert cpu.keys() == gpu.keys()
    for name, value in cpu.items():
        torch.testing.assert_close(gpu[name].cpu(), value, rtol=1e-9, atol=1e-12,
                                   msg=lambda m, name=name: f"{name}: {m}")


class StopAfterFirst(Callback):
    def on_epoch(self, state, *_):
        if state.epoch == 1: raise KeyboardInterrupt


def trained(data_dir, callbacks=(), kept=False, **more):
    "The weights after two epochs, and the state; `kept`: with a checkpoint, from which it goes on."
    spec = spec_from(DIGITS | more)
    experiment, learner = open_experiment(spec, data_dir), build_learner(spec, data_dir)
    checkpoint = [checkpoint_of(spec, data_dir, experiment.fingerprint)] if kept else []
    state = fit(make_fabric("cuda", spec.precision), learner, experiment.train, experiment.validation,
                experiment.config(), [*checkpoint, *callbacks])
    return {name: w.cpu() for name, w in learner.state_dict().items()}, state


@pytest.mark.parametrize("method", ["moosa", "cmrf", "mixup"])
def test_the_same_weights_twice(data_dir, method):
    (one, first), (two, second) = (trained(data_dir, method=method) for _ in range(2))
    assert [row["loss"] for row in first.history] == [row["loss"] for row in second.history]
    for name, w in one.items(): assert torch.equal(w, two[name]), name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_stopped_and_resumed_equals_unbroken(data_dir, precision):
    whole, state = trained(data_dir, method="moosa", precision=precision)
    with suppress(KeyboardInterrupt):
        trained(data_dir, [StopAfterFirst()], True, method="moosa", precision=precision)
    resumed, again = trained(data_dir, kept=True, method="moosa", precision=precision)
    for name, w in whole.items(): assert torch.equal(w, resumed[name]), name
    assert state.history[1]["loss"] == again.history[1]["loss"] and state.scaler == again.scaler
    assert bool(state.scaler) == (precision == "16-mixed")


def test_compiled_learns_the_same(data_dir):
    plain, compiled = (trained(data_dir, method="moosa", epochs=1, compile=c)[1] for c in (False, True))
    assert compiled.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-2)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_by_command(tmp_path, archives, precision):
    "Its record tells where it ran and what it took; another run of it has the same bytes."
    found = []
    for name in "ab":
        (tmp_path/name/"raw").mkdir(parents=True)
        (tmp_path/name/"raw"/"av-digits").symlink_to(archives)
        done = call(*ARGS, "--device", "cuda", "--precision", precision, "--data-dir", tmp_path/name)
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path/name/"runs").iterdir()
        record = read_record(folder)
        assert record["device"].startswith("cuda") and record["environment"]["gpu"] and record["peak_gpu_memory_mb"] > 1
        found.append({file: (folder/file).read_bytes() for file in KEPT})
    assert found[0] == found[1]


def test_a_grid_on_its_device(data_dir):
    done = call("grid", "tiny.yaml", "--gpus", "0", "--workers", 1, "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    records = [read_record(folder) for folder in (data_dir/"runs").iterdir()]
    assert len(records) == 6 and all(r["device"].startswith("cuda") for r in records)


def test_torchrun_meets_by_nccl(data_dir):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "--no-python"]
    done = subprocess.run([*torchrun, MOOSA, *map(str, ARGS), "--device", "cuda", "--data-dir", str(data_dir)],
                          capture_output=True, text=True, cwd=ROOT, env=dict(os.environ, MOOSA_NO_PROGRESS="1"))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (data_dir/"runs").iterdir()
    assert read_record(folder)["device"].startswith("cuda")


def test_nothing_touches_the_device_before_processes_are_forked(data_dir):
    "CUDA does not survive a fork: what split.ipynb does before it starts one process for each GPU leaves it alone."
    program = f"""
import torch
from moosa.runs.experiment import build_learner, checkpoint_of, open_experiment
from moosa.runs.given import spec_from
from moosa.training.compute import make_fabric
spec = spec_from({DIGITS!r})
experiment = open_experiment(spec, {str(data_dir)!r})
build_learner(spec, {str(data_dir)!r}), checkpoint_of(spec, {str(data_dir)!r}, experiment.fingerprint)
make_fabric("cuda", spec.precision)
assert not torch.cuda.is_initialized()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
