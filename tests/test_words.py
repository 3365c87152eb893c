"""Grid files and command lines as people, programs and accidents write them: a result or one message, never a
traceback, and soon.
"""
import math
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moosa.core import InputError
from moosa.runs.grid import expand, load_grid
from moosa.runs.search import widen
from moosa.runs.given import spec_from
from moosa.runs.spec import Spec
from moosa.words import read_words

SOON = 5  # seconds of CPU; each takes milliseconds
CELL = "base: {target: mfeat}\n"
BOMB = "x: &a0 [y, y]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}']*10)}]" for i in range(1, 12))

HOSTILE = {  # name -> content of a file, and what the message says
    # bytes and form
    "empty": (b"", "found nothing"),
    "only a comment": (b"# nothing\n", "found nothing"),
    "only spaces": (b" \n \n", "found nothing"),
    "latin-1": ("about: caf\xe9\naxes: {target: [mfeat]}".encode("latin-1"), "not UTF-8"),
    "utf-16": ("axes: {target: [mfeat]}".encode("utf-16"), "not UTF-8"),
    "zero byte": (b"axes: {target: [mf\0eat]}", "not allowed in YAML"),
    "control character": (b"a: 1\nabout: \x07", "line 2"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not UTF-8"),
    "tab": (b"axes:\n\ttarget: [mfeat]", "line 2"),
    "open list": (b"axes: {target: [mfeat", "not valid YAML"),
    "open quote": (b"about: 'x\naxes: {}", "not valid YAML"),
    "two documents": (b"axes: {target: [mfeat]}\n---\naxes: {}", "not valid YAML"),
    "bad escape": (b'about: "\\q"', "not valid YAML"),
    "too large": (b"about: " + b"x"*1_100_000, "larger than"),
    "deep list": (b"axes: " + b"["*100_000, "deep in each other"),
    "deep mapping": (b"axes: " + b"{a: "*5000, "deep in each other"),
    "deep block": ("".join(" "*i + "a:\n" for i in range(200)).encode(), "deep in each other"),
    "bomb": (BOMB.encode(), "with its aliases"),
    "merge bomb": (("a0: &a0 {x: 1}\n" + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}']*10)}]}}"
                                                   for i in range(1, 12))).encode(), "with its aliases"),
    "holds itself": (b"axes: &a {target: *a}", "not valid YAML"),
    "list in itself": (b"axes: {target: &a [*a]}", "holds itself"),
    "no such anchor": (b"axes: *nowhere", "undefined alias"),
    "python object": (b"axes: !!python/object/apply:os.system ['true']", "python/object"),
    "own tag": (b"axes: !mine {target: [mfeat]}", "!mine"),
    "binary": (b"axes: {target: [!!binary aGk=]}", "binary"),
    "set": (b"axes: {target: !!set {mfeat}}", "set"),
    "timestamp": (b"axes: {seed: [!!timestamp 2024-01-01]}", "timestamp"),
    "key twice": (b"axes: {target: [mfeat]}\nbase: {}\naxes: {target: [mnist]}", "line 3"),
    "inner key twice": (b"base: {target: mfeat, target: mnist}\naxes: {seed: [0]}", "there already"),
    "number twice": (b"axes: {target: [mfeat], hyper: [{1: 2, '1': 3}]}", "there already"),
    "list as key": (b"? [a, b]\n: c", "stands before a colon"),
    "mapping as key": (b"{a: 1}: c", "stands before a colon"),
    # top level
    "list": (b"- axes", "expected keys"),
    "text": (b"axes", "expected keys"),
    "number": (b"7", "expected keys"),
    "null": (b"~", "expected keys"),
    "number as key": (b"1: 2\naxes: {target: [mfeat]}", "key: '1'"),
    "date as key": (b"2024-01-01: 2\naxes: {target: [mfeat]}", "key: '2024-01-01'"),
    "empty key": (b"{'': 2, axes: {target: [mfeat]}}", "key: ''"),
    "long key": (b"x"*1000 + b": 2\naxes: {target: [mfeat]}", "is not known"),
    "about is a list": (b"about: [a]\naxes: {target: [mfeat]}", "about"),
    # base, cells, axes
    "base is a list": (b"base: [a]\naxes: {target: [mfeat]}", "base: expected a mapping"),
    "base is a number": (b"base: 3\naxes: {target: [mfeat]}", "base: expected a mapping"),
    "cells is a mapping": (b"cells: {target: mfeat}", "cells needs a list"),
    "cells is empty": (CELL.encode() + b"cells: []\naxes: {seed: [0]}", "cells needs a list"),
    "cell is null": (CELL.encode() + b"cells: [~]", "cell 1: expected a mapping"),
    "axes is a list": (b"axes: [target]", "axes needs a mapping"),
    "axes is empty": (CELL.encode() + b"axes: {}", "expected keys"),
    "axis is null": (b"axes: {target: ~}", "needs a list"),
    "axis is a date": (b"axes: {target: 2024-01-01}", "needs a list"),
    "axis is a mapping": (b"axes: {target: {a: b}}", "needs a list"),
    "axis of axes": (b"axes: {axes: [1]}", "axis: 'axes'"),
    "list in axis": (b"axes: {target: [[mfeat]]}", "is no name"),
    "mapping in axis": (b"axes: {target: [{a: b}]}", "is no name"),
    "many cells": (
        "\n".join(["axes:", "  target: [mfeat]",
                   *(f"  {f}: {list(range(1, 201))}" for f in ("seed", "epochs", "lr", "views"))]).encode(),
                   "1.6e+09 cells"),
    # fields
    "date as target": (b"axes: {target: [2024-01-01]}", "'2024-01-01' is not known"),
    "null as target": (b"axes: {target: [null]}", "'null' is not known"),
    "null as dataset": (CELL.encode() + b"axes: {dataset: [null]}", "'null' is not known"),
    "home as dataset": (CELL.encode() + b"axes: {dataset: [~]}", "dataset"),
    "endless dataset": (CELL.encode() + b"axes: {dataset: [/dev/zero]}", "/dev/zero"),
    "long dataset": (CELL.encode() + b"axes: {dataset: [" + b"x"*5000 + b"]}", "is not known"),
    "nobody's dataset": (CELL.encode() + b"axes: {dataset: [~no-such-user/x]}", "no user of this name"),
    "dataset with a zero": (CELL.encode() + b'axes: {dataset: ["a\\0b"]}', "is not known"),
    "dataset is a list": (CELL.encode() + b"axes: {dataset: [[av-digits]]}", "is no name"),
    "modalities of lists": (CELL.encode() + b"axes: {modalities: [[[image]]]}", "is no name"),
    "sources is a mapping": (CELL.encode() + b"axes: {sources: [{mnist: 1}]}", "is no name"),
    "unknown is a mapping": (CELL.encode() + b"axes: {unknown: [{8: 1}]}", "is no name"),
    "unknown is large": (CELL.encode() + b"axes: {unknown: [99999999999999]}", "expected 1 to"),
    "unknown is huge": (CELL.encode() + b"axes: {unknown: [" + b"9"*6000 + b"]}", "unknown"),
    "unknown is minus one": (CELL.encode() + b"axes: {unknown: [-1]}", "'-1' is not known"),
    "hyper is a list": (CELL.encode() + b"axes: {hyper: [[1]]}", "needs a mapping"),
    "hyper is null": (CELL.encode() + b"axes: {hyper: [~]}", "needs a mapping"),
    "hyper of lists": (CELL.encode() + b"axes: {hyper: [{mask_ratio: [1]}]}", "mask_ratio"),
    "hyper nan": (CELL.encode() + b"axes: {hyper: [{mask_ratio: nan}]}", "mask_ratio"),
    "hyper .inf": (CELL.encode() + b"axes: {hyper: [{jigsaw_samples: .inf}]}", "jigsaw_samples"),
    "hyper 1e400": (CELL.encode() + b"axes: {hyper: [{jigsaw_samples: 1e400}]}", "jigsaw_samples"),
    "factorial": (CELL.encode() + b"axes: {hyper: [{jigsaw_num_splits: 1000000000}]}", "jigsaw_num_splits"),
    "factorial of less than nothing": (CELL.encode() + b"axes: {hyper: [{jigsaw_num_splits: -1}]}",
                                       "jigsaw_num_splits"),
    "no orders": (CELL.encode() + b"axes: {hyper: [{jigsaw_samples: 0}]}", "jigsaw_samples"),
    "too many orders": (CELL.encode() + b"axes: {hyper: [{jigsaw_samples: 1000000000000}]}", "jigsaw_samples"),
    "extractors of lists": (CELL.encode() + b"axes: {extractors: [{image: [a]}]}", "is no name"),
    "extractor of a shell": (CELL.encode() + b"axes: {extractors: [{image: 'os:system; x'}]}", "is not of the form"),
    "data_options is a text": (CELL.encode() + b"axes: {data_options: [x]}", "needs a mapping"),
    "source_classes of mappings": (CELL.encode() + b"axes: {source_classes: [{mnist: {a: b}}]}", "is no name"),
    "lr .inf": (CELL.encode() + b"axes: {lr: [.inf]}", "lr"),
    "lr inf": (CELL.encode() + b"axes: {lr: [inf]}", "lr"),
    "lr .nan": (CELL.encode() + b"axes: {lr: [.nan]}", "lr"),
    "lr is a date": (CELL.encode() + b"axes: {lr: [2024-01-01]}", "lr"),
    "lr is a time": (CELL.encode() + b"axes: {lr: [12:30:00]}", "lr"),
    "lr is a list": (CELL.encode() + b"axes: {lr: [[1]]}", "lr"),
    "lr yes": (CELL.encode() + b"axes: {lr: [yes]}", "lr"),
    "epochs .5": (CELL.encode() + b"axes: {epochs: [.5]}", "whole number"),
    "epochs 1e9": (CELL.encode() + b"axes: {epochs: [1e9]}", "above"),
    "seed of many digits": (CELL.encode() + b"axes: {seed: [" + b"9"*5000 + b"]}", "seed"),
    "seed -1": (CELL.encode() + b"axes: {seed: [-1]}", "seed"),
    "seed 010": (CELL.encode() + b"axes: {seed: [010]}", "seed"),
    "seed null": (CELL.encode() + b"axes: {seed: [~]}", "seed"),
    "train_share nan": (CELL.encode() + b"axes: {train_share: [nan]}", "train_share"),
    "compile is a number": (CELL.encode() + b"axes: {compile: [2]}", "compile"),
    "compile null": (CELL.encode() + b"axes: {compile: [~]}", "compile"),
    "precision is a list": (CELL.encode() + b"axes: {precision: [[x]]}", "precision"),
    "preset is a mapping": (CELL.encode() + b"axes: {preset: [{a: b}]}", "preset"),
    "preset is no preset": (CELL.encode() + b"axes: {preset: [007]}", "preset"),
    "missing of numbers": (CELL.encode() + b"axes: {missing: [[1]]}", "missing"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grid(name, tmp_path):
    content, says = HOSTILE[name]
    path = tmp_path/"grid.yaml"
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(InputError) as e: load_grid(path)
    assert time.process_time() - started < SOON
    message = str(e.value)
    assert says in message and ("grid.yaml" in message or "dataset" in message) and len(message) < 4000, message


def test_mark_at_the_beginning(tmp_path):
    "As some editors for Windows write it."
    (tmp_path/"grid.yaml").write_bytes(b"\xef\xbb\xbfaxes: {target: [mfeat]}\r\n")
    assert len(load_grid(tmp_path/"grid.yaml").specs) == 1


@pytest.mark.parametrize("name", ["x"*300, "x"*5000, "a\nb", "~no-such-user/x.yaml", "/dev/zero", ""])
def test_names_of_no_grid(name):
    with pytest.raises(InputError): load_grid(name)


def test_searches_have_an_end():
    grid = expand("x", {"axes": {"target": ["mfeat"]}})
    with pytest.raises(InputError, match="are more than"): widen(grid, 10**12)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
    | st.sampled_from(["mfeat", "mnist", "8", 8, 2, "moosa", "av-digits", math.nan, 10**400, "~", "published-hac"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4) | st.integers() | st.none(), inner, max_size=3), max_leaves=8)
KEYS = st.sampled_from([*(f for f in Spec.__dataclass_fields__), "preset", "x"])
PARTS = st.dictionaries(KEYS, VALUES, max_size=3)
QUIET = settings(max_examples=150, deadline=None, database=None, derandomize=True,
                 suppress_health_check=list(HealthCheck))


@QUIET
@given(PARTS)
def test_any_parameters(part):
    try: spec_from({"target": "mfeat", **part})
    except InputError: pass


@QUIET
@given(PARTS | VALUES, st.lists(PARTS | VALUES, max_size=2) | VALUES,
       st.dictionaries(KEYS, st.lists(VALUES, max_size=2) | VALUES, max_size=2) | VALUES)
def test_any_grid(base, cells, axes):
    try: expand("x", {"about": "x", "base": base, "cells": cells, "axes": axes})
    except InputError: pass


@QUIET
@given(st.text(alphabet="abc: -[]{},&*!|>'\"%@`#?\n\t0~<.\\x\u2028é", max_size=60))
def test_any_yaml(text):
    try: read_words(text, "x")
    except InputError: pass


def test_a_module_is_imported_by_a_run_only(tmp_path, data_dir, monkeypatch):
    "Expanding, looking at status and the words of a report leave a user's module alone; opening the data needs it."
    from moosa.runs.status import overview
    from moosa.runs.lists import check_cells
    from moosa.results.report import feature_notes
    from moosa.runs.resolve import differs_from_live

    (tmp_path/"dangerous_nets.py").write_text(f"open({str(tmp_path/'ran')!r}, 'w')\ndef net(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    kept = {"features": "stem", "frozen_stems": True, "frozen_bn": "eval",
            "extractors": {"image": "dangerous_nets:net"}}
    grid = expand("x", {"base": kept, "axes": {"target": ["mfeat"]}})
    overview(grid, tmp_path)
    feature_notes(grid)
    assert differs_from_live(grid.specs[0]) and not (tmp_path/"ran").exists()
    with pytest.raises(InputError): check_cells(grid.specs, tmp_path)  # there are no archives
    assert not (tmp_path/"ran").exists()
    check_cells(grid.specs, data_dir)
    assert (tmp_path/"ran").exists()
