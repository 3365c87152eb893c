"""Make the docs site: `python .ci/docs.py` writes _docs/, `python .ci/docs.py --readme [--check]` writes README.md from nbs/index.ipynb.

Notebooks are committed without outputs, so copies of them are executed (what did not change comes from build/docs/cache). nbdev puts in
the documentation of what they export, and smalldocs renders the pages. Nothing in nbs/ is touched.
"""
import argparse, hashlib, html, itertools, multiprocessing, os, posixpath, re, shutil, sys
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import nbformat, smalldocs.site, yaml
from nbdev import doclinks, processors, serve_drv
from nbdev.test import test_nb

ROOT = Path(__file__).resolve().parent.parent
NBS, BUILD = ROOT/"nbs", ROOT/"build"/"docs"
EXECUTED = {  # page -> notebook that is shown as it was executed; only the first three have another place
    "experiments/report.ipynb": "demo/report.ipynb", "experiments/split.ipynb": "demo/split.ipynb", "experiments/bench.ipynb": "bench/report.ipynb",
    "experiments/mini_hac_report.ipynb": "mini-hac/report.ipynb", "experiments/mini_hac_split.ipynb": "mini-hac/split.ipynb",
    "experiments/adaptation_split.ipynb": "adaptation/split.ipynb",
    **{f"experiments/{name.replace('-', '_')}_report.ipynb": f"{name}/report.ipynb"
       for name in ("digits-adaptation", "open-partial", "digits-closed", "digits-single-source", "digits-in-domain", "openness", "features", "demo-search",
                    "methods", "adaptation-methods", "ablation", "selection", "mini-hac-methods",
                    *(f"sensitivity-{of}" for of in ("weights", "entropy-min", "mask", "jigsaw", "temperature", "unknown", "size")))}}
LINK = re.compile(r'(\]\(|\b(?:href|src)=")([^)"\s#]+)')


def notebooks() -> list[str]:
    written = {p.relative_to(NBS).as_posix() for p in files("nbs/**/*.ipynb")}
    return sorted(written | {page for page in EXECUTED if source(page).exists()})


def files(pattern: str) -> list[Path]:
    "Files below the project's folder, without those that are hidden or in hidden folders, such as JupyterLab's .ipynb_checkpoints."
    return [p for p in sorted(ROOT.glob(pattern)) if p.is_file() and not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]


def source(page: str) -> Path:
    "The notebook that a page is made of."
    executed = ROOT/"figures"/EXECUTED.get(page, "none")
    return executed if executed.exists() else NBS/page


def plain(path: str) -> str:  # `x/12_y.ipynb` -> `x/y.ipynb`: the number orders notebooks, and is no part of an address
    return re.sub(r"(^|/)\d+_([^/]*\.(?:ipynb|html))$", r"\1\2", path)


def sidebar(contents: list, keep) -> list:
    "The sidebar's entries that `keep` (a function of the notebook's path) accepts, with addresses as the site has them."
    out = []
    for e in contents:
        if "contents" in e: e = {**e, "contents": sidebar(e["contents"], keep)}
        else: e = {"href": e} if isinstance(e, str) else e
        if keep(e["href"]) if "href" in e else e["contents"]: out.append({**e, "href": plain(e["href"])} if "href" in e else e)
    return out


# --- from a notebook to a page ----------------------------------------------------------------------------------------

line_of = doclinks._lineno  # knows a name as its module has it, show_doc asks for `moosa.module.name`
doclinks._lineno = lambda name, file: line_of(name.removeprefix(file.removesuffix(".py").replace("/", ".") + "."), file)


class ShowModule(processors.exec_show_docs):
    "Documents the objects of the module, where nbdev would execute the exported cells again: so types have their names, and fields their comments."
    def begin(self):
        super().begin()
        for cell in self.nb.cells:
            if name := cell.directives_.get("default_exp"): self.k.run_cell(f"from moosa.{name} import *")
        groups = itertools.groupby(self.nb.cells, lambda c: hasattr(c, "has_sd"))  # nbdev documents the definitions of a cell last to first
        self.nb.cells = [c for added, group in groups for c in (list(group)[::-1] if added else group)]

    def __call__(self, cell):
        if not cell.directives_.keys() & {"export", "exports", "exporti"}: super().__call__(cell)


class Filter(processors.FilterDefaults):
    def base_procs(self): return [ShowModule if p is processors.exec_show_docs else p for p in super().base_procs()]


def tidy(doc: str) -> str:
    "Shorten the signatures that show_doc writes, and let [source] lead to our own page when no repository is named."
    for pattern, new in (
        (r"\b(?:moosa(?:\.[a-z_0-9]+)*|collections\.abc|pathlib|typing)\.(?=[A-Z])", ""),
        (r"\btorch\.(nn|optim)(?:\.[a-z_]+)+\.(?=[A-Z])", r"\1."),
        (r":(?:builtin_function_or_method|function|type)=", "="),  # types that were guessed from a default
        (r"=([A-Z]\w*)\([^()`]{20,}\)", r"=\1(...)"),  # a long default
        (r"(?m)^def (_?[A-Z]\w*\((?:(?:\n    .*)+\n)?\))(?:->None)?:", r"class \1:"),
        (r"(?m)^(class \w+\()\n    \*args(?::Any)?, \*\*kwargs(?::Any)?\n\)", r"\1)"),  # no __init__ of its own
        (r"(?m)^\*(.+)\*$", lambda m: "*" + re.sub(r"(`[^`]*`)|\*", lambda k: k[1] or r"\*", m[1]) + "*"),  # stars in the first line of a docstring
        (r"(?m)^```python", "```{.python code-line-numbers=true}"),
        (r"\]\(/blob/\w+/(moosa/[\w/]+)\.py#L", r"](source/\1.md#cb1-"),
    ): doc = re.sub(pattern, new, doc)
    return doc


def make_page(staged: Path, page: Path, run: bool) -> bool:
    "Execute a staged notebook and add the documentation of what it exports. Has a process of its own."
    if run and not test_nb(staged, skip_flags=["slow"], save=True)[0]: return False
    try: serve_drv.main((staged, page, Filter))
    except Exception as e:
        print(f"docs: {e}\nIs moosa/ up to date with nbs/? `nbdev-export` makes it so.", file=sys.stderr)
        return False
    return True


def execute(paths: list[str]) -> dict[str, Path]:  # path -> its page, a finished notebook
    shared = [Path(__file__), *files("moosa/**/*.py"), *files("nbs/experiments/**/*.*"), *files("figures/*/*.md")]
    common, pages, jobs = hashlib.sha256(version("nbdev").encode() + b"".join(p.read_bytes() for p in shared)), {}, {}
    clear()
    os.environ.update(MOOSA_NO_PROGRESS="1", OMP_NUM_THREADS="1")
    fresh = multiprocessing.get_context("forkserver")  # a new process for each page, forked from one that has imported what all of them need
    fresh.set_forkserver_preload(["moosa.runs.experiment", "moosa.results.run_figures", "nbdev.serve_drv", "nbdev.test", "smalldocs.site"])
    with ProcessPoolExecutor(2, fresh, max_tasks_per_child=1) as pool:
        for path in paths:
            staged = stage(path)
            digest = common.copy()
            digest.update(staged.read_bytes())
            pages[path] = BUILD/"cache"/f"{Path(path).stem}-{digest.hexdigest()[:16]}.ipynb"
            run = not any("parameters" in c.metadata.get("tags", []) for c in nbformat.read(staged, 4).cells)
            if not pages[path].exists(): jobs[path] = pool.submit(make_page, staged, pages[path], run)
        for path, job in jobs.items(): print(f"{'done' if job.result() else 'FAILED':6} nbs/{path}", flush=True)
    failed = ", ".join(f"nbs/{path}" for path, job in jobs.items() if not job.result())
    if failed: sys.exit(f"docs: {failed}: execution failed, see the error above. Nothing was rendered.")
    for old in set((BUILD/"cache").iterdir()) - set(pages.values()): old.unlink()
    return pages


def clear():
    "Make the place where notebooks are executed, with the figures beside nbs/ as they expect them."
    for name in ("nbs", "figures"): shutil.rmtree(BUILD/name, ignore_errors=True)
    (BUILD/"cache").mkdir(parents=True, exist_ok=True)
    if (ROOT/"figures").exists(): shutil.copytree(ROOT/"figures", BUILD/"figures", ignore=shutil.ignore_patterns(".*"))


def stage(path: str) -> Path:
    (BUILD/"nbs"/path).parent.mkdir(parents=True, exist_ok=True)
    nb = nbformat.read(source(path), 4)
    title = nb.cells[0]
    if m := re.match(r"(# .+\n\s*(?:>.+\n)+)\s*(?!- )(?=\S)", title.source):  # nbdev drops what follows title and description in a cell
        nb.cells.insert(1, nbformat.v4.new_markdown_cell(title.source[m.end():], id="after-title"))
        title.source = m[1]
    nbformat.write(nb, BUILD/"nbs"/path)
    return BUILD/"nbs"/path


# --- the site ---------------------------------------------------------------------------------------------------------

def relink(text: str, page: str, place) -> str:  # place: path from the project's root -> what to write instead
    return LINK.sub(lambda m: m[0] if re.match(r"[a-z+]+:|/", m[2]) else m[1] + place(posixpath.normpath(f"nbs/{posixpath.dirname(page)}/{m[2]}")), text)


def fit(nb, page: str, pages: set[str], site: Path):
    "Make a finished notebook fit the site: addresses without numbers, linked files copied, pictures at their size."
    def place(path):
        path = next((f"nbs/{shown}" for shown, executed in EXECUTED.items() if path == f"figures/{executed}"), path)
        if not path.startswith("nbs/"):
            if not (ROOT/path).is_file(): sys.exit(f"docs: nbs/{page} links to {path}, which does not exist.")
            source, path = ROOT/path, re.sub(r"(?<=/)README\.md$", "index.md", path)  # smalldocs makes no page of a README
            (site/path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, site/path)
        path = plain(path.removeprefix("nbs/"))
        top = posixpath.basename(path)  # nbdev links names of the package as if every page lay at the top
        if path.removesuffix(".html") + ".ipynb" not in pages and top.removesuffix(".html") + ".ipynb" in pages: path = top
        return posixpath.relpath(path, posixpath.dirname(page) or ".")

    for cell in nb.cells:
        if cell.cell_type == "markdown": cell.source = relink(cell.source, page, place)
        elif cell.cell_type == "code": cell.source = f"#| code-line-numbers: true\n{cell.source}"  # hidden by styles.css, which wraps line by line
        for out in cell.get("outputs", []):
            data, size = out.get("data", {}), out.get("metadata", {}).get("image/png", {})
            if "show_doc(" in cell.source and "text/markdown" in data: data["text/markdown"] = tidy(data["text/markdown"])
            for kind in ("text/markdown", "text/html"):
                if kind in data: data[kind] = relink(data[kind], page, place)
            if "width" in size and "fig-cap" not in cell.source:
                data["text/html"] = f'<img width="{size["width"]}" class="img-fluid" src="data:image/png;base64,{data["image/png"].strip()}">'
    return nbformat.writes(nb).replace(f"{ROOT}/", "")


def offline(text: str) -> str:
    "Formulas become MathML, which browsers draw by themselves; nothing is fetched from elsewhere."
    from latex2mathml.converter import convert as mathml

    def formula(m):
        tex = re.sub(r"\\(log|ln|exp)\b(?!\s*\()", r"\\\1\\,", html.unescape(m[3]))
        formula = mathml(tex, display="block" if m[2] == "display" else "inline")
        return m[1] + (formula.replace("<mo>&#x02211;", '<mo largeop="false" mathsize="150%">&#x02211;') if m[2] == "display" else formula)
    text = re.sub(r'<(?:link|script)\b[^>]*"https://[^"]*katex[^>]*>(?:</script>)?', "", text).replace("<head>", '<head><link rel="icon" href="data:,">', 1)
    return re.sub(r'(<span class="math (inline|display)">)\\[(\[](.*?)\\[)\]](?=</span>)', formula, text, flags=re.S)


def render(done: dict[str, Path], contents: list):
    site, pages = BUILD/"site", {plain(path) for path in done}
    shutil.rmtree(site, ignore_errors=True)
    for path, finished in done.items():
        (site/plain(path)).parent.mkdir(parents=True, exist_ok=True)
        (site/plain(path)).write_text(fit(nbformat.read(finished, 4), path, pages, site), "utf-8")
    for module in files("moosa/**/*.py"):
        code = (site/"source"/module.relative_to(ROOT)).with_suffix(".md")
        code.parent.mkdir(parents=True, exist_ok=True)
        code.write_text(f"---\ntitle: {module.relative_to(ROOT)}\ntoc: false\nsearch: false\n---\n\n"
                        f"````{{.python .numbered code-line-numbers=true}}\n{module.read_text('utf-8')}````\n", "utf-8")
    for name in ("_quarto.yml", "nbdev.yml", "styles.css"): shutil.copy(NBS/name, site)
    (site/"sidebar.yml").write_text(yaml.safe_dump({"website": {"sidebar": {"contents": sidebar(contents, lambda path: path in done)}}}, sort_keys=False))
    built = smalldocs.site.build(site, quiet=True)
    if built.broken: sys.exit("docs: links that lead nowhere:\n" + "\n".join(f"  {page}: {target}" for page, target in built.broken))
    for file in built.out.rglob("*.html"): file.write_text(offline(file.read_text("utf-8")), "utf-8")
    for file in built.out.rglob("*.css"): file.write_text(re.sub(r"@import url\([\"']?https?:[^)]*\);?", "", file.read_text("utf-8")), "utf-8")
    shutil.rmtree(ROOT/"_docs", ignore_errors=True)
    print(f"{len(done)} pages in {shutil.move(built.out, ROOT/'_docs').relative_to(ROOT)}/")


# --- README -----------------------------------------------------------------------------------------------------------

def readme() -> str:
    "nbs/index.ipynb as Markdown: prose, code that is not hidden, and outputs that are Markdown or text."
    clear()
    if not test_nb(staged := stage("index.ipynb"), skip_flags=["slow"], save=True)[0]: sys.exit("docs: nbs/index.ipynb failed, see the error above.")
    parts = ["<!-- made from nbs/index.ipynb by .ci/docs.py; edit that -->"]
    for cell in nbformat.read(staged, 4).cells:
        flags = re.findall(r"^#\| *([^\s:]+:? *(?:false)?)", cell.source, re.M)
        code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
        if "hide" in flags or "include: false" in flags: continue
        if cell.cell_type == "markdown": parts.append(cell.source)
        elif code and "echo: false" not in flags: parts.append(f"```python\n{code}\n```")
        for out in cell.get("outputs", []):
            data = out.get("data", {"text/plain": out.get("text", "")})
            parts.append(data.get("text/markdown") or f"```\n{data['text/plain'].rstrip()}\n```")
    return relink("\n\n".join(p.strip() for p in parts) + "\n", "index.ipynb", lambda path: path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="make README.md, not the site")
    parser.add_argument("--check", action="store_true", help="with --readme: write nothing, exit 1 if README.md is out of date")
    args = parser.parse_args()
    if args.readme:
        text, file = readme(), ROOT/"README.md"
        if not args.check: file.write_text(text, "utf-8")
        elif not file.exists() or file.read_text("utf-8") != text: sys.exit("docs: README.md is out of date; run `python .ci/docs.py --readme`.")
        return
    contents, paths = yaml.safe_load((NBS/"sidebar.yml").read_text("utf-8"))["website"]["sidebar"]["contents"], notebooks()
    listed = []
    sidebar(contents, listed.append)
    if lost := [p for p in paths if p not in listed]: sys.exit(f"docs: {', '.join(lost)}: not in nbs/sidebar.yml. Give each a place there.")
    render(execute(paths), contents)


if __name__ == "__main__": main()
