"""Every command, with every option, as typer hands it on: each is given here once, and one that is not is found."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import typer
from test_stale import SMALL, finish
from typer.testing import CliRunner

from moosa.cli import app
from moosa.core import InputError
from moosa.runs.grid import expand
from moosa.runs.record import run_folder

# commands and their options, as the tests of this file gave them; "" stands for the command itself
CALLED: set[tuple[str, str]] = set()
RAN: set[str] = set()  # tests of this file


@pytest.fixture(autouse=True)
def counted(request): RAN.add(request.function.__name__)


def nodes(node, path: tuple[str, ...] = ()):
    "Words of each command, and the command."
    if not hasattr(node, "commands"): yield " ".join(path), node
    for name, below in getattr(node, "commands", {}).items(): yield from nodes(below, (*path, name))


def options_of(node) -> list:
    return [param for param in node.params if param.param_type_name == "option" and param.name != "help"]


NODES = dict(nodes(typer.main.get_command(app)))
# command -> its options, each with all its names
ALL = {name: [[*p.opts, *p.secondary_opts] for p in options_of(node)] for name, node in NODES.items()}


def moosa(*words, fails: str = "") -> str:  # what it printed
    "Call a command in this process. `fails`: with an `InputError` that says this."
    words = [str(w) for w in words]
    name = next(" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in ALL)
    CALLED.update((name, word) for word in ["", *words] if word == "" or word.startswith("--"))
    done = CliRunner().invoke(app, words)
    if fails:
        assert isinstance(done.exception,
                          InputError) and fails in str(done.exception), (words, done.output, done.exception)
    elif done.exception and not isinstance(done.exception, SystemExit): raise done.exception
    assert done.exit_code != 2, (words, done.output)  # typer did not understand it
    return done.output


def called_with(monkeypatch, place: str, returns=None) -> list:
    "Put a stand-in at `module.name`; returns the list of what it is called with."
    seen = []

    def stand_in(*args, **named):
        seen.append((args, named))
        return returns

    monkeypatch.setattr(place, stand_in)
    return seen


def test_run(monkeypatch, tmp_path):
    ran = called_with(monkeypatch, "moosa.runs.run.run", (tmp_path, True))
    monkeypatch.setattr("moosa.commands.run.print_results", lambda folder, fresh: None)

    def spec(*words): return (moosa("run", *words, "--data-dir", tmp_path), ran[-1][0][0])[1]

    one = spec("--target", "mfeat", "--dataset", "av-digits", "--method", "moosa", "--seed", 3, "--sources", "mnist",
               "--num-unknown", 3, "--missing", "zero", "--modalities", "image,speech",
               "--hyper", "mask_ratio=0.5", "--train-share", .5, "--watch-target", "--epochs", 2, "--batch-size", 8,
               "--tested-epoch", "last",
               "--lr", .01, "--precision", "bf16-mixed", "--compile",
               "--on-bad-clip", "skip", "--device", "cpu", "--devices", 2, "--again", "--contents")
    assert (one.seed, one.sources, len(one.unknown), one.missing, one.modalities,
            one.hyper["mask_ratio"]) == (3, ("mnist",), 3, ("zero",), ("image", "speech"), .5)
    assert one.tested_epoch == "last"
    assert (one.train_share, one.watch_target, one.epochs, one.batch_size, one.lr, one.precision, one.compile,
            one.on_bad_clip) == (.5, True, 2, 8, .01, "bf16-mixed", True, "skip")
    _, store, device = ran[-1][0]
    assert (store.data_dir, store.contents, device, one.devices) == (tmp_path, True, "cpu", 2)
    assert ran[-1][1] == dict(again=True)
    (tmp_path/"mine.py").write_text("")
    own = spec("--target", "mfeat", "--callbacks", f"{tmp_path}/mine.py:Odd", "--score", "energy",
               "--protocol", "leave-one-class-out")
    assert (own.score, own.protocol) == ("energy", "leave-one-class-out")
    assert own.callbacks == (f"{tmp_path.resolve()}/mine.py:Odd",) and own.own.keys() == {"callbacks.mine.py:Odd"}
    two = spec("--target", "mfeat", "--method", "erm", "--extractors", "image=small-image", "--weights", "random",
               "--frozen-stems", "--frozen-bn", "eval", "--features", "stem", "--views", 2,
               "--features-dtype", "float16", "--stem-dtype", "bfloat16", "--unknown", 8, "--unknown", 9)
    assert (two.weights, two.frozen_stems, two.frozen_bn, two.features, two.views, two.features_dtype,
            two.stem_dtype) == ("random", True, "eval", "stem", 2, "float16", "bfloat16")
    assert two.unknown == ("8", "9")
    three = spec("--target", "mfeat", "--frozen-stems", "--unfrozen", "image", "--missing-in-training", "mask")
    assert (three.unfrozen, three.missing_in_training) == (("image",), "mask")
    assert spec("--target", "mfeat", "--setting", "osda", "--pairing", "shuffled").pairing == "shuffled"
    partial = spec("--target", "mfeat", "--setting", "open-partial", "--sources", "mnist",
                   "--source-classes", "mnist=[0,1,2,3,4,5,6,7,8]", "--target-classes", "1,2", "--unknown", "9")
    assert partial.source_classes["mnist"] == tuple("012345678") and partial.target_classes == ("1", "2")
    published = spec("--target", "human", "--preset", "published-hac", "--modalities", "video,audio",
                     "--sources", "animal,cartoon", "--data-options", "frame_index=repaired", "--trained-stems")
    assert published.dataset == "hac" and not published.frozen_stems
    assert published.data_options["frame_index"] == "repaired"


def test_grid(monkeypatch, tmp_path):
    from contextlib import nullcontext

    from moosa.runs.grid import load_grid

    cells = len(load_grid("tiny.yaml").specs)
    engines = called_with(monkeypatch, "moosa.runs.cluster.choose_engine", nullcontext("engine"))
    ran = called_with(monkeypatch, "moosa.runs.sweep.run_grid", [dict(status="done")]*cells)
    moosa("grid", "tiny.yaml", "--engine", "dask", "--workers", 2, "--gpus", "0,1", "--scheduler", "tls://a:1",
          "--slurm", tmp_path/"s.yaml", "--time-limit", 2, "--attempts", 5, "--again",
          "--contents", "--device", "cpu", "--data-dir", tmp_path)
    assert engines[-1][0] == ("dask", 2, ("0", "1"), "tls://a:1", tmp_path/"s.yaml")
    (grid, store, device, _, engine, limits, again), _ = ran[-1]
    assert (len(grid.specs), store.data_dir, store.contents) == (cells, tmp_path, True)
    assert (device, engine, limits.seconds, limits.attempts, again) == ("cpu", "engine", 120, 5, True)
    assert f"{2*cells} cells" in moosa("grid", "tiny.yaml", "--dry-run", "--search", 2, "--data-dir", tmp_path)
    assert f"{3*cells} cells" in moosa("grid", "tiny.yaml", "--dry-run", "--held-out", "--data-dir", tmp_path)


def test_plan(tmp_path):
    told = json.loads(moosa("plan", "shared-open-partial.yaml", "--device", "a100", "--decoders", 4, "--search", 2,
                            "--json", "--data-dir", tmp_path))
    assert (told["total"]["runs"], told["device"], told["decoders"]) == (18, "a100", 4)
    moosa("plan", "shared-open-partial.yaml", "--device", "a10", "--data-dir", tmp_path, fails="Did you mean 'a100'?")


def test_what_looks_at_grids(monkeypatch, tmp_path):
    seen = json.loads(moosa("status", "tiny.yaml", "--json", "--search", 2, "--data-dir", tmp_path))
    assert seen["done"] == 0 and seen["cells"] == 12
    moosa("status", "tiny.yaml", "--timeline", tmp_path/"t.png", "--data-dir", tmp_path,
          fails="no cell of tiny.yaml has been started")
    moosa("rescore", "tiny.yaml", "--data-dir", tmp_path, fails="no open-set run")
    moosa("rescore", "tiny.yaml", "--score", "energi", "--data-dir", tmp_path, fails="Did you mean 'energy'")
    moosa("rescore", "tiny.yaml", "--protocol", "source", "--data-dir", tmp_path, fails="source-quantile")
    moosa("report", "tiny.yaml", "--data-dir", tmp_path, fails="no cell of tiny.yaml is done")  # and no table is lost
    executed = called_with(monkeypatch, "moosa.runs.notebook.execute_notebook")
    monkeypatch.setattr("moosa.runs.status.cell_status", lambda *_: ("done", ""))
    monkeypatch.setattr("moosa.results.report.publish_notebook", lambda *a: None)
    (tmp_path/"out").mkdir()  # as the notebook would
    assert str(tmp_path/"out") in moosa("report", "tiny.yaml", "--out", tmp_path/"out", "--search", 2, "--again",
                                        "--data-dir", tmp_path).replace("\n", "")
    assert executed[-1][0][2]["search"] == 2 and executed[-1][0][2]["data_dir"] == str(tmp_path)


def both_ways(option: str, first, second):
    "Words that give an option two values: with a comma between, or by repeating it."
    return (option, f"{first},{second}"), (option, first, option, second)


def test_grids_take_several_values_in_both_ways(monkeypatch, tmp_path):
    import pandas as pd

    where = ("--data-dir", tmp_path)
    rescored = called_with(monkeypatch, "moosa.results.alternatives.rescore_grid", pd.DataFrame())
    for given in both_ways("--score", "energy", "max_logit"):
        moosa("rescore", "tiny.yaml", *given, *where, fails="no open-set run")
        assert rescored.pop()[1]["scores"] == ["max_softmax", "energy", "max_logit"]
    for given in both_ways("--protocol", "conformal", "target-median"):
        moosa("rescore", "tiny.yaml", *given, *where, fails="no open-set run")
        assert rescored.pop()[1]["protocols"] == ["conformal", "target-median"]
    asked = called_with(monkeypatch, "moosa.results.corruptions.grid_rows", pd.DataFrame())
    for given in both_ways("--corruption", "fog", "wind"):
        moosa("corrupt", "tiny", *given, *where, fails="no run of tiny")
        assert asked.pop()[0][2].names == ("fog", "wind")
    engines = called_with(monkeypatch, "moosa.runs.cluster.choose_engine")
    for given in both_ways("--gpus", 0, 1):
        with pytest.raises(TypeError): moosa("grid", "tiny.yaml", *given, *where)  # the stand-in is no engine
        assert engines.pop()[0][2] == ("0", "1")


def test_runs_take_several_values_in_both_ways(monkeypatch, tmp_path):
    import pandas as pd

    from moosa.runs.spec import Spec

    where = ("--data-dir", tmp_path)
    ran = called_with(monkeypatch, "moosa.runs.run.run", (tmp_path, True))
    monkeypatch.setattr("moosa.commands.run.print_results", lambda *_: None)
    for given in both_ways("--hyper", "mask_ratio=.5", "jigsaw_ratio=.2"):
        moosa("run", "--target", "mfeat", *given, *where)
        hyper = next(arg for arg in ran.pop()[0] if isinstance(arg, Spec)).hyper
        assert (hyper["mask_ratio"], hyper["jigsaw_ratio"]) == (.5, .2)
    monkeypatch.setattr("moosa.runs.diff.find_folder", lambda *_: tmp_path)
    outside = called_with(monkeypatch, "moosa.runs.outside.ask_outside", pd.DataFrame())
    for given in both_ways("--score", "energy", "max_logit"):
        moosa("ood", "3f2a", *given, "--json", *where)
        assert outside.pop()[0][2] == ["energy", "max_logit"]
    pruned = called_with(monkeypatch, "moosa.runs.prune.prunable", [])
    for given in both_ways("--only", "leftovers", "damaged"):
        moosa("runs", "prune", *given, *where)
        assert pruned.pop()[0][1] == ("leftovers", "damaged")
    moosa("runs", "prune", "--only", ",", *where, fails="--only: no name was given")  # and nothing goes
    for option in ("--domains", "--classes"):
        moosa("ood", "3f2a", "--data", "av-digits", option, ",", *where, fails=f"{option}: no name was given")
        moosa("ood", "3f2a", option, "a,b", *where, fails="it was not given")
    assert not pruned


def test_data_take_several_values_in_both_ways(monkeypatch, tmp_path):
    import pandas as pd

    examined = called_with(monkeypatch, "moosa.data.doctor.examine", pd.DataFrame(dict(level=[])))
    dataset = SimpleNamespace(default_unknown=("8", "9"))
    monkeypatch.setattr("moosa.data.catalogue.create_dataset", lambda *_, **__: dataset)
    monkeypatch.setattr("moosa.data.doctor.add_changed", lambda findings, *_: findings)
    monkeypatch.setattr("moosa.data.doctor.report", lambda *_: "")
    for given in both_ways("--modalities", "image", "speech"):
        moosa("data", "check", tmp_path, *given, "--data-dir", tmp_path)
        assert examined.pop()[0][1] == ("image", "speech")
    fetched = called_with(monkeypatch, "moosa.extractors.weights.get")
    moosa("weights", "get", "slowonly,vggsound", "--data-dir", tmp_path)
    assert [name for (name, _), _ in fetched] == ["slowonly", "vggsound"]


def test_options_of_several_values_say_so():
    found = {f"{name} {param.opts[0]}": param.help for name, node in NODES.items() for param in options_of(node)
             if param.multiple}
    assert len(found) > 20 and not [option for option, said in found.items() if "may be repeated" not in said]


def test_runs_prune(tmp_path):
    (tmp_path/"runs").mkdir()
    said = moosa("runs", "prune", "--only", "leftovers", "--days", 7, "--dry-run", "--data-dir", tmp_path)
    assert "nothing" in said.lower() or "0" in said


def test_ood(tmp_path):
    moosa("ood", "3f2a", "--data", "av-digits", "--domains", "mnist", "--classes", "8,9", "--score", "energy", "--json",
          "--device", "cpu", "--data-dir", tmp_path, fails="0 runs in")


def test_corrupt(monkeypatch, tmp_path):
    import pandas as pd

    from moosa.data.corruptions import Wanted

    moosa("corrupt", "3f2a", "--corruption", "frog", "--data-dir", tmp_path, fails="Did you mean 'fog'?")
    moosa("corrupt", "3f2a", "--severity", 6, "--data-dir", tmp_path, fails="expected one of 1, 2, 3, 4, 5")
    moosa("corrupt", "3f2a", "--data-dir", tmp_path, fails="0 runs in")
    moosa("corrupt", "tiny.yaml", "--data-dir", tmp_path, fails="no run of tiny.yaml is done")
    asked = called_with(monkeypatch, "moosa.results.corruptions.grid_rows", pd.DataFrame())
    moosa("corrupt", "tiny", "--corruption", "fog", "--corruption", "HAC-C/wind", "--severity", 5, "--severity", 1,
          "--modality", "video", "--seed", 3, "--device", "cpu", "--data-dir", tmp_path, fails="no run of tiny")
    (_, folder, wanted), how = asked[-1]
    assert (folder, how["device"]) == (tmp_path, "cpu")
    assert wanted == Wanted(("fog", "HAC-C/wind"), (5, 1), ("video",), 3)


def test_data(data_dir, tmp_path):
    from moosa.data.media import write_video

    assert "av-digits" in moosa("data", "list") and json.loads(moosa("data", "list", "--json"))
    assert moosa("data", "get", "av-digits", "--data-dir", data_dir).count("here already") == 3
    moosa("data", "get", "av-digits", "--from", data_dir, "--data-dir", data_dir, fails="is not taken from a folder")
    for i, name in enumerate(f"{d}/{c}/{n}.wav" for d in "ab" for c in "xy" for n in (1, 2)):
        (tmp_path/"own"/name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path/"own"/name, np.random.default_rng(i).normal(size=16000)/9, 16000)
    said = moosa("data", "check", tmp_path/"own", "--sample", 2, "--modalities", "audio", "--workers", 1,
                 "--data-options", "audio_format=convert", "--out", tmp_path/"found.csv", "--data-dir", tmp_path)
    assert (tmp_path/"found.csv").exists(), said
    assert "[]" in moosa("data", "check", tmp_path/"own", "--workers", 1, "--json", "--out", tmp_path/"again.csv",
                         "--data-dir", tmp_path)  # nothing is wrong
    write_video(tmp_path/"films"/"a.mp4", np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), np.uint8))
    assert "1 done" in moosa("data", "make-flow", tmp_path/"films", tmp_path/"flow", "--method", "farneback",
                             "--workers", 1)
    for name in (f"{d}/{c}/{n}.mp4" for d in "ab" for c in "xy" for n in (1, 2)):
        write_video(tmp_path/"clips"/name, np.random.default_rng(0).integers(0, 255, (8, 48, 64, 3), np.uint8))
    said = moosa("data", "pack", tmp_path/"clips", "--modalities", "video", "--extractors", "video=small-video",
                 "--data-options", "audio_format=convert", "--workers", 1, "--dry-run", "--data-dir", tmp_path)
    assert said.count("to pack") == 2, said  # a pack for each domain
    # one film, which has no sound
    assert "1 " in moosa("data", "make-audio", tmp_path/"films", tmp_path/"sound", "--workers", 1)


def test_weights_and_cache(monkeypatch, tmp_path):
    listed = moosa("weights", "list", "--data-dir", tmp_path)
    assert "openmmlab" in listed and "/~vgg/" in listed  # an address can be copied from a terminal
    assert json.loads(moosa("weights", "list", "--json", "--data-dir", tmp_path))
    fetched = called_with(monkeypatch, "moosa.extractors.weights.get")
    moosa("weights", "get", "slowonly", "vggsound", "--data-dir", tmp_path)
    assert fetched == [(("slowonly", tmp_path), {}), (("vggsound", tmp_path), {})]
    assert "0 shards" in moosa("cache", "list", "--data-dir", tmp_path)
    assert json.loads(moosa("cache", "list", "--json", "--data-dir", tmp_path)) == []
    for words in (("--all",), ("--stale", "--dry-run")):
        assert "0 shards" in moosa("cache", "drop", *words, "--data-dir", tmp_path)


def test_record(tmp_path):
    from moosa.runs.record import run_folder, write_record
    from moosa.runs.resolve import resolve
    from moosa.runs.spec import Spec

    for seed in (0, 1):
        spec = resolve(Spec(target="mfeat", method="erm", seed=seed))
        folder = run_folder(spec, tmp_path)
        folder.mkdir(parents=True)
        write_record(folder, spec, {"accuracy": {"fused": .5 + seed/10}}, 1, "cpu", 2.)
    said = moosa("record", "show", folder.name[:8], "--data-dir", tmp_path)
    assert "spec.seed" in said and "0.6" in said
    assert json.loads(moosa("record", "show", folder, "--json", "--data-dir", tmp_path))["spec"]["seed"] == 1
    other = next(p.name for p in (tmp_path/"runs").iterdir() if p != folder)
    for more in ((), ("--all",)):
        assert "spec.seed" in moosa("record", "diff", folder.name, other, *more, "--data-dir", tmp_path)
    assert json.loads(moosa("record", "diff", folder.name, other, "--json", "--data-dir", tmp_path))


def test_study(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "made mine" in moosa("new", "mine", "--data-dir", "everything")
    moosa("new", "mine", fails="is there already")
    assert {p.name for p in (tmp_path/"mine").iterdir()} >= {"grid.yaml", "methods.py", "explore.ipynb", "README.md"}
    monkeypatch.chdir(tmp_path/"mine")
    assert "12 cells" in moosa("grid", "--dry-run")
    assert "0 of 12 cells done" in moosa("status")
    spec = expand("small", SMALL).specs[0]
    finish(spec, tmp_path)
    place = run_folder(spec, tmp_path)
    opened = called_with(monkeypatch, "os.execv")
    moosa("explore", "--no-browser", "--port", 8890)
    moosa("explore", "--browser")
    moosa("explore", "--port", 99999, fails="expected 0, any that is free")
    moosa("explore", "zz", "--data-dir", tmp_path, fails="0 runs in")
    moosa("explore", place.name[:6], "--data-dir", tmp_path)
    assert "/lab/tree/explore.ipynb" in " ".join(opened[-1][0][1]) and str(place) in " ".join(opened[-1][0][1])
    cells = [cell["source"] for cell in json.loads((place/"explore.ipynb").read_text())["cells"]]
    assert f"open_run('{place.name}', '{tmp_path}')" in "".join(map("".join, cells))
    assert "--no-browser" in opened[0][0][1] and "--no-browser" not in opened[1][0][1]
    assert f"--ServerApp.root_dir={tmp_path/'mine'}" in opened[0][0][1]


def test_list(tmp_path):
    for what in ("methods", "scores", "protocols", "extractors", "datasets", "corruptions"):
        assert "| name" in moosa("list", what)
    assert json.loads(moosa("list", "methods", "--json"))
    assert "there are no runs" in moosa("list", "runs", "--data-dir", tmp_path)
    (tmp_path/"runs"/"0123456789ab").mkdir(parents=True)
    assert "not done" in moosa("list", "runs", "--data-dir", tmp_path)
    (tmp_path/"runs"/"0123456789ab"/"error.json").write_text(json.dumps({"error": "it broke"}))
    assert "failed" in moosa("list", "runs", "--data-dir", tmp_path)
    moosa("list", "run", fails="Did you mean 'runs'")


def test_the_whole_program():
    import moosa as package

    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and done.output.strip() == package.__version__
    for name in ALL: assert CliRunner().invoke(app, [*name.split(), "--help"]).exit_code == 0


def test_nothing_was_left_out():
    "After all tests above. A new command, or a new option of one, belongs into one of them."
    if {name for name in globals() if name.startswith("test_")} - RAN:
        pytest.skip("needs the other tests of this file, in the same process")
    missing = [f"moosa {name} {option[0]}" for name, options in ALL.items() for option in options for n in option
               if (name, n) not in CALLED]
    missing += [f"moosa {name}" for name in ALL if (name, "") not in CALLED]
    assert not missing, f"no test calls: {', '.join(missing)}"
