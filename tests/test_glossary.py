"""The glossary: what it names is there, and pages for readers link to it."""
import importlib
import re

import glossary_links
import nbformat
import pytest
from conftest import ROOT

NBS = ROOT/"nbs"
CELLS = [cell.source for cell in nbformat.read(NBS/"glossary.ipynb", 4).cells]
ENTRY = re.compile(r"^### (?P<word>.+)\n\n(?P<said>.+)\n\n"
                   r"\*Here:\* `(?P<name>[\w.]+)` in \[(?P<room>[\w.]+)\]\((?P<page>[\w/]+\.ipynb)\)$", re.M)
ENTRIES = [m.groupdict() for cell in CELLS for m in ENTRY.finditer(cell)]


def test_every_heading_is_an_entry():
    headings = re.findall(r"^### (.+)$", "\n".join(CELLS), re.M)
    assert [entry["word"] for entry in ENTRIES] == headings and len(set(headings)) == len(headings) >= 50


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["word"])
def test_what_an_entry_names_is_there(entry):
    module, name = entry["name"].rsplit(".", 1)
    assert module == f"moosa.{entry['room']}" and hasattr(importlib.import_module(module), name)
    page = NBS/entry["page"]
    assert page.is_file() and f"#| default_exp {entry['room']}" in page.read_text("utf-8").replace('\\n",', "")


def test_words_of_the_field_are_explained():
    wanted = ("modality clip domain source target known unknown OS* UNK HOS AUROC FPR95 score protocol threshold "
              "oracle source-quantile term objective record run spec grid cell preset embedding head extractor stem "
              "tail translation jigsaw adaptation generalization transductive").split()
    wanted += ["open set", "fused head", "entropy weighting", "entropy minimisation"]
    assert not set(wanted) - set(glossary_links.words())


def test_the_first_use_is_linked_and_no_other():
    done = set()
    text = "An AUROC, and AUROCs; HOS.\n\n```\nAUROC\n```\n\n`HOS` [UNK](x) $UNK$ # UNK\n\n## UNK\n\nUNK"
    assert glossary_links.link_uses(text, "tutorials/settings.ipynb", done) == (
        "An [AUROC](../glossary.ipynb#auroc), and AUROCs; [HOS](../glossary.ipynb#hos).\n\n```\nAUROC\n```\n\n`HOS` "
        "[UNK](x) $UNK$ # UNK\n\n## UNK\n\nUNK".replace(") $UNK$ # UNK", ") $UNK$ # [UNK](../glossary.ipynb#unk)"))
    assert done == {"AUROC", "HOS", "UNK"}
    assert glossary_links.link_uses("HOS again", "index.ipynb", done) == "HOS again"
    starred = glossary_links.link_uses(r"OS\* is the share of known ones, HOS *the mean*", "index.ipynb", set())
    assert starred == r"[OS\*](glossary.ipynb#os) is the share of known ones, [HOS](glossary.ipynb#hos) *the mean*"


@pytest.mark.parametrize("text", ["to run it", "![a domain](x.png)", "<b title='domain'>", "subdomain, domain-wise",
                                  "*Towards Multimodal Open-Set Domain Generalization*", "| domain | n |\n|---|---|"])
def test_what_is_no_use_of_a_word_stays(text): assert glossary_links.link_uses(text, "index.ipynb", set()) == text


def test_longer_words_come_first():
    linked = glossary_links.link_uses("The fused head and a head of the closed-set grid", "index.ipynb", set())
    assert linked == ("The [fused head](glossary.ipynb#fused-head) and a [head](glossary.ipynb#head) of the "
                      "[closed-set](glossary.ipynb#closed-set) grid")


@pytest.mark.parametrize("page", [p.relative_to(NBS).as_posix() for p in sorted(NBS.glob("tutorials/*.ipynb"))])
def test_tutorials_get_links_that_lead_there(page):
    cells = nbformat.read(NBS/page, 4).cells
    before = ["".join(cell.source) for cell in cells]
    glossary_links.link_page(cells, page)
    anchors = re.findall(r"\]\(\.\./glossary\.ipynb#([\w-]+)\)", "\n".join(cell.source for cell in cells))
    assert anchors and len(set(anchors)) == len(anchors) and set(anchors) <= set(glossary_links.words().values())
    after = [re.sub(r"\[([^\]]+)\]\(\.\./glossary\.ipynb#[\w-]+\)", r"\1", cell.source) for cell in cells]
    assert after == before, "nothing but links is added"


def test_rooms_reports_and_the_glossary_stay():
    for page in ("glossary.ipynb", "methods/08_moosa.ipynb", "00_core.ipynb", "experiments/report.ipynb"):
        cells = [{"cell_type": "markdown", "source": "MOOSA and HOS"}]
        glossary_links.link_page(cells, page)
        assert cells[0]["source"] == "MOOSA and HOS"


def test_by_command(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["glossary_links.py", "tutorials/settings.ipynb"])
    glossary_links.main()
    assert "](../glossary.ipynb#setting)" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["glossary_links.py", "nothing.ipynb"])
    with pytest.raises(SystemExit, match="there is no nbs/nothing.ipynb"): glossary_links.main()
