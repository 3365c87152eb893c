"""What tools/site_*.py make of notebooks, commands and pages; tests/test_docs.py looks at the built site."""
import base64
import re
import struct
from pathlib import Path

import docs
import nbformat
import pytest
import site_commands
import site_html
import site_pictures
import site_reference
import site_search
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st


# --- reference pages --------------------------------------------------------------------------------------------------

def shown(name: str, file: str, signature: str) -> str:
    return (f"---\n\n[source](/blob/main/{file}#L7){{target=\"_blank\" style=\"float:right\"}}\n\n### {name}\n\n"
            f"```python\n{signature}\n```\n\n*Return it.*")


@pytest.fixture()
def module(tmp_path, monkeypatch):
    def write(text: str) -> str:
        (tmp_path/"moosa").mkdir(exist_ok=True)
        (tmp_path/"moosa"/"x.py").write_text(text)
        return "moosa/x.py"

    monkeypatch.setattr(site_reference, "ROOT", tmp_path)
    site_reference.module.cache_clear()
    yield write
    site_reference.module.cache_clear()


def test_a_function_has_signature_table_and_folded_source(module):
    file = module("def f(\n    a: int | None,  # how `many`\n    b, c=2,  # Hz & dB\n    *, d: str = 'x',\n"
                  ") -> list[int]:  # one each\n    return [a]\n")
    made = site_reference.documented(shown("f", file, "def f(\n    a:int, b, c:int=2\n)->list:"))
    assert "\nf(a, b, c=2, *, d='x') -> list[int]\n```" in made
    rows = re.findall(r"<tr>(.*?)</tr>", made)[1:]
    assert rows[0] == ('<td><code>a</code></td><td><code>int | None</code></td><td></td><td rowspan="1">how '
                       '<code>many</code></td>')
    assert 'rowspan="2">Hz &amp; dB' in rows[1] and "rowspan" not in rows[2]  # what b and c share is said once
    assert rows[3].endswith("<td><code>&#x27;x&#x27;</code></td><td rowspan=\"1\"></td>")
    assert rows[4] == "<td>returns</td><td><code>list[int]</code></td><td></td><td>one each</td>"
    assert 'code-fold="true" code-summary="Source"}\ndef f(' in made and "*Return it.*" in made


@pytest.mark.parametrize("ends, said", [(" -> int", ["", "", "clips"]), ("", ["", "clips"])])
def test_what_stands_behind_a_whole_signature_is_said_once(module, ends, said):
    file = module(f"def f(a, b=1){ends}: return a  # clips\n")
    made = site_reference.documented(shown("f", file, "def f(\n    a, b=1\n):"))
    assert [re.findall(r"<td[^>]*>(.*?)</td>", row)[3] for row in re.findall(r"<tr>(.*?)</tr>", made)[1:]] == said


@pytest.mark.parametrize("text, call", [
    ("class K:\n    def __init__(self, a, *rest, **more): pass\n", "K(a, *rest, **more)"),
    ("@dataclass(frozen=True)\nclass K:\n    a: int\n    b: dict = field(default_factory=dict)\n    _c: int = 0\n",
     "K(a, b=dict())"),
    ("class K(NamedTuple):\n    a: int\n    b: str = ''\n", "K(a, b='')"),
    ("class K(Other):\n    def go(self): pass\n", "K(x, y=1)")])  # as nbdev found it
def test_a_class_is_shown_as_it_is_called(module, text, call):
    made = site_reference.documented(shown("K", module(text), "def K(\n    x, y:int=1\n):"))
    assert f"\n{call}\n```" in made


def test_what_is_not_understood_stays(module):
    file = module("class K(Other): pass\n")
    unknown, odd = shown("other", file, "def other():"), shown("K", file, "def K(\n    x=<object>\n):")
    for doc in ("no documentation", unknown, odd):
        assert site_reference.documented(doc) == site_reference.tidy(doc)


def test_docstrings_cite_with_links_and_listings_are_the_source(module, monkeypatch):
    monkeypatch.setattr(site_reference, "sections", lambda: {"4.1": "who"})
    text = "def f(x):\n    'Return it (ref 4.1): `ref 4.1`, moosa.x.Y.'\n    return x\n"
    doc = shown("f", module(text), "def f(x):").replace("Return it.", "Return it (ref 4.1): `ref 4.1`.")
    told, listing = site_reference.documented(doc).split("````", 1)
    assert "([ref 4.1](/reference.html#who)): `ref 4.1`." in told and text in listing


def test_code_that_is_listed_is_not_shown_again():
    listing = f"### f\n\n````{{.python {site_reference.LISTED}}}\ndef f(): pass\n````"
    doc = nbformat.v4.new_code_cell("show_doc(f)")
    doc.outputs = [nbformat.v4.new_output("display_data", {"text/markdown": listing})]
    flags = '#| code-fold: show\n#| code-summary: "Exported source"\n'
    once, both, other = (nbformat.v4.new_code_cell(flags + code) for code in (
        "@cache\ndef f():\n    pass", "A = 1\n\n\ndef f():\n    pass\n\n\ndef g(): pass", "B = 2"))
    example = nbformat.v4.new_code_cell("def f(): pass")
    kept = site_reference.listed_once([doc, once, both, other, example])
    assert [cell.source.removeprefix(flags) for cell in kept] == [
        "show_doc(f)", "A = 1\n\ndef g(): pass\n", "B = 2\n", "def f(): pass"]


@pytest.mark.parametrize("source, folds", [
    ("assert 1 == 1", True), ("a = 1\ntest_eq(a, 1)", True), ("fastcore.test.test_eq(1, 1)", True), ("a = 1", False),
    ("%matplotlib inline", False)])
def test_cells_that_only_test_are_folded(source, folds):
    cell = nbformat.v4.new_code_cell(source)
    site_reference.fold(cell)
    assert cell.source.startswith("#| code-fold: true") == folds
    told = nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("stream", text="1")])
    site_reference.fold(told)
    assert told.source == source  # an example is read with its output


# --- links and formulas -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("found, written", [
    ("the score [[`n`](/e/p.html#n)](../p.ipynb#n),", "the score [`n`](../p.ipynb#n),"),
    ("[a [`b`](/b.html) and [`c`](/c.html)](d.ipynb), [`e`](/e.html)", "[a `b` and `c`](d.ipynb), [`e`](/e.html)"),
    ("[`a[0]`'s [`b`](/b.html)](c.ipynb)", "[`a[0]`'s `b`](c.ipynb)"),
    ("[0, 1], [`e`](/e.html) and [f](g.ipynb)", "[0, 1], [`e`](/e.html) and [f](g.ipynb)")])
def test_names_are_not_linked_within_links(found, written): assert docs.unnested(found) == written


def test_code_is_not_changed_with_the_text_around_it():
    text = "a\n\n````{.python}\na ```a```\n````\n\na\n\n```{=html}\n<a>\n```\n\n```\na\n```"
    assert docs.outside_code(text, lambda part: part.replace("a", "b")) == (
        "b\n\n````{.python}\na ```a```\n````\n\nb\n\n```{=html}\n<b>\n```\n\n```\na\n```")


def formula(tex: str, kind: str = "inline") -> str:
    ends = r"\(\)" if kind == "inline" else r"\[\]"
    return site_html.offline(f'<span class="math {kind}">{ends[:2]}{tex}{ends[2:]}</span>')


@pytest.mark.parametrize("tex", [r"\arg\min_T x", r"\big\| a", r"\begin{aligned} a &amp;= b \end{aligned}"])
def test_what_would_show_as_tex_ends_the_build(tex):
    with pytest.raises(SystemExit, match="a formula that would show as"): formula(tex, "display")


def test_formulas_are_drawn():
    assert "kl_matching" in formula(r"\text{kl\_matching} = 1")
    assert formula(r"\begin{split} a &amp;= b \\ &amp;+ c \end{split}", "display").count("<mtr>") == 2


def test_full_stops_stay_with_their_formulas():
    one, long = formula("v_n"), formula("+".join("abcdefghijklmnopqrstuvwxyz"))
    made = site_html.glued(f"({one}), {one} a {one}. {long}.")
    assert made == (f'<span class="glued">({one}),</span> {one} a <span class="glued">{one}.</span> {long}.')


# --- commands ---------------------------------------------------------------------------------------------------------

def test_every_command_and_option_has_its_page(tmp_path):
    entries = site_commands.write_commands(tmp_path)
    commands = dict(site_commands.all_commands())
    assert [entry["text"] for entry in entries] == list(commands) and len(commands) > 15
    for name, command in commands.items():
        text = (tmp_path/site_commands.page_of(name)).read_text()
        front = yaml.safe_load(text.split("---")[1])
        assert front["title"].endswith(name if " " in name else "moosa command") and front["description"], name
        options = [opt for param in command.params if not param.hidden for opt in param.opts if opt.startswith("-")]
        assert not [opt for opt in options if f"<code>{opt}</code>" not in text], name
        below = [Path(site_commands.page_of(f"{name} {part}")).name for part in getattr(command, "commands", ())]
        assert not [page for page in below if f"({page})" not in text], name


def test_defaults_and_what_is_required_have_a_column():
    text = site_commands.page("moosa run", dict(site_commands.all_commands())["moosa run"])
    seed = re.search(r"<tr><td><code>--seed</code></td>.*?</tr>", text)[0]
    assert seed.endswith("<td><code>0</code></td></tr>") and "[default" not in text
    assert re.search(r"<code>--target</code></td>.*?<td>required</td></tr>", text)


# --- pages ------------------------------------------------------------------------------------------------------------

def levels(text: str) -> list[int]: return [int(level) for level in re.findall(r"<h([1-6])", text)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), max_size=12))
def test_no_level_of_headings_is_left_out(written):
    text = "<main><h1>T</h1>" + "".join(f"<h{n} id='x'>{i}</h{n}>" for i, n in enumerate(written))
    made = site_html.headings_in_order(text)
    assert re.findall(r">(\d+)</h", made) == [str(i) for i in range(len(written))]
    found = levels(made)
    assert all(after <= before + 1 for before, after in zip(found, found[1:]))


def test_headings_in_order_stay():
    text = "<h2>before</h2><main><h1>T</h1><h2>a</h2><h3>b</h3><h3>c</h3><h2>d</h2>"
    assert site_html.headings_in_order(text) == text
    assert levels(site_html.headings_in_order("<main><h1>T</h1><h3>a</h3><h3>b</h3>")) == [1, 2, 2]


def test_code_has_numbers_with_names_or_none():
    line = '<span id="cb1-1"><a href="#cb1-1"></a>x</span>'
    made = site_html.lines_of_code(f'<pre class="python numbered a">{line}</pre><pre class="numberSource">{line}</pre>')
    assert made.count("<a ") == 1 and made.count('<a href="#cb1-1" aria-label="line 1"></a>') == 1


PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 2, 1)  # the head of one: 2 pixels wide, 1 high


def test_pictures_are_files_with_words_and_a_size(tmp_path):
    held = base64.b64encode(PNG + b"\0"*1000).decode()
    page = (f'<h2>Scores</h2><p>Short. The <em>more</em>, the better:</p><img src="data:image/png;base64,{held}">'
            f'<img alt="" src="x.svg"><audio controls><source src="data:audio/wav;base64,{held}" type="audio/wav">')
    made = site_pictures.measured(site_pictures.described(site_pictures.as_files(page, "../", tmp_path/"pictures")),
                                  tmp_path/"pictures")
    assert "base64" not in made and made.count('loading="lazy"') == 2 and '<audio preload="none"' in made
    assert made.count('alt="Scores: The more , the better"') == 2 and 'alt=""' not in made
    assert 'height="1" width="2"' in made
    files = sorted(path.suffix for path in (tmp_path/"pictures").iterdir())
    assert files == [".png", ".wav"] and all(f"../pictures/{p.name}" in made for p in (tmp_path/"pictures").iterdir())


def test_words_that_are_there_stay():
    page = ('<p>Before.</p><figure><img src="a.png"><figcaption>What <b>it</b> is</figcaption></figure>'
            '<img alt="A" src="b"><img alt=\'B c\' src=\'d\'>')
    made = site_pictures.described(page)
    assert 'alt="What it is"' in made and 'alt="A"' in made and "alt='B c'" in made and made.count("alt=") == 3


def test_titles_tell_pages_apart():
    def page(title): return nbformat.v4.new_notebook(cells=[nbformat.v4.new_raw_cell(f"---\ntitle: {title}\n---")])

    names = [{"href": "a.ipynb", "text": "Digits"}, {"href": "b.ipynb", "text": "HAC"}]
    contents = [{"section": "R", "contents": names}]
    found = {"a.ipynb": page("Results"), "b.ipynb": page("Results"), "c.ipynb": page("Other")}
    assert docs.titles(found, contents) == {
        "a.ipynb": "Results: Digits", "b.ipynb": "Results: HAC", "c.ipynb": "Other"}


def test_the_search_reads_prose_before_code_and_no_folded_parts():
    page = ('<html><head><meta name="description" content="One line"></head><body><nav>menu</nav><main><h1>T</h1>'
            '<p>prose</p><div class="cell-output">printed</div>'
            '<details class="code-fold"><summary>Tests</summary>x</details></main>')
    read = site_search.entry("a/my_room.html", page, "How-to", "my data")
    assert "menu" not in read and "Tests" not in read and "prose" in read
    assert '<div data-pagefind-weight="0.2" class="cell-output">' in read
    part = '<main><section id="a-part" class="level2">\n<h2 class="anchored" data-anchor-id="a-part">A part</h2>'
    assert '<h2 id="a-part" class="anchored"' in site_search.readable(f"{part}</section></main>")
    for name, value in dict(section="How-to", also="my data", address="a my room", about="One line").items():
        assert f'data-pagefind-meta="{name}">{value}</p>' in read


def test_an_alias_of_a_lost_page_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(site_search, "aliases", lambda: {"gone.html": "x"})
    with pytest.raises(SystemExit, match="gone.html"): site_search.write_readable(tmp_path, tmp_path/"out", {})


def test_the_tests_behind_the_promises_are_there():
    text = "".join(cell.source for cell in nbformat.read(docs.NBS/"reproducibility.ipynb", 4).cells)
    named, file = [], None
    for found in re.finditer(r"\(\.\./tests/(\w+\.py)\)|`(test_\w+)`", text):
        file = found[1] or file
        if found[2]: named.append((file, found[2]))
    assert len(named) > 20
    assert not [(file, test) for file, test in named if f"def {test}(" not in (docs.ROOT/"tests"/file).read_text()]
