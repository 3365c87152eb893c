"""`moosa`, in a process that was forked from one that has imported other people's packages: what it would start as new
Pythons, the kernel of a notebook and the process that forks a grid's runs, it forks itself, before it does anything.
"""
import os
import socket
import sys

from moosa.runs import notebook, warm


class Inherited(warm.Nursery):
    "A process that forks; itself a fork of this one, with all that this one has imported."

    def __init__(self):
        os.environ.update(warm.SAFE_PATH)  # as `moosa` does, and asks for a process with its environment
        self.env, self.heard = dict(os.environ), b""
        self.line, theirs = socket.socketpair()
        code = (f"import os; os.close({self.line.fileno()})  # it ends when nobody has this end any more\n"
                f"from moosa.runs.warm import serve; serve({theirs.fileno()}, [])")
        env = {**self.env, **warm.AS_IN_A_KERNEL}
        self.process = warm.Spare().start(["python", "-c", code], env=env, folder=os.getcwd())
        theirs.close()


def bars_of_a_terminal():
    "Where a kernel's packages are imported, tqdm takes its bars for a notebook's."
    import tqdm.auto

    for module in [m for m in sys.modules.values() if getattr(m, "tqdm", None) is tqdm.auto.tqdm]:
        if module is not tqdm.auto: module.tqdm = tqdm.std.tqdm
    tqdm.auto.tqdm = tqdm.std.tqdm


def main(out: str, err: str, *words: str):
    "Run `moosa WORDS`, with standard output and standard error in two files."
    for number, path in enumerate((out, err), 1): os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    warm._OWN.nursery = Inherited()  # first: it would inherit the pipe that the other one waits at
    spares, start = [warm.Spare()], notebook.kernels

    def kernels(folder, log=None, spare=None): return start(folder, log, spare or (spares.pop() if spares else None))

    notebook.kernels = kernels
    bars_of_a_terminal()
    sys.argv = ["moosa", *words]
    from moosa.cli import main as moosa

    moosa()
