"""Draw the method: from a clip to known or unknown, and the pretext tasks that training adds.

    python tools/method_picture.py            writes figures/method.svg
    python tools/method_picture.py --check    writes nothing, exits 1 if the file is another one

One file for light and dark: it has a ground of its own in either, so a page's theme cannot hide it.
"""
import argparse
import sys
from html import escape
from pathlib import Path

from moosa.core import atomic_write
from moosa.results.style import COLOURS, KNOWN

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT/"figures"/"method.svg"
WIDTH, HEIGHT = 980, 496
MODALITIES = {"video": COLOURS[1], "flow": COLOURS[3], "audio": COLOURS[5]}  # any others would do
LIGHT = {"ground": "#ffffff", "ink": "#1f2328", "soft": "#57606a", "line": "#8c959f", "known": KNOWN,
         "unknown": "#b34700"}  # texts need more contrast than bars: UNKNOWN, darker
DARK = {"ground": "#161b22", "ink": "#f0f6fc", "soft": "#b1bac4", "line": "#8b949e", "known": COLOURS[6],
        "unknown": "#f0a070"}
ABOUT = ("A clip of several modalities goes through one extractor each, a stem and a tail, into embeddings; a head per "
         "modality and a fused head classify them. A clip whose score lies above a threshold gets its known class, any "
         "other is called unknown. In training, two pretext tasks work on the embeddings: masked cross-modal "
         "translation and a multimodal jigsaw.")


# --- pieces ----------------------------------------------------------------------------------------------------------

def theme(colours: dict[str, str]) -> str:
    "CSS of a light or dark picture."
    inks = "".join(f".{name}{{fill:{colours[name]}}}" for name in ("ink", "soft", "known", "unknown", "ground"))
    return (f"{inks}.box{{fill:none;stroke:{colours['line']}}}.arrow{{fill:none;stroke:{colours['line']}}}"
            f".tip{{fill:{colours['line']}}}")


def text(x: float, y: float, said: str, kind: str = "ink", size: int = 14, bold: bool = False) -> str:
    "Words around x."
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x}" y="{y}" text-anchor="middle"'
    return f'<text {place} class="{kind}" font-size="{size}"{weight}>{escape(said)}</text>'


def box(x: float, y: float, width: float, height: float, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="box" stroke-width="1.5"{dash}/>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1} {y1}L{x2} {y2}" class="arrow" stroke-width="1.5" marker-end="url(#tip)"/>'


def cells(x: float, y: float, colours: list[str | None], size: float = 15) -> str:
    "An embedding as a row of cells; None: a masked one."
    def cell(i: int, colour: str | None) -> str:
        paint = f'fill="{colour}"' if colour else 'class="box" stroke-dasharray="2 2"'
        return f'<rect x="{x + i*size}" y="{y}" width="{size - 2}" height="{size + 3}" rx="2" {paint}/>'

    return "".join(cell(i, colour) for i, colour in enumerate(colours))


# --- the picture -----------------------------------------------------------------------------------------------------

def headings() -> list[str]:
    columns = {"clip": 70, "extractors": 242, "embeddings": 427, "heads": 622, "decision": 864}
    return [text(x, 34, name, bold=True) for name, x in columns.items()]


def row_of(name: str, colour: str, y: float) -> list[str]:
    "A modality: its data, extractor, embedding and head."
    middle = y + 21
    return [box(22, y, 96, 42), f'<rect x="22" y="{y}" width="7" height="42" rx="3" fill="{colour}"/>',
            text(74, y + 26, name), arrow(120, middle, 152, middle),
            box(156, y, 84, 42, dashed=True), text(198, y + 26, "stem"), arrow(241, middle, 256, middle),
            box(260, y, 70, 42), text(295, y + 26, "tail"), arrow(332, middle, 392, middle),
            cells(398, y + 12, [colour]*4),
            arrow(464, middle, 546, middle), box(552, y, 140, 42), text(622, y + 26, f"{name} head"),
            arrow(464, middle, 546, 263)]


def from_clip_to_heads() -> list[str]:
    "A row per modality, and the fused head below, which looks at all embeddings."
    rows = [row_of(name, colour, 56 + 62*i) for i, (name, colour) in enumerate(MODALITIES.items())]
    below = [box(552, 242, 140, 42), text(622, 268, "fused head", bold=True)]
    return [*sum(rows, []), *below, text(198, 246, "often frozen", "soft", 12)]


def decision() -> list[str]:
    "The score of the fused head, and the two ways on."
    return [arrow(694, 263, 764, 263), box(770, 232, 188, 62), text(864, 258, "score: how known"),
            text(864, 278, "does the clip look?"),
            arrow(864, 230, 864, 196), text(918, 216, "above threshold", "soft", 11),
            text(864, 166, "known", "known", 18, bold=True), text(864, 186, "run · eat · swim …", "known", 13),
            arrow(864, 296, 864, 326), text(890, 314, "below", "soft", 11),
            text(864, 348, "unknown", "unknown", 18, bold=True)]


def pretext_tasks() -> list[str]:
    "What training adds: the two pretext tasks on embeddings, and the other terms by name."
    v, f, a = MODALITIES.values()
    y = 420
    return ['<path d="M22 372H958" class="arrow" stroke-width="1" stroke-dasharray="2 4"/>',
            text(66, 394, "in training, too", "soft", 13),
            text(170, y, "masked translation", bold=True), cells(76, y + 16, [v, None, v, None]),
            arrow(142, y + 25, 194, y + 25), cells(202, y + 16, [a]*4),
            text(170, y + 60, "rebuild one modality from another", "soft", 12),
            text(464, y, "multimodal jigsaw", bold=True), cells(356, y + 16, [v, v, f, f, a, a]),
            arrow(452, y + 25, 476, y + 25), cells(484, y + 16, [a, v, f, a, v, f]),
            text(464, y + 60, "which permutation was it?", "soft", 12),
            text(770, y, "and four terms", bold=True),
            text(770, y + 22, "entropy-weighted cross entropy of all heads", "soft", 12),
            text(770, y + 41, "entropy minimisation · supervised contrast", "soft", 12),
            text(770, y + 60, "split distance", "soft", 12)]


def picture() -> str:
    "The picture as SVG."
    fonts = "system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif"
    style = f"text{{font-family:{fonts}}}{theme(LIGHT)}@media (prefers-color-scheme:dark){{{theme(DARK)}}}"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    tip = '<path d="M0 0L8 4L0 8Z" class="tip"/>'
    marker = 'id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="t d">',
             f'<title id="t">MOOSA: from a clip to known or unknown</title><desc id="d">{escape(ABOUT)}</desc>',
             f"<style>{style}</style><defs><marker {marker}>{tip}</marker></defs>",
             f'<rect width="{WIDTH}" height="{HEIGHT}" class="ground"/>',
             *headings(), *from_clip_to_heads(), *decision(), *pretext_tasks(), "</svg>"]
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if the file is out of date")
    args = parser.parse_args()
    if not args.check:
        with atomic_write(FILE) as f: f.write(picture())
    elif not FILE.exists() or FILE.read_text("utf-8") != picture():
        sys.exit(f"method_picture: {FILE.relative_to(ROOT)} is out of date; run `python tools/method_picture.py`.")


if __name__ == "__main__": main()
