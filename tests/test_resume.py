"""A run that is killed at any moment, and started again, ends with the same bytes as the unbroken one."""
import os
import random
import signal
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
from conftest import MOOSA, ROOT, call

ARGS = ["run", "--target", "mfeat", "--method", "moosa", "--epochs", "12", "--train-share", "0.3", "--hyper",
        "jigsaw_samples=4"]
KEPT = ("predictions.safetensors", "embeddings.safetensors", "clips.csv", "model.safetensors")


def results(data_dir):
    (folder,) = (data_dir/"runs").iterdir()
    return {name: (folder/name).read_bytes() for name in KEPT}


def kill_during_training(data_dir, after_epochs: int, wait: float, only_kernel: bool = False) -> tuple[int, str]:
    """SIGKILL the command and its kernel (or the kernel alone) once it has saved so many epochs *more* than were there:
    before its first new one the kernel may not live yet. Returns exit code and stderr.
    """
    def epochs() -> int:
        return max((1 + int(p.stem[-4:]) for p in data_dir.glob("runs/*/checkpoint/epoch-????.safetensors")), default=0)

    before = epochs()
    process = subprocess.Popen([MOOSA, *ARGS, "--data-dir", str(data_dir)], cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    deadline = time.time() + 300
    while time.time() < deadline and process.poll() is None:
        if epochs() - before >= after_epochs: break
        time.sleep(0.02)
    time.sleep(wait)
    children = [p.pid for p in psutil.Process(process.pid).children(recursive=True)]
    for pid in children if only_kernel else [process.pid, *children]:
        try: os.kill(pid, signal.SIGKILL)
        except ProcessLookupError: pass
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, archives):
    "Five random moments in one run, from before the first epoch to the last."
    folders = [tmp_path/"unbroken", tmp_path/"killed"]
    for folder in folders:
        (folder/"raw").mkdir(parents=True)
        (folder/"raw"/"av-digits").symlink_to(archives)
    assert call(*ARGS, "--data-dir", folders[0]).returncode == 0
    for after_epochs in random.choices(range(4), k=5):
        kill_during_training(folders[1], after_epochs, wait=random.uniform(0, 3 if after_epochs == 0 else 0.3))
    assert call(*ARGS, "--data-dir", folders[1]).returncode == 0
    assert results(folders[0]) == results(folders[1])


@pytest.mark.slow
def test_a_grid_killed_again_and_again(tmp_path, archives):
    """A grid of six runs, killed with all that it started at random moments: every run has the bytes of the unbroken
    grid's.
    """
    found = []
    for kills in (0, 4):
        folder = tmp_path/f"{kills} kills"
        (folder/"raw").mkdir(parents=True)
        (folder/"raw"/"av-digits").symlink_to(archives)
        command = [MOOSA, "grid", "tiny.yaml", "--workers", "2", "--data-dir", str(folder)]
        for _ in range(kills):
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(random.uniform(8, 16))
            for p in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                with suppress(psutil.NoSuchProcess): p.kill()
            process.wait()
        assert call(*command[1:]).returncode == 0
        found.append({place.name: {name: (place/name).read_bytes() for name in KEPT}
                      for place in (folder/"runs").iterdir()})
    assert len(found[0]) == 6 and found[0] == found[1]


def test_killed_and_resumed_equals_unbroken(tmp_path, archives):
    "Killed twice: the command with all that it started, and its kernel alone, of which the command tells."
    folders = [tmp_path/"unbroken", tmp_path/"killed"]
    for folder in folders:
        (folder/"raw").mkdir(parents=True)
        (folder/"raw"/"av-digits").symlink_to(archives)
    assert call(*ARGS, "--data-dir", folders[0]).returncode == 0
    kill_during_training(folders[1], 1, wait=random.uniform(0, 0.3))
    assert not list(folders[1].glob("runs/*/record.json")), "the run was over before it was killed"
    code, stderr = kill_during_training(folders[1], 1, wait=0, only_kernel=True)
    assert code == 1 and "process died" in stderr and "Traceback" not in stderr, stderr
    assert list(folders[1].glob("runs/*/error.json")) and not list(folders[1].glob("runs/*/record.json"))
    assert call(*ARGS, "--data-dir", folders[1]).returncode == 0
    assert results(folders[0]) == results(folders[1])
