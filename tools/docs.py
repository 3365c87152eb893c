"""Make the docs site and the README.

    python tools/docs.py                      writes _docs/
    python tools/docs.py --readme [--check]   writes README.md from nbs/index.ipynb

Notebooks are committed without outputs, so copies of them are executed; what did not change comes from
build/docs/cache, or was executed as a test (build/executed). nbdev puts in the documentation of what they export, and
smalldocs renders the pages. Nothing in nbs/ is touched.
"""
import argparse
import functools
import hashlib
import io
import itertools
import multiprocessing
import os
import posixpath
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

from moosa.runs.notebook import without_iri_grammar

with without_iri_grammar(): import nbformat
import smalldocs.config
import smalldocs.site
import yaml
from nbdev import config, doclinks, processors, serve_drv
from nbdev.test import test_nb

import site_html
import site_pictures
from site_commands import FOLDER, write_commands
from site_reference import documented, fold, tidy
from site_search import write_index

ROOT = Path(__file__).resolve().parent.parent
NBS, BUILD = ROOT/"nbs", ROOT/"build"/"docs"
RAN = ROOT/"build"/"executed"  # notebooks as they were executed, here or by tests/test_notebooks.py
SENSITIVITY = ("weights", "entropy-min", "mask", "jigsaw", "temperature", "unknown", "size")
REPORTS = ("mini-hac", "digits-adaptation", "open-partial", "digits-closed", "digits-single-source", "digits-in-domain",
           "openness", "features", "demo-search", "methods", "utd-mhad-methods", "adaptation-methods", "ablation",
           "selection", "mini-hac-methods", *(f"sensitivity-{of}" for of in SENSITIVITY))
# Page -> notebook that is shown as it was executed. Only the first three exist as notebooks, too.
EXECUTED = {
    "experiments/report.ipynb": "demo/report.ipynb",
    "experiments/split.ipynb": "demo/split.ipynb",
    "experiments/bench.ipynb": "bench/report.ipynb",
    "experiments/mini_hac_split.ipynb": "mini-hac/split.ipynb",
    "experiments/adaptation_split.ipynb": "adaptation/split.ipynb",
    **{f"experiments/{name.replace('-', '_')}_report.ipynb": f"{name}/report.ipynb" for name in REPORTS}}
COMMANDS = f"{FOLDER}/*"  # where nbs/sidebar.yml wants the pages of the commands
PAPERS = "CHANGELOG.md", "CONTRIBUTING.md"  # pages that lie beside nbs/
LAB = "http://localhost:8888/lab/tree"  # where `make lab` serves the project
LINK = re.compile(r'(\]\(|\b(?:href|src)=")([^)"\s#]+)')


def notebooks() -> list[str]:
    written = {p.relative_to(NBS).as_posix() for p in files("nbs/**/*.ipynb")}
    return sorted(written | {page for page in EXECUTED if source(page).exists()})


def files(pattern: str) -> list[Path]:
    "Files below the project's folder, without what is hidden, such as JupyterLab's .ipynb_checkpoints."
    def hidden(path): return any(part.startswith(".") for part in path.relative_to(ROOT).parts)

    return [p for p in sorted(ROOT.glob(pattern)) if p.is_file() and not hidden(p)]


def source(page: str) -> Path:
    "The notebook that a page is made of."
    executed = ROOT/"figures"/EXECUTED.get(page, "none")
    return executed if executed.exists() else NBS/page


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


# --- from a notebook to a page ---------------------------------------------------------------------------------------

config._load_toml = functools.cache(config._load_toml)  # nbdev reads pyproject.toml for every cell
line_of = doclinks._lineno


def line_of_full_name(name: str, file: str):
    "nbdev knows the line of a name as its module has it; show_doc asks for `moosa.module.name`."
    return line_of(name.removeprefix(file.removesuffix(".py").replace("/", ".") + "."), file)


doclinks._lineno = line_of_full_name


class ShowModule(processors.exec_show_docs):
    """Documents the objects of the module, where nbdev would execute the exported cells again.

    So types have their names, and fields their comments.
    """
    def begin(self):
        super().begin()
        for cell in self.nb.cells:
            if name := cell.directives_.get("default_exp"): self.k.run_cell(f"from moosa.{name} import *")
        cells = []
        for added, group in itertools.groupby(self.nb.cells, lambda c: hasattr(c, "has_sd")):
            group = list(group)
            cells += group[::-1] if added else group  # nbdev documents the definitions of a cell last to first
        self.nb.cells = cells

    def __call__(self, cell):
        if not cell.directives_.keys() & {"export", "exports", "exporti"}: super().__call__(cell)


class Filter(processors.FilterDefaults):
    def base_procs(self): return [ShowModule if p is processors.exec_show_docs else p for p in super().base_procs()]


def run_notebook(staged: Path, ran: Path) -> str:  # what went wrong; empty: nothing did
    "Execute a staged notebook, and keep it with its outputs as `ran`. Has a process of its own."
    sys.__stderr__ = said = io.StringIO()  # where nbdev writes
    if not test_nb(staged, skip_flags=["slow"], save=True)[0]: return said.getvalue() or f"{staged} failed"
    half = ran.with_suffix(f".{os.getpid()}")
    half.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(staged, half)
    half.replace(ran)
    return ""


def make_page(staged: Path, page: Path) -> bool:
    "Execute a staged notebook and add the documentation of what it exports. Has a process of its own."
    ran = RAN/page.name
    if ran.exists(): shutil.copy(ran, staged)
    elif not has_parameters(staged) and (said := run_notebook(staged, ran)):
        print(said, file=sys.stderr)
        return False
    try: serve_drv.main((staged, page, Filter))
    except Exception as e:
        print(f"docs: {e}\nIs moosa/ up to date with nbs/? `make clean-notebooks` makes it so.", file=sys.stderr)
        return False
    return True


@functools.cache
def common_digest():
    "A hash of what every page depends on: package, experiments, figures and this script. A page adds its own text."
    digest = hashlib.sha256(version("nbdev").encode())
    shared = [Path(__file__), *files("moosa/**/*.py"), *files("nbs/experiments/**/*.*"), *files("figures/*/*.md")]
    for path in shared: digest.update(path.read_bytes())
    return digest


def page_name(path: str, staged: Path) -> str:
    "The name of a notebook's finished page, and of what it is like once it is executed: another one for another text."
    digest = common_digest().copy()
    digest.update(staged.read_bytes())
    return f"{Path(path).stem}-{digest.hexdigest()[:16]}.ipynb"


def has_parameters(staged: Path) -> bool:
    "Whether papermill runs it: such a notebook is shown as it is."
    return any("parameters" in cell.metadata.get("tags", []) for cell in nbformat.read(staged, 4).cells)


def workers(count: int) -> ProcessPoolExecutor:
    "A new process for each notebook, forked from one that has imported what all of them need."
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["lightning_fabric", "seaborn", "moosa.runs.experiment", "moosa.results.run_figures",
                                  "nbformat", "nbdev.serve_drv", "nbdev.test", "smalldocs.site"])
    return ProcessPoolExecutor(count, fresh, max_tasks_per_child=1)


def execute(paths: list[str]) -> dict[str, Path]:  # path -> its page, a finished notebook
    "Execute what is not in the cache yet; exit when a notebook fails."
    clear()
    os.environ.update(MOOSA_NO_PROGRESS="1", OMP_NUM_THREADS="1")
    pages, jobs = {}, {}
    with workers(2) as pool:
        for path in paths:
            staged = stage(path)
            pages[path] = BUILD/"cache"/page_name(path, staged)
            if not pages[path].exists(): jobs[path] = pool.submit(make_page, staged, pages[path])
        for path, job in jobs.items(): print(f"{'done' if job.result() else 'FAILED':6} nbs/{path}", flush=True)
    failed = ", ".join(f"nbs/{path}" for path, job in jobs.items() if not job.result())
    if failed: sys.exit(f"docs: {failed}: execution failed, see the error above. Nothing was rendered.")
    current = {page.name for page in pages.values()}
    for old in [*(BUILD/"cache").iterdir(), *RAN.glob("*")]:
        if old.name not in current: old.unlink()
    return pages


def clear():
    "Make the place where notebooks are executed, with the figures beside nbs/ as they expect them."
    for name in ("nbs", "figures"): shutil.rmtree(BUILD/name, ignore_errors=True)
    (BUILD/"cache").mkdir(parents=True, exist_ok=True)
    if (ROOT/"figures").exists(): shutil.copytree(ROOT/"figures", BUILD/"figures", ignore=shutil.ignore_patterns(".*"))


def stage(path: str) -> Path:
    "Copy a notebook to where it is executed."
    (BUILD/"nbs"/path).parent.mkdir(parents=True, exist_ok=True)
    nb = nbformat.read(source(path), 4)
    title = nb.cells[0]
    # nbdev drops what follows title and description in a cell
    if m := re.match(r"(# .+\n\s*(?:>.+\n)+)\s*(?!- )(?=\S)", title.source):
        nb.cells.insert(1, nbformat.v4.new_markdown_cell(title.source[m.end():], id="after-title"))
        title.source = m[1]
    nbformat.write(nb, BUILD/"nbs"/path)
    return BUILD/"nbs"/path


# --- the site --------------------------------------------------------------------------------------------------------

def relink(text: str, page: str, place) -> str:  # place: path from the project's root -> what to write instead
    "Rewrite the relative links of a page. Addresses, and links from the site's root (nbdev's are such), stay."
    here = posixpath.dirname(page)

    def rewrite(m: re.Match) -> str:
        if re.match(r"[a-z+]+:|/", m[2]): return m[0]
        return m[1] + place(posixpath.normpath(f"nbs/{here}/{m[2]}"))

    return LINK.sub(rewrite, text)


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
    def relinked(text: str) -> str: return relink(text, page, lambda path: place(path, page, site))

    head(nb, page, title)
    for cell in nb.cells:
        documents = "show_doc(" in cell.source
        fold(cell)
        if cell.cell_type == "markdown": cell.source = relinked(cell.source)
        # line numbers are hidden by styles.css, which wraps line by line
        elif cell.cell_type == "code": cell.source = f"#| code-line-numbers: true\n{cell.source}"
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            if documents and "text/markdown" in data: data["text/markdown"] = tidy(documented(data["text/markdown"]))
            for kind in ("text/markdown", "text/html"):
                if kind in data: data[kind] = relinked(data[kind])
            resize(cell, out)
    return nbformat.writes(nb).replace(f"{ROOT}/", "")


def resize(cell, out):
    "A picture at the size that matplotlib gave it, where it has no caption."
    size, data = out.get("metadata", {}).get("image/png", {}), out.get("data", {})
    if "width" not in size or "fig-cap" in cell.source: return
    data["text/html"] = (f'<img width="{size["width"]}" class="img-fluid" '
                         f'src="data:image/png;base64,{data["image/png"].strip()}">')


def head(nb, page: str, title: str):
    "Title of a page, and below it where its notebook and its module's source are."
    front = yaml.safe_load(nb.cells[0].source.strip().strip("-")) if nb.cells[0].cell_type == "raw" else {}
    if front: nb.cells[0].source = f"---\n{yaml.safe_dump({**front, 'title': title}, allow_unicode=True)}---\n"
    up, written = "../"*page.count("/"), source(page).relative_to(ROOT).as_posix()
    links = [f'<a href="{LAB}/{written}" title="where make lab runs on this machine">Open in JupyterLab</a>',
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
    return {path: f"{title}: {named[path]}" if title in alike else title for path, title in own.items()}


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


def finish(out: Path):
    "What smalldocs leaves to do in its pages, and what they show as files."
    shutil.copy(NBS/"site.js", out)
    for file in out.rglob("*.html"):
        up = "../"*(len(file.relative_to(out).parts) - 1)
        text = site_html.mended(file.read_text("utf-8"), up)
        text = site_pictures.described(site_pictures.as_files(text, up, out/"pictures"))
        file.write_text(site_pictures.measured(text, out/"pictures"), "utf-8")
    for file in out.rglob("*.css"):
        file.write_text(re.sub(r"@import url\([\"']?https?:[^)]*\);?", "", file.read_text("utf-8")), "utf-8")


def render(done: dict[str, Path], contents: list):
    site = BUILD/"site"
    shutil.rmtree(site, ignore_errors=True)
    found = {path: nbformat.read(finished, 4) for path, finished in done.items()}
    title = titles(found, contents)
    for path, nb in found.items():
        (site/plain(path)).parent.mkdir(parents=True, exist_ok=True)
        (site/plain(path)).write_text(fit(nb, path, site, title[path]), "utf-8")
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
    clear()
    staged = stage("index.ipynb")
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
    render(execute(paths), contents)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="make README.md, not the site")
    parser.add_argument("--check", action="store_true",
                        help="with --readme: write nothing, exit 1 if README.md is out of date")
    args = parser.parse_args()
    if args.readme: write_readme(args.check)
    else: write_site()


if __name__ == "__main__": main()
