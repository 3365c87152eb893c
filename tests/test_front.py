"""The front page and the pages of results: short, with links that lead somewhere, and without a number that nothing
prints.
"""
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import docs
import executed
import method_picture
import nbformat
import pytest
from conftest import ROOT, call
from nbclient import NotebookClient

from moosa.runs.grid import load_grid

README = (ROOT/"README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
LINKS = re.compile(r"!?\[([^\]]*)\]\(([^)\s#]+)(?:#[^)]*)?\)")
NUMBER = re.compile(r"(?<![\w.])(\d+\.\d+|\d+(?=\s*%))(?![\w.]*\.\d)")
PAGES = ("index", "results", "paper_to_code")  # those that quote results, or numbers of others
WRITTEN = (*PAGES, "glossary", "house", "protocols", "open_set_numbers", "tutorials/read_a_report")  # no number by hand
# Numbers in the words of these pages that no cell prints: where each is written, and how.
SOURCES = {"3.11": ("settings.ini", "min_python = 3.11"), "3.13": ("CONTRIBUTING.md", "3.11 to 3.13 are promised"),
           "2.0": ("LICENSE", "Version 2.0"), "4.0": ("data/README.md", "CC BY-SA 4.0"),
           "8.1": ("nbs/reference.ipynb", "### 8.1 Runs"), "8.3": ("nbs/reference.ipynb", "### 8.3 Size of features")}


def prose(markdown: str) -> str:
    "Markdown without code, addresses and pictures' descriptions."
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S)
    return LINKS.sub(r"\1", re.sub(r"`[^`\n]*`", "", text))


def numbers(text: str) -> set[str]:
    "The numbers that are percentages or have decimals."
    return set(NUMBER.findall(text))


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    "Page -> what its cells print, executed anew."
    found = {}
    for page in PAGES:
        nb = nbformat.read(ROOT/"nbs"/f"{page}.ipynb", 4)
        NotebookClient(nb, timeout=300, kernel_name="python3", resources={"metadata": {"path": ROOT/"nbs"}}).execute()
        outputs = [out for cell in nb.cells for out in cell.get("outputs", [])]
        found[page] = "\n\n".join(out.get("data", {}).get("text/markdown", "") for out in outputs)
    return found


# --- README ----------------------------------------------------------------------------------------------------------

def test_readme_is_short(): assert len(README.encode()) < 7000


def test_two_commands_come_first():
    lines = BLOCKS[0][1].splitlines()
    assert [line.split("#")[0].split() for line in lines] == [["make", "reproduce"], ["make", "test"]]
    targets = re.findall(r"^(\w+):", (ROOT/"Makefile").read_text(), re.M)
    assert {"reproduce", "test"} <= set(targets)
    grids = re.search(r"^GRIDS \?= (.+)$", (ROOT/"Makefile").read_text(), re.M)[1].split()
    assert f"train {sum(len(load_grid(grid).specs) for grid in grids)} models" in lines[0]


def test_readme_is_what_the_front_page_says_now(tmp_path, monkeypatch):
    "As soon as a report is made anew, README is, too (`make readme`)."
    monkeypatch.setattr(executed, "BUILD", tmp_path/"docs")
    assert docs.readme() == README


def test_links_and_pictures_of_readme_are_there():
    found = [(said, path) for said, path in LINKS.findall(README) if not re.match(r"https?:", path)]
    assert len(found) > 20 and not [path for _, path in found if not (ROOT/path).exists()]
    assert all(said for said, _ in LINKS.findall(README)), "pictures have a description"


def test_commands_of_readme_are_there():
    said = set(re.findall(r"moosa (\w+)", " ".join(re.findall(r"`[^`\n]+`", README))))
    help_text = call("--help").stdout
    assert len(said) >= 5 and not [name for name in said if not re.search(rf"^│ {name} ", help_text, re.M)]


def test_the_snippet_of_readme_runs(data_dir):
    code = next(text for language, text in BLOCKS if language == "python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd=data_dir,
                          env={**os.environ, "MOOSA_DATA": str(data_dir), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert re.search(r"'HOS': '\d+\.\d%'", done.stdout) and not re.search(r"\.\d{3}", done.stdout), done.stdout


def test_the_paper_that_is_cited_is_that_of_citation_cff():
    title = re.search(r"title\s*= \{(.+)\}", README)[1]
    assert title in (ROOT/"CITATION.cff").read_text("utf-8")


# --- numbers ---------------------------------------------------------------------------------------------------------

def test_numbers_of_readme_are_printed_or_have_a_source(printed):
    shown = numbers(printed["index"] + printed["results"])
    assert len(shown) > 50 and not numbers(prose(README)) - shown - SOURCES.keys()


@pytest.mark.parametrize("number", SOURCES)
def test_sources_say_so(number):
    path, said = SOURCES[number]
    assert said in (ROOT/path).read_text("utf-8")


@pytest.mark.parametrize("page", WRITTEN)
def test_words_hold_no_result(page):
    "What is written by hand has no number with a decimal or in percent; cells print these."
    cells = nbformat.read(ROOT/"nbs"/f"{page}.ipynb", 4).cells
    words = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert not numbers(prose(words)) - SOURCES.keys()


@pytest.mark.parametrize("page", WRITTEN)
def test_cells_hold_no_result_either(page):
    "Nor do the strings that cells print: numbers there stand in braces."
    cells = nbformat.read(ROOT/"nbs"/f"{page}.ipynb", 4).cells
    strings = re.findall(r'"((?:[^"\\\n]|\\.)*)"', "\n".join(c.source for c in cells if c.cell_type == "code"))
    said = re.sub(r"\{[^{}]*\}", "", "\n".join(s for s in strings if " " in s))
    assert not numbers(said) - SOURCES.keys()


def test_a_number_that_nothing_prints_is_found():
    text = "It reaches 48.3 and 12 % (`0.0.0.0`), in [1.5](x.md).\n\n```\n9.9\n```\n\nTwo of 3, v1.2.3, `--ip 0.0`"
    assert numbers(prose(text)) == {"48.3", "12", "1.5"}


# --- pages of results ------------------------------------------------------------------------------------------------

def test_links_of_results_are_there(printed):
    for page in ("results", "paper_to_code"):
        paths = [path for _, path in LINKS.findall(printed[page]) if not re.match(r"https?:", path)]
        assert len(paths) > 20 and not [path for path in paths if not (ROOT/"nbs"/path).exists()], page


def test_results_name_every_report(printed):
    reports = {path.parent.name: path.read_text("utf-8") for path in (ROOT/"figures").glob("*/report.ipynb")}
    there = [name for name, text in reports.items() if "runs are done" in text]
    lost = [name for name in there if f"../figures/{name}/report.ipynb" not in printed["results"]]
    assert len(there) > 20 and not lost


def stored_numbers(name: str) -> dict[tuple[str, str], float]:
    "(run, number) -> value in percent, of stored records of demo.yaml."
    found = {}
    for line in (ROOT/"tests"/"records"/name).read_text().splitlines():
        record = json.loads(line)
        results = record["results"]
        found |= {(record["hash"], rule): 100*results[rule]["HOS"] for rule in ("oracle", "source-quantile")}
        found[record["hash"], "AUROC"] = 100*results["threshold-free"]["AUROC"]
    return found


def test_results_tell_how_much_two_machines_differ(printed):
    "The same code, other last digits: what is said of it is in the records of both."
    here, elsewhere = stored_numbers("demo.jsonl"), stored_numbers("demo-elsewhere.jsonl")
    assert here.keys() == elsewhere.keys() and len(here) == 3*18
    apart = {key: abs(here[key] - elsewhere[key]) for key in here}
    oracle, quantile, auroc = (sum(d for (_, number), d in apart.items() if number == asked)/18
                               for asked in ("oracle", "source-quantile", "AUROC"))
    said = (f"differ by {oracle:.1f} points of HOS (`oracle`), {quantile:.1f} (`source-quantile`) and {auroc:.1f} of "
            f"AUROC in the mean, either way, and single ones by up to {max(apart.values()):.0f}")
    assert said in printed["results"]


def test_promises_name_tests_that_are_there():
    text = "\n".join(cell.source for cell in nbformat.read(ROOT/"nbs"/"checked.ipynb", 4).cells)
    named = re.findall(r"`(tests/\w+\.py)`", text)
    assert len(named) > 20 and not [path for path in named if not (ROOT/path).is_file()]


# --- the picture of the method ---------------------------------------------------------------------------------------

def test_the_picture_is_the_one_that_is_drawn(tmp_path, monkeypatch):
    assert method_picture.FILE.read_text("utf-8") == method_picture.picture()
    monkeypatch.setattr(method_picture, "FILE", tmp_path/"method.svg")
    monkeypatch.setattr(method_picture, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["method_picture.py", "--check"])
    with pytest.raises(SystemExit, match="out of date"): method_picture.main()
    monkeypatch.setattr("sys.argv", ["method_picture.py"])
    method_picture.main()
    monkeypatch.setattr("sys.argv", ["method_picture.py", "--check"])
    method_picture.main()


def test_the_picture_says_what_it_shows():
    root = ET.fromstring(method_picture.picture())
    ns = {"s": "http://www.w3.org/2000/svg"}
    assert root.find("s:title", ns).text and len(root.find("s:desc", ns).text) > 100
    words = {t.text for t in root.iterfind("s:text", ns)}
    assert {"clip", "extractors", "heads", "known", "unknown", "masked translation", "multimodal jigsaw"} <= words
    for place in root.iterfind("s:text", ns): assert 0 < float(place.get("y")) < method_picture.HEIGHT


def luminance(colour: str) -> float:
    "Relative luminance of `#rrggbb` (WCAG 2)."
    parts = [int(colour[i:i + 2], 16)/255 for i in (1, 3, 5)]
    linear = [x/12.92 if x <= .04045 else ((x + .055)/1.055)**2.4 for x in parts]
    return sum(weight*x for weight, x in zip((.2126, .7152, .0722), linear))


@pytest.mark.parametrize("theme", [method_picture.LIGHT, method_picture.DARK], ids=["light", "dark"])
def test_the_picture_can_be_read_in_both_themes(theme):
    ground = luminance(theme["ground"])
    for name in ("ink", "soft", "known", "unknown"):
        bright, dark = sorted((luminance(theme[name]), ground), reverse=True)
        assert (bright + .05)/(dark + .05) >= 4.5, name
