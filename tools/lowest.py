"""Do the lowest versions that settings.ini promises still work? Install exactly those, and do a short run with them.

    python tools/lowest.py [FOLDER]

uv chooses them: the lowest of what the package itself asks for, the newest of what those ask for. FOLDER (default: a
temporary one, removed afterwards) holds the virtual environment and what the run makes. PyTorch's oldest wheels bring
CUDA along: 3 GB are downloaded, 7 GB of disk needed. The Python that runs this script is the one that is tested.
"""
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, **more) -> None:
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, **more)


def check(folder: Path) -> None:
    """Install the lowest versions into `folder`/venv, and run the smallest grid and its report with them."""
    run(sys.executable, "-m", "venv", folder/"venv")
    binaries = folder/"venv"/"bin"
    run(binaries/"python", "-m", "pip", "install", "--quiet", "uv")
    run(binaries/"uv", "pip", "install", "--python", binaries/"python", "--resolution", "lowest-direct", ROOT)
    # From outside the checkout: what is tested is the installed package.
    work = {"cwd": folder, "env": {**os.environ, "MOOSA_DATA": str(folder/"data")}}
    run(binaries/"moosa", "data", "get", "av-digits", **work)
    run(binaries/"moosa", "grid", "tiny.yaml", **work)
    run(binaries/"moosa", "report", "tiny.yaml", **work)


def main(arguments: list[str]) -> None:
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        sys.exit(__doc__)
    if arguments:
        folder = Path(arguments[0]).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        check(folder)
    else:
        with tempfile.TemporaryDirectory(prefix="moosa-lowest-") as folder:
            check(Path(folder))
    print("The lowest versions work.")


if __name__ == "__main__":
    main(sys.argv[1:])
