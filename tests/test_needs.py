"""A run that cannot give a method what it needs is refused by the method's name, before data are opened."""
import pytest
from conftest import call

from moosa.core import InputError
from moosa.methods.catalogue import METHODS
from moosa.methods.method import NEEDS
from moosa.runs.experiment import open_experiment
from moosa.runs.given import spec_from

NAMES = list(METHODS)  # with each option, too
# method or option -> what it needs, by hand, to hold the catalogue to
SEVERAL = {"rna-net", "cmrf", "gmp", "mbcd", "jat", "mm-sada", "+outliers", "+balance"}
DOMAINS = {"mmd", "coral"}
TAILS = {"rna-net", "coral", "mmd", "miro", "cmrf", "gmp", "mbcd", "jat", "nel", "dann", "mm-sada", "+balance"}
VIEWS, TARGET = {"nel"}, {"dann", "mm-sada", "osbp"}
KEPT = dict(frozen_stems=True, frozen_bn="eval")


def is_of(name: str, group: set[str]) -> bool:
    alone, _, option = name.partition("+")
    return alone in group or f"+{option}" in group


def asked(name: str, **more) -> dict:
    "A run of mini-HAC, which is not there: nothing may be opened."
    setting = dict(setting="osda", sources=["human"]) if is_of(name, TARGET) else {}
    return dict(dataset="mini-hac", target="cartoon", method=name) | setting | more


def refused(name: str, group: set[str], says: str, **more):
    if not is_of(name, group): return spec_from(asked(name, **more))
    with pytest.raises(InputError) as e: spec_from(asked(name, **more))
    assert str(e.value).startswith(f"method: {name} ") and says in str(e.value), e.value


@pytest.mark.parametrize("name", NAMES)
def test_every_method_says_what_it_lacks(name):
    spec_from(asked(name))
    refused(name, SEVERAL, "works between modalities, but there is only video", modalities=["video"])
    refused(name, TARGET, "learns from target clips", setting="osdg", sources=["human", "animal"])
    refused(name, TAILS, "no part of them is trained here", features="embedding", **KEPT)
    refused(name, VIEWS, "looks at two random views", features="stem", views=1, **KEPT)
    refused(name, set(), "", features="stem", views=2, **KEPT)
    if not is_of(name, TARGET): refused(name, DOMAINS, "works between domains, but there is only", sources=["human"])


def test_a_target_to_adapt_to_is_a_second_domain():
    spec_from(asked("coral", setting="osda", sources=["human"]))
    with pytest.raises(InputError, match="coral works between domains"): spec_from(asked("coral", setting="in-domain"))


def test_the_lists_above_are_those_of_the_catalogue():
    for need, group in zip(NEEDS, (SEVERAL, DOMAINS, TAILS, VIEWS)):
        has = {name for name in NAMES if need in METHODS[name].needs or need == "views" and METHODS[name].two_views}
        assert has == {name for name in NAMES if is_of(name, group)}, need


@pytest.mark.parametrize("command", ["run", "grid"])
def test_on_the_command_line(command, tmp_path):
    "Nothing is made, and a grid refuses all that it cannot give at once."
    if command == "run": words = ["--dataset", "av-digits", "--target", "mfeat", "--method", "gmp", "--modalities",
                                  "image"]
    else:
        (tmp_path/"one.yaml").write_text("base: {dataset: av-digits, target: mfeat, modalities: [image]}\n"
                                         "axes: {method: [erm, gmp]}\n")
        words = [tmp_path/"one.yaml", "--dry-run"]
    done = call(command, *words, "--data-dir", tmp_path/"data")
    assert done.returncode == 2 and "gmp works between modalities, but there is only image" in done.stderr, done.stderr
    assert not (tmp_path/"data"/"runs").exists()


OWN = """
from torch.nn import functional as F
from moosa.methods.own import OwnMethod

class Picky(OwnMethod):
    needs = {needs}

    def loss(self, outputs, labels): return F.cross_entropy(outputs.fused, labels)
"""


@pytest.mark.parametrize("needs, more, says", [
    (("modalities",), dict(modalities=["image"]), "works between modalities, but there is only image"),
    (("domains",), dict(sources=["mnist"]), "works between domains, but there is only mnist"),
    (("tails",), dict(features="embedding", **KEPT), "no part of them is trained here"),
    (("tail",), {}, "Did you mean 'tails'")])
def test_own_methods_say_it_by_the_same_door(needs, more, says, tmp_path):
    (tmp_path/"mine.py").write_text(OWN.format(needs=needs))
    spec = spec_from(dict(dataset="av-digits", target="mfeat", method=f"{tmp_path}/mine.py:Picky") | more)
    with pytest.raises(InputError, match=says): open_experiment(spec, tmp_path)  # where no data lie
