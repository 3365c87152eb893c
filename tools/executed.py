"""Notebooks as they were executed, with the documentation of what they export: what the pages of the site are made of.

Notebooks are committed without outputs, so copies of them are executed; what did not change comes from
build/docs/cache, or was executed as a test (build/executed). Nothing in nbs/ is touched.
"""
import functools
import hashlib
import io
import itertools
import multiprocessing
import os
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

from moosa.runs.notebook import without_iri_grammar

with without_iri_grammar(): import nbformat
from nbdev import config, doclinks, processors, serve_drv
from nbdev.test import test_nb

ROOT = Path(__file__).resolve().parent.parent
NBS, BUILD = ROOT/"nbs", ROOT/"build"/"docs"
LONG = ("tutorials/", "runs/", "explore/")  # pages that take longest begin first, so that none is waited for at the end
RAN = ROOT/"build"/"executed"  # notebooks as they were executed, here or by tests/test_notebooks.py
SENSITIVITY = ("weights", "entropy-min", "mask", "jigsaw", "temperature", "unknown", "size")
REPORTS = ("mini-hac", "adaptation", "digits-adaptation", "open-partial", "digits-closed", "digits-single-source",
           "digits-in-domain", "openness", "features", "demo-search", "methods", "utd-mhad-methods", "utd-mhad-few",
           "adaptation-methods", "parts", "conditions-utd-mhad", "conditions-mini-hac", "weights-utd-mhad",
           "moosa-x", "moosa-x-utd-mhad", "moosa-x-mini-hac", "ablation", "selection", "mini-hac-methods",
           *(f"sensitivity-{of}" for of in SENSITIVITY))
# Page -> notebook that is shown as it was executed. Only the first four exist as notebooks, too.
EXECUTED = {
    "experiments/report.ipynb": "demo/report.ipynb",
    "experiments/split.ipynb": "demo/split.ipynb",
    "experiments/bench.ipynb": "bench/report.ipynb",
    "experiments/by_eye.ipynb": "utd-mhad-by-eye/report.ipynb",
    "experiments/mini_hac_split.ipynb": "mini-hac/split.ipynb",
    "experiments/adaptation_split.ipynb": "adaptation/split.ipynb",
    **{f"experiments/{name.replace('-', '_')}_report.ipynb": f"{name}/report.ipynb" for name in REPORTS}}


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
                                  "nbformat", "nbdev.serve_drv", "nbdev.test", "smalldocs.site", "ipykernel.ipkernel",
                                  "papermill", "sklearn.datasets", "sklearn.metrics", "sklearn.mixture"])
    return ProcessPoolExecutor(count, fresh, max_tasks_per_child=1)


def execute(paths: list[str]) -> dict[str, Path]:  # path -> its page, a finished notebook
    "Execute what is not in the cache yet; exit when a notebook fails."
    clear()
    os.environ.update(MOOSA_NO_PROGRESS="1", OMP_NUM_THREADS="1")
    pages, jobs = {}, {}
    with workers(2) as pool:
        for path in sorted(paths, key=lambda path: not path.startswith(LONG)):
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
