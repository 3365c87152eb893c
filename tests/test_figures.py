"""Figures of a report: nothing is clipped and no two labels lie on each other, for few cases and for many; each fits
its paper and is the same for every reader. Tables compile where LaTeX is at hand.
"""
import itertools
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Patch

from moosa.data.settings import open_set_split
from moosa.evaluation.openset import Predictions
from moosa.explore.at_threshold import Axis
from moosa.explore.run_clips import pretend_run
from moosa.explore.threshold import curves_figure, plot_threshold
from moosa.methods.catalogue import METHODS
from moosa.results.alternatives import SCORED, plot_hos_curves, plot_rescored
from moosa.results.compare import plot_comparisons
from moosa.results.critical import plot_by_task, plot_critical
from moosa.results.grid_figures import make_figures
from moosa.results.ranking import plot_differences, ranked
from moosa.results.histories import plot_histories
from moosa.results.run_figures import plot_confusion, plot_setting
from moosa.results.style import MOST, PAGE, method_colour, new_figure, save_figure, styles
from moosa.results.tables import made_up_results, make_tables

MANY = ("erm", "erm-heads", "erm-entmin", "rna-net", "mixup", "coral", "mmd", "cmrf", "simmmdg", "jat", "nel", "moosa",
        "moosa+outliers")
SCORES = ("max_softmax", "class_rank", "energy", "entropy", "kl_matching", "knn", "mahalanobis", "max_logit",
          "normalised", "react", "temperature", "ensemble")
RULES = [("zero", "image"), ("zero", "speech"), ("drop", "image"), ("translate", "speech")]
GRIDS = {"few": (("erm", "moosa"), 3), "many": (MANY, 9), "long": ((*MANY[:3], "moosa+balance, lr=0.0001"), 4)}


def results_of(cases: tuple[str, ...], tasks: int) -> pd.DataFrame:
    "A grid of that size, and numbers from nowhere."
    names = tuple(f"subjects-{i}-{i + 1}" for i in range(tasks))
    return pd.concat([made_up_results(case, level=.4 + .02*i, tasks=names, seeds=5, rules=RULES)
                      for i, case in enumerate(cases)])


def rescored_of(results: pd.DataFrame) -> pd.DataFrame:
    "The same cells by all scores, and HOS by the share rejected."
    cells = results.drop_duplicates("run")[["case", "task", "seed", "data"]]
    numbers = [(group, number, .5) for _, group, number in SCORED]
    numbers += [("HOS by share rejected", str(x/10), .05*x*(10 - x)/5) for x in range(11)]
    return pd.concat([cells.assign(score=score, group=group, number=number, value=value + .01*i)
                      for i, score in enumerate(SCORES) for group, number, value in numbers])


@pytest.fixture(scope="module", params=GRIDS)
def figures(request):
    results = results_of(*GRIDS[request.param])
    more = {"differences": plot_differences(results, ranked(results)), "critical": plot_critical(results),
            "by-task": plot_by_task(results), "comparisons": plot_comparisons(results),
            "scores": plot_rescored(rescored_of(results)), "hos-curves": plot_hos_curves(rescored_of(results))}
    yield {name: figure for name, figure in {**make_figures(results), **more}.items() if figure}
    plt.close("all")


def labels_of(axis_labels) -> list:
    return [label for label in axis_labels if label.get_visible() and label.get_text().strip()]


def corners(label):
    "The box of an upright label, a little smaller than what is drawn."
    return label.get_window_extent().padded(-1)


def clipped(figure) -> list[str]:
    "Texts that are not wholly on a figure."
    figure.canvas.draw()
    page = figure.bbox.padded(1.5)
    texts = [text for text in figure.findobj(plt.Text) if text.get_visible() and text.get_text().strip()]
    seen = [text for text in texts if text.axes is None or text.axes.axison]
    inside = [(text, text.get_window_extent()) for text in seen if not text.get_clip_on()]
    ticks = {tick for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)
             for t in axis.get_major_ticks() + axis.get_minor_ticks() for tick in (t.label1, t.label2)}
    shown = {label for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels()
             if axis.get_view_interval().min() <= label.get_position()[axis is ax.yaxis] <=
             axis.get_view_interval().max()}
    return [text.get_text() for text, box in inside if (text not in ticks or text in shown)
            and not (page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1)]


def overlapping(figure) -> list[tuple[str, str]]:
    "Labels of one axis, texts in one panel, or titles of panels, that lie on each other."
    figure.canvas.draw()
    groups = [[ax.title for ax in figure.axes if ax.get_title()]]
    for ax in figure.axes:
        groups.append([text for text in ax.texts if text.get_visible() and text.get_text().strip()])
        groups += [[t for t in labels_of(axis.get_ticklabels()) if t.get_rotation() == 0]
                   for axis in (ax.xaxis, ax.yaxis)]
    return [(a.get_text(), b.get_text()) for group in groups for a, b in itertools.combinations(group, 2)
            if corners(a).overlaps(corners(b))]


def test_nothing_is_clipped_and_nothing_overlaps(figures):
    assert len(figures) >= 5
    faults = {name: (clipped(figure), overlapping(figure)) for name, figure in figures.items()}
    assert not {name: found for name, found in faults.items() if any(found)}


def test_a_page_has_room_and_all_can_be_read(figures):
    for name, figure in figures.items():
        assert figure.get_figwidth() <= PAGE and figure.get_tightbbox().width <= PAGE, name
        texts = [text for text in figure.findobj(plt.Text) if text.get_visible() and text.get_text().strip()]
        small = {text.get_text() for text in texts if text.get_fontsize() < 6.5}
        assert not small, (name, small)


def test_no_panel_has_more_bars_or_colours_than_can_be_told_apart(figures):
    "What a legend names: markers of tasks and rules aside, up to eight cases, and one entry for the others."
    assert {"hos", "accuracy", "trade", "missing", "scores", "hos-curves"} <= set(figures)
    for name, figure in figures.items():
        colours = [handle for legend in figure.legends for handle in legend.legend_handles if isinstance(handle, Patch)]
        assert len(colours) <= MOST, name
        bars = [{to_hex(patch.get_edgecolor()) for patch in ax.patches if patch.get_fill()} for ax in figure.axes]
        assert max(map(len, bars), default=0) <= MOST, name


@pytest.mark.parametrize("known", [3, 12, 60, 130])
def test_figures_of_a_run_fit_a_page_whatever_its_classes(known):
    names = [f"action number {i}" for i in range(known)]
    clips = pd.DataFrame([dict(clip=f"{domain}-{i}-{part}", domain=domain, part=part, **{"class": i})
                          for domain in ("here", "there") for i in range(known) for part in ("train", "validation")])
    split = open_set_split(clips, names, [], "there", names[:1])
    labels = torch.arange(known)
    target = Predictions(torch.eye(known)[:, :-1]*99, {}, labels, names)
    counts = {"source-quantile": {"threshold": .5, "OS*": .5, "UNK": .5}, "accuracy": {"fused": .5},
              "class-mean accuracy": {"fused": .5}}
    figures = {"setting": plot_setting(split), "confusion": plot_confusion(target, counts, names[1:])}
    faults = {name: (clipped(figure), overlapping(figure)) for name, figure in figures.items()}
    plt.close("all")
    assert max(figure.get_figwidth() for figure in figures.values()) <= PAGE
    assert not {name: found for name, found in faults.items() if any(found)}


def test_a_page_has_room_for_every_curve_of_a_run():
    history = pd.DataFrame({f"term_number_{i}": [1., .5] for i in range(11)} | {"epoch": [1, 2], "train_accuracy": .5})
    for count in (1, 2, 5, 11):
        figure = plot_histories({"": history[[*history.columns[:count], "epoch", "train_accuracy"]]})
        assert figure.get_figwidth() <= PAGE and not clipped(figure) and not overlapping(figure)
    plt.close("all")


def test_what_is_clipped_or_overlaps_is_found():
    figure, ax = new_figure(1, 1, (3, 2))
    ax.set_xticks([0, .001], ["a long label", "another one"])
    ax.set_xlim(0, 1)
    ax.annotate("outside", (2, .5), annotation_clip=False, clip_on=False)
    figure.set_layout_engine("none")
    assert "outside" in clipped(figure) and ("a long label", "another one") in overlapping(figure)
    plt.close(figure)


def test_a_method_has_one_colour_everywhere():
    few, many = styles(["erm", "moosa"]), styles(MANY)
    assert few == {name: many[name] for name in few}
    colours = [method_colour(name) for name in METHODS]
    assert None not in colours and len(set(colours)) == len(METHODS)
    assert styles(["lr=0.1", "lr=0.2"]) != styles(["lr=0.2", "lr=0.1"])  # others take them in their order


def test_a_script_without_font_is_warned_of_once(tmp_path):
    figure, ax = new_figure(1, 1, (3, 2))
    ax.set_title("\u16c1\u16b2\u16bb")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3): save_figure(figure, tmp_path, "runes")
    assert [str(w.message).count("fonts-noto") for w in caught] == [2]
    plt.close(figure)


# --- tables -----------------------------------------------------------------------------------------------------------

class Cells(HTMLParser):
    "What a table holds, row by row."
    def __init__(self, text: str):
        super().__init__()
        self.rows, self.strong, self.open = [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr": self.rows.append([])
        if tag in ("td", "th"): self.rows[-1].append("")
        self.strong += tag == "strong"

    def handle_endtag(self, tag): assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & {*self.open}: self.rows[-1][-1] += data


def test_html_holds_what_the_table_holds():
    table = ranked(results_of(("erm", "moosa", "nel <b>"), 3))
    found, wide = Cells(table.html()), table.wide.reset_index()
    assert found.rows == [list(wide.columns), *wide.to_numpy().tolist()] and not found.open
    assert found.strong == (table.marks == "bold").to_numpy().sum() > 0


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no pdflatex (Debian: texlive-latex-recommended)")
def test_tables_compile(tmp_path):
    results = results_of(("erm", r"moosa_x & y% #{z} ~ ^ \\", "nel"), 3)
    tables = "\n".join(table.latex() for table in (ranked(results), *make_tables(results)))
    page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{tables}\end{{document}}"
    (tmp_path/"page.tex").write_text(page, "utf-8")
    done = subprocess.run(["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]


LATEX_TOKENS = re.compile(r"\\[A-Za-z]+\*?|\\.|\$\^\*\$|\$\\(?:to|pm)\$|[{}&#%_^$]|[^\\{}&#%_^$]+", re.S)


def faults_of_latex(text: str) -> list[str]:
    "What LaTeX would stumble over in a table: braces, environments, cells of a row, letters that mean something."
    tokens, opened, environments, found, cells = LATEX_TOKENS.findall(text), 0, [], [], 1
    if "".join(tokens) != text: found.append("a backslash at the end")
    layout = re.search(r"\\begin\{tabular\}\{([lrc]+)\}", text)
    columns = len(layout[1]) if layout else 0
    for i, token in enumerate(tokens):
        if token in "{}": opened += 1 if token == "{" else -1
        if opened < 0: found.append("a brace too many")
        if token in ("\\begin", "\\end"):
            name = tokens[i + 2]
            if token == "\\begin": environments.append(name)
            elif not environments or environments.pop() != name: found.append(f"\\end of {name}")
        if token in tuple("#%_^$"): found.append(f"{token} is not escaped")
        if token == "&": cells += 1
        if token != r"\\": continue
        if cells != columns: found.append(f"{cells} cells in a row, expected {columns}")
        cells = 1
    return found + ["a brace too few"]*(opened > 0) + [f"{name} stays open" for name in environments]


NAMES = (r"50% a_b & c#d {e} ~f ^g \h $i$", "Größe → 行走 ± [1] <x> | \"y\"", r"\\", "a\nb & ", "{", "}", "%")


def test_latex_of_odd_names_is_whole():
    results = pd.concat([made_up_results(name, level=.4 + .02*i, tasks=NAMES[:3]) for i, name in enumerate(NAMES)])
    tables = [ranked(results), *make_tables(results)]
    assert len(tables) > 3
    for table in tables:
        text = table.latex()
        assert not faults_of_latex(text), (table.name, faults_of_latex(text), text[:2000])
        shown = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(shown) == 1 + len(table.wide)


@pytest.mark.parametrize("broken, told", [
    (r"a & b & c \\", "3 cells"), ("a_b & c \\\\", "_ is not"), ("50% & c \\\\", "% is not"), (r"{a & c \\", "too few"),
    (r"a} & c \\", "too many"), (r"\begin{center} a & c \\", "stays open"), (r"$x & c \\", "$ is not")])
def test_broken_latex_is_found(broken, told):
    def table(row): return f"\\begin{{tabular}}{{lr}}\n{row}\n\\end{{tabular}}"

    assert any(told in fault for fault in faults_of_latex(table(broken)) + faults_of_latex(broken))
    assert not faults_of_latex(table(r"a\_b & \textbf{50\%} \\"))


@pytest.mark.parametrize("thresholds", [(0, .2, .4), (.6, .8, 1), (.5, .51, .52)])
def test_names_of_protocols_are_read_beside_their_lines(thresholds, monkeypatch):
    """In the view of a threshold, as a picture and as what moves: no line runs through a name, none lies on another,
    and none leaves the panel, wherever the thresholds lie.
    """
    run = pretend_run()
    axis = Axis(np.concatenate(run.confidence()))
    places = [axis.low + share*(axis.high - axis.low) for share in thresholds]
    names = dict(zip(("source-quantile", "leave-one-class-out", "oracle-exact"), map(axis.value, places)))
    monkeypatch.setattr(run, "thresholds", lambda: names)
    figure = plot_threshold(run)
    figure.canvas.draw()
    panel, above = figure.axes[0], next(ax for ax in figure.axes if len(ax.texts) == len(names))
    assert {text.get_text().strip() for text in above.texts} == set(names)
    boxes = [text.get_bbox_patch().get_window_extent() for text in above.texts]
    assert not any(one.padded(-1).overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for text, box in zip(above.texts, boxes):
        assert text.get_bbox_patch().get_facecolor() == (1, 1, 1, 1)
        assert panel.bbox.x0 <= box.x0 + 1 and box.x1 - 1 <= panel.bbox.x1
        curves = [line.get_path().transformed(line.get_transform()) for line in above.lines]
        assert not any(curve.intersects_bbox(box.padded(-1), filled=False) for curve in curves)
    assert above.get_zorder() >= panel.get_zorder() and figure.axes.index(above)  # names over lines
    plt.close(figure)

    moving = curves_figure(run, axis)
    plot = moving.layout.width - moving.layout.margin.l - moving.layout.margin.r
    low, high = moving.layout.xaxis.range or (axis.low, axis.high)
    for note, place in zip(moving.layout.annotations, places):
        line, wide = plot*(place - low)/(high - low), 6*len(note.text)  # pixels
        at = line + (note.xshift or 0)
        first, last = (at, at + wide) if note.xanchor == "left" else (at - wide, at)
        assert note.bgcolor == "white" and 0 <= first and last <= plot, (note.text, first, last)
        assert not first <= line <= last  # its own line runs beside it; others behind it
    assert len({note.yshift for note in moving.layout.annotations}) == len(names)
