"""The fields of a spec stand in `Spec`: the run's parameter cell and the options of `moosa run` follow it."""
import json
from dataclasses import MISSING, fields
from pathlib import Path

from moosa.commands.fields import FIELD_OPTIONS
from moosa.runs.given import as_field
from moosa.runs.spec import Spec

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = {f.name: f.default if f.default is not MISSING else f.default_factory() for f in fields(Spec)}
MACHINE = {"device", "threads", "workers", "contents", "pictures", "data_dir"}  # of the notebook; they change no number
GIVEN_OTHERWISE = {"preset", "num_unknown"}  # options that fill in fields: many at once, and `unknown` by its number
NO_OPTION = {"data_hash", "own", "audio_tail", "weight_decay"}  # fields that only a grid or a notebook gives


def parameters() -> dict[str, object]:
    "Names and values of the cell that papermill fills in."
    cells = json.loads((ROOT/"nbs"/"experiments"/"split.ipynb").read_text())["cells"]
    found = {}
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", []): exec("".join(cell["source"]), {}, found)
    return found


def test_the_parameter_cell_has_the_fields_and_their_defaults():
    given = parameters()
    assert set(given) == set(DEFAULTS) | MACHINE
    differ = {name for name, default in DEFAULTS.items() if as_field(name, given[name]) != default}
    assert differ == {"target"}, "a notebook that is opened by hand needs a target; all else is as in Spec"


def test_the_options_are_the_fields():
    assert set(FIELD_OPTIONS) - GIVEN_OTHERWISE == set(DEFAULTS) - NO_OPTION


def test_the_options_have_the_fields_defaults():
    "Whoever gives no option gets the field's default: by leaving it out (None, nothing), or by the same value."
    for name in set(FIELD_OPTIONS) - GIVEN_OTHERWISE - {"target"}:
        default = FIELD_OPTIONS[name].default
        assert default is None or default == () or default == DEFAULTS[name], name
