"""A run that is killed at any moment, and started again, ends with the same bytes as the unbroken one."""
import os
import random
import signal
import subprocess
import time

import pytest
from conftest import MOOSA, ROOT, call

ARGS = ["run", "--target", "mfeat", "--method", "moosa", "--epochs", "4", "--hyper", "jigsaw_samples=4"]
KEPT = ("predictions.safetensors", "clips.csv", "model.safetensors")


def results(data_dir):
    (folder,) = (data_dir/"runs").iterdir()
    return {name: (folder/name).read_bytes() for name in KEPT}


def kill_during_training(data_dir, after_epochs: int, wait: float):
    "SIGKILL the whole process group once some epochs are saved."
    process = subprocess.Popen([MOOSA, *ARGS, "--data-dir", str(data_dir)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        if len(list(data_dir.glob("runs/*/checkpoint/checkpoint.json"))) and any(p.name >= f"epoch-{after_epochs - 1:04d}" for p in data_dir.glob("runs/*/checkpoint/epoch-*")): break
        time.sleep(0.02)
    time.sleep(wait)
    kernels = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True).stdout.split()
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in {*kernels, *children}:
        try: os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError: pass
    process.wait()


@pytest.mark.parametrize("after_epochs", [1, 2])
def test_killed_and_resumed_equals_unbroken(tmp_path, archives, after_epochs):
    folders = [tmp_path/"unbroken", tmp_path/"killed"]
    for folder in folders:
        (folder/"raw").mkdir(parents=True)
        (folder/"raw"/"av-digits").symlink_to(archives)
    assert call(*ARGS, "--data-dir", folders[0]).returncode == 0
    kill_during_training(folders[1], after_epochs, wait=random.uniform(0, 0.3))
    assert not list(folders[1].glob("runs/*/record.json")), "the run was over before it was killed"
    assert call(*ARGS, "--data-dir", folders[1]).returncode == 0
    assert results(folders[0]) == results(folders[1])
