"""The docs site: every notebook has a place, every link leads somewhere, every exported name is documented, and nothing
comes from elsewhere.
"""
import ast
import itertools
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import docs
import executed
import pytest
import site_html
import site_halves
import site_once
import site_reference
import yaml
from site_pages import Page, cut, faults, opened, words_of

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT/"_docs"


def listed() -> list[str]:
    found, contents = [], yaml.safe_load((ROOT/"nbs"/"sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    docs.sidebar(contents, found.append)
    return [entry for entry in found if entry not in docs.PAPERS]


def test_every_notebook_is_in_the_sidebar_once():
    entries = listed()
    assert not set(executed.notebooks()) - set(entries), "give these a place in nbs/sidebar.yml"
    pages = [docs.plain(e) for e in entries]
    assert len(set(pages)) == len(pages)


def test_what_jupyterlab_leaves_behind_is_passed_over(tmp_path, monkeypatch):
    for name in ("nbs/experiments", "nbs", "moosa", "figures/demo"):
        for file in (tmp_path/name/"a.py", tmp_path/name/".ipynb_checkpoints"/"a-checkpoint.py", tmp_path/name/"c.md"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    monkeypatch.setattr(executed, "ROOT", tmp_path)
    monkeypatch.setattr(executed, "BUILD", tmp_path/"build")
    found = [executed.files(pattern) for pattern in ("nbs/experiments/**/*.*", "moosa/**/*.py", "figures/*/*.md")]
    assert [[p.name for p in ps] for ps in found] == [["a.py", "c.md"], ["a.py"], ["c.md"]]
    executed.clear()
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
    assert site_reference.tidy(shown) == (
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
    source = site_reference.tidy("[source](/blob/main/moosa/runs/spec.py#L7)")
    assert source == "[source](/source/moosa/runs/spec.md#cb1-7)"


def test_an_output_without_text_is_a_page(tmp_path):
    "As of `Markdown('')`, which a notebook keeps as nothing."
    import nbformat

    output = nbformat.v4.new_output("display_data", {"text/plain": "<Markdown>"})
    output.data["text/markdown"] = None
    cells = [nbformat.v4.new_markdown_cell("# A page"), nbformat.v4.new_code_cell("Markdown('')")]
    cells[1].outputs = [output]
    notebook = nbformat.v4.new_notebook(cells=[])
    notebook.cells = cells
    found = nbformat.reads(docs.fit(notebook, "runs/01_presets.ipynb", tmp_path, "A page"), 4)
    assert found.cells[-1].outputs[0].data["text/markdown"] == ""


def test_formulas_need_no_script():
    page = (r'<head><script src="https://x/katex.min.js" defer></script></head>'
            r'<span class="math inline">\(a &lt; \log b\)</span>')
    made = site_html.offline(page)
    assert "katex" not in made and "<math" in made and r"\(" not in made and "&#x0003C;" in made


def test_what_is_made_once_is_what_smalldocs_makes_for_each_page(tmp_path, monkeypatch):
    elsewhere = {"text": "H", "href": "https://example.org"}
    sections = [{"section": "A", "contents": ["index.md", {"section": "B", "contents": ["b/c.md", "b/d.md"]}]},
                {"section": "E", "href": "e/f.md", "contents": ["e/g.md", elsewhere]}]
    config = {"project": {"type": "website"}, "website": {"title": "x", "sidebar": {"contents": sections}}}
    (tmp_path/"_quarto.yml").write_text(yaml.safe_dump(config))
    for page in ("index", "b/c", "b/d", "e/f", "e/g", "alone", "b/alone"):
        (tmp_path/page).parent.mkdir(exist_ok=True)
        (tmp_path/f"{page}.md").write_text(f"# {page}\n\n[c](/b/c.md), [lost](/{page}/lost.md)\n")

    def built() -> tuple[dict[str, str], list, list]:
        site = docs.smalldocs.site.build(tmp_path, quiet=True)
        pages = {path.relative_to(site.out).as_posix(): path.read_text() for path in site.out.rglob("*.html")}
        return pages, site.broken, site.warnings

    ours = built()
    for name in ("href", "side_item"):
        own = {"href": site_once.link_on_page, "side_item": site_once.item_on_page}[name]
        monkeypatch.setattr(site_once.Layout, name, own)
    monkeypatch.setattr(site_halves.Site, "render_page", site_halves.render_one)
    assert ours == built() and (len(ours[0]), len(ours[1])) == (7, 7)
    assert sum(text.count('aria-current="page"') for text in ours[0].values()) > 3


# --- the built site ---------------------------------------------------------------------------------------------------

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


def test_links_are_not_read_as_text(pages):
    "As of a link within the text of another."
    assert not [(path.name, text) for path, page in written(pages).items()
                for text in re.findall(r".{0,40}\]\(.{0,40}", words_of(page))]


def test_outputs_say_nothing_of_the_machine(pages):
    "No library's warning, no place in memory, no path of an installed package."
    bad = re.compile(r"\w{1,30}Warning: .{0,40}|.{0,40} at 0x[0-9a-f]|.{0,40}site-packages")
    shown = {path: re.sub(r'<pre class="sourceCode.*?</pre>', "", page.text, flags=re.S)
             for path, page in written(pages).items()}
    assert sum(text.count("<pre><code>") for text in shown.values()) > 100
    assert not [(path.name, said) for path, text in shown.items()
                for said in bad.findall(unescape(re.sub(r"<[^>]+>", "", text)))]


def test_listings_are_the_source_and_stand_once(pages):
    "Each is a part of its module as it is; no exported definition is shown open, too."
    for module, page in modules(pages).items():
        listings = re.findall(r"<summary>Source</summary>.*?<pre\b[^>]*>(.*?)</pre>", page.text, re.S)
        code = module.read_text("utf-8")
        for listing in listings: assert unescape(re.sub(r"<[^>]+>", "", listing)).strip() in code, module
        opened = re.findall(r"<summary>Exported source</summary>.*?<pre\b[^>]*>(.*?)</pre>", page.text, re.S)
        names = re.findall(r"^(?:def|class) ([a-zA-Z]\w*)", unescape(re.sub(r"<[^>]+>", "", "\n".join(opened))), re.M)
        assert not names, module


def test_every_report_that_is_committed_is_a_page():
    reports = {path.relative_to(ROOT/"figures").as_posix() for path in ROOT.glob("figures/*/report.ipynb")}
    assert len(reports) > 20 and reports <= set(executed.EXECUTED.values())


def test_folded_sections_can_be_cited(pages):
    report = pages[SITE/"experiments"/"methods_report.html"]
    folded = re.findall(r'<summary>\s*<h\d id="([\w-]+)"', report.text)
    assert len(folded) > 8 and {f"#{name}" for name in folded} <= set(report.links)
    assert "<summary><strong>" not in "".join(page.text for page in written(pages).values())


def test_every_exported_definition_is_documented_in_order(pages):
    for module, page in modules(pages).items():
        if "AUTOGENERATED" not in (code := module.read_text("utf-8")): continue
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        names = [node.name for node in ast.parse(code).body if isinstance(node, definitions) and node.name[0] != "_"]
        headings = re.findall(r'class="source-link">source</a></p>\s*<h[2-6]\b[^>]*>(\w+)</h', page.text)
        assert headings == names, module
        assert page.text.count("<summary>Source</summary>") == len(names), module


def modules(pages) -> dict[Path, Page]:
    "The pages of modules."
    paths = sorted(ROOT.glob("moosa/**/*.py"))
    there = {path: pages.get(SITE/path.relative_to(ROOT/"moosa").with_suffix(".html")) for path in paths}
    return {path: page for path, page in there.items() if page}


def written(pages) -> dict[Path, Page]:
    "All pages but those of source code."
    return {path: page for path, page in pages.items() if SITE/"source" not in path.parents}


def test_pages_are_light(pages):
    assert not [(path.name, path.stat().st_size) for path in pages if path.stat().st_size > 1_500_000]
    assert not [path.name for path, page in pages.items() if re.search(r'="data:[^"]{1000}', page.text)]


def test_pictures_have_words_and_come_when_seen(pages):
    pictures = [(path.name, tag) for path, page in pages.items() for tag in re.findall(r"<img\b[^>]*>", page.text)]
    assert len(pictures) > 100
    assert not [p for p in pictures if not re.search(r'\balt="[^"]{3,}"', p[1]) or 'loading="lazy"' not in p[1]]


def test_headings_are_in_order(pages):
    for path, page in pages.items():
        levels = [int(n) for n in re.findall(r"<h([1-6])\b", page.text[page.text.index("<main"):])]
        assert levels.count(1) == 1 and levels[0] == 1, path
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), path


def test_titles_and_addresses_tell_pages_apart(pages):
    titles = [re.search("<title>(.*?)</title>", page.text)[1] for page in written(pages).values()]
    assert not {title for title in titles if titles.count(title) > 1}
    assert not [path.name for path, page in pages.items() if len(set(page.ids)) < len(page.ids)]


def test_sidebar_is_folded_and_leads_on(pages):
    "Only the section of a page is open; previous and next follow the sidebar from its first page to its last."
    path, walked = SITE/"index.html", []
    while path:
        walked.append(path)
        opened = re.findall(r'<ul id="quarto-sidebar-section-\d+" class="collapse [^"]*\bshow"', pages[path].text)
        assert 1 <= len(opened) <= 2, path
        following = re.search(r'<div class="nav-page nav-page-next"><a href="([^"]+)"', pages[path].text)
        path = (path.parent/unquote(following[1])).resolve() if following else None
        assert path not in walked
    listed = set(re.findall(r'<a href="([^"]+)" class="sidebar-item-text', pages[SITE/"index.html"].text))
    assert {p.relative_to(SITE).as_posix() for p in walked} == listed and len(listed) > 200
    assert "cli/moosa-run.html" in listed and "CHANGELOG.html" in listed


def test_notebooks_can_be_opened_and_had(pages):
    for notebook in executed.notebooks():
        page, source = SITE/docs.plain(notebook).replace(".ipynb", ".html"), executed.source(notebook)
        links = [link for link in pages[page].links if link.endswith(source.name)]
        assert f"{docs.LAB}/{source.relative_to(ROOT).as_posix()}" in links, page
        had = next(link for link in links if "/notebooks/" in f"/{link}")
        assert (page.parent/had).resolve().read_bytes() == source.read_bytes()


# --- in a browser -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def browser(pages):
    "A function that opens a tab; its `site` is the site's address, its `problems` what went wrong in it."
    if not shutil.which("chromium"): pytest.skip("chromium is not installed")
    with opened(SITE) as tab: yield tab


def test_pages_open_in_a_browser(pages, browser):
    tab = browser(1400)
    # pages of source code are all made alike, and those of modules nearly so: every tenth and every third will do
    sources = [path for path in pages if SITE/"source" in path.parents]
    rooms = [SITE/path.relative_to(ROOT/"moosa").with_suffix(".html") for path in modules(pages)]
    for path in [*(pages.keys() - {*sources, *rooms}), *sources[::10], *rooms[::3]]:
        tab.goto(f"{tab.site}/{path.relative_to(SITE).as_posix()}")
        for width in (1400, 390):
            tab.set_viewport_size({"width": width, "height": 900})
            if tab.evaluate("document.documentElement.scrollWidth > innerWidth"):
                tab.problems.append(f"{tab.url}: wider than a window of {width}")
    tab.goto(f"{tab.site}/methods/entropy.html")
    assert tab.locator("math").first.bounding_box()["height"] > 5
    assert not tab.problems, "\n".join(tab.problems)


def test_nothing_is_cut_on_a_phone(browser):
    tab, found = browser(390), []
    for page in ("reference", "glossary", "protocols", "results", "cli/moosa-run", "evaluation/pretext_tasks"):
        tab.goto(f"{tab.site}/{page}.html")
        found += [f"{page}: {text}" for text in cut(tab)]
    assert not found, "\n".join(found)


def test_tables_can_be_read_on_a_phone(browser):
    tab = browser(390)
    tab.goto(f"{tab.site}/protocols.html")
    first, second = tab.locator("main table").first.locator("tbody tr").first.locator("td").all()[:2]
    assert second.bounding_box()["width"] > 120
    at = first.bounding_box()["x"]
    first.evaluate("cell => { cell.closest('.sd-table, .cell-output-display').scrollLeft = 100; }")
    assert abs(first.bounding_box()["x"] - at) < 20 and second.bounding_box()["x"] < at + 60


def test_words_in_heads_of_tables_are_whole(browser):
    tab = browser(1400)
    for page in ("methods/cmrf", "cli/moosa-run", "data/motion"):
        tab.goto(f"{tab.site}/{page}.html")
        lines = tab.locator("table.parameters th").evaluate_all("""(cells) => cells.map((cell) => {
            const range = document.createRange();
            range.selectNodeContents(cell);
            return [cell.textContent, range.getClientRects().length];
        })""")
        assert lines and not [text for text, count in lines if " " not in text and count > 1], page


def test_a_section_opens_when_its_address_is_visited(browser):
    tab = browser(1400)
    tab.goto(f"{tab.site}/experiments/methods_report.html")
    heading = tab.locator("summary > h2").nth(1)
    assert not tab.locator("details[open]").count()
    tab.goto(f"{tab.site}/experiments/methods_report.html#{heading.get_attribute('id')}")
    tab.locator("details[open]").wait_for()
    assert tab.locator("details[open] > summary").inner_text() == heading.inner_text() and not tab.problems


def test_jupyterlab_is_offered_where_it_may_run(browser):
    tab = browser(1400)
    for host, there in (("127.0.0.1", True), ("localhost", True), ("docs.localhost", False)):
        tab.goto(f"{tab.site.replace('127.0.0.1', host)}/index.html")
        assert tab.get_by_role("link", name="Open in JupyterLab").is_visible() == there, host
    tab.goto((SITE/"index.html").as_uri())
    assert tab.get_by_role("link", name="Open in JupyterLab").is_visible()


def test_subscripts_lie_below_the_line(browser):
    "Where a font for formulas is installed, the pages' style finds it."
    fonts = subprocess.run(["fc-list", ":", "family"], capture_output=True, text=True).stdout
    if "Math" not in fonts: pytest.skip("no font for formulas is installed")
    tab = browser(1400)
    tab.goto(f"{tab.site}/methods/cmrf.html")
    base, index = tab.locator("math msub").first.locator("> *").all()
    bottoms = [part.bounding_box()["y"] + part.bounding_box()["height"] for part in (base, index)]
    assert bottoms[1] > bottoms[0] + 1


# One of each kind of page.
KINDS = ("index.html", "tutorials/your_own_data.html", "tutorials/read_the_method.html", "reference.html",
         "experiments/split.html", "experiments/ablation_report.html", "methods/moosa.html", "synth/sounds.html",
         "cli/moosa-run.html", "deviations.html", "CHANGELOG.html", "source/moosa/methods/moosa.html")


@pytest.mark.parametrize("scheme, width", [("light", 1400), ("dark", 390)])
def test_pages_can_be_read_by_everybody(browser, scheme, width):
    tab, found = browser(width, color_scheme=scheme), []
    for page in KINDS:
        tab.goto(f"{tab.site}/{page}")
        found += faults(tab)
    assert not found, "\n".join(found[:40])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_every_page_can_be_read_by_everybody(pages, browser, scheme, width):
    tab, found = browser(width, color_scheme=scheme), []
    for path in written(pages):
        tab.goto(f"{tab.site}/{path.relative_to(SITE).as_posix()}")
        found += faults(tab)
    assert not found + tab.problems, "\n".join([*found[:40], *tab.problems])


def test_the_theme_is_switched_and_kept(browser):
    tab = browser(1400, color_scheme="light")
    tab.goto(f"{tab.site}/index.html")

    def is_dark(): return tab.evaluate("document.documentElement.classList.contains('quarto-dark')")

    assert not is_dark()
    tab.get_by_role("button", name="Dark or light").click()
    tab.wait_for_function("document.documentElement.classList.contains('quarto-dark')")
    tab.goto(f"{tab.site}/methods/moosa.html")
    assert is_dark() and not tab.problems


def test_the_sidebar_opens_by_keyboard(browser):
    tab = browser(1400)
    tab.goto(f"{tab.site}/index.html")
    assert not tab.get_by_role("link", name="Your own data", exact=True).is_visible()
    tab.get_by_role("button", name="How-to").first.press("Enter")
    tab.get_by_role("link", name="Your own data", exact=True).click()
    assert tab.url.endswith("tutorials/your_own_data.html")


def test_search_by_keyboard_in_both_themes(browser):
    for scheme in ("light", "dark"):
        tab = browser(390, color_scheme=scheme)
        tab.goto(f"{tab.site}/experiments/split.html")
        tab.keyboard.press("/")
        tab.keyboard.type("own data")
        tab.locator(".site-search li").first.wait_for()
        assert not faults(tab) and "kn" not in tab.locator(".site-search mark").all_inner_texts()
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/tutorials/your_own_data.html")
        assert not tab.problems


# Question -> the page that answers it.
QUESTIONS = {
    "own data": "tutorials/your_own_data", "how do I use my own videos": "tutorials/your_own_data",
    "add a method": "tutorials/your_own_method", "own score": "tutorials/your_own_score",
    "custom backbone": "tutorials/your_own_extractor", "GPU": "tutorials/cluster", "slurm": "tutorials/cluster",
    "reproduce HAC": "tutorials/real_data", "EPIC-Kitchens": "tutorials/real_data", "cite": "index", "install": "index",
    "threshold": "which_threshold", "HOS": "open_set_numbers", "temperature scaling": "evaluation/calibration",
    "missing modality": "evaluation/missing", "resume": "training/checkpoint", "video codec": "data/films",
    "optical flow": "data/flow", "corruptions": "data/corruptions", "jigsaw": "pretext/jigsaw",
    "masked translation": "pretext/translation", "entropy weighting": "methods/entropy", "mixup": "methods/mixup",
    "domain adversarial training": "methods/dann", "pretrained transformer": "extractors/backbones",
    "feature cache": "extractors/cache", "hyper-parameter search": "runs/search", "deviations": "deviations",
    "which method is significantly better": "results/compare", "moosa data check": "cli/moosa-data-check",
    "exit code": "tutorials/commands", "return code": "tutorials/commands", "resume a grid": "tutorials/commands",
    "compare two runs": "tutorials/open_set_by_eye", "learning rate": "runs/presets", "rivals": "rivals",
    "all methods": "rivals",
    "how long does it take": "cli/moosa-plan", "hyperparameter search": "runs/search",
    "where MOOSA fails": "when_moosa_helps", "which threshold": "which_threshold", "energy score": "evaluation/scores",
    "resume a run": "tutorials/commands", "statistical test": "tutorials/read_a_report", "windows": "index"}

# Question -> a page that is to be among the first three.
NEAR = {"license": "index", "threshold": "protocols", "which score is best": "which_threshold",
        "how do I resume": "tutorials/commands", "corruption": "cli/moosa-corrupt", "moosa-x": "when_moosa_helps"}


def test_the_search_finds_words(browser):
    tab = browser(1400)
    tab.goto(f"{tab.site}/index.html")
    asked = """async (questions) => { const found = [], { ask } = await import(new URL('site.js', location.href));
        for (const question of questions) found.push((await ask(question)).map((page) => page.url));
        return found; }"""
    found = dict(zip(QUESTIONS, tab.evaluate(asked, list(QUESTIONS))))
    assert all(len(set(pages)) == len(pages) for pages in found.values())  # grouped by page
    missed = {question: found[question][:2] for question, page in QUESTIONS.items()
              if found[question][:1] != [f"/{page}.html"]}
    assert len(QUESTIONS) == 45 and len(missed) <= 5, missed
    assert tab.evaluate(asked, ["qwxzv"]) == [[]]
    near = dict(zip(NEAR, tab.evaluate(asked, list(NEAR))))
    assert not {question: near[question][:3] for question, page in NEAR.items()
                if f"/{page}.html" not in near[question][:3]}


def test_a_hit_is_named_after_its_part(browser):
    tab = browser(1400)
    tab.goto(f"{tab.site}/index.html")
    parts = tab.evaluate("""async () => (await (await import(new URL('site.js', location.href))).ask('cite'))[0]
        .sub_results.map((part) => [part.title, part.url])""")
    assert parts[0] == ["Cite, contribute, licences", "/index.html#cite-contribute-licences"]
