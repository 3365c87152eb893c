"""Check the house; `--fix` cleans notebooks.

Notebooks are clean, the package is in sync with them, no module is an orphan, each experiment has one cell tagged
`parameters`, no code cell is too long or mixes imports with what nbdev must not run, no comment beside a signature is
taken for another name's, and ruff finds nothing.
"""
import argparse
import ast
import filecmp
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path

from fastcore.nbio import read_nb
from nbdev.clean import clean_nb

from export import export

LONGEST_CELL = 60  # lines; prose and tests should stand between
BY_HAND = ("__init__.py", "__main__.py")  # modules that no notebook exports
EXPORTS = re.compile(r"^#\| ?exports?i?\b|nbdev_export\(\)", re.MULTILINE)


def notebooks(root: Path) -> list[Path]:
    def hidden(path): return any(part.startswith((".", "_")) for part in path.relative_to(root).parts)

    return [p for p in sorted((root/"nbs").rglob("*.ipynb")) if not hidden(p)]


def tool(name: str) -> str:
    "A program of this environment."
    return str(Path(sys.executable).parent/name)


def cleaned(path: Path) -> dict:
    "The notebook as it should be committed: nbdev-clean's metadata, and no outputs."
    nb = read_nb(path)
    clean_nb(nb, allowed_cell_metadata_keys=["tags"])
    plain = json.loads(json.dumps(nb))
    for cell in plain["cells"]:
        if cell["cell_type"] == "code": cell.update(outputs=[], execution_count=None)
    return plain


def as_json(path: Path) -> dict: return json.loads(path.read_text(encoding="utf-8"))


def normal(nb: dict) -> dict:
    "Cell sources as one string each: a list of lines and a string are the same notebook."
    def own(d: dict) -> dict: return {k: v for k, v in d.items() if not k.endswith("_")}  # nbdev's reader adds path_

    return {**own(nb), "cells": [{**own(cell), "source": "".join(cell["source"])} for cell in nb["cells"]]}


def dirty(root: Path) -> list[str]:
    found = [p.relative_to(root) for p in notebooks(root) if normal(as_json(p)) != normal(cleaned(p))]
    return [f"{path}: has outputs or metadata; run `make clean-notebooks`" for path in found]


def fix(root: Path):
    for path in notebooks(root):
        nb = normal(cleaned(path))
        if nb == normal(as_json(path)): continue
        for cell in nb["cells"]: cell["source"] = cell["source"].splitlines(True)
        path.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"cleaned {path.relative_to(root)}")


def modules(folder: Path) -> set[Path]:
    return {p.relative_to(folder) for p in folder.rglob("*.py") if ".ipynb_checkpoints" not in p.parts}


def drift(root: Path) -> list[str]:
    "Export into an empty copy, and compare: different files have drifted, files that are only here are orphans."
    with tempfile.TemporaryDirectory() as tmp:
        copy_root = Path(tmp)/root.name
        shutil.copytree(root/"nbs", copy_root/"nbs", ignore=shutil.ignore_patterns(".*"))
        for name in ("pyproject.toml", "settings.ini"): shutil.copy(root/name, copy_root)
        (copy_root/"moosa").mkdir()
        for name in BY_HAND: shutil.copy(root/"moosa"/name, copy_root/"moosa")
        if problem := export(copy_root): return [problem]
        here, fresh = modules(root/"moosa"), modules(copy_root/"moosa")
        differ = [m for m in here & fresh if not filecmp.cmp(root/"moosa"/m, copy_root/"moosa"/m, shallow=False)]
        advice = "run `make clean-notebooks` (or nbdev-update if the module is right)"
        return ([f"moosa/{m}: differs from its notebook; {advice}" for m in sorted(differ)]
                + [f"moosa/{m}: no notebook exports it" for m in sorted(here - fresh)]
                + [f"moosa/{m}: is missing; run `make clean-notebooks`" for m in sorted(fresh - here)])


def parameter_cells(root: Path) -> list[str]:
    found = []
    for path in sorted((root/"nbs"/"experiments").glob("*.ipynb")):
        count = sum("parameters" in cell["metadata"].get("tags", []) for cell in as_json(path)["cells"])
        if count != 1: found.append(f"{path.relative_to(root)}: {count} cells tagged `parameters`, expected 1")
    return found


def long_cells(root: Path) -> list[str]:
    found = []
    for path in notebooks(root):
        for i, cell in enumerate(as_json(path)["cells"]):
            if cell["cell_type"] != "code" or len("".join(cell["source"]).splitlines()) <= LONGEST_CELL: continue
            found.append(f"{path.relative_to(root)}: cell {i} has more than {LONGEST_CELL} lines")
    return found


def mixed_cells(root: Path) -> list[str]:
    "Cells that import and do more: where a page is rendered, nbdev runs cells with imports, and not those before them."
    found = []
    for path in notebooks(root):
        codes = {i: "".join(c["source"]) for i, c in enumerate(as_json(path)["cells"]) if c["cell_type"] == "code"}
        if not any("default_exp" in code for code in codes.values()): continue
        others = {i: code for i, code in codes.items() if not EXPORTS.search(code)}
        found += [f"{path.relative_to(root)}: cell {i} imports and does more; imports go into a cell of their own"
                  for i, code in others.items() if mixes(code)]
    return found


def mixes(code: str) -> bool:
    "Does this import, anywhere, and do other things too?"
    try: tree = ast.parse(code)
    except SyntaxError: return False  # a magic
    def imports(node): return isinstance(node, (ast.Import, ast.ImportFrom))

    return any(map(imports, ast.walk(tree))) and not all(map(imports, tree.body))


def misread_comments(root: Path) -> list[str]:
    "Comments beside exported signatures that pages of the docs would show beside another name than they speak of."
    found = []
    for path in notebooks(root):
        for i, cell in enumerate(as_json(path)["cells"]):
            code = "".join(cell["source"])
            if cell["cell_type"] != "code" or not EXPORTS.search(code): continue
            found += [f"{path.relative_to(root)}: cell {i}: the comment beside `def {name}` is taken for that of "
                      f"{taken!r}; write one parameter per line" for name, taken in misread(code)]
    return found


def misread(code: str) -> list[tuple[str, str]]:
    """Functions with a comment beside a signature on one line that docments takes for another name's; and that name.

    It takes it for the return's or, where that has no type, for the last parameter's. A comment speaks of what is
    returned unless it begins with `name:`; where there is one parameter and no type of the return, of either.
    """
    try: tree = ast.parse(code)
    except SyntaxError: return []  # which ruff reports
    tokens, found = tokenize.generate_tokens(io.StringIO(code).readline), []
    said = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.lineno not in said: continue
        a = node.args
        args = [arg for arg in (*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg) if arg]
        names = [arg.arg for arg in args if arg.arg not in ("self", "cls")]
        if not names or args[-1].lineno != node.lineno: continue
        taken = "return" if node.returns else names[-1]
        named = re.match(r"#\W*(\w+):", said[node.lineno])
        meant = taken if len(names) == 1 else "return"
        if named and named[1] in names: meant = named[1]
        if meant != taken: found.append((node.name, taken))
    return found


def lint(root: Path) -> list[str]:
    "What ruff finds (its rules are in pyproject.toml)."
    places = [name for name in ("moosa", "tests", "tools", "nbs", "setup.py") if (root/name).exists()]
    command = [tool("ruff"), "check", "--no-cache", "--output-format", "concise", *places]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode > 1: return [f"ruff failed: {done.stderr.strip()[-500:]}"]
    return [line for line in done.stdout.splitlines() if re.match(r".+:\d+:\d+: ", line)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fix", action="store_true", help="clean the notebooks")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    args = parser.parse_args()
    if args.fix: fix(args.root)
    looks = (dirty, drift, parameter_cells, long_cells, mixed_cells, misread_comments, lint)
    problems = [p for look in looks for p in look(args.root)]
    for p in problems: print(p)
    print(f"make check: {len(problems)} problem(s) in {len(notebooks(args.root))} notebooks")
    return 1 if problems else 0


if __name__ == "__main__": sys.exit(main())
