"""The index of the site's search, made by Pagefind: words of all pages but those of source code, in small files of
which a browser fetches only what a question needs. nbs/site.js asks it.
"""
import html
import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

ROOT = Path(__file__).resolve().parent.parent
NOT_READ = (r"<thead\b.*?</thead>", r"<details\b.*?</details>", r"<nav\b.*?</nav>",
            r"<(math|svg|script|style|button|audio|video)\b.*?</\1>",
            r'\b(?:src|href|style|onclick|id|data-[a-z-]+)="[^"]{200,}"')
HEADED = re.compile(r'<section id="([^"]+)"([^>]*)>(\s*<h[1-6])\b(?![^>]*\sid=)')
MACHINE = '<div data-pagefind-weight="0.2" class="'  # code and what it printed counts less than prose
SHOWN = "pagefind.js", "pagefind-entry.json", "pagefind-worker.js"


def aliases() -> dict[str, str]:
    "Page -> what people call its subject, but the page does not: nbs/search.yml."
    return {page: ", ".join(words) for page, words in yaml.safe_load((ROOT/"nbs"/"search.yml").read_text()).items()}


def readable(text: str) -> str:
    "The part of a page that the search reads."
    main = re.search(r"<main\b.*</main>", text, re.S)
    body = main[0] if main else ""
    for pattern in NOT_READ: body = re.sub(pattern, " ", body, flags=re.S)
    body = body.removesuffix("</main>")
    body = re.sub(r"(?=</t[dh]>)", " ", body)
    body = HEADED.sub(r'<section\2>\3 id="\1"', body)  # Pagefind tells parts of a page by headings with an address
    return re.sub(r'<div class="(?=code-copy-outer|cell-output)', MACHINE, body)


def entry(page: str, text: str, section: str, also: str) -> str:
    "A page as Pagefind reads it: section, other names, words of its address, one line on what it is, and its words."
    about = re.search(r'<meta name="description" content="([^"]*)"', text)
    address = re.sub(r"[/._-]", " ", page.removesuffix(".html"))
    held = {"section": section, "also": html.escape(also), "address": address, "about": about[1] if about else ""}
    told = [f'<p data-pagefind-ignore data-pagefind-meta="{name}">{value}</p>' for name, value in held.items()]
    body = readable(text).replace("<main", f"<main>{''.join(told)}<div", 1)
    return f'<html lang="en"><body>{body}</div></main></body></html>'


def write_readable(site: Path, folder: Path, sections: dict[str, str]):
    "Write what Pagefind is to read of a site, page by page."
    other = aliases()
    lost = [page for page in other if not (site/page).exists()]
    if lost: raise SystemExit(f"docs: nbs/search.yml names pages that are not there: {', '.join(lost)}")
    for file in sorted(site.rglob("*.html")):
        page = file.relative_to(site).as_posix()
        if page.startswith("source/"): continue
        (folder/page).parent.mkdir(parents=True, exist_ok=True)
        text = entry(page, file.read_text("utf-8"), sections.get(page, "Reference"), other.get(page, ""))
        (folder/page).write_text(text, "utf-8")


def write_index(site: Path, sections: dict[str, str]):  # page -> its section of the sidebar
    "Index a built site, without the parts of Pagefind that are not used."
    with TemporaryDirectory() as folder:
        write_readable(site, Path(folder), sections)
        subprocess.run([sys.executable, "-m", "pagefind", "--site", folder, "--output-path", site/"pagefind",
                        "--keep-index-url", "--quiet"], check=True)
    json.loads((site/"pagefind"/"pagefind-entry.json").read_text())  # written whole
    for file in (site/"pagefind").glob("*.*"):
        if file.suffix in (".js", ".css") and file.name not in SHOWN: file.unlink()
