"""Pages of the built site as tests/test_docs.py reads them, and a browser that looks at them."""
import functools
import http.server
import re
import shutil
import threading
from contextlib import contextmanager
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM_ARGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
                 "--disable-component-update --disable-sync").split()
# Rules of axe: WCAG 2.1 A and AA, and order and names of what is there.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
NOT_RULES = {"empty-table-header": {"enabled": False}}  # of a formula in a head, which is read aloud


def faults(tab) -> list[str]:
    "What axe finds on a tab's page."
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": {"type": "tag", "values": RULES}, "rules": NOT_RULES, "resultTypes": ["violations"]}
    found = Axe().run(tab, options=options).response["violations"]
    return [f"{tab.url}: {fault['id']}: {node['html'][:200]}" for fault in found for node in fault["nodes"]]


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


def words_of(page: Page) -> str:
    "What a page says in prose: no code, no formulas."
    main = page.text[page.text.find("<main"):]
    prose = re.sub(r"<(pre|code|script|style|math)\b.*?</\1>", " ", main, flags=re.S)
    return unescape(re.sub(r"<[^>]+>", "", prose))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


LEFT = "net::ERR_ABORTED"  # the tab was sent to another page; what is not there is a 404, which the console names


@contextmanager
def opened(site: Path):
    "A function that opens a tab; its `site` is the site's address, its `problems` what went wrong in it."
    from playwright.sync_api import sync_playwright

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_ARGS)

        def tab(width: int, **kwargs):
            tab = program.new_page(viewport={"width": width, "height": 900}, **kwargs)
            tab.site, tab.problems = f"http://127.0.0.1:{server.server_port}", []
            tab.on("console", lambda m: tab.problems.append(f"{tab.url}: {m.text}") if m.type == "error" else None)
            tab.on("pageerror", lambda e: tab.problems.append(f"{tab.url}: {e}"))
            tab.on("requestfailed", lambda r: None if r.failure == LEFT else tab.problems.append(
                f"{tab.url}: {r.url} failed: {r.failure}"))
            return tab

        yield tab
        program.close()
        server.shutdown()


def cut(tab) -> list[str]:
    "What runs off the right edge of a tab's window, and does not lie in a part that scrolls."
    return tab.evaluate("""() => [...document.querySelectorAll('main *')].filter((e) => {
        const inside = e.getBoundingClientRect().right <= innerWidth + 1;
        if (inside || !e.checkVisibility() || e.closest('math')) return false;
        for (let up = e.parentElement; up.tagName !== 'MAIN'; up = up.parentElement) {
            if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) return false;
        }
        return true;
    }).map((e) => e.textContent.trim().slice(0, 80))""")
