"""JupyterLab in a browser, as one sees it: sliders, matrices, maps, cards, films, and two runs beside each other."""
import io
import json
import shutil
import time

import nbformat
import numpy as np
import pytest
from in_jupyterlab import BROWSER, jupyterlab, notebook, run_all, scrolled_to
from lab_picture import take_picture
from PIL import Image

from moosa.evaluation.openset import at_threshold, max_softmax
from moosa.places import project_root
from moosa.runs.predictions import load_predictions

pytestmark = pytest.mark.skipif(not BROWSER, reason="chromium is not installed")
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


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab whose root is a folder of the test; and the page of a browser."
    with jupyterlab(tmp_path_factory.mktemp("lab")) as page: yield page


def mirror(page, name="run") -> dict:
    return json.loads(page.locator(f".mirror-{name}").first.text_content())


def until(happens, seconds=30):
    "Wait for something that a click brings about."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens(): return
        time.sleep(.2)
    assert happens()


@pytest.fixture(scope="module")
def explored(lab, two_runs, generated):
    "A notebook with the views of a run, and a card of a film, run in JupyterLab."
    runs = {json.loads((f/"record.json").read_text())["spec"]["target"]: f for f in (two_runs/"runs").iterdir()}
    run = runs["mfeat"]
    cells = [MIRROR, OPEN.format(run=str(run), other=str(run), data=str(two_runs)), "run.threshold_view()",
             "run.map(colour='outcome')", "run.gallery('accepted')", "run.compare(other)",
             FILM.format(data=str(generated))]
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


def test_a_film_plays_with_its_sound(lab, explored):
    scrolled_to(lab, lab.locator("video"))
    lab.evaluate("() => document.querySelector('video').play()")
    until(lambda: lab.evaluate("() => document.querySelector('video').currentTime") > .5)
    decoded = lab.evaluate("() => document.querySelector('video').webkitAudioDecodedByteCount")
    assert decoded > 0, "it has no sound"


def test_the_picture_of_the_tutorial_is_taken(lab, explored):
    shown = Image.open(io.BytesIO(take_picture(lab, explored)))
    assert shown.size == (1500, 1200) and len(shown.convert("RGB").getcolors(256)) > 100
    assert lab.locator("button[data-clip]").count()


def test_nothing_went_wrong_on_the_page(lab, explored):
    assert not lab.errors


@pytest.mark.slow  # test_notebooks.py runs their cells, and those above look at the page
@pytest.mark.parametrize("name", ["open_set_by_eye", "first_run", "read_the_method"])
def test_tutorials_run_to_their_end(lab, two_runs, tmp_path, name):
    "One of the two that a tutorial trains is done already, which it says nothing of."
    data_dir = shutil.copytree(two_runs, tmp_path/"data", symlinks=True)
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
