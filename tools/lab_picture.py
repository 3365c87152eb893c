"""Take the picture of JupyterLab that the tutorial *Open set by eye* shows: a run's threshold, matrix and gallery.

    python tools/lab_picture.py RUN                  writes figures/explore/jupyterlab.png
    python tools/lab_picture.py RUN --out FILE.png   writes another file

RUN is a name or folder of a finished run; the committed picture is of MOOSA on AV-digits, target mfeat, seed 0, which
`make reproduce` makes. It takes half a minute, and needs Chromium.
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path

from in_jupyterlab import BROWSER, jupyterlab, notebook, run_all, scrolled_to

from moosa.core import InputError, atomic_write
from moosa.places import project_root
from moosa.runs.diff import find_folder
from moosa.runs.notebook import compact

FILE = project_root()/"figures"/"explore"/"jupyterlab.png"
OPEN = """from moosa.explore.opened import open_run

run = open_run({name!r})
run"""


def take_picture(
    page,  # of `jupyterlab`
    folder: Path,  # a finished run's
) -> bytes:  # a PNG
    "Open a run in JupyterLab, select the first clip of the gallery, and return what one sees."
    (page.root/"data").symlink_to(folder.resolve().parent.parent)
    notebook(page.root/"look.ipynb", OPEN.format(name=f"data/runs/{folder.name}"), "run.threshold_view()",
             "run.gallery('accepted')")
    run_all(page, "look.ipynb")
    page.keyboard.press("Control+b")  # without the list of files
    tile = page.locator("button[data-clip]")
    scrolled_to(page, tile)
    tile.first.click()
    scrolled_to(page, page.locator(".jp-CodeCell"))
    page.mouse.move(0, 0)  # away from the figure, which shows its tools to a mouse
    time.sleep(2)  # until what was selected is drawn
    return compact(page.screenshot())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=FILE)
    asked = parser.parse_args()
    if not BROWSER: sys.exit("Chromium is not installed.")
    try: folder = find_folder(asked.run, asked.data_dir)
    except InputError as e: sys.exit(str(e))
    with tempfile.TemporaryDirectory() as place, jupyterlab(Path(place), 1500, 1410) as page:
        with atomic_write(asked.out, "wb") as file: file.write(take_picture(page, folder))


if __name__ == "__main__": main()
