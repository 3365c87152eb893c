"""No choice of a search depends on a target's labels: they are replaced, in the data set itself, and the same settings
are chosen for that target.
"""
import numpy as np
import pandas as pd
import pytest

from moosa.core import derived_seed
from moosa.data.digits import AVDigits
from moosa.runs.lists import make_split
from moosa.runs.grid import expand
from moosa.runs.search import SELECTIONS, choose, widen
from moosa.runs.spec import spec_hash

DOMAINS, SETTINGS = ("mnist", "optdigits", "mfeat"), 6
AXES = {"target": list(DOMAINS), "seed": [0, 1]}
PAIRS = [dict(sources=s, target=t) for s in DOMAINS for t in DOMAINS if s != t]
GRIDS = {
    "all others are sources": dict(base=dict(method="erm"), axes=AXES),
    "pairs": dict(base=dict(method="erm"), cells=PAIRS),
    "adaptation between pairs": dict(base=dict(method="coral", setting="osda"), cells=PAIRS, axes=dict(seed=[0, 1])),
    "closed": dict(base=dict(method="erm", setting="closed"), cells=PAIRS),
    "in domain": dict(base=dict(method="erm", setting="in-domain"), axes=AXES),
}


def results_of(grid, dataset) -> pd.DataFrame:
    """What runs would find: each gets some validation clips right, drawn from its name, and counts them by the labels
    that the data set says.
    """
    rows, size = [], len(grid.base.specs)
    splits = [make_split(spec, dataset) for spec in grid.base.specs]
    for place, spec in enumerate(grid.specs):
        split, run = splits[place % size], spec_hash(spec)
        guess = np.random.default_rng(derived_seed("guess",
                                                   run)).integers(0, split.classes.num_known, len(split.validation))
        rows.append(dict(run=run, status="done", reason="", group="validation accuracy", number="fused",
                         value=(guess == split.validation["label"]).mean()))
    return pd.DataFrame(rows)


def choices(grid, dataset) -> pd.Series:
    chosen = choose(results_of(grid, dataset), grid)
    return pd.Series(chosen.choice.tolist(),
                     index=pd.MultiIndex.from_product([SELECTIONS,
                                                       [f"{s.sources} {s.target} {s.seed}" for s in grid.base.specs]]))


@pytest.mark.parametrize("name", GRIDS)
def test_labels_of_the_target_choose_nothing(name, archives):
    grid = widen(expand(name, GRIDS[name]), SETTINGS)
    dataset, moved = AVDigits(), 0
    clips, before = dataset.clips, choices(grid, dataset)
    for target in DOMAINS:
        dataset.clips = clips.copy()
        rows = dataset.clips.index[dataset.clips.domain == target]
        dataset.clips.loc[rows, "class"] = dataset.clips.loc[rows, "class"].sample(frac=1, random_state=3).to_numpy()
        after = choices(grid, dataset)
        own = [f"{s.sources} {s.target} {s.seed}" for s in grid.base.specs if s.target == target
               and target not in s.sources]
        others = [f"{s.sources} {s.target} {s.seed}" for s in grid.base.specs if target in s.sources]
        for selection in SELECTIONS: assert after[selection][own].tolist() == before[selection][own].tolist()
        moved += (after["per target"][others] != before["per target"][others]).sum()
    assert moved  # the labels do matter to those who may see them
