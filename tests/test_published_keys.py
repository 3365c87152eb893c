"""Our names, turned back into published ones, are those of the published files."""
from pathlib import Path

import pytest
from golden_rules import MAKERS, published_shapes

KEYS = Path(__file__).resolve().parents[2]/"shared"/"keys"


@pytest.mark.parametrize("name", MAKERS)
def test_names_and_shapes(name):
    path = KEYS/f"{name}.tsv"
    if not path.is_file(): pytest.skip(f"no list of published names at {path}")
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    assert published_shapes(name) == {key: () if shape == "scalar" else tuple(map(int, shape.split("x")))
                                      for key, shape, dtype in rows}
