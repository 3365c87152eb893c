"""The reference, nbs/reference.ipynb: what cites it cites a section that is there, every section names what does the
step, and all links lead to it."""
import importlib
import json
import re
from functools import cache
from pathlib import Path

import pytest

import moosa

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/"nbs"
PAGE = NBS/"reference.ipynb"
CITATION = re.compile(r"\bref (\d+(?:\.\d+)?(?:(?:, | and | to )\d+(?:\.\d+)?)*)")
LINK = re.compile(r"\[(ref )?(\d+(?:\.\d+)?)\]\(((?:\.\./)*reference\.ipynb)#([\w-]+)\)")


def prose(path: Path) -> str:
    "The text of a notebook's cells, or of a file."
    if path.suffix != ".ipynb": return path.read_text("utf-8")
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"])


def files() -> list[Path]:
    found = [*NBS.rglob("*.ipynb"), *Path(moosa.__file__).parent.rglob("*.py"), *(ROOT/"tests").glob("*.py"),
             *ROOT.glob("*.md")]
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(ROOT).parts))


@cache
def sections() -> dict[str, tuple[str, str]]:
    "Number -> title and text, up to the next heading."
    found = re.split(r"^##+ (\d+(?:\.\d+)?) (.+)$", prose(PAGE), flags=re.M)[1:]
    return {number: (title, text) for number, title, text in zip(found[::3], found[1::3], found[2::3])}


def address(number: str) -> str:
    "Where the site has a section: its title without punctuation, small, with dashes."
    return re.sub(r"[^\w -]", "", sections()[number][0]).lower().replace(" ", "-")


def find(name: str):
    "The object of a full name, such as moosa.data.hac.Hac.media."
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try: there = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError: continue
        for attribute in parts[n:]: there = getattr(there, attribute)
        return there
    raise ModuleNotFoundError(name)


def test_sections_are_numbered_without_holes():
    number, before = [0, 0], None
    for heading in sections():
        chapter, _, section = heading.partition(".")
        number = [number[0], number[1] + 1] if section else [number[0] + 1, 0]
        assert heading == (f"{number[0]}.{number[1]}" if section else str(number[0])), f"{heading} follows {before}"
        before = heading
    assert len({address(s) for s in sections()}) == len(sections()), "two sections have the same title"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_cited_is_there(path):
    text = prose(path)
    assert not re.search(r"\bSPEC [0-9]", text), "that is not public: cite the reference, as `ref 4.1`"
    for cited in CITATION.findall(text):
        missing = set(re.findall(r"\d+(?:\.\d+)?", cited)) - set(sections())
        assert not missing, f"ref {cited}: nbs/reference.ipynb has no such section"
    for _, number, target, anchor in LINK.findall(text):
        assert (path.parent/target).resolve() == PAGE, f"the link of ref {number} leads elsewhere"
        assert anchor == address(number), f"ref {number} links to #{anchor}; it is #{address(number)}"


def test_every_section_names_what_does_it():
    for number, (title, text) in sections().items():
        named = re.findall(r"\[(moosa(?:\.\w+)+)\]\(([^)#]+\.ipynb)(?:#[\w.]+)?\)", text)
        if "." not in number and any(other.startswith(f"{number}.") for other in sections()): continue
        assert named, f"section {number} {title} names no object of the package"
        for name, notebook in named:
            find(name)
            assert (NBS/notebook).is_file(), f"{number}: {notebook} does not exist"
            module = re.search(r"#\| default_exp (\S+)", prose(NBS/notebook))[1]
            assert name.startswith(f"moosa.{module}."), f"{number}: {name} is not of {notebook}"


def test_links_of_the_page_lead_somewhere():
    for target in re.findall(r"\]\(([\w/.]+\.\w+)", prose(PAGE)): assert (NBS/target).exists(), target


def test_every_number_on_the_page_is_a_section():
    "Such as `(4.3)`, as the page cites itself."
    cited = re.findall(r"\(([1-9]\.\d)\)", prose(PAGE)) + re.findall(r"\b(?:of|in|section) ([1-9]\.\d)\b", prose(PAGE))
    assert cited and set(cited) <= set(sections())


WINGS = sorted({p.parent.name for p in Path(moosa.__file__).parent.rglob("*.py")} - {"moosa", "__pycache__"})
ROOM = re.compile(r"`((?:moosa\.)?(?:%s)\.[a-z]\w*(?:\.\w+)*)`" % "|".join(WINGS))
FILES = ("json", "safetensors", "npz", "csv", "yaml", "ini")  # `data.csv` is no room


@pytest.mark.parametrize("path", [p for p in files() if p.suffix == ".ipynb"],
                         ids=lambda path: path.relative_to(ROOT).as_posix())
def test_rooms_and_names_in_prose_exist(path):
    cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "markdown"]
    text = "\n\n".join("".join(c["source"]) for c in cells)
    for name in ROOM.findall(text):
        if name.split(".")[-1] not in FILES: find(f"moosa.{name.removeprefix('moosa.')}")
    for room, target in re.findall(r"\[`?([a-z_]+\.[a-z]\w*)`?\]\(([\w/.]+\.ipynb)", text):
        notebook = (path.parent/target).resolve()
        assert notebook.is_file(), f"{room} links to {target}, which does not exist"
        exports = re.search(r"#\| default_exp (\S+)", prose(notebook))
        assert exports and exports[1] == room, f"{target} is not {room}, but {exports and exports[1]}"
