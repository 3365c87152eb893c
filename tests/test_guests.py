"""What is not in the package: named, hashed, imported, run; and what its code may do wrong."""
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import call
from torch.nn import functional as F

from moosa.core import InputError, write_json
from moosa.data.digits import AVDigits
from moosa.data.loader import Batch, ClipList
from moosa.data.settings import open_set_split
from moosa.doors import declared_names, guest_named, load_guest
from moosa.evaluation.openset import Predictions
from moosa.evaluation.rescoring import by_choice, rescore
from moosa.evaluation.sources import Sources
from moosa.extractors.registry import create_extractor
from moosa.extractors.small import small_image, small_speech
from moosa.methods.model import Model, random_outputs
from moosa.methods.objectives import Objective
from moosa.methods.own import OwnMethod, find_hyper, find_method, method_of
from moosa.methods.teacher import MovingAverage
from moosa.runs.run import check_guests
from moosa.runs.given import spec_from
from moosa.runs.grid import load_grid
from moosa.runs.spec import spec_hash
from moosa.training.compute import make_fabric
from moosa.training.learner import Learner
from moosa.training.trainer import Callback, TrainConfig, fit

DIMS = {"image": 12, "speech": 8}
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
START = "import torch\nfrom torch.nn import functional as F\nfrom moosa.methods.own import OwnMethod\n\n"


def written(folder: Path, text: str, name: str = "mine.py") -> str:
    "The name of the object `f` in a file."
    (folder/name).write_text(START + text)
    return f"{folder/name}:f"


# --- names -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, says", [
    ("nothere:f", "there is no module nothere; looked in"), ("nothere.py:f", "there is no file nothere.py"),
    ("a:b:c", "is not of the form"), ("a b:f", "is not of the form"), ("mosa", "Did you mean 'moosa'"),
    ("erm+balence", "Did you mean 'balance'"), ("json:loads+balence", "Did you mean 'balance'")])
def test_a_name_that_is_none(name, says):
    with pytest.raises(InputError, match=says): spec_from(dict(target="mfeat", method=name))


def test_a_file_here_is_pointed_to(tmp_path, monkeypatch):
    written(tmp_path, "def f(outputs, labels): return outputs.fused.mean()")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="write mine.py:f"): spec_from(dict(target="mfeat", method="mine:f"))
    assert spec_from(dict(target="mfeat", method="mine.py:f")).method == f"{tmp_path.resolve()}/mine.py:f"


def test_a_loss_that_is_none_is_told_with_its_own_line(tmp_path):
    name = written(tmp_path, "def f(outputs, labels): return outputs.fused")
    with pytest.raises(InputError, match=r"mine.py:f: \S+mine.py, line 5: loss returned"):
        find_method(name).make(DIMS, find_hyper(name, {}))(random_outputs(DIMS), LABELS)


def test_a_study_is_its_grids_wherever_one_stands(tmp_path, monkeypatch):
    "Its data folder, too: runs that are done are found from above and from below."
    monkeypatch.delenv("MOOSA_DATA", raising=False)
    call("new", tmp_path/"study")
    spec = load_grid(tmp_path/"study"/"grid.yaml").specs[0]
    write_json(tmp_path/"study"/"data"/"runs"/spec_hash(spec)/"error.json", {"error": "seen"})
    for place in (tmp_path, tmp_path/"study"/"figures"):
        place.mkdir(exist_ok=True)
        done = call("status", tmp_path/"study"/"grid.yaml", cwd=place)
        assert "1 failed" in done.stdout and "seen" in done.stdout, done.stdout + done.stderr


def test_what_a_grid_names_lies_beside_it(tmp_path, monkeypatch):
    "Clips, methods and networks are the same, wherever one stands: a report is executed in a folder of its own."
    for domain in ("home", "street"):
        for name in ("slow", "walk", "fast"):
            (tmp_path/"clips"/domain/name).mkdir(parents=True)
            for i in range(3): np.save(tmp_path/"clips"/domain/name/f"{i}.npy", np.ones((2, 9), np.float32))
    written(tmp_path, "def f(outputs, labels): return outputs.fused.mean()")
    (tmp_path/"net").mkdir()
    grid = tmp_path/"grid.yaml"
    grid.write_text("about: Mine\nbase: {dataset: clips, unknown: [fast], extractors: {array: 'timm:./net'}}\n"
                    "axes: {target: [home], method: ['mine.py:f']}\n")
    seen = []
    for place in (tmp_path, tmp_path/"clips"):
        monkeypatch.chdir(place)
        seen += load_grid(grid).specs
    assert spec_hash(seen[0]) == spec_hash(seen[1]) and seen[0] == seen[1]
    assert seen[0].dataset == str(tmp_path.resolve()/"clips")
    assert seen[0].extractors == {"array": f"timm:{tmp_path.resolve()}/net"}


def test_an_installed_package_declares_names(tmp_path, monkeypatch):
    "Its version is part of the run's name, beside its source."
    def install(version: str, body: str = "return outputs.fused.mean()"):
        (tmp_path/"declaring.py").write_text(f"def loss(outputs, labels): {body}\n")
        about = tmp_path/"declaring.dist-info"
        about.mkdir(exist_ok=True)
        (about/"METADATA").write_text(f"Metadata-Version: 2.1\nName: declaring\nVersion: {version}\n")
        (about/"entry_points.txt").write_text("[moosa.methods]\ndeclared = declaring:loss\n")
        declared_names.cache_clear()

    install("1.0")
    monkeypatch.syspath_prepend(tmp_path)

    def name() -> str: return spec_hash(spec_from(dict(target="mfeat", method="declared")))

    first = name()
    assert find_method("declared+outliers").make(DIMS, find_hyper("declared+outliers", {})).terms.keys() == {
        "own", "outliers"}
    install("1.1")
    assert name() != first
    install("1.0", "return outputs.fused.sum()")
    assert name() != first
    declared_names.cache_clear()


def test_a_data_set_of_ones_own(tmp_path):
    (tmp_path/"mine.py").write_text("""
from moosa.data.digits import AVDigits

class Fewer(AVDigits):
    default_unknown = ("0", "1", "2")

class Nothing: pass
""")
    spec = spec_from(dict(dataset=f"{tmp_path}/mine.py:Fewer", target="mfeat", method="erm"))
    assert spec.unknown == ("0", "1", "2") and spec.own.keys() == {"dataset"}
    with pytest.raises(InputError, match="derives from moosa.data.dataset.DataSet"):
        spec_from(dict(dataset=f"{tmp_path}/mine.py:Nothing", target="mfeat"))


# --- what their code does wrong --------------------------------------------------------------------------------------

WRONG_WHEN_MADE = {
    "f = 3": "expected a function", "def f(): pass": r"mine.py, line \d+: it takes \(\)",
    "def f(outputs): pass": r"it takes \(outputs\); expected \(outputs, labels\)",
    "def f(outputs, labels, weight): pass": "each with a default", "def f(outputs, labels, kind='a'): pass": "a number",
    "class f: pass": "expected a function", "raise KeyError('oh')": "mine.py, line 5: KeyError: 'oh'",
    "import nothing_like_it": "line 5: ModuleNotFoundError", "def g(outputs, labels): pass": "Expected one of: .*g",
    "def f(outputs, labels, dims=2): pass": "cannot be called 'dims'",
    "class f(OwnMethod):\n    def loss(self, outputs, labels, weight=1.0): pass": "attributes with a type",
    "def f(outputs, labels:": "mine.py, line 5: SyntaxError", "raise SystemExit(3)": "SystemExit: 3"}
WRONG_WHEN_CALLED = {
    "return outputs.fused": r"a tensor of shape \(8, 5\)", "return 3.0": "loss returned 3.0", "return None": "None",
    "return labels.sum()": "expected a scalar", "return {'a': 1}": "loss returned 1 as 'a'",
    "return {'loss': outputs.fused.mean()}": "the history has for something else",
    "return outputs.fused.detach().mean()": "depends on no weight",
    "return outputs.nothing": r"mine.py, line 5: AttributeError", "return 1/0": "line 5: ZeroDivisionError"}


@pytest.mark.parametrize("text", WRONG_WHEN_MADE)
def test_a_guest_that_is_no_method(tmp_path, text):
    with pytest.raises(InputError, match=WRONG_WHEN_MADE[text]): find_method(written(tmp_path, text))


@pytest.mark.parametrize("body", WRONG_WHEN_CALLED)
def test_a_guest_that_goes_wrong(tmp_path, body):
    name = written(tmp_path, f"def f(outputs, labels): {body}")
    objective = find_method(name).make(DIMS, find_hyper(name, {}))
    with pytest.raises(InputError, match=WRONG_WHEN_CALLED[body]): objective(random_outputs(DIMS), LABELS)


def test_a_guest_is_tried_before_a_run_starts(tmp_path):
    spec = spec_from(dict(target="mfeat", method=written(tmp_path, "def f(outputs, labels, weight=1.0): return 0")))
    check_guests(spec)
    for fields, says in ((dict(hyper={"wieght": 2}), "Did you mean 'weight'"),
                         (dict(hyper={"weight": "x"}), "expected"),
                         (dict(missing=["drop"]), "trains no unimodal heads"),
                         (dict(callbacks=[spec.method]), "derives from moosa.training.trainer.Callback"),
                         (dict(extractors={"image": f"{tmp_path}/mine.py:g"}), "object in")):
        with pytest.raises(InputError, match=says):
            check_guests(spec_from(dict(target="mfeat", method=spec.method, **fields)))


@pytest.mark.parametrize("text, says", [
    ("f = 3", "a function or a class that makes a network"), ("def f(): return 3", "a module whose `dim`"),
    ("def f(): return unknown", "line 5: NameError"),
    ("class f(torch.nn.Module):\n    dim = 3\n    def forward(self, x): return x.nothing", "line 7: AttributeError"),
    ("class f(torch.nn.Module):\n    dim = 3\n    def forward(self, x): return x", "says dim=3 and yields")])
def test_an_extractor_that_goes_wrong(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        extractor = create_extractor(written(tmp_path, text))
        Model({"image": extractor}, 5)({"image": torch.randn(4, 1, 16, 16)})


# --- scores and protocols --------------------------------------------------------------------------------------------

def pretended(n: int, classes: int, seed: int) -> Predictions:
    draw, labels = torch.Generator().manual_seed(seed), torch.arange(n) % classes
    logits = 3*torch.eye(classes, 4)[labels] + torch.randn(n, 4, generator=draw)
    return Predictions(logits, {}, labels, [f"{seed} {i}" for i in range(n)])


def test_a_score_and_a_protocol_of_ones_own(tmp_path):
    name = written(tmp_path, "def f(fused): return fused.max(dim=1).values\n\ndef half(confidence): "
                             "return float(confidence.median())")
    sources = Sources(pretended(60, 4, 1))
    found = by_choice(name, name.replace(":f", ":half"), pretended(90, 6, 0), sources)
    built_in = by_choice("max_logit", "source-quantile", pretended(90, 6, 0), sources)
    assert found["chosen threshold-free"] == built_in["chosen threshold-free"]
    assert found["chosen"]["threshold"] > built_in["chosen"]["threshold"]
    for text, says in (("def f(fused): return fused", "returned a tensor"), ("def f(fused): return 0", "returned int"),
                       ("def f(fused): return fused[:, 0]/0", "NaN or infinite"), ("f = 1", "is not a function"),
                       ("def f(fussed): return 0", "nothing is offered for"), ("def f(fused): 1/0", "line 5")):
        with pytest.raises(InputError, match=says):
            by_choice(written(tmp_path, text), "source-quantile", pretended(90, 6, 0), sources)
    with pytest.raises(InputError, match="Did you mean 'energy'"):
        check_guests(spec_from(dict(target="mfeat", score="energi")))


# --- hooks -----------------------------------------------------------------------------------------------------------

class Busy(OwnMethod):
    "Uses every hook."
    ascent: float = 0.05
    two_views = True

    def start(self, model):
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("right", torch.zeros(1))
        self.progress = []

    def loss(self, outputs, labels):
        assert outputs.model.num_known == 8 and outputs.domains is not None
        agree = F.mse_loss(outputs.fused, outputs.second.fused)
        return {"ce": F.cross_entropy(self.read(outputs), labels), "agree": agree}

    def read(self, outputs): return self.scale*outputs.fused

    def optimiser(self, learner, config): return torch.optim.SGD(learner.parameters(), lr=config.lr, momentum=.9)

    def schedule(self, step, steps): return 1 - step/steps

    def after_backward(self, learner, again):
        weights = [p for p in learner.parameters() if p.grad is not None]
        moves = [self.ascent*p.grad for p in weights]
        with torch.no_grad(): torch._foreach_add_(weights, moves)
        again()
        with torch.no_grad(): torch._foreach_sub_(weights, moves)

    def before_step(self, step, steps): self.progress.append((step, steps))

    def after_step(self, learner, step): self.steps.fill_(step)

    def after_epoch(self, learner, predictions):
        self.right.fill_((predictions.fused.argmax(dim=1) == predictions.labels).double().mean())


class Stop(Callback):
    "Stops after so many epochs; keeps what a checkpoint keeps."

    def __init__(self, after=None, kept=None): self.after, self.kept = after, kept

    def on_start(self, state, learner, optimiser, config):
        if not self.kept: return
        learner.load_state_dict(self.kept[0])
        optimiser.load_state_dict(self.kept[1])
        for name, value in self.kept[2].items(): setattr(state, name, value)
        torch.set_rng_state(self.kept[3])

    def on_epoch(self, state, learner, optimiser):
        self.seen = [group["lr"] for group in optimiser.param_groups]
        if state.epoch != self.after: return
        copied = {name: value.clone() for name, value in learner.state_dict().items()}
        state_of = {**optimiser.state_dict(), "param_groups": optimiser.state_dict()["param_groups"]}
        self.kept = copied, json_like(state_of), dict(vars(state)), torch.get_rng_state()


def json_like(value):
    "A copy of an optimiser's state; learning rates of a later step are not part of it."
    if isinstance(value, torch.Tensor): return value.clone()
    if isinstance(value, dict): return {k: json_like(v) for k, v in value.items()}
    return [json_like(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture(scope="module")
def lists():
    data = AVDigits(None)
    split = open_set_split(data.clips, data.classes, [], "mfeat", data.default_unknown)
    return [ClipList(data, clips.iloc[::12], ["image", "speech"], two_views=True)
            for clips in (split.train, split.validation)]


def trained(lists, kind, callbacks=(), epochs=2):
    "A learner that was trained a little, and where that ended."
    torch.manual_seed(0)
    model = Model({"image": small_image(), "speech": small_speech()}, 8)
    method = method_of(kind)
    learner = Learner(model, method.make(model.dims, method.hyper()))
    return learner, fit(make_fabric("cpu", threads=1), learner, *lists, TrainConfig(epochs, 8, 1e-2), callbacks)


def test_every_hook_is_called(lists):
    seen = Stop()
    learner, state = trained(lists, Busy, [seen])
    own = learner.objective.terms["own"]
    assert own.steps.item() == state.step > 0 and own.scale.item() != 1
    assert own.progress == [(step, state.step) for step in range(state.step)]
    assert own.right.item() == pytest.approx(state.history[-1]["validation_accuracy"])
    assert seen.seen[0] == pytest.approx(1e-2/state.step), "the last step's learning rate"
    assert {"ce", "agree"} <= state.history[0].keys() and state.history[0]["agree"] > 0
    assert learner.read(random := learner.model({m: x[:4] for m, x in one_batch(lists).items()})).fused.equal(
        own.scale*random.fused)


def one_batch(lists): return lists[0].load(list(range(8)))


def test_a_hook_that_does_nothing_changes_nothing(lists):
    "The loop without hooks, where large weights are updated in the backward pass, and with one that does nothing."
    class Plain(OwnMethod):
        def loss(self, outputs, labels): return F.cross_entropy(outputs.fused, labels)

    class Idle(Plain):
        def after_backward(self, learner, again): pass

    (one, _), (other, _) = (trained(lists, kind, epochs=1) for kind in (Plain, Idle))
    for a, b in zip(one.state_dict().values(), other.state_dict().values()): assert torch.equal(a, b)


def test_a_stopped_run_with_hooks_goes_on_as_the_unbroken_one(lists):
    stop = Stop(after=1)
    whole, _ = trained(lists, Busy, [stop])
    again, _ = trained(lists, Busy, [Stop(kept=stop.kept)])
    for a, b in zip(whole.state_dict().values(), again.state_dict().values()): assert torch.equal(a, b)


@pytest.mark.parametrize("hook, says", [
    ("def optimiser(self, learner, config): return 3", "expected a torch.optim.Optimizer"),
    ("def schedule(self, step, steps): return -1", "expected a factor"),
    ("def read(self, outputs): return outputs.fused[:, 0]", "expected logits"),
    ("def after_step(self, learner, step): learner.nothing()", "AttributeError"),
    ("def before_step(self, step): pass", "TypeError"), ("def after_epoch(self, learner): pass", "TypeError"),
    ("def after_backward(self, learner): pass", "TypeError"), ("def start(self): pass", "TypeError"),
    ("def teacher(self, model): return model", "expected a moosa.methods.teacher.Teacher"),
    ("def tested(self, learner): return learner", "expected a Model"), ("def teacher(self): pass", "TypeError")])
def test_a_hook_that_goes_wrong(tmp_path, lists, hook, says):
    name = written(tmp_path, f"class f(OwnMethod):\n    def loss(self, outputs, labels):\n"
                             f"        return F.cross_entropy(outputs.fused, labels)\n\n    {hook}\n")
    guest = guest_named("method", name)
    with pytest.raises(InputError, match=says):
        torch.manual_seed(0)
        model = Model({"image": small_image(), "speech": small_speech()}, 8)
        method = method_of(load_guest(guest), guest)
        learner = Learner(model, method.make(model.dims, method.hyper()))
        fit(make_fabric("cpu", threads=1), learner, *lists, TrainConfig(1, 8, 1e-2))


class Slow(OwnMethod):
    "Learns from a slow copy of the model, which is tested; and looks at the batch again, at weights of nothing."
    def teacher(self, model): return MovingAverage(model, 0.5)

    def tested(self, learner): return learner.teacher.copy

    def loss(self, outputs, labels):
        weights = outputs.model.named_parameters()
        nothing = {name: torch.zeros_like(p) for name, p in weights if name.startswith("fused")}
        assert not outputs.again(nothing).fused.any() and outputs.fused.any()
        return F.cross_entropy(outputs.fused, labels) + F.mse_loss(outputs.fused, outputs.teacher.fused)


def test_an_own_teacher_is_followed_asked_and_tested(lists):
    stop = Stop(after=1)
    learner, _ = trained(lists, Slow, [stop])
    again, _ = trained(lists, Slow, [Stop(kept=stop.kept)])
    for a, b in zip(learner.state_dict().values(), again.state_dict().values()): assert torch.equal(a, b)
    learner.eval()
    batch = Batch(one_batch(lists), torch.zeros(8, dtype=torch.int64), [""]*8)
    with torch.no_grad(): said, asked = learner(batch, with_loss=False)[0].fused, learner.model(batch.data).fused
    assert said.equal(learner.teacher(batch.data).fused) and not said.equal(asked)


def test_the_built_in_methods_have_no_hook_but_could():
    objective = find_method("moosa").make(DIMS, find_hyper("moosa", {}))
    assert isinstance(objective, Objective) and objective.hooks.guest is None
    assert not objective.hooks.overrides("read", "optimiser", "schedule", "after_backward", "after_step")


# --- a study, from the command line ----------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_study_from_an_empty_folder(tmp_path, archives):
    "Two methods, one of them one's own; two workers; a report with its test; and one character that makes new runs."
    def moosa(*words) -> str:
        done = call(*words, cwd=tmp_path/"mine")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert call("new", "mine", cwd=tmp_path).returncode == 0
    study = tmp_path/"mine"
    (study/"data"/"raw").mkdir(parents=True)
    (study/"data"/"raw"/archives.name).symlink_to(archives)
    (study/"grid.yaml").write_text((study/"grid.yaml").read_text().replace("av-digits", "av-digits, epochs: 1"))
    assert "12 done" in moosa("grid", "--workers", "2")
    moosa("report")
    page = json.loads((study/"figures"/"grid"/"report.ipynb").read_text())
    assert "erm_ls" in json.dumps(page)
    text = (study/"methods.py").read_text()
    (study/"methods.py").write_text(text.replace("0.1", "0.2"))
    assert "6 missing" in moosa("grid", "--dry-run")
    (study/"methods.py").write_text(text.replace("outputs.fused, labels", "outputs, labels"))
    done = call("run", "--target", "mfeat", "--method", "methods.py:erm_ls", "--epochs", "1", cwd=study)
    assert done.returncode == 2 and "methods.py, line 11" in done.stderr


def test_nothing_of_a_guest_is_imported_by_looking(tmp_path, monkeypatch):
    (tmp_path/"mine.py").write_text("raise SystemExit('imported')")
    (tmp_path/"grid.yaml").write_text("axes: {method: [mine.py:f], target: [mfeat]}\nbase: {callbacks: [mine.py:g]}")
    done = call("grid", str(tmp_path/"grid.yaml"), "--dry-run", "--data-dir", tmp_path)
    assert done.returncode == 0 and "1 missing" in done.stdout, done.stderr


def test_the_readme_of_a_study_shows_a_score_and_a_protocol_that_work(tmp_path):
    "Its functions are what they should be, and its command finds them from the study's folder."
    assert call("new", tmp_path/"study").returncode == 0
    said = (tmp_path/"study"/"README.md").read_text()
    code = re.search(r"(?m)^    def margin.*?(?=^\S)", said, re.S)[0]
    (tmp_path/"study"/"judges.py").write_text(textwrap.dedent(code))
    score, protocol = (f"{tmp_path}/study/judges.py:{name}" for name in ("margin", "one_in_ten"))
    g = torch.Generator().manual_seed(0)
    target, sources = (Predictions(torch.randn(60, 4, generator=g), {}, torch.arange(60) % classes,
                                   [f"{classes}-{i}" for i in range(60)]) for classes in (6, 4))
    numbers = rescore(target, Sources(sources), ["max_softmax", score], ["source-quantile", protocol])
    of_both = numbers[(numbers.score == score) & (numbers.group == protocol)].set_index("number").value
    first, second = sources.fused.topk(2, dim=1).values.T
    assert of_both["threshold"] == pytest.approx((first - second).quantile(.1).item())
    words = re.search(r"^    moosa (rescore .*)$", said, re.M)[1].split()
    done = call(*words, cwd=tmp_path/"study")
    assert done.returncode == 2 and "no open-set run of grid.yaml is done" in done.stderr, done.stderr
