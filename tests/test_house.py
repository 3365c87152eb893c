"""The house is in order: metadata agrees, and `make check` finds what it promises to find."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import docs
import pytest
import yaml
from check import misread

import moosa

ROOT = Path(__file__).resolve().parent.parent


def metadata() -> dict:
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT/"settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def test_metadata_is_written_once():
    meta, project = metadata(), tomllib.loads((ROOT/"pyproject.toml").read_text())["project"]
    assert moosa.__version__ == meta["version"]
    assert project["description"] == meta["description"] == moosa.__doc__.strip()
    assert (project["name"], project["license"],
            project["requires-python"]) == (meta["lib_name"], meta["license"], f">={meta['min_python']}")
    assert project["keywords"] == meta["keywords"].split() and project["authors"] == [{"name": meta["author"]}]
    assert {"version", "dependencies", "optional-dependencies", "scripts"} <= set(project["dynamic"])
    assert "dependencies" not in project
    assert f"## {meta['version']}" in (ROOT/"CHANGELOG.md").read_text()
    citation = yaml.safe_load((ROOT/"CITATION.cff").read_text())
    assert [citation[key] for key in ("title", "version", "license", "abstract")] == [
        meta[key] for key in ("lib_name", "version", "license", "description")]
    assert citation["keywords"] == meta["keywords"].split() and citation["authors"] == [{"name": meta["author"]}]


def test_the_changelog_can_be_read_through():
    "Each round has a short heading, its entries stand by kind, and no line is a wall."
    _, *rounds = re.split(r"(?m)^## ", (ROOT/"CHANGELOG.md").read_text())
    kinds = ["Added", "Changed numbers", "Changed", "Mended"]
    for text in rounds:
        heading, *lines = text.splitlines()
        found = [line.removeprefix("### ") for line in lines if line.startswith("#")]
        assert len(heading) <= 60 and found and found == [kind for kind in kinds if kind in found], heading
        assert max(map(len, lines)) <= 160, heading


def test_executed_pages_do_not_open_with_their_parameters():
    "What papermill wrote into a page opens on a click, in JupyterLab and on the site."
    pages = sorted((ROOT/"figures").glob("*/*.ipynb"))
    cells = [(page, cell) for page in pages for cell in json.loads(page.read_text())["cells"]]
    given = [(page, cell) for page, cell in cells
             if {"parameters", "injected-parameters"} & {*cell["metadata"].get("tags", [])}]
    assert len(given) >= len(pages)
    assert not [page for page, cell in given if not cell["metadata"].get("jupyter", {}).get("source_hidden")]


LINK = re.compile(r"(?<!!)\[[^\[\]\n]*\]\(([^)\s#:/][^)\s#:]*)(?:#[^)\s]*)?\)")  # relative, in Markdown


def test_links_of_what_is_committed_lead_to_files():
    "As JupyterLab and a repository's page follow them: from where the notebook lies, that was executed or not."
    dead, links = [], 0
    where = ("nbs/**/*.ipynb", "figures/*/*.ipynb", "*.md", "data/*.md")
    for path in [path for pattern in where for path in ROOT.glob(pattern)]:
        said = path.read_text("utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(said)["cells"]
            said = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        found = LINK.findall(said)
        links += len(found)
        dead += [f"{path.relative_to(ROOT)}: {link}" for link in found if not (path.parent/link).exists()]
    assert links > 500 and not dead


def test_installed_metadata_comes_from_settings():
    from importlib.metadata import distribution

    meta, installed = metadata(), distribution("moosa")

    def name(requirement): return re.split(r"[<>=;\[ ]", requirement)[0].lower()

    kinds = ("requirements", *(f"{extra}_requirements" for extra in ("dev", "slurm", "files", "backbones")))
    wanted = {name(line) for key in kinds
              for line in meta[key].splitlines() if line.strip()}
    assert {name(r) for r in installed.requires} == wanted
    assert installed.version == meta["version"]


def test_environment_yml_installs_the_package():
    environment = yaml.safe_load((ROOT/"environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-e .[dev]"] and f"python>={metadata()['min_python']}" in environment["dependencies"]


# --- one order of wings and rooms ------------------------------------------------------------------------------------

def rooms() -> dict[str, list[str]]:
    """Wing -> its notebooks, in the order of nbs/sidebar.yml, where all wings are below Reference; the sections for
    readers, whose pages have no numbers, left out.
    """
    contents = yaml.safe_load((ROOT/"nbs"/"sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    reference = next(section["contents"] for section in contents if section["section"] == "Reference")
    wings = {section["section"]: section["contents"] for section in reference if section["contents"] != [docs.COMMANDS]}
    assert all(isinstance(room, str) for entries in wings.values() for room in entries)
    return wings


def module_of(notebook: str) -> str:
    "Name of the module that a room exports: `data/05_media.ipynb` -> `moosa.data.media`."
    return "moosa." + re.sub(r"(^|/)\d+_", r"\1", notebook.removesuffix(".ipynb")).replace("/", ".")


def order() -> list[str]:
    "All modules, each after those that it may import."
    return [module_of(notebook) for entries in rooms().values() for notebook in entries]


def test_sidebar_has_the_order_of_the_files():
    listed = [notebook for entries in rooms().values() for notebook in entries]
    there = [p.relative_to(ROOT/"nbs").as_posix() for p in (ROOT/"nbs").rglob("[0-9]*.ipynb")]
    assert sorted(listed) == sorted(p for p in there if "/." not in p)
    for wing, entries in rooms().items():
        assert entries == sorted(entries), f"{wing}: the sidebar's order is not that of the files' numbers"
        if not entries[0][0].isdigit(): assert {Path(notebook).parent.as_posix() for notebook in entries} == {wing}
        numbers = [Path(notebook).name[:2] for notebook in entries]
        assert len(set(numbers)) == len(numbers), f"{wing}: two rooms have the same number"


def test_a_room_exports_its_module():
    for notebook in (notebook for entries in rooms().values() for notebook in entries):
        cells = json.loads((ROOT/"nbs"/notebook).read_text())["cells"]
        exports = re.search(r"#\| default_exp (\S+)", "\n".join("".join(c["source"]) for c in cells))
        assert exports and f"moosa.{exports[1]}" == module_of(notebook), notebook


def test_imports_go_downhill():
    "A room imports only from rooms that stand before it in nbs/sidebar.yml."
    modules, uphill = order(), []
    for i, module in enumerate(modules):
        text = (ROOT/(module.replace(".", "/") + ".py")).read_text()
        later = imported_rooms(text, module) & set(modules[i + 1:])
        uphill += [f"{module} imports {other}" for other in sorted(later)]
    assert not uphill, "\n".join(uphill)


def imported_rooms(text: str, module: str) -> set[str]:
    "Full names of the modules that a module's text imports, absolutely or relatively, wherever in it."
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import): found |= {name.name for name in node.names}
        if not isinstance(node, ast.ImportFrom): continue
        base = module.split(".")[:-node.level] if node.level else []
        stem = ".".join([*base, *filter(None, [node.module])])
        found |= {stem, *(f"{stem}.{name.name}" for name in node.names)}
    return found


def test_imports_are_found():
    text = ("from moosa.core import one_of\nfrom ..extractors.small import x, y as z\n"
            "from . import (\n    hac,\n    epic)\ndef late():\n    import moosa.data.folder\n")
    assert imported_rooms(text, "moosa.data.views") >= {"moosa.core", "moosa.extractors.small", "moosa.data.hac",
                                                        "moosa.data.epic", "moosa.data.folder"}


# --- make check ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def copy_of_house(tmp_path_factory):
    root = tmp_path_factory.mktemp("house")/"moosa-copy"
    root.mkdir()
    left = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("nbs", "moosa", "tools"): shutil.copytree(ROOT/name, root/name, ignore=left)
    for name in ("pyproject.toml", "settings.ini"): shutil.copy(ROOT/name, root)
    return root


def check(root: Path):
    command = [sys.executable, str(root/"tools"/"check.py"), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    return done.returncode, done.stdout + done.stderr


def edit(path: Path, change):
    "Change a notebook for one test; returns how to undo it."
    before = path.read_text()
    nb = json.loads(before)
    change(nb)
    path.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
    return lambda: path.write_text(before)


def test_check_passes_on_a_clean_house(copy_of_house):
    for folder in ("nbs", "moosa"):  # what JupyterLab leaves behind is no dirt
        (copy_of_house/folder/".ipynb_checkpoints").mkdir()
        (copy_of_house/folder/".ipynb_checkpoints"/"core-checkpoint.py").write_text("x = 1\n")
    code, output = check(copy_of_house)
    assert code == 0, output


def first_code(nb): return next(c for c in nb["cells"] if c["cell_type"] == "code")


def add_cell(source: str): return lambda nb: nb["cells"].append({**first_code(nb), "id": "new", "source": source})


FAULTS = {  # notebook -> how it is spoiled, and what is said of it
    "00_core.ipynb": (lambda nb: first_code(nb).update(outputs=[dict(output_type="stream", name="stdout", text="x")]),
                      "has outputs or metadata"),
    "02_words.ipynb": (lambda nb: first_code(nb).update(execution_count=3), "has outputs or metadata"),
    "data/05_media.ipynb": (add_cell("#| export\ndrifted = 1"), "differs from its notebook"),
    "experiments/split.ipynb": (lambda nb: [c["metadata"].pop("tags", None) for c in nb["cells"]],
                                "0 cells tagged `parameters`"),
    "experiments/report.ipynb": (lambda nb: nb["cells"][-1]["metadata"].update(tags=["parameters"]),
                                 "2 cells tagged `parameters`"),
    "runs/02_spec.ipynb": (add_cell("x = 1\n"*70), "more than 60 lines"),
    "runs/03_resolve.ipynb": (add_cell("import os\n\nprint(os.name)"), "imports and does more"),
    "runs/04_given.ipynb": (add_cell("if True:\n    import os"), "imports and does more"),
    "runs/07_warm.ipynb": (add_cell("#| export\ndef f(a, b):  # a: dB\n    pass"), "is taken for that of 'b'"),
    "runs/06_lock.ipynb": (add_cell("nobody_knows_me"), "F821 Undefined name `nobody_knows_me`"),
}


def test_check_finds_every_fault(copy_of_house):
    undo = [edit(copy_of_house/"nbs"/name, change) for name, (change, _) in FAULTS.items()]
    orphan = copy_of_house/"moosa"/"orphan.py"
    orphan.write_text("x = 1\n")
    try: code, output = check(copy_of_house)
    finally:
        for put_back in (*undo, orphan.unlink): put_back()
    assert code == 1 and "moosa/orphan.py: no notebook exports it" in output
    for name, (_, says) in FAULTS.items():
        room = name.split("/")[-1].split(".")[0].split("_")[-1]
        assert [line for line in output.splitlines() if says in line and room in line], (name, says, output)


MISREAD = {  # signature, its comment -> for whose docments takes it, if that is wrong
    "def f(a, b):  # a: dB": "b", "def f(a, b):  # b: dB": None, "def f(a, b):  # dB": "b",
    "def f(a, b) -> int:  # dB": None, "def f(a, b) -> int:  # b: dB": "return", "def f(a) -> int:  # a: dB": "return",
    "def f(a):  # dB": None, "def f(self, a):  # dB": None, "def f():  # dB": None, "def f(a, b):": None,
    "def f(a, b=lambda c: 2):  # c: dB": "b", "def f(*a, b, **c):  # a: dB": "c", "async def f(a, b):  # dB": "b",
    "def f(\n    a,  # dB\n    b,\n):  # nothing": None, "def f(a, b) -> int:  # None: it is not there": None}


@pytest.mark.parametrize("signature", MISREAD)
def test_comments_that_the_docs_misread(signature):
    taken = MISREAD[signature]
    assert misread(f"{signature}\n    pass") == ([("f", taken)] if taken else [])
    method = "class C:\n" + "\n".join(f"    {line}" for line in f"{signature}\n    pass".splitlines())
    assert misread(method) == misread(f"{signature}\n    pass")


def code_cells() -> list[tuple[str, str]]:
    "Names of notebooks, and the code of their cells."
    paths = [p for p in sorted((ROOT/"nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    return [(p.name, "".join(c["source"])) for p in paths for c in json.loads(p.read_text())["cells"]
            if c["cell_type"] == "code"]


def test_no_test_with_random_examples_is_held_to_milliseconds():
    """Hypothesis gives an example 200 ms unless told otherwise, and a busy machine needs more: `make docs` and `make
    test` would fail now and then.
    """
    held = []
    for name, text in code_cells() + [(p.name, p.read_text()) for p in (ROOT/"tests").glob("*.py")]:
        patient = re.findall(r"^(\w+) = .*deadline=None", text, re.M)
        for m in re.finditer(r"^@given\(", text, re.M):
            above, below = text[:m.start()].splitlines()[-1:], text[m.start():text.index("def ", m.start())]
            if "deadline=None" not in f"{above}{below}" and above not in ([f"@{p}"] for p in patient):
                held.append(f"{name}: {below}")
    assert not held, held


def test_nothing_is_fetched_unencrypted():
    "No address in the package begins with http, but for this machine's own."
    found = [f"{p.name}: {address}" for p in (ROOT/"moosa").rglob("*.py")
             for address in re.findall(r"http://[^\"' )]+", p.read_text()) if "127.0.0.1" not in address]
    assert not found, found


def test_lab_runs_anywhere_and_asks_nobody():
    "What `make lab` would start, as root too."
    said = subprocess.run(["make", "-n", "lab", "LAB_ARGS=--port 8890"], cwd=ROOT, capture_output=True,
                          text=True).stdout
    assert "NeverCheckForUpdate" in said and "news_url=None" in said and f'root_dir="{ROOT}"' in said
    assert "--port 8890" in said
    assert ("--allow-root" in said) == (os.getuid() == 0)


def test_make_lets_python_keep_what_it_compiled():
    "Containers often forbid it; then every process would compile PyTorch anew."
    probe = f"include {ROOT/'Makefile'}\nprobe: ; @echo [$$PYTHONDONTWRITEBYTECODE] [$$PATH]\n"
    said = subprocess.run(["make", "-f", "-", "probe"], input=probe, capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}).stdout
    assert "[] [/" in said, said


def test_published_pages_name_no_machine():
    "Pages that were executed show no path of the machine that did it, nor where things lay in its memory."
    bad = re.compile(r"(?<![\w.])/(?:work|home|root|tmp|scratch|Users)/| at 0x[0-9a-f]{6,}")
    assert not [str(p.relative_to(ROOT)) for p in (ROOT/"figures").glob("*/*.ipynb") if bad.search(p.read_text())]


def test_an_exported_cell_has_at_most_two_definitions():
    "What is next to its example is read with it."
    many = []
    for path in sorted((ROOT/"nbs").rglob("*.ipynb")):
        if any(part.startswith(".") for part in path.relative_to(ROOT).parts): continue
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or not re.match(r"#\|\s*exports?\b", source): continue
            kinds = ast.FunctionDef, ast.ClassDef
            names = [node.name for node in ast.parse(source).body if isinstance(node, kinds)]
            if len(names) > 2: many.append((path.name, names))
    assert not many
