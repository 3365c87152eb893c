"""Five hundred short cells over two workers, of which once a minute something is killed: a worker, the scheduler or
the launcher. Whoever starts it again finds all of it done, nothing done twice, and nothing left behind.
"""
import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import psutil
import pytest
from conftest import MOOSA, call
from test_cluster import ENV, assert_all_done, end, family, gone, records, smaller_tiny, wait_for

VICTIMS = ["worker 1", "worker 2"]*2 + ["scheduler", "launcher"]
SETTLED = 20  # seconds that a launcher lives until its memory counts
MB = 2**20


class Crew:
    "Scheduler, workers and launcher of a grid, each started again when it is dead, as a batch system and a user would."

    def __init__(self, grid: Path, data_dir: Path, folder: Path):
        self.grid, self.data_dir, self.file, self.log = grid, data_dir, folder/"scheduler.json", folder/"said.txt"
        self.members: dict[str, subprocess.Popen] = {}
        self.seen: set[int] = set()  # every process that any of them started
        self.memory: dict[int, list[int]] = {}  # process of a launcher -> bytes, once a second

    def start(self, name: str, *command):
        with self.log.open("a") as log:
            self.members[name] = subprocess.Popen([*map(str, command)], env=ENV, stdout=log, stderr=log)

    def alive(self, name: str) -> bool: return name in self.members and self.members[name].poll() is None

    def start_the_dead(self):
        "Without a scheduler, none of the others is of use."
        if not self.alive("scheduler"):
            self.end()
            self.start("scheduler", sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1",
                       "--port", 0, "--no-dashboard", "--scheduler-file", self.file)
            wait_for(self.file.exists, 60, "the scheduler")
        for name in ("worker 1", "worker 2"):
            if not self.alive(name):
                self.start(name, sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", self.file,
                           "--nthreads", 1, "--no-nanny", "--no-dashboard", "--death-timeout", 10)
        if not self.alive("launcher"):
            address = json.loads(self.file.read_text())["address"]
            self.start("launcher", MOOSA, "grid", self.grid, "--data-dir", self.data_dir, "--scheduler", address)

    def look(self):
        "Note who is there, and how much memory the launcher has."
        for process in self.members.values(): self.seen |= {p.pid for p in family(process.pid)}
        with suppress(psutil.NoSuchProcess):
            pid = self.members["launcher"].pid
            held = psutil.Process(pid).memory_info().rss
            if held: self.memory.setdefault(pid, []).append(held)  # 0: it has ended

    def end(self):
        for process in self.members.values(): end(process)
        self.members.clear()
        self.file.unlink(missing_ok=True)


def work_through(crew: Crew, cells: int, every: float, chance: random.Random) -> list[str]:  # who was killed
    "Run a grid to its end, and kill somebody every so many seconds."
    killed, next_kill, victims = [], time.monotonic() + every, cycle(chance.sample(VICTIMS, len(VICTIMS)))
    while True:
        crew.start_the_dead()
        time.sleep(1)
        crew.look()
        if records(crew.data_dir) == cells: break
        if time.monotonic() > next_kill:
            killed.append(next(victims))
            if crew.alive(killed[-1]): crew.members[killed[-1]].kill()
            next_kill += every
    assert crew.members["launcher"].wait(60) == 0, crew.log.read_text()[-2000:]
    crew.look()
    crew.end()
    return killed


def growth(memory: dict[int, list[int]]) -> list[float]:
    "By how many MB each launcher that lived long enough grew after its start."
    return [(seen[-1] - seen[SETTLED])/MB for seen in memory.values() if len(seen) > 2*SETTLED]


def lies_about(data_dir: Path) -> set[str]:
    "Names of files that are not in every run, and of what lies beside the runs."
    runs = [{p.name for p in place.iterdir()} for place in data_dir.glob("runs/*")]
    return set.union(*runs) - set.intersection(*runs) | {p.name for p in data_dir.iterdir()} - {"raw", "runs"}


@pytest.mark.slow
def test_five_hundred_cells_whoever_is_killed(data_dir, tmp_path):
    seeds, folder = list(range(500)), tmp_path/"crew"
    grid = smaller_tiny(tmp_path/"many.yaml", dict(epochs=1, train_share=.1),
                        dict(target=["mfeat"], seed=seeds))
    folder.mkdir()
    crew = Crew(grid, data_dir, folder)
    try: killed = work_through(crew, len(seeds), 60, random.Random(0))
    finally: crew.end()
    grew = [round(mb) for mb in growth(crew.memory)]
    print(f"{len(killed)} killed: {', '.join(killed)}; launchers grew by {grew} MB")
    assert len(killed) >= 5 and max(growth(crew.memory)) < 30
    assert call("grid", grid, "--data-dir", data_dir).returncode == 0  # clears away what the killed have left
    assert_all_done(data_dir, len(seeds))
    wait_for(lambda: gone(crew.seen), 30, "the end of all processes")
    assert not lies_about(data_dir)
