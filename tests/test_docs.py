"""The docs site: every notebook has a place, every link leads somewhere, every exported name is documented, and nothing
comes from elsewhere.
"""
import ast
import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import docs
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT/"_docs"
CHROMIUM_ARGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
                 "--disable-component-update --disable-sync").split()


def listed() -> list[str]:
    found, contents = [], yaml.safe_load((ROOT/"nbs"/"sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    docs.sidebar(contents, found.append)
    return found


def test_every_notebook_is_in_the_sidebar_once():
    entries = listed()
    assert not set(docs.notebooks()) - set(entries), "give these a place in nbs/sidebar.yml"
    pages = [docs.plain(e) for e in entries]
    assert len(set(pages)) == len(pages)


def test_what_jupyterlab_leaves_behind_is_passed_over(tmp_path, monkeypatch):
    for name in ("nbs/experiments", "nbs", "moosa", "figures/demo"):
        for file in (tmp_path/name/"a.py", tmp_path/name/".ipynb_checkpoints"/"a-checkpoint.py", tmp_path/name/"c.md"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "BUILD", tmp_path/"build")
    found = [docs.files(pattern) for pattern in ("nbs/experiments/**/*.*", "moosa/**/*.py", "figures/*/*.md")]
    assert [[p.name for p in ps] for ps in found] == [["a.py", "c.md"], ["a.py"], ["c.md"]]
    docs.clear()
    assert (tmp_path/"build"/"figures"/"demo"/"a.py").exists() and not list((tmp_path/"build").rglob("*checkpoint*"))


def test_sidebar_leaves_out_what_is_not_there():
    contents = [{"section": "A", "contents": ["01_x.ipynb", {"href": "t/02_y.ipynb", "text": "Y"}]},
                {"section": "B", "contents": ["z.ipynb"]}]
    assert docs.sidebar(contents, lambda path: path == "t/02_y.ipynb") == [
        {"section": "A", "contents": [{"href": "t/y.ipynb", "text": "Y"}]}]


def test_quarto_files_are_those_of_nbdev(tmp_path, monkeypatch):
    from nbdev.quarto import refresh_quarto_yml

    shutil.copy(ROOT/"pyproject.toml", tmp_path)
    (tmp_path/"nbs").mkdir()
    monkeypatch.chdir(tmp_path)
    refresh_quarto_yml()
    for name in ("_quarto.yml", "nbdev.yml"): assert (ROOT/"nbs"/name).read_text() == (tmp_path/"nbs"/name).read_text()


def test_signatures_are_tidied():
    shown = ("```python\ndef Case(\n    x:moosa.evaluation.openset.Predictions, # `x`\n"
             "    report:builtin_function_or_method=print,\n)->None:\n```\n\n*OS* of `a*b`*")
    assert docs.tidy(shown) == (
        "```{.python code-line-numbers=true}\nclass Case(\n    x:Predictions, # `x`\n    report=print,\n):\n```\n\n"
        r"*OS\* of `a*b`*")


def test_links_of_the_readme_start_at_the_root():
    text = '[a](12_x.ipynb#b) ![c](../figures/d.png) <img src="../figures/e.png"> [f](https://example.org/g) [h](#i)'
    assert docs.relink(text, "index.ipynb", lambda path: path) == (
        '[a](nbs/12_x.ipynb#b) ![c](figures/d.png) <img src="figures/e.png"> [f](https://example.org/g) [h](#i)')


def test_links_of_pages_in_folders(tmp_path):
    "Notebooks are linked relative to the page; nbdev links names, and we their source, from the site's root."
    written = ("[a](../data/05_media.ipynb#b) [c](02_spec.ipynb) [`d`](/core.html#d) "
               "[e](../../figures/bench/report.ipynb)")
    found = docs.relink(written, "runs/01_presets.ipynb",
                        lambda path: docs.place(path, "runs/01_presets.ipynb", tmp_path))
    assert found == "[a](../data/media.ipynb#b) [c](spec.ipynb) [`d`](/core.html#d) [e](../experiments/bench.ipynb)"
    assert docs.tidy("[source](/blob/main/moosa/runs/spec.py#L7)") == "[source](/source/moosa/runs/spec.md#cb1-7)"


def test_formulas_need_no_script():
    page = (r'<head><script src="https://x/katex.min.js" defer></script></head>'
            r'<span class="math inline">\(a &lt; \log b\)</span>')
    made = docs.offline(page)
    assert "katex" not in made and "<math" in made and r"\(" not in made and "&#x0003C;" in made


# --- the built site ---------------------------------------------------------------------------------------------------

class Page(HTMLParser):
    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.fetched = [], [], []
        self.text = path.read_text("utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id": self.ids.append(value)
            elif name in ("href", "src") and value: (self.links if tag == "a" else self.fetched).append(value)


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    done = subprocess.run([sys.executable, ROOT/"tools"/"docs.py"], cwd=ROOT, capture_output=True, text=True,
                          timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return {path: Page(path) for path in sorted(SITE.rglob("*.html"))}


def test_links_lead_somewhere(pages):
    dead = []
    for path, page in pages.items():
        for link in page.links + page.fetched:
            if re.match(r"(https?|mailto|data):", link): continue
            file, _, anchor = link.partition("#")
            target = (path.parent/unquote(file)).resolve() if file else path
            if target.is_dir(): target = target/"index.html"
            if not target.is_file() or (anchor and target in pages and unquote(anchor) not in pages[target].ids):
                dead.append(f"{path.relative_to(SITE)}: {link}")
    assert not dead, "\n".join(dead)


def test_pages_need_no_network(pages):
    assert not [(path.name, link) for path, page in pages.items() for link in page.fetched
                if re.match(r"(https?:)?//", link)]
    assert not [css.name for css in SITE.rglob("*.css") if re.search(r"@import[^;]*https?:", css.read_text("utf-8"))]


def test_pages_show_no_leftovers(pages):
    bad = ("Traceback (most recent call last)", "<IPython.core", "<object object at", " object at 0x", "show_doc(",
           "#| ", str(ROOT) + "/")
    shown = {path: unescape(re.sub(r"</?(span|a)\b[^>]*>", "", page.text)) for path, page in pages.items()
             if SITE/"source" not in path.parents}
    assert not [(path.name, word) for path, text in shown.items() for word in bad if word in text]


def test_every_exported_definition_is_documented_in_order(pages):
    for module in sorted(ROOT.glob("moosa/**/*.py")):
        page = pages.get(SITE/module.relative_to(ROOT/"moosa").with_suffix(".html"))
        if page is None or "AUTOGENERATED" not in (code := module.read_text("utf-8")): continue
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        names = [node.name for node in ast.parse(code).body if isinstance(node, definitions) and node.name[0] != "_"]
        assert [h for h in re.findall(r"<h3\b[^>]*>(\w+)</h3>", page.text) if h in names] == names, module


def test_pages_open_in_a_browser(pages):
    if not shutil.which("chromium"): pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_ARGS)
        tab, problems = browser.new_page(viewport={"width": 1300, "height": 900}), []
        tab.on("console", lambda m: problems.append(f"{tab.url}: {m.text}") if m.type == "error" else None)
        tab.on("pageerror", lambda e: problems.append(f"{tab.url}: {e}"))
        tab.on("requestfailed", lambda r: problems.append(f"{tab.url}: {r.url} failed"))
        # pages of source code are all made alike, and those of modules nearly so: every tenth and every third will do
        sources = [path for path in pages if SITE/"source" in path.parents]
        modules = [path for path in pages if (ROOT/"moosa"/path.relative_to(SITE)).with_suffix(".py").exists()]
        for path in [*(pages.keys() - {*sources, *modules}), *sources[::10], *modules[::3]]:
            tab.goto(f"http://127.0.0.1:{server.server_port}/{path.relative_to(SITE).as_posix()}")
            if tab.evaluate("document.documentElement.scrollWidth > innerWidth"):
                problems.append(f"{tab.url}: wider than the window")
        tab.goto(f"http://127.0.0.1:{server.server_port}/methods/entropy.html")
        assert tab.locator("math").first.bounding_box()["height"] > 5
        tab.locator(".smalldocs-search input").first.fill("jigsaw")
        tab.locator(".search-result").first.wait_for(timeout=5000)
        browser.close()
        server.shutdown()
    assert not problems, "\n".join(problems)
