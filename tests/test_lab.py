"""JupyterLab in a browser, as one sees it: sliders, matrices, maps, cards, films, and two runs beside each other."""
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import nbformat
import numpy as np
import pytest

from moosa.evaluation.openset import at_threshold, max_softmax
from moosa.places import project_root
from moosa.runs.predictions import load_predictions

pytestmark = pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
TOKEN = "a-token-of-the-test"
MIRROR = '''
import json
import ipywidgets
from IPython.display import display

def mirrored(run, name):
    "Writes a run's threshold and selection onto the page, where the test reads them."
    words = ipywidgets.HTML()
    def write(_=None):
        said = json.dumps({"threshold": run.threshold, "selected": list(run.selected)})
        words.value = f"<pre class='mirror-{name}'>{said}</pre>"
    run.observe(write, ["threshold", "selected"])
    write()
    return words
'''
OPEN = '''
from moosa.explore.opened import open_run

run, other = open_run({run!r}, {data!r}), open_run({other!r}, {data!r})
display(mirrored(run, "run"), mirrored(other, "other"))
'''
FILM = '''
import torch
from moosa.data.catalogue import create_dataset
from moosa.evaluation.openset import Predictions
from moosa.evaluation.sources import Sources
from moosa.explore.media import ClipMedia
from moosa.explore.opened import OpenRun

names = [f"cartoon/cartoon-{{name}}-000" for name in ("running", "swimming", "drinking")]
logits = {{m: 3*torch.eye(3, 2) for m in ("video", "audio", "flow")}}
said = Predictions(sum(logits.values()), logits, torch.tensor([0, 1, 2]), names)
films = OpenRun(said, Sources(said), ["running", "swimming"], ["drinking"], name="films")
films.media = ClipMedia(lambda: create_dataset("mini-hac", {data!r}), ("video", "audio", "flow"))
films.card(names[0])
'''


def notebook(path, *cells):
    "A notebook of code cells."
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=about), path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab whose root is a folder of the test; and the page of a browser."
    from playwright.sync_api import sync_playwright

    root = tmp_path_factory.mktemp("lab")
    settings = [f"--ServerApp.root_dir={root}", f"--IdentityProvider.token={TOKEN}", "--ServerApp.port=0",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--no-browser", "--allow-root"]
    env = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONPATH": str(project_root()),
           "JUPYTERLAB_SETTINGS_DIR": str(root/"settings"), "JUPYTERLAB_WORKSPACES_DIR": str(root/"workspaces")}
    log = open(root/"lab.log", "w+b")
    server = subprocess.Popen([sys.executable, "-m", "jupyter", "lab", *settings], stdout=log, stderr=log, env=env,
                              start_new_session=True)
    try:
        address = _address(root/"lab.log")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"),
                                                 args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
            page = browser.new_page(viewport=dict(width=1500, height=1200))
            page.errors = []
            page.on("pageerror", lambda error: _note(page, str(error)))
            page.root, page.address = root, address
            yield page
            browser.close()
    finally:
        from moosa.data.processes import stop_tree

        stop_tree(server.pid)
        server.wait()
        log.close()


def _note(page, error: str):
    if "Canceled future" not in error: page.errors.append(error)  # JupyterLab's own, when it leaves a notebook


def _address(log) -> str:
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
    raise AssertionError(f"{path} did not run to its end in {seconds} s: see {page.root}/unfinished.png")


def code_cells(page, path: str) -> list:
    "The code cells of a notebook as JupyterLab has saved it; none may have raised an error."
    for _ in range(20):
        try: read = nbformat.read(page.root/path, 4)
        except nbformat.reader.NotJSONError: time.sleep(.1)  # it is being written
        else: break
    cells = [c for c in read.cells if c.cell_type == "code" and c.source.strip()]
    errors = [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    assert not errors, errors[0].evalue
    return cells


def mirror(page, name="run") -> dict:
    return json.loads(page.locator(f".mirror-{name}").first.text_content())


def scrolled_to(page, locator):
    "Bring something into view; cells that are out of sight have no pictures yet."
    locator.first.scroll_into_view_if_needed(timeout=60_000)
    time.sleep(1)
    return locator.first.bounding_box()


def until(happens, seconds=30):
    "Wait for something that a click brings about."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens(): return
        time.sleep(.2)
    assert happens()


@pytest.fixture(scope="module")
def explored(lab, two_runs):
    "A notebook with the views of a run, run in JupyterLab."
    runs = {json.loads((f/"record.json").read_text())["spec"]["target"]: f for f in (two_runs/"runs").iterdir()}
    run = runs["mfeat"]
    cells = [MIRROR, OPEN.format(run=str(run), other=str(run), data=str(two_runs)), "run.threshold_view()",
             "run.map(colour='outcome')", "run.gallery('accepted')", "run.compare(other)"]
    notebook(lab.root/"explore.ipynb", *cells)
    run_all(lab, "explore.ipynb")
    return run


def numbers_at(run, threshold: float) -> dict[str, str]:
    "OS*, UNK and HOS of a run in percent, computed apart from any view."
    target = load_predictions(run)["target"]
    found = at_threshold(max_softmax(target.fused), target.fused.argmax(dim=1), target.labels, target.num_known,
                         threshold)
    return {name: f"{100*found[name]:.1f}" for name in ("OS*", "UNK", "HOS")}


def test_the_slider_moves_the_threshold(lab, explored):
    before = mirror(lab)["threshold"]
    handle = lab.locator(".noUi-handle")
    box = scrolled_to(lab, handle)
    x, y = box["x"] + box["width"]/2, box["y"] + box["height"]/2
    lab.mouse.move(x, y)
    lab.mouse.down()
    lab.mouse.move(x + 120, y, steps=6)
    lab.mouse.up()
    until(lambda: mirror(lab)["threshold"] != before)
    time.sleep(1)
    said, now = lab.locator("big").first.inner_text(), mirror(lab)["threshold"]
    for name, value in numbers_at(explored, now).items(): assert f"{name} {value}" in said.replace("\u202f", " "), said


def test_the_slider_moves_by_keys(lab, explored):
    before = mirror(lab)["threshold"]
    lab.locator(".noUi-handle").first.focus()
    lab.keyboard.press("ArrowLeft")
    until(lambda: mirror(lab)["threshold"] < before)


def test_a_cell_of_the_matrix_selects_its_clips(lab, explored):
    matrix = lab.locator(".js-plotly-plot:has(.hm) .nsewdrag, .js-plotly-plot:has(.heatmaplayer image) .nsewdrag")
    box = scrolled_to(lab, matrix)
    names = load_predictions(explored)["target"]
    rows, columns = 10, 9  # eight known classes and two unknown ones; eight classes and `unknown`
    x, y = box["x"] + box["width"]*.5/columns, box["y"] + box["height"]*.5/rows  # the first class, taken for itself
    lab.mouse.move(x - 2, y)
    lab.mouse.move(x, y)
    lab.mouse.click(x, y)
    until(lambda: mirror(lab)["selected"])
    confident = (max_softmax(names.fused) >= mirror(lab)["threshold"]) & (names.labels == 0)
    wanted = np.array(names.clips)[(confident & (names.fused.argmax(dim=1) == 0)).numpy()]
    assert set(mirror(lab)["selected"]) == set(wanted)


def test_a_lasso_on_the_map_selects_clips(lab, explored):
    before = mirror(lab)["selected"]
    drawn = lab.locator(".js-plotly-plot:has(.gl-canvas) .nsewdrag")
    box = scrolled_to(lab, drawn)
    corners = [(.1, .1), (.9, .1), (.9, .9), (.1, .9), (.1, .12)]
    lab.mouse.move(box["x"] + .1*box["width"], box["y"] + .1*box["height"])
    lab.mouse.down()
    for a, b in corners[1:]: lab.mouse.move(box["x"] + a*box["width"], box["y"] + b*box["height"], steps=4)
    lab.mouse.up()
    until(lambda: mirror(lab)["selected"] != before and len(mirror(lab)["selected"]) > 100)


def test_a_tile_opens_a_card(lab, explored):
    tile = lab.locator("button[data-clip]").first
    scrolled_to(lab, tile)
    tile.click()
    until(lambda: len(mirror(lab)["selected"]) == 1)
    clip = mirror(lab)["selected"][0]
    until(lambda: lab.locator(f"b:has-text('{clip}')").count() > 0)
    assert lab.locator("text=What each head said").count() > 0


def test_two_runs_are_compared(lab, explored):
    "A run beside itself: both are right on the same clips, and McNemar's test finds nothing."
    cells = lab.locator("button:has-text('both right')")
    scrolled_to(lab, cells)
    target, threshold = load_predictions(explored)["target"], mirror(lab, "other")["threshold"]
    rejected = (max_softmax(target.fused) < threshold).numpy()
    right = np.where(target.labels.numpy() >= target.num_known, rejected,
                     ~rejected & (target.fused.argmax(dim=1) == target.labels).numpy())
    cells.first.click()
    until(lambda: len(mirror(lab, "other")["selected"]) > 1)  # one is selected from before
    both = set(mirror(lab, "other")["selected"])
    assert both <= set(np.array(target.clips)[right])
    assert set(mirror(lab)["selected"]) == both


def test_a_film_plays_with_its_sound(lab, generated):
    notebook(lab.root/"film.ipynb", FILM.format(data=str(generated)))
    run_all(lab, "film.ipynb")
    scrolled_to(lab, lab.locator("video"))
    lab.evaluate("() => document.querySelector('video').play()")
    until(lambda: lab.evaluate("() => document.querySelector('video').currentTime") > .5)
    decoded = lab.evaluate("() => document.querySelector('video').webkitAudioDecodedByteCount")
    assert decoded > 0, "it has no sound"


def test_nothing_went_wrong_on_the_page(lab, explored):
    assert not lab.errors


@pytest.mark.parametrize("name", ["open_set_by_eye", pytest.param("first_run", marks=pytest.mark.slow),
                                  pytest.param("read_the_method", marks=pytest.mark.slow)])
def test_tutorials_run_to_their_end(lab, data_dir, name, monkeypatch):
    path = project_root()/"nbs"/"tutorials"/f"{name}.ipynb"
    read = nbformat.read(path, 4)
    for cell in read.cells: cell.source = cell.source.replace("epochs=5", "epochs=1")  # test_notebooks.py has them all
    read.cells.insert(0, nbformat.v4.new_code_cell(f"import os\nos.environ['MOOSA_DATA'] = {str(data_dir)!r}"))
    nbformat.write(read, lab.root/f"{name}.ipynb")
    run_all(lab, f"{name}.ipynb", 600)
    assert not lab.errors


def test_the_start_page_lists_runs(lab, two_runs):
    from moosa.commands.start import write_start

    write_start(lab.root, two_runs)
    run_all(lab, "start.ipynb")
    until(lambda: all(target in lab.locator(".jp-Notebook").inner_text() for target in ("mfeat", "mnist")))
