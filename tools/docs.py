"""Make the docs site and the README.

    python tools/docs.py                      writes _docs/
    python tools/docs.py --readme [--check]   writes README.md from nbs/index.ipynb

Executed notebooks (executed.py) are fitted to the site (site_reference.py), smalldocs renders the pages (faster by
site_once.py and site_halves.py), and what it leaves to do is done in these (site_html.py, site_pictures.py,
site_search.py).
"""
import argparse
import itertools
import posixpath
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from moosa.runs.notebook import without_iri_grammar

with without_iri_grammar(): import nbformat
import smalldocs.config
import smalldocs.site
import yaml
from nbdev.test import test_nb

import executed
import site_halves  # noqa: F401
import site_html
import site_once  # noqa: F401
import site_pictures
from executed import EXECUTED, NBS, ROOT, files, notebooks, source
from glossary_links import link_page
from site_commands import FOLDER, write_commands
from site_reference import documented, fold, listed_once
from site_search import write_index

COMMANDS = f"{FOLDER}/*"  # where nbs/sidebar.yml wants the pages of the commands
PAPERS = "CHANGELOG.md", "CONTRIBUTING.md"  # pages that lie beside nbs/
LAB = "http://localhost:8888/lab/tree"  # where `make lab` serves the project
NESTED = re.compile(r"\[(`[^`\n]+`)\]\(/[^)\s]*\)(?=(?:`[^`]*`|[^\[\]`])*\]\()")  # within the text of a link
ABOUT = re.compile(r"## (.+)\n+(?=\*\*)")  # of a report, before its question (moosa.results.front)
FOLDED = re.compile(r"<summary><strong>(.+?)</strong></summary>")  # a section of a report (moosa.results.folding)
BLOCK = re.compile(r"^(`{3,})(\{=html\})?.*?^\1`*[ \t]*$", re.M | re.S)  # of code, or of HTML
LINK = re.compile(r'(\]\(|\b(?:href|src)=")([^)"\s#]+)')


def plain(path: str) -> str:
    "An address without the number, which only orders notebooks: `x/12_y.ipynb` -> `x/y.ipynb`."
    return re.sub(r"(^|/)\d+_([^/]*\.(?:ipynb|html))$", r"\1\2", path)


def sidebar(contents: list, keep, commands: tuple = ()) -> list:
    """The sidebar's entries that `keep` (a function of a notebook's path) accepts, with addresses as the site has them;
    those of `commands` where it asks for them.
    """
    out = []
    for entry in contents:
        if entry == COMMANDS: out += commands
        elif "contents" in entry:
            below = sidebar(entry["contents"], keep, commands)
            if below: out.append({**entry, "contents": below})
        else:
            entry = {"href": entry} if isinstance(entry, str) else entry
            if keep(entry["href"]): out.append({**entry, "href": plain(entry["href"])})
    return out


# --- the site --------------------------------------------------------------------------------------------------------

def relink(text: str, page: str, place) -> str:  # place: path from the project's root -> what to write instead
    "Rewrite the relative links of a page. Addresses, and links from the site's root (nbdev's are such), stay."
    here = posixpath.dirname(page)

    def rewrite(m: re.Match) -> str:
        if re.match(r"[a-z+]+:|/", m[2]): return m[0]
        return m[1] + place(posixpath.normpath(f"nbs/{here}/{m[2]}"))

    return LINK.sub(rewrite, text)


def unnested(text: str) -> str:
    "Links as they were written, where nbdev has linked a name within the text of one."
    found = NESTED.sub(r"\1", text)
    return found if found == text else unnested(found)


def outside_code(text: str, change) -> str:
    "Markdown as a function changes it; blocks of code stay."
    done, at = [], 0
    for block in BLOCK.finditer(text):
        done += [change(text[at:block.start()]), change(block[0]) if block[2] else block[0]]
        at = block.end()
    return "".join(done) + change(text[at:])


def place(path: str, page: str, site: Path) -> str:
    "What a page of the site writes for a link to `path`. Linked files that are no pages are copied."
    path = next((f"nbs/{shown}" for shown, executed in EXECUTED.items() if path == f"figures/{executed}"), path)
    if not path.startswith("nbs/"):
        if not (ROOT/path).is_file(): sys.exit(f"docs: nbs/{page} links to {path}, which does not exist.")
        linked, path = ROOT/path, re.sub(r"(?<=/)README\.md$", "index.md", path)  # smalldocs makes no page of a README
        (site/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(linked, site/path)
    return posixpath.relpath(plain(path.removeprefix("nbs/")), posixpath.dirname(page) or ".")


def fit(nb, page: str, site: Path, title: str) -> str:
    "Make a finished notebook fit the site: its title, addresses without numbers, linked files copied, tests folded."
    def relinked(text: str) -> str:
        text = FOLDED.sub(r"<summary>\n\n## \1 {.no-anchor}\n\n</summary>", unnested(text))
        text = re.sub(r"(\]\(/[\w/]+\.html#\w+)\.\w+", r"\1", text)  # a method is documented with its class
        return relink(text, page, lambda path: place(path, page, site))

    link_page(nb.cells, page)
    for cell in nb.cells:
        documents = "show_doc(" in cell.source
        fold(cell)
        if cell.cell_type == "markdown": cell.source = outside_code(cell.source, relinked)
        # line numbers are hidden by styles.css, which wraps line by line
        elif cell.cell_type == "code": cell.source = f"#| code-line-numbers: true\n{cell.source}"
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            if documents and "text/markdown" in data: data["text/markdown"] = documented(data["text/markdown"])
            for kind in ("text/markdown", "text/html"):
                if kind in data: data[kind] = outside_code(data[kind] or "", relinked)  # IPython has None for ""
            resize(cell, out)
    nb.cells = listed_once(nb.cells)
    head(nb, page, title)
    return nbformat.writes(nb).replace(f"{ROOT}/", "")


def write_fitted(finished: Path, page: str, site: Path, title: str):
    "Write a finished notebook so that it fits the site."
    text = fit(nbformat.read(finished, 4), page, site, title)
    (site/plain(page)).parent.mkdir(parents=True, exist_ok=True)
    (site/plain(page)).write_text(text, "utf-8")


def resize(cell, out):
    "A picture at the size that matplotlib gave it, where it has no caption."
    size, data = out.get("metadata", {}).get("image/png", {}), out.get("data", {})
    if "width" not in size or "fig-cap" in cell.source: return
    data["text/html"] = (f'<img width="{size["width"]}" class="img-fluid" '
                         f'src="data:image/png;base64,{data["image/png"].strip()}">')


def taken_about(nb) -> dict[str, str]:  # description -> what a report's grid is about; empty: it is no report
    "Take the heading out of a report's first output: it stands below the title, where all reports said the same."
    for out in (out for cell in nb.cells for out in cell.get("outputs", [])):
        data = out.get("data", {})
        if not (found := ABOUT.match(data.get("text/markdown") or "")): return {}
        data["text/markdown"] = data["text/markdown"][found.end():]
        return {"description": re.sub(r"\\(?=\W)", "", found[1])}
    return {}


def head(nb, page: str, title: str):
    "Title of a page, and below it where its notebook and its module's source are."
    front = yaml.safe_load(nb.cells[0].source.strip().strip("-")) if nb.cells[0].cell_type == "raw" else {}
    if front:
        front |= {"title": title} | (taken_about(nb) if page.endswith("report.ipynb") else {})
        nb.cells[0].source = f"---\n{yaml.safe_dump(front, allow_unicode=True)}---\n"
    up, written = "../"*page.count("/"), source(page).relative_to(ROOT).as_posix()
    links = [f'<a href="{LAB}/{written}" class="only-here" title="where make lab runs">Open in JupyterLab</a>',
             f'<a href="{up}notebooks/{written}" download>Download notebook</a>']
    module = f"moosa/{plain(page).removesuffix('.ipynb')}"
    if (ROOT/f"{module}.py").exists(): links.append(f'<a href="{up}source/{module}.html">Source</a>')
    bar = nbformat.v4.new_markdown_cell(f'<p class="page-links">{" ".join(links)}</p>')
    nb.cells.insert(1 if front else 0, bar)


def title_of(nb) -> str:
    "The title of a finished notebook."
    if nb.cells[0].cell_type == "raw": return str(yaml.safe_load(nb.cells[0].source.strip().strip("-"))["title"])
    return ""


def names(contents: list) -> dict[str, str]:  # path -> what the sidebar calls it
    found = {}
    for entry in contents:
        if "contents" in entry: found.update(names(entry["contents"]))
        elif isinstance(entry, dict): found[entry["href"]] = entry["text"]
    return found


def titles(found: dict[str, object], contents: list) -> dict[str, str]:  # path -> title
    "Titles that tell pages apart: with its name in the sidebar, where several pages have one title."
    own, named = {path: title_of(nb) for path, nb in found.items()}, names(contents)
    alike = {title for title in own.values() if list(own.values()).count(title) > 1}
    apart = {path: f"{title}: {named.get(path, plain(path))}" for path, title in own.items()}
    return {path: apart[path] if title in alike else title for path, title in own.items()}


def write_sources(site: Path):
    "A page for each module, to which [source] leads."
    for module in files("moosa/**/*.py"):
        page = (site/"source"/module.relative_to(ROOT)).with_suffix(".md")
        page.parent.mkdir(parents=True, exist_ok=True)
        told = site/module.relative_to(ROOT/"moosa").with_suffix(".ipynb")
        back = f"[What it is for](/{told.relative_to(site).as_posix()})\n\n" if told.exists() else ""
        page.write_text(f"---\ntitle: {module.relative_to(ROOT)}\ntoc: false\nsearch: false\n---\n\n{back}"
                        f"````{{.python .numbered code-line-numbers=true}}\n{module.read_text('utf-8')}````\n", "utf-8")


def write_papers(site: Path):
    "Pages of what lies beside nbs/."
    for name in PAPERS:
        text = (ROOT/name).read_text("utf-8")
        (site/name).write_text(relink(text, f"../{name}", lambda path: place(path, "index.ipynb", site)), "utf-8")


def write_config(site: Path, contents: list):
    "nbdev's configuration, with what nbs/site.yml makes otherwise, and the sidebar."
    whole: dict = {}
    for name in ("_quarto.yml", "nbdev.yml", "site.yml"):
        whole = smalldocs.config.merge(whole, yaml.safe_load((NBS/name).read_text("utf-8")))
    del whole["metadata-files"]
    whole["website"]["sidebar"]["contents"] = contents
    (site/"_quarto.yml").write_text(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True), "utf-8")


def sections(contents: list, top: str = "") -> dict[str, str]:  # page -> the section of the sidebar that it is in
    found = {}
    for entry in contents:
        if "contents" in entry: found.update(sections(entry["contents"], top or entry["section"]))
        else: found[str(Path(entry["href"]).with_suffix(".html"))] = top
    return found


def finish_page(file: Path, out: Path):
    "What smalldocs leaves to do in one of its pages, and what it shows as files."
    up = "../"*(len(file.relative_to(out).parts) - 1)
    text = site_html.mended(file.read_text("utf-8"), up)
    text = site_pictures.described(site_pictures.as_files(text, up, out/"pictures"))
    file.write_text(site_pictures.measured(text, out/"pictures"), "utf-8")


def finish(out: Path):
    "What smalldocs leaves to do."
    shutil.copy(NBS/"site.js", out)
    pages = list(out.rglob("*.html"))
    with ProcessPoolExecutor(2) as pool: list(pool.map(finish_page, pages, itertools.repeat(out), chunksize=8))
    for file in out.rglob("*.css"):
        file.write_text(re.sub(r"@import url\([\"']?https?:[^)]*\);?", "", file.read_text("utf-8")), "utf-8")


def render(done: dict[str, Path], contents: list):
    site = executed.BUILD/"site"
    shutil.rmtree(site, ignore_errors=True)
    title = titles({path: nbformat.read(finished, 4) for path, finished in done.items()}, contents)
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(write_fitted, done.values(), done, itertools.repeat(site), map(title.get, done), chunksize=4))
    write_sources(site)
    write_papers(site)
    shown = sidebar(contents, lambda path: path in done or path in PAPERS, write_commands(site))
    write_config(site, shown)
    shutil.copy(NBS/"styles.css", site)
    built = smalldocs.site.build(site, quiet=True)
    broken = "\n".join(f"  {page}: {target}" for page, target in built.broken)
    if broken: sys.exit(f"docs: links that lead nowhere:\n{broken}")
    finish(built.out)
    write_index(built.out, sections(shown))
    for path in done:
        copy = built.out/"notebooks"/source(path).relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source(path), copy)
    shutil.rmtree(ROOT/"_docs", ignore_errors=True)
    print(f"{len(done)} notebooks in {shutil.move(built.out, ROOT/'_docs').relative_to(ROOT)}/")


# --- README ----------------------------------------------------------------------------------------------------------

def as_markdown(cell) -> list[str]:
    "What README shows of a cell: prose, code that is not hidden, and outputs that are Markdown or text."
    flags = re.findall(r"^#\| *([^\s:]+:? *(?:false)?)", cell.source, re.M)
    if "hide" in flags or "include: false" in flags: return []
    parts = [cell.source] if cell.cell_type == "markdown" else []
    code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
    if not parts and code and "echo: false" not in flags: parts.append(f"```python\n{code}\n```")
    for out in cell.get("outputs", []):
        data = out.get("data", {"text/plain": out.get("text", "")})
        parts.append(data.get("text/markdown") or f"```\n{data['text/plain'].rstrip()}\n```")
    return parts


def readme() -> str:
    "nbs/index.ipynb as Markdown."
    executed.clear()
    staged = executed.stage("index.ipynb")
    if not test_nb(staged, skip_flags=["slow"], save=True)[0]:
        sys.exit("docs: nbs/index.ipynb failed, see the error above.")
    parts = ["<!-- made from nbs/index.ipynb by tools/docs.py; edit that -->"]
    for cell in nbformat.read(staged, 4).cells: parts += as_markdown(cell)
    return relink("\n\n".join(p.strip() for p in parts) + "\n", "index.ipynb", lambda path: path)


def write_readme(check: bool):
    text, file = readme(), ROOT/"README.md"
    if not check: file.write_text(text, "utf-8")
    elif not file.exists() or file.read_text("utf-8") != text:
        sys.exit("docs: README.md is out of date; run `python tools/docs.py --readme`.")


def write_site():
    contents = yaml.safe_load((NBS/"sidebar.yml").read_text("utf-8"))["website"]["sidebar"]["contents"]
    paths, listed = notebooks(), []
    sidebar(contents, listed.append)
    lost = ", ".join(p for p in paths if p not in listed)
    if lost: sys.exit(f"docs: {lost}: not in nbs/sidebar.yml. Give each a place there.")
    render(executed.execute(paths), contents)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="make README.md, not the site")
    parser.add_argument("--check", action="store_true",
                        help="with --readme: write nothing, exit 1 if README.md is out of date")
    args = parser.parse_args()
    if args.readme: write_readme(args.check)
    else: write_site()


if __name__ == "__main__": main()
