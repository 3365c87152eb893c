"""Work that kills the process that does it; without imports that take time."""
import os
import signal


def work(item: str) -> str:
    "As a library does that crashes: of `once`, only the first time."
    if item == "always": os.kill(os.getpid(), signal.SIGSEGV)
    mark = item.removeprefix("once ")
    if mark != item and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return item.upper()
