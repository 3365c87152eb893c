"""Who gets in: nobody reaches the workers of a cluster but its owner, and nothing that lies in the current folder runs.
"""
import os
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import ROOT

STRANGER = "from pathlib import Path\nPath({here!r}, 'ran').touch()\nraise SystemExit('a stranger ran')\n"


@pytest.fixture
def trap(tmp_path, monkeypatch):
    "The current folder, with modules named as those of Python and moosa are; they leave the file `ran` if they run."
    folder = tmp_path/"trap"
    folder.mkdir()
    for name in ("json", "pickle", "random", "torch", "moosa", "papermill", "ipykernel_launcher", "distributed", "pip",
                 "cv2"):
        (folder/f"{name}.py").write_text(STRANGER.format(here=str(folder)))
    monkeypatch.chdir(folder)
    return folder


@contextmanager
def two_workers():
    "A local cluster, as `moosa grid --workers 2` has it, and a client."
    from distributed import Client

    from moosa.runs.cluster import local_cluster

    with local_cluster(2) as cluster, Client(cluster, timeout="20s") as client:
        client.wait_for_workers(2, timeout=60)
        yield cluster, client


def listening(process: psutil.Process) -> set[str]:
    "Addresses at which a process listens."
    return {c.laddr.ip for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}


def test_nobody_else_reaches_a_local_cluster(trap):
    import dask
    from distributed.security import Security

    with two_workers() as (cluster, client):
        me, workers = psutil.Process(), cluster.scheduler_info["workers"]
        assert listening(me)
        assert set().union(*map(listening, [me, *me.children(recursive=True)])) <= {"127.0.0.1", "::1"}
        for address in (cluster.scheduler_address, *workers, *(w["nanny"] for w in workers.values())):
            assert address.startswith("tls://127.0.0.1:")
        turned_away(cluster.scheduler_address.replace("tls://", "tcp://"))
        turned_away(cluster.scheduler_address, Security.temporary())  # who has made a certificate for himself
        for w in workers.values():
            assert any(folder.stat().st_mode & 0o777 == 0o700 for folder in Path(w["local_directory"]).parents)
        assert set(client.run(lambda: os.environ.get("PYTHONSAFEPATH")).values()) == {"1"}
        assert set(client.run(lambda: dask.config.get("distributed.worker.profile.enabled")).values()) == {False}
    assert not (trap/"ran").exists()


def turned_away(address: str, security=None):
    "A client that does not get in."
    from distributed import Client

    with pytest.raises(OSError): Client(address, security=security, timeout="1s")


def test_what_lies_in_the_current_folder_does_not_run(trap):
    "A run's child, its kernel, and what that starts; and the processes that read files."
    from moosa.data import processes
    from moosa.runs.notebook import Job, execute_run_apart

    code = ("import json, subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import json'], check=True)\n"
            "json.dump({}, open('record.json', 'w'))")
    cells = [nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells,
                                            metadata={"kernelspec": {"name": "python3", "display_name": "x",
                                                                     "language": "python"}}), trap/"run.ipynb")
    outcome = execute_run_apart(Job(trap/"run.ipynb", trap, {}))
    assert outcome.status == "done", outcome
    assert processes.each(os.path.basename, ["a/b", "c/d"], 2) == ["b", "d"]
    assert not (trap/"ran").exists()


def test_the_project_is_the_packages_own(trap, monkeypatch):
    "A folder that looks like a project is none, unless it is named, and one's own."
    from moosa.core import InputError
    from moosa.places import project_root

    own = project_root()
    (trap/"nbs"/"experiments").mkdir(parents=True)
    for file in (trap/"settings.ini", trap/"nbs"/"experiments"/"split.ipynb"): file.touch()
    assert project_root() == own == ROOT
    monkeypatch.setenv("MOOSA_PROJECT", str(trap))
    assert project_root() == trap
    monkeypatch.setattr(os, "getuid", lambda: os.stat(trap).st_uid + 1)
    if os.stat(trap).st_uid:  # root's folders are trusted
        with pytest.raises(InputError, match="belongs to another user"): project_root()
