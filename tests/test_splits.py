"""Which clips train, validate and test in each published setting: counts, labels, order, against the published lists.

The lists are not part of the project. They are read where MOOSA_SHARED (default: `shared` beside the project) holds
`splits/` and `golden/`.
"""
import json
import os
import zlib
from pathlib import Path

import pytest
from conftest import ROOT

from moosa.data.epic import Epic
from moosa.data.hac import Hac
from moosa.data.settings import adaptation_split, open_partial_split, open_set_split
from moosa.runs.lists import make_split
from moosa.runs.grid import load_grid
from moosa.runs.given import spec_from

SHARED = Path(os.environ.get("MOOSA_SHARED") or ROOT.parent/"shared")
pytestmark = pytest.mark.skipif(not (SHARED/"splits").is_dir(),
                                reason=f"the published lists are not in {SHARED/'splits'}; set MOOSA_SHARED")


def golden(name: str) -> list:  # of (sources, target, lists)
    path = SHARED/"golden"/f"splits_{name}.json"
    if not path.is_file(): return []
    return [pytest.param(sources.split("+"), target, lists, id=f"{sources}-{target}")
            for cell, lists in json.loads(path.read_text()).items() for sources, target in [cell.split("->")]]


@pytest.fixture(scope="module")
def hac(tmp_path_factory) -> Hac:
    root = tmp_path_factory.mktemp("data")/"raw"/"HAC"
    root.mkdir(parents=True)
    (root/"HAC_Splits").symlink_to(SHARED/"splits")
    return Hac(root.parent.parent)


@pytest.fixture(scope="module")
def epic(tmp_path_factory) -> Epic:
    root = tmp_path_factory.mktemp("data")/"raw"/"EPIC-Kitchens"
    root.mkdir(parents=True)
    (root/"MM-SADA_Domain_Adaptation_Splits").symlink_to(SHARED/"splits")
    return Epic(root.parent.parent)


def hac_line(clip) -> str: return f"{clip.domain}/{clip.file},{clip.label}"


def epic_line(clip) -> str:
    cells = (clip.start_frame, clip.stop_frame, clip.start_timestamp, clip.stop_timestamp, clip.label)
    return ",".join([f"{clip.domain}/{clip.video}", *map(str, cells)])


def counts(labels) -> dict[str, int]: return {str(k): v for k, v in labels.value_counts().items()}


def same(split, lists, line, unknown_label):
    "Equal sizes, labels, order, and nothing unknown where it must not be."
    for name, rows in (("train", split.train), ("val", split.validation), ("test", split.test)):
        theirs = lists[name]
        assert len(rows) == theirs.get("n_samples", theirs.get("n"))
        assert counts(rows.label) == theirs["labels"]
        lines = [line(clip) for clip in rows.itertuples()]
        assert lines[0].split(",")[0] == theirs["first"][0]
        assert zlib.crc32("\n".join(lines).encode()) == theirs["crc32_of_lines"]
        assert rows["clip"].is_unique
        assert (unknown_label in set(rows.label)) == (name == "test")
    assert split.classes.num_known == unknown_label


@pytest.mark.parametrize("sources, target, lists", golden("HAC"))
def test_hac(hac, sources, target, lists):
    same(open_set_split(hac.clips, hac.classes, sources, target, hac.default_unknown, hac.test_parts), lists, hac_line,
         6)


@pytest.mark.parametrize("sources, target, lists", golden("EPIC"))
def test_epic(epic, sources, target, lists):
    same(open_set_split(epic.clips, epic.classes, sources, target, epic.default_unknown, epic.test_parts), lists,
         epic_line, 7)


@pytest.mark.parametrize("sources, target, lists", golden("OPEN"))
def test_open_partial(epic, sources, target, lists):
    shown = dict(zip(sources, epic.partial_sources))
    same(open_partial_split(epic.clips, epic.classes, shown, target, epic.partial_target, epic.default_unknown,
                            epic.test_parts), lists, epic_line, 7)


@pytest.mark.parametrize("domains, target, lists", golden("OSDA"))
def test_adaptation(epic, domains, target, lists):
    source, also_target = domains  # the published script names the target twice
    assert also_target == target
    split = adaptation_split(epic.clips, epic.classes, [source], target, epic.default_unknown, epic.test_parts)
    same(split, lists, epic_line, 7)
    assert len(split.unlabelled) == lists["train"]["n_target"]
    assert max(len(split.train), len(split.unlabelled)) == lists["train"]["n_len"]
    assert not {"label", "class"} & set(split.unlabelled.columns)
    truth = epic.clips.set_index("clip").loc[split.unlabelled["clip"], "class"]
    assert counts(truth.map(dict(enumerate(split.classes.labels)))) == lists["train"]["target_labels"]


@pytest.mark.parametrize("name, cells", [("HAC", 3), ("EPIC", 3), ("OPEN", 3), ("OSDA", 6)])
def test_every_setting_is_covered(name, cells): assert len(golden(name)) == cells


def test_the_24_clips_in_two_lists(hac):
    "The docs say so, and the names tell them apart."
    twice = hac.clips[hac.clips["clip"].str.endswith("@validation")]
    assert len(twice) == 24 and set(twice.domain) == {"human"}

    def known(rows): return int((rows["class"] != hac.classes.index("drinking")).sum())

    validation = hac.clips[(hac.clips.domain == "human") & (hac.clips.part == "validation")]
    assert (known(twice), known(validation)) == (22, 236)
    assert hac.clips[["domain", "file"]].drop_duplicates().shape[0] == 3357
    first = hac.clips.set_index("clip").loc[twice["clip"].str.removesuffix("@validation")]
    assert first["class"].tolist() == twice["class"].tolist()


def test_short_segments_of_epic(epic):
    "The share of segments that loop, as counted from the published lists."
    length = epic.clips.stop_frame - epic.clips.start_frame
    short = (length < 64).groupby([epic.clips.domain, epic.clips.part]).agg(["sum", "size"])
    assert short.loc[("D1", "train")].tolist() == [185, 1543] and short.loc[("D3", "train")].tolist() == [1291, 3897]
    assert short.loc[("D2", "validation")].tolist() == [207, 750] and len(epic.clips) == 10094


GRIDS = ["published-hac", "published-epic", "published-osda", "published-open-partial", "shared-hac", "shared-epic",
         "shared-osda", "shared-open-partial",
         "closed-set", "single-source", "in-domain"]


@pytest.mark.parametrize("name", GRIDS)
def test_every_cell_of_the_grids_has_its_lists(name, hac, epic):
    "Every setting on both data sets, from the published lists: who is in which list, and with which classes."
    # modalities and hyper-parameters change no list
    for spec in {(s.dataset, s.sources, s.target, s.unknown): s for s in load_grid(name).specs}.values():
        dataset = {"hac": hac, "epic": epic}[spec.dataset]
        split, C = make_split(spec, dataset), len(dataset.classes) - len(spec.unknown)
        assert set(split.train.domain) == set(split.validation.domain) == set(spec.sources)
        assert set(split.test.domain) == {spec.target}
        assert set(split.train.label) == set(range(C)) and split.validation.label.max() < C
        assert (split.test.label >= C).any() == bool(spec.unknown)
        lists = [set(zip(part.domain, part.get("file", part["clip"])))
                 for part in (split.train, split.validation, split.test)]
        if spec.setting == "in-domain":
            assert not lists[0] & lists[1] and not lists[0] & lists[2] and not lists[1] & lists[2]
        if spec.setting == "osda":
            assert set(split.unlabelled.domain) == {spec.target}
            assert not set(split.unlabelled["clip"]) & set(split.test["clip"])


@pytest.mark.parametrize("unknown", [1, 2, 3, 4, 5])
def test_openness(hac, unknown):
    "More unknown classes: fewer known ones, the same test list."
    spec = spec_from(dict(dataset="hac", target="human", unknown=unknown))
    split = make_split(spec, hac)
    assert spec.unknown[0] == "drinking"
    assert len(spec.unknown) == unknown == split.test.label.max() + 1 - split.classes.num_known
    assert len(split.test) == 1387 and split.train.label.nunique() == 7 - unknown


def test_adaptation_on_hac(hac):
    "There is no published run; the target's test list, which is not adapted to, is tested on."
    split = make_split(spec_from(dict(dataset="hac", setting="osda", sources=["animal"], target="cartoon")), hac)
    assert (len(split.train), len(split.unlabelled), len(split.test)) == (618, 870, 218)
    assert set(split.test.part) == {"validation"}
