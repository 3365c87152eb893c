"""Link the first use of each word of the glossary on a page for readers.

The words, and where they are explained, are read from nbs/glossary.ipynb: a word is a heading of the third level there.

    python tools/glossary_links.py PAGE     prints the Markdown of nbs/PAGE, such as tutorials/settings.ipynb
"""
import argparse
import functools
import json
import posixpath
import re
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent/"nbs"
GLOSSARY = "glossary.ipynb"
# Words that are others, too (to run, to report): linked only behind a word that makes a noun of them.
EVERYDAY = {"run", "record", "report", "term", "method", "rule", "score", "source", "target", "head", "study", "clip",
            "setting", "stem", "tail", "translation", "corruption", "grid"}
NEVER = {"known", "unknown", "published", "cell"}  # everywhere, and mostly in their plain sense
DETERMINERS = "a|an|the|each|every|one|this|that|of|per|another|whole|two|three|all|any|no|some"
# What is no prose: code, formulas, links and pictures, tags, headings, heads of tables, titles of papers.
PROTECTED = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|!?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)]*\)|<[^>\n]+>"
                       r"|^#+ [^\n]*$|^> [^\n]*$|^\|[^\n]*\|\n(?=\|[:| -]+\|$)|https?://\S+"
                       r"|(?<![\\*])\*[^*\n]{30,}\*(?!\*)", re.M | re.S)


@functools.cache
def words() -> dict[str, str]:
    "Word -> its anchor in the glossary; longer words first, so that `fused head` is found before `head`."
    cells = json.loads((NBS/GLOSSARY).read_text("utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = sorted(re.findall(r"^### (.+)$", text, re.M), key=len, reverse=True)
    return {word: re.sub(r"[^\w -]", "", word).lower().replace(" ", "-") for word in found}


def pattern(word: str) -> re.Pattern:
    "What counts as a use of a word: the whole word or its plural; with capitals as they are, where it has some."
    plural = "s?" if word[-1].isalpha() else ""
    spelled = re.escape(word).replace(r"\ ", "[ -]").replace(r"\*", r"\\?\*")
    noun = rf"(?<![\w-])(?P<use>{spelled}{plural})(?![\w-])"
    if word in EVERYDAY: noun = rf"\b(?:{DETERMINERS}) {noun}"
    return re.compile(noun if word != word.lower() else f"(?i:{noun})")


def link_uses(text: str, page: str, done: set[str]) -> str:
    """Return Markdown with a link at the first use of each word; `done` are words that the page has linked already, and
    grows.

    `page` is the page's path in nbs/, from which links start.
    """
    glossary = posixpath.relpath(GLOSSARY, posixpath.dirname(page) or ".")
    for word, anchor in words().items():
        if word in done or word in NEVER: continue
        kept = [m.span() for m in PROTECTED.finditer(text)]
        uses = [m for m in pattern(word).finditer(text)
                if not any(a < m.end("use") and m.start("use") < b for a, b in kept)]
        if not uses: continue
        m = uses[0]
        text = f"{text[:m.start('use')]}[{m['use']}]({glossary}#{anchor}){text[m.end('use'):]}"
        done.add(word)
    return text


def for_readers(page: str) -> bool:
    "Whether a page gets links: it is no room of a wing, which has a number, no report, and not the glossary."
    return page != GLOSSARY and not re.search(r"(^|/)\d", page) and not page.startswith("experiments/")


def link_page(cells: list, page: str):
    "Link the first uses in the Markdown cells of a page for readers, in place."
    if not for_readers(page): return
    done = set()
    for cell in cells:
        if cell["cell_type"] != "markdown": continue
        cell["source"] = link_uses("".join(cell["source"]), page, done)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", help="of nbs/, such as tutorials/settings.ipynb")
    page = parser.parse_args().page
    try: cells = json.loads((NBS/page).read_text("utf-8"))["cells"]
    except FileNotFoundError: sys.exit(f"glossary_links: there is no nbs/{page}.")
    link_page(cells, page)
    print("\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown"))


if __name__ == "__main__": main()
