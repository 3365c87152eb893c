"""What is mended in the pages that smalldocs makes: formulas without scripts, headings in order, a navigation bar with
search and a switch for the theme, and a sidebar that a keyboard opens.
"""
import html
import re

TOOLS = ('<div class="site-tools"><button type="button" class="site-search-open" aria-haspopup="dialog">'
         '<i class="bi bi-search" aria-hidden="true"></i> <span>Search</span></button>'
         '<button type="button" class="site-theme" aria-label="Dark or light" title="Dark or light">'
         '<i class="bi bi-circle-half" aria-hidden="true"></i></button></div>')
# Pages that lie on the reader's machine, or are served from it, are told apart: only there is a JupyterLab to open.
HERE = ("<script>if (/^(localhost|127[.]0[.]0[.]1|)$/.test(location.hostname)) "
        'document.documentElement.classList.add("here")</script>')


def formula(m: re.Match) -> str:
    "MathML for a formula of a page; it ends the build if a part is not understood."
    from latex2mathml.converter import convert

    tex = re.sub(r"\\(log|ln|exp)\b(?!\s*\()", r"\\\1\\,", html.unescape(m[3]))
    tex = re.sub(r"\\text\{[^}]*\}", lambda words: words[0].replace(r"\_", "_"), tex)
    made = convert(tex, display="block" if m[2] == "display" else "inline")
    drawn = html.unescape(re.sub(r"<[^>]+>", "", made))
    if "\\" in drawn or "&" in drawn: raise SystemExit(f"docs: a formula that would show as {drawn}: {tex}")
    if m[2] != "display": return m[1] + made
    return m[1] + made.replace("<mo>&#x02211;", '<mo largeop="false" mathsize="150%">&#x02211;')


def offline(text: str) -> str:
    "Formulas become MathML, which browsers draw by themselves; nothing is fetched from elsewhere."
    text = re.sub(r'<(?:link|script)\b[^>]*"https://[^"]*katex[^>]*>(?:</script>)?', "", text)
    text = text.replace("<head>", '<head><link rel="icon" href="data:,">', 1)
    return re.sub(r'(<span class="math (inline|display)">)\\[(\[](.*?)\\[)\]](?=</span>)', formula, text, flags=re.S)


def glued(text: str) -> str:
    "Formulas stay on one line with the brackets and full stops that touch them, where a phone's line holds both."
    formula = r'<span class="math inline">(?:(?!</span>).)*</span>'
    touched = rf"[(\[“]+{formula}[)\].,;:?!”’…]*|{formula}[)\].,;:?!”’…]+"

    def glue(m: re.Match) -> str:
        letters = html.unescape(re.sub(r"<[^>]+>", "", m[0]))
        return m[0] if len(letters) > 40 else f'<span class="glued">{m[0]}</span>'

    return re.sub(touched, glue, text, flags=re.S)


def headings_in_order(text: str) -> str:
    "No level of headings is left out: what follows a title is of the second, whatever a notebook wrote."
    start, above = text.find("<main"), []

    def level(was: int) -> int:
        while above and above[-1][0] >= was: above.pop()
        above.append((was, above[-1][1] + 1 if above else 1))
        return above[-1][1]

    def mend(m: re.Match) -> str:
        now = level(int(m[1]))
        return f"<h{now}{m[2]}>{m[3]}</h{now}>"

    return text[:start] + re.sub(r"<h([1-6])\b([^>]*)>(.*?)</h\1>", mend, text[start:], flags=re.S)


def usable(text: str, up: str) -> str:  # up: from the page to the site's root, such as `../`
    "Bar and sidebar by keyboard, and on a phone."
    bar = r'(<nav class="navbar\b.*?</a></div>).*?(</div></nav>)'
    text = re.sub(bar, lambda m: m[1] + TOOLS + m[2], text, count=1, flags=re.S)
    toggle = r'<a (class="sidebar-item-(?:text|toggle)[^"]*" data-bs-toggle[^>]*?) role="navigation"([^>]*)>(.*?)</a>'
    text = re.sub(toggle, r'<button type="button" \1\2>\3</button>', text, flags=re.S)
    text = text.replace('id="toc-title" class="nav-link"', 'class="nav-link"')  # of a heading "title": that of the list
    text = text.replace('<nav class="navbar', '<nav aria-label="site" class="navbar', 1)
    text = text.replace('<nav id="TOC"', '<nav aria-labelledby="toc-title" id="TOC"')
    for nav, name in (('class="page-navigation"', "previous and next"),
                      ('class="quarto-secondary-nav"', "sections"), ('id="quarto-sidebar"', "pages")):
        text = text.replace(f"<nav {nav}", f'<nav aria-label="{name}" {nav}')
    return text.replace("</head>", f'{HERE}<script type="module" src="{up}site.js"></script></head>', 1)


def only_table_rows(text: str) -> str:
    "Empty cells in heads of tables are cells: nobody announces a heading without words."
    return re.sub(r"<th\b([^>]*)>(?:\s|&nbsp;)*</th>", r"<td\1></td>", text)


def reachable(text: str) -> str:
    "What may scroll sideways can be reached with the keyboard."
    for scrolls in ('<div class="cell-output cell-output-display', '<div class="sd-table', '<span class="math display'):
        tag, _, rest = scrolls.partition(" ")
        text = text.replace(scrolls, f'{tag} tabindex="0" {rest}')
    return text


def lines_of_code(text: str) -> str:
    "Links of lines: with a name where lines are numbered; elsewhere there are none."
    if "<pre" not in text: return text
    line = re.compile(r'<a href="(#cb\d+-)(\d+)"></a>')
    numbered = re.compile(r'<pre class="[^"]*\bnumbered\b.*?</pre>', re.S)
    named = numbered.sub(lambda m: line.sub(r'<a href="\1\2" aria-label="line \2"></a>', m[0]), text)
    return line.sub("", named)


def mended(text: str, up: str) -> str:
    for step in (offline, glued, headings_in_order, only_table_rows, reachable, lines_of_code): text = step(text)
    return usable(text, up)
