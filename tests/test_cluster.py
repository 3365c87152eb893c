"""A grid on a Dask scheduler with two workers: whatever is killed or frozen, the same command ends with all cells
done, nothing lost, nothing done twice.
"""
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import MOOSA, ROOT, call

ENV = dict(os.environ, OMP_NUM_THREADS="1", MOOSA_NO_PROGRESS="1", DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="10s")
PYTHON = sys.executable


def smaller_tiny(path, base: dict, axes: dict):
    content = yaml.safe_load((ROOT/"nbs"/"experiments"/"grids"/"tiny.yaml").read_text())
    path.write_text(yaml.safe_dump(content | dict(base=content["base"] | base, axes=content["axes"] | axes)))
    return path


@pytest.fixture
def grid(tmp_path):
    "tiny.yaml with runs of one epoch: six cells."
    return smaller_tiny(tmp_path/"six.yaml", dict(epochs=1), {})


@pytest.fixture
def small_grid(tmp_path):
    "Four cells of it, with few clips."
    return smaller_tiny(tmp_path/"four.yaml", dict(epochs=1, train_share=.1), dict(target=["optdigits", "mfeat"]))


def family(pid: int) -> list[psutil.Process]:
    try: return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess: return []


def end(process: subprocess.Popen):
    "Kill a process and all that it started."
    members = family(process.pid)
    for p in members:
        with suppress(psutil.NoSuchProcess): p.kill()
    process.wait()
    psutil.wait_procs(members, timeout=20)


@contextmanager
def cluster(folder):
    "A scheduler and two workers on loopback: address and processes by name."
    file = folder/f"scheduler-{time.time_ns()}.json"
    def start(*args):
        return subprocess.Popen([PYTHON, "-m", "distributed.cli." + args[0], *map(str, args[1:])], env=ENV,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)

    members = {"scheduler": start("dask_scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard",
                                  "--scheduler-file", file)}
    try:
        wait_for(file.exists, 60, "the scheduler")
        members |= {f"worker {i}": start("dask_worker", "--scheduler-file", file, "--name", f"worker {i}", "--nthreads",
                                         1, "--no-nanny", "--no-dashboard", "--death-timeout", 10) for i in (1, 2)}
        yield json.loads(file.read_text())["address"], members
    finally:
        for process in members.values(): end(process)


def launcher(grid, data_dir, *options) -> subprocess.Popen:
    # what a shell starts in the background ignores Ctrl-C, and so would all that pytest starts
    return subprocess.Popen([MOOSA, "grid", str(grid), "--data-dir", str(data_dir), *options], env=ENV, cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def wait_for(condition, seconds: float, what: str):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, f"{what}: not within {seconds} s"
        time.sleep(.1)


def records(data_dir) -> int: return len(list(data_dir.glob("runs/*/record.json")))


def running(data_dir) -> int: return len(list(data_dir.glob("runs/*/lock.*")))


def assert_all_done(data_dir, cells: int):
    "Each run is done, nobody holds it any more, and nothing was computed twice."
    from moosa.runs.lock import holder

    for place in data_dir.glob("runs/*"):
        assert (place/"record.json").exists() and not (place/"error.json").exists(), list(place.iterdir())
        assert holder(place) is None
        events = [json.loads(line) for line in (place/"attempts.jsonl").read_text().splitlines()]
        # none: the launcher was killed before it could note the end
        assert [e.get("status") for e in events].count("done") <= 1, events
    assert records(data_dir) == cells


def gone(pids) -> bool:
    return not any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids)


def disturb(what: str, grid, data_dir, folder):
    "Run the grid, and kill or freeze something once one cell is done and others are running."
    with cluster(folder) as (address, members):
        command = launcher(grid, data_dir, "--scheduler", address)
        wait_for(lambda: records(data_dir) >= 1 and running(data_dir) >= 1 or command.poll() is not None, 120,
                 "the first record")
        assert command.poll() is None, command.communicate()[0]
        victim, children = command, []
        if what != "launcher":
            victim = members[what.split(", ")[0]]
            children = [p.pid for p in family(victim.pid)][1:]
        os.kill(victim.pid, signal.SIGSTOP if what.endswith("frozen") else signal.SIGKILL)
        if what == "worker 1": wait_for(lambda: gone(children), 30, "the worker's cell to end with it")
        if what in ("launcher", "scheduler"):
            said, _ = command.communicate(timeout=120)
            assert command.returncode != 0
            if what == "scheduler": assert "the same command goes on" in said and "Traceback" not in said, said
        else:
            said, _ = command.communicate(timeout=240)  # the other worker does the rest
            assert command.returncode == 0, said
        if what.endswith("frozen"): os.kill(victim.pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["worker 1", "worker 1, frozen", "scheduler", "launcher"])
def test_whatever_happens_the_same_command_goes_on(what, grid, data_dir, tmp_path):
    disturb(what, grid, data_dir, tmp_path)
    with cluster(tmp_path) as (address, _):
        said, _ = (again := launcher(grid, data_dir, "--scheduler", address)).communicate(timeout=240)
    assert again.returncode == 0 and "6 done" in said, said
    assert_all_done(data_dir, 6)


@pytest.mark.slow
def test_two_launchers_share_a_grid(small_grid, data_dir):
    "Each cell is computed by one of them, and both end with all of it done; another terminal can look on."
    both = [launcher(small_grid, data_dir, *options) for options in ([], ["--workers", "1"])]
    wait_for(lambda: records(data_dir) >= 1 and running(data_dir) >= 1, 300, "the first record")
    seen = json.loads(call("status", small_grid, "--data-dir", data_dir, "--json").stdout)
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert_all_done(data_dir, 4)
    assert seen["cells"] == 4 and seen["done"] >= 1 and seen["done"] + seen["running"] + seen["missing"] == 4
    assert "4 of 4 cells done" in call("status", small_grid, "--data-dir", data_dir).stdout
    picture = data_dir/"timeline.png"
    assert call("status", small_grid, "--data-dir", data_dir, "--timeline", picture).returncode == 0
    assert picture.stat().st_size > 10_000


def test_ctrl_c_stops_all_that_was_started(small_grid, data_dir):
    command = launcher(small_grid, data_dir, "--workers", "2")
    wait_for(lambda: running(data_dir) == 2 or command.poll() is not None, 300, "two cells")
    started = family(command.pid)[1:]
    command.send_signal(signal.SIGINT)
    said, _ = command.communicate(timeout=120)
    assert command.returncode == 130 and "the same command goes on" in said and "Traceback" not in said, said
    wait_for(lambda: gone(p.pid for p in started), 20, "the end of its processes")


def handed_out(execute, data_dir, seeds, **where) -> dict:
    "Cells that are handed to workers, who do what `execute` does instead of training: seed -> outcome."
    from moosa.runs.cluster import choose_engine
    from moosa.runs.grid import expand
    from moosa.runs.run import job_of

    specs = expand("x", dict(base=dict(target="mfeat", method="erm"), axes=dict(seed=seeds))).specs
    with choose_engine(**where) as engine:
        return {spec.seed: outcome for spec, outcome in engine([(s, job_of(s, data_dir)) for s in specs], execute)}


def test_a_cell_that_kills_its_workers_is_set_aside(data_dir):
    from moosa.runs.process import DONE, Outcome

    def execute(job, where=""):
        if job.parameters["seed"] == 1: os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(DONE)

    ended = handed_out(execute, data_dir, [0, 1, 2], workers=2)
    assert [ended[s].status for s in (0, 2)] == ["done", "done"] and ended[1].status == "failed"
    assert "workers with it" in ended[1].reason
    (error,) = data_dir.glob("runs/*/error.json")
    assert "set aside" in json.loads(error.read_text())["error"]


def test_workers_see_one_gpu_each_and_import_no_torch(monkeypatch, data_dir):
    """No GPU is touched: what a worker, and with it its cells, would see. Without torch a worker answers its scheduler
    at once, however busy the machine.
    """
    import torch

    from moosa.runs.process import DONE, Outcome

    def execute(job, where=""):
        time.sleep(1)  # long enough for both workers to get one
        return Outcome(
            DONE, f"{where}: {os.environ['CUDA_VISIBLE_DEVICES']}, {'with' if 'torch' in sys.modules else 'no'} torch")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ended = handed_out(execute, data_dir, [0, 1], gpus=["3", "5"])
    assert {outcome.reason for outcome in ended.values()} == {"GPU 3: 3, no torch", "GPU 5: 5, no torch"}


def test_a_cell_that_takes_too_long_is_stopped(tmp_path, data_dir):
    two = smaller_tiny(tmp_path/"two.yaml", {}, dict(target=["mfeat"]))
    done = call("grid", two, "--data-dir", data_dir, "--time-limit", "0.03", env=dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 1 and "longer than the limit of 1.8 s" in done.stdout + done.stderr
    assert "2 failed" in call("status", two, "--data-dir", data_dir).stdout
    assert not list(data_dir.glob("runs/*/lock.*")) and records(data_dir) == 0


def test_the_slurm_job(tmp_path, monkeypatch):
    """The script that would be submitted, as text.

    Workers and scheduler speak TLS, with keys that only their owner can read.
    """
    pytest.importorskip("dask_jobqueue")
    from moosa.runs.cluster import slurm_cluster

    monkeypatch.setenv("MOOSA_DATA", str(tmp_path/"data"))
    (tmp_path/"slurm.yaml").write_text(
        'queue: gpu\nwalltime: "02:00:00"\nmemory: 24GB\njob_extra_directives: ["--gres=gpu:1"]\n')
    made = slurm_cluster(tmp_path/"slurm.yaml", 4)
    script, address = made.job_script(), made.scheduler_address
    keys = re.findall(r"--tls-(?:ca-file|cert|key) (\S+)", script)
    modes = {Path(key).parent: Path(key).stat().st_mode & 0o777 for key in keys}
    made.close()
    place = tmp_path/"data"/"cluster"
    assert len(keys) == 3 and modes == {place: 0o600} and place.stat().st_mode & 0o777 == 0o700, (keys, modes)
    assert address.startswith("tls://") and "--protocol tls://" in script
    assert "--no-dashboard --dashboard-address 127.0.0.1:0" in script and "export PYTHONSAFEPATH=1" in script
    for line in ("#SBATCH -p gpu", "#SBATCH -t 02:00:00", "#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=1"):
        assert line in script, script
    assert "--lifetime 6900s" in script and "--nthreads 1" in script
