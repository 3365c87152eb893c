"""Export the notebooks: nbdev-export, and then lines of `__all__` that end at column 120 like all others.

    python tools/export.py [FOLDER]

nbdev wraps the list at 120 without counting the name before it. FOLDER (default: this checkout) holds nbs/ and moosa/.
"""
from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

WIDTH = 120


def wrapped(module: str) -> str:
    "Return the text of a module with its `__all__` wrapped anew."
    def again(found: re.Match) -> str:
        return textwrap.fill(" ".join(found[0].split()), WIDTH, subsequent_indent=" "*11, break_long_words=False)

    return re.sub(r"^__all__ = \[.*?\]$", again, module, count=1, flags=re.MULTILINE | re.DOTALL)


def export(root: Path) -> str:  # what went wrong; empty if nothing did
    "Write the package of `root` from its notebooks."
    done = subprocess.run([Path(sys.executable).parent/"nbdev-export"], cwd=root, capture_output=True, text=True)
    if done.returncode: return f"nbdev-export failed: {done.stderr.strip()[-500:]}"
    for path in (root/"moosa").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if (new := wrapped(text)) != text: path.write_text(new, encoding="utf-8")
    return ""


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")): sys.exit(__doc__)
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    if problem := export(root): print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
