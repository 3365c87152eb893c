"""Make the docs site from the notebooks: `python .ci/docs.py` writes _docs/, `python .ci/docs.py --readme [--check]` writes README.md.

Notebooks are committed without outputs. So copies are executed (in two processes; what did not change is taken from build/docs/cache),
nbdev puts in the documentation of what they export, and smalldocs renders the pages. Nothing in nbs/ is touched.
"""
import argparse
import hashlib
import html
import importlib.metadata
import json
import multiprocessing
import os
import posixpath
import re
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS, BUILD = ROOT/"nbs", ROOT/"build"/"docs"
CACHE, STAGE, SITE = BUILD/"cache", BUILD/"nbs", BUILD/"site"
# An experiment is shown as it was executed for the figures folder; it is not executed again here.
EXECUTED = {"experiments/report.ipynb": ROOT/"figures/demo/report.ipynb", "experiments/split.ipynb": ROOT/"figures/demo/split.ipynb"}
LINK = re.compile(r'(\]\(|\b(?:href|src)=")([^)"\s#]+)')


def notebooks() -> list[str]:  # paths inside nbs/
    return sorted(p.relative_to(NBS).as_posix() for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts))


def sidebar_entries(contents: list) -> list[str]:  # the notebooks named in a sidebar's contents, in order
    return [path for e in contents for path in (sidebar_entries(e["contents"]) if "contents" in e else [e if isinstance(e, str) else e["href"]])]


def plain(path: str) -> str:
    "`data/12_x.ipynb` -> `data/x.ipynb`: the number orders the notebooks and is no part of a page's address."
    folder, name = posixpath.split(path)
    return posixpath.join(folder, re.sub(r"^\d+_", "", name) if name.endswith((".ipynb", ".html")) else name)


def is_experiment(nb) -> bool: return any("parameters" in c.metadata.get("tags", []) for c in nb.cells)


# --- execution --------------------------------------------------------------------------------------------------------

def cache_key(path: Path) -> str:
    "Changes with the notebook and with whatever else decides its outputs."
    inputs = [path, Path(__file__), *sorted(ROOT.glob("moosa/**/*.py")), *sorted(NBS.glob("experiments/**/*.*")), *sorted(ROOT.glob("figures/demo/*.md"))]
    digest = hashlib.sha256(importlib.metadata.version("nbdev").encode())
    for p in inputs: digest.update(p.read_bytes())
    return f"{plain(path.name).removesuffix('.ipynb')}-{digest.hexdigest()[:16]}.ipynb"


def make_page(staged: Path, cached: Path, run: bool) -> tuple[bool, float]:  # whether it worked, seconds
    "Execute a staged notebook, and keep it with the documentation of what it exports. Runs in a process of its own."
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import main as process
    from nbdev.test import test_nb

    start = time.time()
    if run and not test_nb(staged, skip_flags=["slow"], save=True)[0]: return False, time.time() - start
    half = cached.with_suffix(".half.ipynb")
    process((staged, half, FilterDefaults))
    half.rename(cached)
    return True, time.time() - start


def stage(path: str) -> tuple[Path, Path, bool]:  # the copy, its place in the cache, whether to execute it
    source = EXECUTED[path] if path in EXECUTED and EXECUTED[path].exists() else NBS/path
    (STAGE/path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, STAGE/path)
    return STAGE/path, CACHE/cache_key(source), not (path in EXECUTED or is_experiment(nbformat.read(source, 4)))


def execute(paths: list[str]) -> dict[str, Path]:  # path -> the finished notebook
    os.environ.update(MOOSA_NO_PROGRESS="1", OMP_NUM_THREADS="1", MPLBACKEND="module://matplotlib_inline.backend_inline")
    shutil.rmtree(STAGE, ignore_errors=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    staged = {path: stage(path) for path in paths}
    if (ROOT/"figures").exists(): shutil.copytree(ROOT/"figures", BUILD/"figures", dirs_exist_ok=True)  # for cells that read ../figures
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = {path: pool.submit(make_page, *job) for path, job in staged.items() if not job[1].exists()}
        failed = []
        for path, job in waiting.items():
            good, seconds = job.result()
            print(f"{'done' if good else 'FAILED':6} {seconds:5.0f} s  nbs/{path}", flush=True)
            if not good: failed.append(path)
    if failed: sys.exit(f"docs: {', '.join(f'nbs/{p}' for p in failed)} failed to execute; the error is printed above. Nothing was rendered.")
    return {path: cached for path, (_, cached, _) in staged.items()}


# --- the site ---------------------------------------------------------------------------------------------------------

def relink(text: str, page: str, pages: set[str]) -> str:
    "Make a page's links fit the site: no numbers in addresses, and files outside nbs/ copied beside the pages."
    folder = posixpath.dirname(page)

    def new(match):
        target = match[2]
        if source := re.fullmatch(r"/blob/[^/]+/(moosa/.*)\.py", target):  # nbdev's [source], when no repository is named
            return match[1] + posixpath.relpath(f"source/{source[1]}.html", folder or ".")
        if re.match(r"[a-z+]+:|/", target): return match[0]
        inside = posixpath.relpath(posixpath.join("nbs", folder, target), "nbs")  # seen from nbs/
        if inside.startswith("../"):
            inside = inside[3:]
            if not (ROOT/inside).is_file(): sys.exit(f"docs: nbs/{page} links to {target}, but there is no {inside}.")
            (SITE/inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT/inside, SITE/inside)
        inside = plain(inside)
        if inside.removesuffix(".html") + ".ipynb" not in pages and f"{posixpath.basename(inside).removesuffix('.html')}.ipynb" in pages:
            inside = posixpath.basename(inside)  # nbdev writes links to names of the package as if every page lay at the top
        return match[1] + posixpath.relpath(inside, folder or ".")
    return LINK.sub(new, text)


def staged_sidebar(contents: list, pages: set[str]) -> list:
    "The sidebar with addresses as the site has them, without entries whose notebook does not exist yet."
    out = []
    for e in contents:
        if "contents" in e: e = {**e, "contents": staged_sidebar(e["contents"], pages)}
        elif isinstance(e, str): e = plain(e)
        else: e = {**e, "href": plain(e["href"])}
        if e["contents"] if "contents" in e else (e if isinstance(e, str) else e["href"]) in pages: out.append(e)
    return out


def render(done: dict[str, Path], contents: list):
    "Put finished notebooks together into _docs/."
    from smalldocs.site import build

    shutil.rmtree(SITE, ignore_errors=True)
    pages = {plain(path) for path in done}
    for path, finished in done.items():
        nb = nbformat.read(finished, 4)
        for cell in nb.cells:
            if cell.cell_type == "markdown": cell.source = relink(cell.source, path, pages)
            for data in (o.data for o in cell.get("outputs", []) if "data" in o):
                data.update({mime: relink(data[mime], path, pages) for mime in ("text/markdown", "text/html") if mime in data})
        (SITE/plain(path)).parent.mkdir(parents=True, exist_ok=True)
        (SITE/plain(path)).write_text(nbformat.writes(nb).replace(f"{ROOT}/", ""), encoding="utf-8")
    for name in ("_quarto.yml", "nbdev.yml", "styles.css"): shutil.copy(NBS/name, SITE)
    (SITE/"sidebar.yml").write_text(yaml.safe_dump({"website": {"sidebar": {"contents": staged_sidebar(contents, pages)}}}, sort_keys=False))
    for path in ROOT.glob("moosa/**/*.py"): source_page(path, SITE/"source"/path.relative_to(ROOT).with_suffix(".html"))
    site = build(SITE, quiet=True)
    if site.broken: sys.exit("docs: links that lead nowhere:\n" + "\n".join(f"  {page}: {href}" for page, href in site.broken))
    for page in site.out.rglob("*.html"): page.write_text(static_math(page.read_text("utf-8")), "utf-8")
    shutil.rmtree(ROOT/"_docs", ignore_errors=True)
    shutil.move(site.out, ROOT/"_docs")
    print(f"{len(done)} pages in _docs/")


def source_page(module: Path, page: Path):
    "A module's code with an anchor for each line: what [source] leads to."
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    name = module.relative_to(ROOT).as_posix()
    style = HtmlFormatter(full=True, title=name, linenos="inline", lineanchors="L", wrapcode=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(highlight(module.read_text("utf-8"), PythonLexer(), style).replace('id="L-', 'id="L'), "utf-8")


def static_math(page: str) -> str:
    "Turn formulas into MathML, which browsers draw by themselves: the site needs no script from elsewhere."
    from latex2mathml.converter import convert

    page = re.sub(r'<(link|script)\b[^>]*"https://[^"]*/katex[^>]*>(</script>)?', "", page)
    return re.sub(r'(<span class="math (inline|display)">)\\[(\[](.*?)\\[)\]](?=</span>)', lambda m: m[1] + convert(
        html.unescape(m[3]), display="block" if m[2] == "display" else "inline"), page, flags=re.DOTALL)


# --- README -----------------------------------------------------------------------------------------------------------

def readme() -> str:
    "nbs/index.ipynb as Markdown, seen from the root: prose, code that is not hidden, and outputs as Markdown or text."
    from nbdev.test import test_nb

    staged, _, _ = stage("index.ipynb")
    shutil.copytree(ROOT/"figures", BUILD/"figures", dirs_exist_ok=True)
    if not test_nb(staged, skip_flags=["slow"], save=True)[0]: sys.exit("docs: nbs/index.ipynb failed to execute; the error is printed above.")

    def from_root(text): return LINK.sub(lambda m: m[0] if re.match(r"[a-z+]+:|/", m[2]) else m[1] + posixpath.normpath(f"nbs/{m[2]}"), text)

    parts = ["<!-- made from nbs/index.ipynb by `make readme`; edit that -->"]
    for cell in nbformat.read(staged, 4).cells:
        flags = {line[2:].split(":")[0].strip(): line.partition(":")[2].strip() for line in cell.source.splitlines() if line.startswith("#|")}
        code = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#|"))
        if "hide" in flags or flags.get("include") == "false": continue
        if cell.cell_type == "markdown": parts.append(from_root(cell.source))
        elif cell.cell_type == "code" and code and flags.get("echo") != "false": parts.append(f"```python\n{code}\n```")
        for o in cell.get("outputs", []):
            data = o.get("data", {"text/plain": o.get("text", "")})
            parts.append(from_root(data["text/markdown"]) if "text/markdown" in data else f"```\n{data['text/plain'].rstrip()}\n```")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="write README.md instead of the site")
    parser.add_argument("--check", action="store_true", help="with --readme: write nothing, exit 1 if README.md is out of date")
    args = parser.parse_args()
    if args.readme:
        text, path = readme(), ROOT/"README.md"
        if args.check: sys.exit(0 if path.exists() and path.read_text("utf-8") == text else "docs: README.md is not what nbs/index.ipynb gives; run `make readme`.")
        path.write_text(text, "utf-8")
        return
    contents = yaml.safe_load((NBS/"sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    if lost := sorted(set(notebooks()) - set(sidebar_entries(contents))): sys.exit(f"docs: not in nbs/sidebar.yml: {', '.join(lost)}. Give each a place there.")
    render(execute(notebooks()), contents)


if __name__ == "__main__": main()
