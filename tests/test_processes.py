"""Processes that work for another one: a crash costs only its item, and nobody is left behind."""
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from conftest import MOOSA
from deadly import work

from moosa.core import InputError
from moosa.data import loader
from moosa.data.dataset import DataSet
from moosa.data.doctor import playable
from moosa.data.folder import FolderData
from moosa.data.loader import ClipList, Pairs, eval_batches, train_batches
from moosa.data.media import ArrayFile
from moosa.data.sounds import write_sound
from moosa.data.processes import ProcessDied, each


def test_only_what_kills_its_process_is_bad(tmp_path):
    items = [*"abcdef", "always", *"ghij", f"once {tmp_path/'mark'}", *"klm"]
    results = each(work, items, workers=3)
    assert isinstance(results[6], ProcessDied) and "SIGSEGV" in str(results[6])
    assert [r for r in results if r is not results[6]] == [i.upper() for i in items if i != "always"]


class Deadly(ArrayFile):
    "An array whose reading crashes, if it begins with 13."

    def read(self):
        array = super().read()
        if array.flat[0] == 13: os.kill(os.getpid(), signal.SIGSEGV)
        return array


class Crashing(FolderData):
    def media(self, clip, modality):
        medium = super().media(clip, modality)
        return Deadly(medium.path) if modality == "array" else medium


@pytest.fixture
def crashing(tmp_path) -> Crashing:
    place = tmp_path/"d"/"c"
    for i in range(12):
        write_sound(place/f"{i:02}.wav", np.sin(np.arange(9)))
        np.save(place/f"{i:02}.npy", np.full(3, 13 if i == 7 else i % 7))
    return Crashing(tmp_path)


def test_skipping_leaves_out_only_the_clip_that_crashes(crashing):
    good, skipped = playable(crashing, crashing.clips, crashing.modalities, workers=2)
    assert skipped[["clip", "modality", "problem"]].to_numpy().tolist() == [["d/c/07", "array", "unreadable"]]
    assert skipped.file[0].endswith("07.npy") and "SIGSEGV" in skipped.detail[0] and len(good) == 11


def test_a_run_names_the_clip_that_crashes(crashing, monkeypatch):
    clips = ClipList(crashing, crashing.clips.assign(label=0), ["array"])
    with pytest.raises(InputError, match="clip d/c/07: the process that loads it dies of it"):
        list(eval_batches(clips, 1, workers=1))
    pairs = Pairs(ClipList(crashing, clips.clips.iloc[:4], ["array"]),
                  ClipList(crashing, clips.clips.iloc[5:9], ["array"]))
    monkeypatch.setattr(loader, "each",
                        lambda work, singles, label: [ProcessDied() if one.names[row] == "d/c/07" else None
                                                      for one, row in singles])
    assert "clip d/c/07: the process" in str(loader.find_deadly(pairs, [0, 1, 2, 3], RuntimeError()))
    assert isinstance(loader.find_deadly(pairs.source, [0, 1], RuntimeError("killed")), RuntimeError)


class Plain(DataSet):
    modalities, recipes = ("a", "b"), {}

    def load(self, clips, modalities, view=None):
        x = torch.tensor(clips["number"].tolist())
        if (x < 0).any(): os.kill(os.getpid(), signal.SIGKILL)
        return {"a": x[:, None].repeat(1, 500).float(), "b": (x, x.double())}


def plain(numbers) -> ClipList:
    return ClipList(Plain(), pd.DataFrame(dict(clip=[str(n) for n in numbers], number=numbers, label=0, domain="d")),
                    ["a", "b"])


@pytest.mark.parametrize("room", [0, 20_000, 2**40])
def test_where_shared_memory_is_small_batches_go_through_a_pipe(monkeypatch, room):
    monkeypatch.setattr(loader, "shared_memory", lambda: room)
    packed, unpack = [], loader.Packed.unpack
    monkeypatch.setattr(loader.Packed, "unpack", lambda self: packed.append(1) or unpack(self))
    expected = list(eval_batches(plain(range(10)), 4))
    found = list(eval_batches(plain(range(10)), 4, workers=2))
    assert [b.clips for b in found] == [b.clips for b in expected] and len(packed) == (3 if room < 2**40 else 0)
    for one, other in zip(found, expected):
        assert torch.equal(one.data["a"], other.data["a"]) and all(map(torch.equal, one.data["b"], other.data["b"]))
        assert torch.equal(one.domains, other.domains)
    pairs = [b.unlabelled["a"][:, 0].tolist() for w in (0, 2)
             for b in train_batches(Pairs(plain(range(10)), plain(range(5))), 4, 0, 0, workers=w)]
    assert pairs[:2] == pairs[2:]


SLEEPERS = """
import sys, time
from moosa.data.processes import each
def work(x): time.sleep(x)
if __name__ == "__main__": each(work, [0, 0] + [60.]*3, workers=3)
"""
LOADERS = """
import sys, time, torch, pandas as pd
from moosa.data import loader
from moosa.data.dataset import DataSet
loader.shared_memory = lambda: 0
class Large(DataSet):
    modalities = ("a",)
    def load(self, clips, modalities, view=None): return {"a": torch.zeros(len(clips), 300_000)}
clips = pd.DataFrame(dict(clip=[str(i) for i in range(99)], label=0))
batches = loader.eval_batches(loader.ClipList(Large(), clips, ["a"]), 2, workers=2)
next(batches)
time.sleep(60)
"""


@pytest.mark.parametrize("script", [SLEEPERS, LOADERS], ids=["each", "loader"])
def test_workers_die_with_their_parent(tmp_path, script):
    (tmp_path/"parent.py").write_text(script)
    parent = subprocess.Popen([sys.executable, tmp_path/"parent.py"])
    deadline, started = time.time() + 60, []
    while time.time() < deadline and len(started) < 2:
        started = [p for p in psutil.Process(parent.pid).children(recursive=True) if script is LOADERS
                   or "spawn_main" in " ".join(p.cmdline())]
        time.sleep(.2)
    time.sleep(3)  # they are at work, or waiting for somebody to take what they have done
    started = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(started, timeout=5)
    assert len(started) >= 2 and not alive


def heed_signals():
    "Whoever runs the tests by nohup, or in the background, has these ignored, by all that is started."
    for ignored in (signal.SIGHUP, signal.SIGINT): signal.signal(ignored, signal.SIG_DFL)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_jupyterlab_ends_with_the_command_that_opened_it(how, tmp_path):
    command = [MOOSA, "explore", "--no-browser", "--port", str(9100 + os.getpid() % 500)]
    with open(tmp_path/"log", "wb") as log:
        explore = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=tmp_path,
                                   start_new_session=True, env={**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path)},
                                   preexec_fn=heed_signals)
    started = [psutil.Process(explore.pid)]
    try:
        end = time.time() + 120
        while b"/lab/tree" not in (tmp_path/"log").read_bytes() and time.time() < end: time.sleep(.2)
        assert b"/lab/tree" in (tmp_path/"log").read_bytes(), (tmp_path/"log").read_text()
        started += started[0].children(recursive=True)
        explore.send_signal(getattr(signal, how))
        _, alive = psutil.wait_procs(started, timeout=30)
        assert not alive
    finally:
        for process in started:
            if process.is_running(): process.kill()
        explore.wait()
