"""JupyterLab in a browser without a window, as a person would use it: for the tests, and for pictures of it."""
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat

from moosa.data.processes import stop_tree
from moosa.places import project_root

TOKEN = "a-token-of-its-own"
BROWSER = shutil.which("chromium")  # None: it is not installed


@contextlib.contextmanager
def jupyterlab(
    root: Path,  # the folder that JupyterLab shows; its log and settings lie there, too
    width: int = 1500,  # pixels
    height: int = 1200,
) -> Iterator:  # the page of a browser, with `root`, `address`, and `errors` that the page has told
    "Start a JupyterLab and a browser; both are gone afterwards."
    from playwright.sync_api import sync_playwright

    settings = [f"--ServerApp.root_dir={root}", f"--IdentityProvider.token={TOKEN}", "--ServerApp.port=0",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--no-browser", "--allow-root"]
    env = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONPATH": str(project_root()),
           "JUPYTERLAB_SETTINGS_DIR": str(root/"settings"), "JUPYTERLAB_WORKSPACES_DIR": str(root/"workspaces")}
    answered = root/"settings"/"@jupyterlab"/"apputils-extension"/"notification.jupyterlab-settings"
    answered.parent.mkdir(parents=True)
    answered.write_text('{"fetchNews": "false"}')  # else it asks, in front of what one wants to see
    with open(root/"lab.log", "w+b") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyter", "lab", *settings], stdout=log, stderr=log, env=env,
                                  start_new_session=True)
        try:
            address = _address(root/"lab.log")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=BROWSER, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
                page = browser.new_page(viewport=dict(width=width, height=height))
                page.errors = []
                page.on("pageerror", lambda error: _note(page, str(error)))
                page.root, page.address = root, address
                yield page
                browser.close()
        finally:
            stop_tree(server.pid)
            server.wait()


def notebook(path: Path, *cells: str):
    "A notebook of code cells."
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=about), path)


def _note(page, error: str):
    if "Canceled future" not in error: page.errors.append(error)  # JupyterLab's own, when it leaves a notebook


def _address(log: Path) -> str:
    for _ in range(240):
        if found := re.search(r"http://(?:127\.0\.0\.1|localhost):(\d+)/", log.read_text(errors="replace")):
            address = f"http://127.0.0.1:{found[1]}"
            try:
                with urllib.request.urlopen(f"{address}/api/status?token={TOKEN}"): return address
            except OSError: pass  # not yet
        time.sleep(.5)
    raise RuntimeError(log.read_text())


def run_all(page, path: str, seconds: int = 240):
    "Open a notebook, run all cells, and wait until the last one has run."
    page.goto(f"{page.address}/lab/tree/{path}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    # Without its kernel a notebook is "idle", too. Who runs a cell then is asked for one, and ends the one that starts.
    page.wait_for_selector(".jp-Toolbar-kernelName:has-text('Python 3')", timeout=120_000)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=120_000)
    end, pressed = time.monotonic() + seconds, 0.
    while time.monotonic() < end:
        cells = code_cells(page, path)
        if all(cell.execution_count for cell in cells): return
        waiting = page.locator(".jp-InputPrompt:has-text('[*]')").count()
        if not waiting and not cells[0].execution_count and time.monotonic() - pressed > 10:
            page.click("text=Run >> nth=0")
            page.click("text=Run All Cells")
            pressed = time.monotonic()
        time.sleep(1)
        page.keyboard.press("Control+s")
    page.screenshot(path=page.root/"unfinished.png")
    raise RuntimeError(f"{path} did not run to its end in {seconds} s: see {page.root}/unfinished.png")


def code_cells(page, path: str) -> list:
    "The code cells of a notebook as JupyterLab has saved it; none may have raised an error."
    for _ in range(20):
        try: read = nbformat.read(page.root/path, 4)
        except nbformat.reader.NotJSONError: time.sleep(.1)  # it is being written
        else: break
    cells = [c for c in read.cells if c.cell_type == "code" and c.source.strip()]
    errors = [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    if errors: raise RuntimeError(errors[0].evalue)
    return cells


def scrolled_to(page, locator):
    "Bring something into view; cells that are out of sight have no pictures yet."
    locator.first.scroll_into_view_if_needed(timeout=60_000)
    time.sleep(1)
    return locator.first.bounding_box()
