"""Writes lists of EPIC-Kitchens in the pickle layout of the published ones."""
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.core.internals.managers import BlockManager


class Blocks:
    "A frame's content; pickled as pandas once pickled its BlockManager."

    def __init__(self, frame: pd.DataFrame): self.frame = frame


class OldPickler(pickle.Pickler):
    def reducer_override(self, x):
        if isinstance(x, pd.DataFrame): return pd.DataFrame, (), {"_data": Blocks(x)}
        if not isinstance(x, Blocks): return NotImplemented
        axes = [pd.Index(list(x.frame.columns), dtype=object), pd.RangeIndex(len(x.frame))]
        whole = [c.kind == "i" for c in x.frame.dtypes]
        blocks = []
        for kind in (True, False):
            columns = np.flatnonzero(np.array(whole) == kind)
            blocks.append({"values": x.frame.iloc[:, columns].to_numpy("int64" if kind else "object").T,
                           "mgr_locs": columns})
        return BlockManager, (), (axes, [], [], {"0.14.1": {"axes": axes, "blocks": blocks}})


def write_pickle(path: Path, what):
    "Pickle anything, frames in the old layout."
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file: OldPickler(file, 4).dump(what)


def segments(video: str = "P08_01", start: int = 7, stop: int = 85, verb_class: int = 2, **more) -> pd.DataFrame:
    "A list of one segment."
    return pd.DataFrame([dict(uid=1, video_id=video, start_timestamp="00:00:00.10", stop_timestamp="00:00:01.40",
                              start_frame=start, stop_frame=stop, verb_class=verb_class) | more])


def write_lists(root: Path, **lists: pd.DataFrame):
    "The six lists; those that are not given hold one segment of a recording of their own."
    for domain in ("D1", "D2", "D3"):
        for split in ("train", "test"):
            name = f"{domain}_{split}"
            write_pickle(root/"MM-SADA_Domain_Adaptation_Splits"/f"{name}.pkl",
                         lists.get(name, segments(f"{domain}_{split}")))
