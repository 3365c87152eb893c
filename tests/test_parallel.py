"""Two processes that share a run's batches: the same loss and gradients as one, every clip evaluated once, and a killed
rank costs no more than its epoch.
"""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from conftest import MOOSA, ROOT, call

from moosa.core import InputError
from moosa.runs.experiment import build_learner, checkpoint_of, open_experiment, train
from moosa.runs.record import run_folder
from moosa.runs.run import job_of
from moosa.runs.grid import expand
from moosa.runs.status import cell_status, grid_status
from moosa.training.shares import devices_asked_for
from moosa.runs.given import spec_from
from moosa.runs.spec import spec_hash
from moosa.training.compute import make_fabric

CASES = ["moosa/osdg", "moosa/osda", "erm/osdg", "simmmdg/osdg", "rna-net/osdg", "coral/osdg", "coral/osda", "mmd/osdg",
         "mmd/osda", "cmrf/osdg", "dann/osda", "mm-sada/osda", "osbp/osda", "erm+balance/osdg", "moosa+balance/osdg",
         "moosa/osdg/holes", "moosa/osda/holes", "cmrf/osdg/holes", "moosa+balance/osdg/holes",
         "jat/osdg", "nel/osdg", "gmp/osdg", "mbcd/osdg", "jat/osdg/holes", "nel/osdg/holes",
         "miro/osdg", "miro/osdg/holes",
         "erm+sam/osdg", "coral+sam/osda", "moosa+sam/osdg/holes", "grad-blend/osdg", "grad-blend/osdg/holes"]
ENV = dict(os.environ, OMP_NUM_THREADS="1", MOOSA_NO_PROGRESS="1")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ARGS = ["run", "--target", "mfeat", "--method", "moosa", "--epochs", "3", "--train-share", "0.3", "--hyper",
        "jigsaw_samples=4"]


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    "What one process finds, and what each of two does."
    folder, program = tmp_path_factory.mktemp("ranks"), str(Path(__file__).parent/"parallel_ranks.py")
    for command in ([sys.executable, program, folder/"one", *CASES], [*TORCHRUN, program, folder/"two", *CASES]):
        done = subprocess.run(list(map(str, command)), env=ENV, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    one, *two = (torch.load(folder/name) for name in ("one-0", "two-0", "two-1"))
    assert (one["ranks"], two[0]["ranks"]) == (1, 2)
    return one["found"], [part["found"] for part in two]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_one_process(computed, case):
    one, two = computed
    for rank in two:
        assert rank[case].keys() == one[case].keys()
        for name, value in one[case].items():
            torch.testing.assert_close(rank[case][name], value, rtol=1e-9, atol=1e-12,
                                       msg=lambda m, name=name: f"{name}: {m}")
    assert any(v.abs().max() > 1e-6 for name, v in one[case].items() if name.startswith("model.extractors"))


@pytest.mark.parametrize("clips", [1, 2, 7, 16])
def test_every_clip_is_evaluated_once(computed, clips):
    one, two = computed
    for rank in two:
        mine, expected = rank[f"predictions of {clips}"], one[f"predictions of {clips}"]
        assert mine.pop("clips") == [f"clip {i}" for i in range(clips)]
        for name, value in mine.items(): torch.testing.assert_close(value, expected[name])


def record_of(data_dir):
    (path,) = data_dir.glob("runs/*/record.json")
    return json.loads(path.read_text())


def started(command, data_dir) -> subprocess.Popen:
    "A run that has saved its first epoch."
    process = subprocess.Popen(command, env=ENV, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 300
    while not list(data_dir.glob("runs/*/checkpoint/checkpoint.json")):
        assert time.time() < deadline and process.poll() is None, process.communicate()[0]
        time.sleep(.02)
    return process


@pytest.mark.slow
def test_a_notebook_that_forks_its_ranks_goes_on_after_one_is_killed(data_dir):
    shared = [*ARGS, "--devices", "2", "--device", "cpu", "--data-dir", str(data_dir)]
    process = started([MOOSA, *shared], data_dir)
    (kernel,) = psutil.Process(process.pid).children()
    kernel.children()[-1].kill()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "one of the processes that share the run died" in said, said
    assert "same command goes on" in said and "Traceback" not in said, said
    done = call(*shared)
    assert done.returncode == 0, done.stderr
    record = record_of(data_dir)
    assert record["parallel"] == dict(world_size=2, effective_batch=32, batch_per_process=16)
    spec = spec_from(record["spec"])
    assert spec.devices == 2 and record["hash"] == spec_hash(spec) != spec_hash(replace(spec, devices=1))
    assert cell_status(spec, data_dir)[0] == "done"
    assert cell_status(replace(spec, devices=1), data_dir)[0] == "missing"


def test_an_error_in_a_forked_rank_is_named(data_dir):
    done = call(*ARGS, "--devices", "2", "--device", "cpu", "--lr", "1e30", "--data-dir", data_dir)
    assert done.returncode == 1 and "Lower lr" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_torchrun_goes_on_after_a_rank_is_killed(data_dir):
    command = [*TORCHRUN, "--max-restarts", "2", "--no-python", MOOSA, *ARGS, "--device", "cpu",
               "--data-dir", str(data_dir)]
    process = started(command, data_dir)
    ranks = [p for p in psutil.Process(process.pid).children() if "run" in p.cmdline()]
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and not list(data_dir.glob("runs/*/lock.*")), said
    record = record_of(data_dir)
    assert record["parallel"]["world_size"] == record["spec"]["devices"] == 2
    assert record["hash"] == spec_hash(spec_from(record["spec"]))
    assert len((data_dir/"runs"/record["hash"]/"history.csv").read_text().splitlines()) == 4


def test_a_batch_that_cannot_be_shared(data_dir):
    done = call(*ARGS, "--batch-size", "15", "--devices", "2", "--device", "cpu", "--data-dir", data_dir)
    assert done.returncode == 2 and "15 clips cannot be shared equally by 2 processes" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_the_number_of_processes_is_in_the_name_of_the_run(tmp_path):
    """Masks, dropout and batch statistics are each process's own, so two processes make another run than one; in a
    grid, too.
    """
    one, two = (spec_from(dict(target="mfeat", devices=n)) for n in (1, 2))
    assert spec_hash(one) == spec_hash(spec_from(dict(target="mfeat"))) != spec_hash(two)
    assert run_folder(one, tmp_path) != run_folder(two, tmp_path) and job_of(two, tmp_path).parameters["devices"] == 2
    grid = expand("both", dict(base=dict(target="mfeat"), axes=dict(devices=[1, 2])))
    assert [spec_hash(s)
            for s in grid.specs] == grid_status(grid, tmp_path).run.tolist() == [spec_hash(one), spec_hash(two)]


def test_torchrun_says_how_many_there_are(monkeypatch):
    assert [devices_asked_for(n) for n in (1, 4)] == [1, 4]
    for name, value in dict(TORCHELASTIC_RUN_ID="x", WORLD_SIZE="4").items(): monkeypatch.setenv(name, value)
    assert [devices_asked_for(n) for n in (1, 4)] == [4, 4]
    with pytest.raises(InputError, match="torchrun has started 4 processes"): devices_asked_for(2)


def test_a_run_for_two_is_not_trained_by_one(data_dir):
    spec = spec_from(dict(target="mfeat", epochs=1, devices=2, hyper=dict(jigsaw_samples=4)))
    with pytest.raises(InputError, match="the spec says 2, but 1"):
        train(make_fabric("cpu"), open_experiment(spec, data_dir), build_learner(spec, data_dir),
              checkpoint_of(spec, data_dir))
