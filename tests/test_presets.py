"""Every preset and every grid file: the published numbers in each of the 33 runs, one setting for all targets in the
shared ones, bad input.
"""
import pytest
import yaml
from conftest import ROOT, call

from moosa.core import InputError
from moosa.runs.grid import differences, expand, load_grid
from moosa.runs.presets import PUBLISHED
from moosa.runs.search import widen
from moosa.runs.given import spec_from

GRIDS = ROOT/"nbs"/"experiments"/"grids"

# Copied from the published README by hand (ref 8.1), apart from the package's own table. Columns: epochs, mask_ratio,
# entropy_min_weight, and what else is named.
VA, VF, FA, VFA = ("video", "audio"), ("video", "flow"), ("flow", "audio"), ("video", "audio", "flow")
OSDG = {
    ("epic", VA): [(5, .7, .001), (10, .7, 1.0), (20, .7, .001)],
    ("epic", VF): [(15, .7, .001), (20, .7, 1.0), (15, .7, .001)],
    ("epic", FA): [(25, .3, .001), (10, .3, .001), (10, .3, .001)],
    ("epic", VFA): [(15, .7, .001), (20, .7, .1), (20, .3, .1)],
    ("hac", VA): [(5, .3, .001), (10, .7, .001), (10, .3, .001)],
    ("hac", VF): [(20, .3, .001), (20, .3, .001), (20, .3, .001)],
    ("hac", FA): [(10, .3, .001), (10, .3, .001), (10, .7, .001)],
    ("hac", VFA): [(10, .7, .001), (10, .7, .001, dict(jigsaw_samples=64)), (20, .7, .001, dict(alpha_trans=.5))],
}
PAIRS = {"epic": [(("D2", "D3"), "D1"), (("D1", "D3"), "D2"), (("D1", "D2"), "D3")],
         "hac": [(("animal", "cartoon"), "human"), (("human", "cartoon"), "animal"), (("human", "animal"), "cartoon")]}
ADAPT = {("D1", "D2"): (10, .3, .5), ("D1", "D3"): (10, .7, .5), ("D2", "D1"): (15, .7, .5), ("D2", "D3"): (15, .7, .5),
         ("D3", "D1"): (20, .7, .3), ("D3", "D2"): (15, .7, .5)}
PARTIAL = [(15, .7, 1.0), (15, .7, 1.0), (15, .3, 1.0)]

# The published command line (ref 4.7).
DEFAULTS = dict(alpha_trans=.1, alpha_contrast=3., explore_loss_coeff=.7, temp=.1, entropy_weight_temp=1.,
                entropy_min_weight=.001, jigsaw_ratio=1., jigsaw_num_splits=4,
                jigsaw_samples=128, jigsaw_hidden=512, trans_hidden_num=2048, hidden_dim=2048, out_dim=128,
                mask_ratio=.3, detach_entropy_weights=False, batch_mean_weights=False, unit_halves=False)
# The same in every run (ref 1, 3, 6).
EXTRACTORS = dict(video="slowfast", audio="vggsound", flow="slowonly")
FIELDS = dict(method="moosa", lr=1e-4, batch_size=16, weight_decay=1e-4, seed=0, weights="pretrained",
              frozen_stems=True, frozen_bn="train", audio_tail="random", features="live",
              views=None, features_dtype=None, stem_dtype="float32", precision="32-true", compile=False,
              on_bad_clip="stop")
FIRST, SECOND = ("take", "put", "open", "cut", "pour"), ("take", "put", "wash", "mix", "pour")


def expected() -> dict:
    "(preset, modalities, sources, target) -> fields and hyper-parameters of the 33 runs."
    runs = {}
    for (data, modalities), columns in OSDG.items():
        splits = dict(jigsaw_num_splits=2) if modalities == VFA else {}
        for (sources, target), (epochs, mask, entropy, *more) in zip(PAIRS[data], columns):
            hyper = DEFAULTS | dict(mask_ratio=mask, entropy_min_weight=entropy) | splits | (more[0] if more else {})
            runs[f"published-{data}", modalities, sources,
                 target] = dict(dataset=data, setting="osdg", epochs=epochs, source_classes={}, target_classes=(),
                                pairing="", hyper=hyper)
    for (source, target), (epochs, mask, threshold) in ADAPT.items():
        hyper = DEFAULTS | dict(mask_ratio=mask, entropy_min_weight=.1, target_filter_thr=threshold)
        runs["published-osda", VA, (source,),
             target] = dict(dataset="epic", setting="osda", epochs=epochs, source_classes={}, target_classes=(),
                            pairing="published", hyper=hyper)
    for (sources, target), (epochs, mask, entropy) in zip(PAIRS["epic"], PARTIAL):
        hyper = DEFAULTS | dict(mask_ratio=mask, entropy_min_weight=entropy)
        runs["published-open-partial", VA, sources, target] = dict(
            dataset="epic", setting="open-partial", epochs=epochs, source_classes=dict(zip(sources, (FIRST, SECOND))),
            target_classes=("take", "put", "cut", "mix"), pairing="", hyper=hyper)
    return runs


EXPECTED = expected()


def test_33_runs():
    assert len(EXPECTED) == 33 == len(PUBLISHED)
    assert sum(len(load_grid(f"published-{task}").specs) for task in ("hac", "epic", "osda", "open-partial")) == 33


@pytest.mark.parametrize("task", ["hac", "epic", "osda", "open-partial"])
def test_published_grids_hold_the_published_numbers(task):
    preset, found = f"published-{task}", {}
    for spec in load_grid(preset).specs: found[preset, spec.modalities, spec.sources, spec.target] = spec
    # so that the order of sources and of modalities counts
    assert set(found) == {key for key in EXPECTED if key[0] == preset}
    for key, spec in found.items():
        own = EXPECTED[key]
        for name, value in (FIELDS | own).items():
            if name != "hyper": assert getattr(spec, name) == value, (key, name)
        assert set(spec.hyper) == set(own["hyper"]), key
        for name, value in own["hyper"].items(): assert spec.hyper[name] == value, (key, name)
        assert spec.unknown == (("drinking",) if own["dataset"] == "hac" else ("close",))
        assert spec.extractors == {m: EXTRACTORS[m] for m in spec.modalities}
        assert set(spec.data_options.values()) <= {"published", "strict"}


def test_a_run_from_a_preset_is_the_same_as_the_run_written_out():
    by_hand = spec_from(dict(dataset="hac", sources=["human", "animal"], target="cartoon",
                             modalities=["video", "audio", "flow"], epochs=20,
                             hyper=dict(mask_ratio=.7, alpha_trans=.5, jigsaw_num_splits=2)))
    assert spec_from(dict(preset="published-hac", target="cartoon", modalities=["video", "audio", "flow"])) == by_hand


@pytest.mark.parametrize("task", ["hac", "epic", "osda", "open-partial"])
def test_shared_grids_have_one_setting(task):
    "Nothing but the modalities decides the setting; it is the published command line's."
    specs = load_grid(f"shared-{task}").specs
    assert {(s.modalities, s.sources, s.target)
            for s in specs} == {key[1:] for key in EXPECTED if key[0] == f"published-{task}"}
    for s in specs:
        adapts = dict(entropy_min_weight=.1, target_filter_thr=.3) if task == "osda" else {}
        assert s.hyper == DEFAULTS | adapts | (dict(jigsaw_num_splits=2) if s.modalities == VFA else {})
        assert s.epochs == 15 and all(getattr(s, name) == value for name, value in FIELDS.items() if name != "seed")
    assert len(specs) == 3*len({(s.modalities, s.sources, s.target) for s in specs})  # three seeds


def test_search_starts_from_shared_settings_only():
    wide = widen(load_grid("shared-hac"), 3)
    assert len(wide.specs) == 108 and len(wide.index) == 108
    for task in ("hac", "epic", "osda", "open-partial"):
        with pytest.raises(InputError, match="one default for all targets"): widen(load_grid(f"published-{task}"), 3)


# --- grid files -------------------------------------------------------------------------------------------------------

COUNTS = {"published-hac": 12, "published-epic": 12, "published-osda": 6, "published-open-partial": 3, "shared-hac": 36,
          "shared-epic": 36, "shared-osda": 18, "shared-open-partial": 9,
          "closed-set": 24, "single-source": 48, "in-domain": 48, "openness": 10, "adaptation": 2, "open-partial": 6,
          "digits-closed": 6, "digits-single-source": 12, "digits-in-domain": 6, "digits-adaptation": 12, "demo": 18,
          "mini-hac": 6, "features": 15,
          "conditions-utd-mhad": 460, "conditions-mini-hac": 60, "weights-utd-mhad": 132,
          "methods": 315, "adaptation-methods": 105,
          "mini-hac-methods": 315,
          "ablation": 135, "parts": 120, "moosa-x": 45, "moosa-x-utd-mhad": 60, "moosa-x-mini-hac": 45,
          "sensitivity-mask": 54, "sensitivity-entropy-min": 45,
          "sensitivity-weights": 81, "sensitivity-jigsaw": 45, "sensitivity-temperature": 45, "sensitivity-unknown": 90,
          "sensitivity-size": 72, "selection": 36, "tiny": 6, "utd-mhad": 40, "utd-mhad-few": 100,
          "utd-mhad-methods": 420,
          "published-seeds": 165, "benchmark-2026": 2565}


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_expands(path):
    grid = load_grid(path)
    if path.stem in COUNTS: assert len(grid.specs) == COUNTS[path.stem]
    assert len({grid.label(s) for s in grid.specs}) == len(grid.specs) == len(differences(grid))
    for s in grid.specs:
        if s.dataset in ("hac", "epic") and s.method == "moosa":
            assert s.hyper["jigsaw_num_splits"] == (2 if len(s.modalities) == 3 else 4)
    text = path.read_text()
    assert text.startswith("#") and f"moosa grid {path.name}" in text and f"moosa report {path.name}" in text
    assert "TIME" not in text


def test_no_grid_is_missing(): assert set(COUNTS) <= {path.stem for path in GRIDS.glob("*.yaml")}


def test_settings_of_the_other_grids():
    def tasks(name): return {(s.dataset, s.modalities, s.sources, s.target) for s in load_grid(name).specs}

    domains = {"hac": ("human", "animal", "cartoon"), "epic": ("D1", "D2", "D3")}
    sets = (VA, VF, FA, VFA)
    assert tasks("closed-set") == {(d, m, s, t) for d in domains for m in sets for s, t in PAIRS[d]}
    assert tasks("single-source") == {(d, m, (s,), t) for d in domains for m in sets for s in domains[d]
                                      for t in domains[d] if s != t}
    assert tasks("in-domain") == {(d, m, (t,), t) for d in domains for m in sets for t in domains[d]}
    assert {s.unknown for name in ("closed-set", "single-source") for s in load_grid(name).specs} == {()}
    assert {s.unknown for s in load_grid("in-domain").specs} == {(), ("drinking",), ("close",)}
    openness = [s.unknown for s in load_grid("openness").specs if s.method == "moosa"]
    assert [len(u) for u in openness] == [1, 2, 3, 4, 5]
    assert all(set(a) < set(b) for a, b in zip(openness, openness[1:]))
    assert {(s.method, s.setting, s.sources, s.seed)
            for s in load_grid("adaptation").specs} == {(m, "osda", ("mnist",), 0) for m in ("erm", "moosa")}


def test_dry_run_prints_the_published_table(tmp_path):
    done = call("grid", "published-hac", "--dry-run", "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()
             if line.startswith("|")]
    rows = [dict(zip(lines[0], line)) for line in lines[2:]]
    assert len(rows) == 12 and "12 missing" in done.stdout and done.stdout.strip().endswith("12 cells")
    for row in rows:
        key = ("published-hac", tuple(row["modalities"].split("+")), tuple(row["sources"].split("+")), row["target"])
        hyper = EXPECTED[key]["hyper"]
        assert int(row["epochs"]) == EXPECTED[key]["epochs"] and float(row["mask_ratio"]) == hyper["mask_ratio"]
        assert (int(row["jigsaw_num_splits"]), int(row["jigsaw_samples"]), float(row["alpha_trans"])) == (
            hyper["jigsaw_num_splits"], hyper["jigsaw_samples"], hyper["alpha_trans"])


# --- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content, says", [
    ({"base": {"preset": "published-hack"}, "axes": {"target": ["human"]}}, "Did you mean 'published-hac'?"),
    ({"base": {"preset": "published-hac", "dataset": "epic"}, "axes": {"target": ["D1"]}},
     "preset published-hac is for dataset hac; found dataset epic"),
    ({"base": {"preset": "published-hac", "setting": "closed"}, "axes": {"target": ["human"]}},
     "is for setting osdg; found setting closed"),
    ({"base": {"preset": "published-hac", "method": "erm"}, "axes": {"target": ["human"]}},
     "is for method moosa; found method erm"),
    ({"base": {"preset": "published-hac"}, "axes": {"target": ["human"]}}, "modalities: none was given"),
    ({"base": {"preset": "published-osda"}, "axes": {"target": ["D1"]}}, "sources: none was given"),
    ({"base": {"preset": "published-osda", "modalities": ["video", "flow"]}, "axes": {"target": ["D1"]}},
     "has no modalities video\\+flow for target D1; it has: video\\+audio"),
    ({"base": {"preset": "published-hac", "hyper": {"mask_ration": .3}},
      "cells": [{"target": "human", "modalities": ["video", "audio"]}]}, "Did you mean 'mask_ratio'"),
    ({"base": {"target": "mfeat"}, "axes": {"target": ["mnist"]}}, "'target' is in base and in axes"),
    ({"base": {"target": "mfeat"}, "cells": [{"target": "mnist"}]}, "'target' is in base and in cells"),
    ({"base": {"preset": "shared-hac"}, "axes": {"preset": ["shared-epic"]}}, "'preset' is in base and in axes"),
    ({"base": {"target": "mfeat", "hyper": {"temp": .1}}, "axes": {"hyper": [{"temp": .2}]}},
     "'hyper.temp' is in base and in axes"),
    ({"base": {"target": "mfeat"}, "cells": [{"seed": 0}], "axes": {"seed": [1]}}, "'seed' is in cells and in axes"),
    ({"base": {"tarjet": "mfeat"}, "axes": {"seed": [1]}}, "Did you mean 'target'"),
    ({"base": {"target": "mfeat"}, "axes": {"seed": []}}, "needs a list of values"),
    ({"base": {"target": "mfeat"}, "axes": {}}, "expected keys"),
    ({"base": {"target": "mfeat"}, "cells": []}, "expected keys"),
    ({"base": {"target": "mfeat"}, "cells": [{"seed": 0}], "axes": {}}, "axes needs a mapping"),
    ({"base": {"target": "mfeat"}, "axes": [{"seed": [0]}]}, "axes needs a mapping"),
    ({"base": {"target": "mfeat"}, "cells": [{"seed": 0}, {"seed": 0}]}, "the same as another"),
    ({"base": "mfeat", "axes": {"seed": [0]}}, "base: expected a mapping"),
    ({"bases": {}, "axes": {"seed": [0]}}, "Did you mean 'base'"),
    ({"base": {"dataset": "hac", "target": "human"}, "axes": {"unknown": [0]}}, "setting=closed"),
])
def test_bad_grids(content, says):
    with pytest.raises(InputError, match=says): expand("x", content)


def test_preset_axis():
    "Published beside shared, in one grid."
    grid = expand("x", {"base": {"target": "human", "modalities": ["video", "audio"]},
                        "axes": {"preset": ["published-hac", "shared-hac"]}})
    assert [s.epochs for s in grid.specs] == [5, 15] and len({grid.label(s) for s in grid.specs}) == 2


def test_nothing_trains_if_a_cell_is_impossible(data_dir, tmp_path):
    "Data that are not there, and lists that come out empty: said at once, with the cells."
    content = dict(base=dict(method="erm", epochs=1),
                   cells=[dict(dataset="av-digits", target="mfeat"), dict(dataset="hac", target="human"),
                          dict(dataset="epic", target="D1")])
    (tmp_path/"impossible.yaml").write_text(yaml.safe_dump(content))
    done = call("grid", tmp_path/"impossible.yaml", "--data-dir", data_dir)
    assert done.returncode == 2 and "(2 of 3)" in done.stderr, done.stderr
    assert "dataset=hac" in done.stderr and "dataset=epic" in done.stderr, done.stderr
    assert not (data_dir/"runs").exists()
