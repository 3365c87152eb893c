"""What a grid would take: totals by hand, that costs add up and grow with what is asked for, and the command."""
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import call
from hypothesis import given, settings
from hypothesis import strategies as st

from moosa.bench.devices import DEVICES, device_named
from moosa.bench.parts import clips_of, network, passes_of
from moosa.bench.plan import Cost, cost_of, cut_rows, plan_grid, plan_rows, shared_features
from moosa.core import InputError
from moosa.methods.catalogue import PLAIN
from moosa.runs.benchmark_search import searched
from moosa.runs.given import spec_from
from moosa.runs.grid import expand, load_grid

PATIENT = 600  # seconds for a command


def run_of(**fields):
    return spec_from(dict(dataset="hac", target="human", setting="closed", method="erm", modalities=["audio"]) | fields)


def test_a_tiny_grid_by_hand():
    "One run of ERM on HAC's sound alone: 1,600 training clips are 100 steps; 394 validate, 1,387 are tested."
    grid = expand("x", dict(base=dict(dataset="hac", target="human", setting="closed", method="erm",
                                      modalities=["audio"], epochs=2), axes=dict(seed=[0, 1])))
    net, classes = network("vggsound"), 7
    heads = net.dim*classes + classes + (net.dim*512 + 512) + (512*classes + classes)
    trained, seen = 2*1600, 2*394 + 1387 + 394
    flop = trained*(net.stem + 3*net.tail + 6*heads) + seen*(net.stem + net.tail + 2*heads)
    plan = plan_grid(grid)
    total = plan.total
    assert total.runs == 2 and total.flop == pytest.approx(2*flop)
    assert total.moved == pytest.approx(2*28*(heads + net.tail_parameters)*2*100)
    assert total.reading == pytest.approx(2*.007*(trained + seen))
    weights, kept = 4*(heads + net.stem_parameters + net.tail_parameters), (1600 + 394 + 1387)*(2*net.dim + 4*classes*2)
    assert total.disk == pytest.approx(2*(weights + kept + 400_000))
    h100 = DEVICES["h100"]
    assert total.gpu_hours(h100) == pytest.approx((total.flop/h100.flops + total.moved/h100.bytes)/3600)
    row = plan_rows(plan, h100, 7)[-1]
    assert row["runs"] == "2" and row["reading hours"] == f"{total.reading/7/3600:.2g}" and plan.cache == 0


@pytest.mark.parametrize("change", [
    dict(epochs=30), dict(modalities=["audio", "video", "flow"]), dict(method="cmrf"), dict(method="mbcd"),
    dict(method="nel"), dict(frozen_stems=False), dict(watch_target=True),
    dict(setting="osdg", unknown=1, method="moosa")])
def test_more_is_more(change):
    small, large = (run_of(**dict(modalities=["audio", "video"]) | more) for more in ({}, change))
    before, after = (cost_of(s, clips_of(s)) for s in (small, large))
    if "unknown" not in change: assert after.flop > before.flop
    else: assert after.moved > before.moved  # fewer clips, more layers
    assert after.reading >= before.reading or "unknown" in change


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1e18)]*5), min_size=1, max_size=5), st.sampled_from(list(DEVICES)))
def test_costs_add_up(numbers, name):
    costs, device = [Cost(*n) for n in numbers], DEVICES[name]
    total = sum(costs, Cost())
    assert total.gpu_hours(device) == pytest.approx(sum(c.gpu_hours(device) for c in costs))
    assert total.reading_hours(3) == pytest.approx(total.reading_hours(1)/3)
    assert costs[0].times(2).flop == (costs[0] + costs[0]).flop


def test_a_plan_is_the_sum_of_its_parts():
    content = dict(base=dict(dataset="hac", setting="closed", modalities=["audio", "flow"], epochs=1))
    both = plan_grid(expand("x", content | dict(axes=dict(target=["human", "animal"], method=["erm", "mbcd"])))).total
    parts = [plan_grid(expand("x", content | dict(axes=dict(target=[t], method=[m])))).total
             for t in ("human", "animal") for m in ("erm", "mbcd")]
    for name in ("runs", "flop", "moved", "reading", "disk"):
        assert getattr(both, name) == pytest.approx(sum(getattr(part, name) for part in parts))


def test_kept_features_are_counted_once():
    fields = dict(features="stem", frozen_bn="eval", views=3, features_dtype="float16")
    one = expand("x", dict(base=dict(dataset="hac", setting="closed", modalities=["audio"], target="human", **fields),
                           axes=dict(seed=[0])))
    five = replace(one, specs=tuple(replace(one.specs[0], seed=s) for s in range(5)))
    for grid in (one, five):
        kept, = plan_grid(grid).shared
        assert kept.clips == 3*1600 + 394 + 1387 and kept.bytes == kept.clips*2*network("vggsound").kept
        assert kept.cost.reading == pytest.approx(.007*kept.clips)
    runs = [sum(plan_grid(grid).rows.values(), Cost()) for grid in (one, five)]
    assert runs[0].reading == 0 and runs[1].flop == pytest.approx(5*runs[0].flop)
    live = shared_features(replace(one, specs=(run_of(),)))
    assert live == [] and shared_features(replace(one, specs=(run_of(),)), features="embedding")[0].clips > 0


@pytest.mark.parametrize("method", PLAIN)
def test_every_method_has_passes(method):
    setting = "osda" if method in ("dann", "mm-sada", "osbp") else "osdg"
    sources = ["animal"] if setting == "osda" else ["animal", "cartoon"]
    passes, views = passes_of(run_of(method=method, setting=setting, modalities=["audio", "video"], sources=sources))
    assert passes >= 3 and views == (2 if setting == "osda" or method == "nel" else 1)


def test_a_search_is_all_its_runs():
    base = dict(dataset="hac", setting="closed", method="erm", modalities=["audio"], epochs=1)
    plain = expand("x", dict(base=base, axes=dict(target=["human", "animal"])))
    searching = expand("x", dict(base=base, axes=dict(target=["human", "animal"]), search="benchmark-2026"))
    assert plan_grid(searched(searching)).total.flop == pytest.approx(13*plan_grid(plain).total.flop)
    assert plan_grid(searched(plain, 4)).total.runs == 8


def test_published_lists_are_those_of_the_clips():
    path = Path(__file__).resolve().parent.parent.parent/"shared"/"splits"
    if not path.is_dir(): pytest.skip(f"no published lists at {path}")
    for target, rest in (("human", ("animal", "cartoon")), ("cartoon", ("human", "animal"))):
        lines = {name: sum(len((path/f"HAC_{part}_only_{d}.csv").read_text().split("\n")) - 1 for d, part in of)
                 for name, of in dict(train=[(d, "train") for d in rest], validation=[(d, "test") for d in rest],
                                      test=[(target, "train"), (target, "test")]).items()}
        found = {name: len(clips) for name, clips in clips_of(run_of(target=target)).items()}
        assert all(abs(found[name] - lines[name]) <= 2 for name in found)  # files may end without a newline


def test_the_large_grids():
    published, benchmark = load_grid("published-seeds"), load_grid("benchmark-2026")
    tasks = {(s.dataset, s.modalities, s.sources, s.target) for s in benchmark.specs}
    assert len(published.specs) == 165 and len(tasks) == 95 and len({s.method for s in benchmark.specs}) == 9
    singles = [s for name in ("hac", "epic", "osda", "open-partial") for s in load_grid(f"published-{name}").specs]
    assert [s for s in published.specs if s.seed == 0] == singles
    assert {s.setting for s in benchmark.specs} == {"closed"}


# --- the command ------------------------------------------------------------------------------------------------------

@pytest.fixture
def file(tmp_path):
    content = dict(base=dict(dataset="hac", setting="closed", method="erm", modalities=["audio"], target="human"),
                   axes=dict(seed=[0, 1]))
    (tmp_path/"small.yaml").write_text(yaml.safe_dump(content))
    return tmp_path/"small.yaml"


def test_the_command_prints_a_plan(file):
    done = call("plan", file, "--device", "a100", "--decoders", 4, timeout=PATIENT)
    assert done.returncode == 0, done.stderr
    assert "total" in done.stdout and "NVIDIA A100" in done.stdout and "4 processes read at once" in done.stdout
    assert "embedding, GB" in done.stdout


def test_the_command_speaks_to_programs(file, tmp_path):
    said = {}
    for device, decoders in (("h100", 16), ("t4", 8)):
        done = call("plan", file, "--device", device, "--decoders", decoders, "--json", "--search", 3, "--data-dir",
                    tmp_path, timeout=PATIENT)
        said[device] = json.loads(done.stdout)
    h100, t4 = said["h100"]["total"], said["t4"]["total"]
    assert h100["runs"] == 6 and t4["gpu_hours"] > h100["gpu_hours"]
    assert t4["reading_hours"] == pytest.approx(2*h100["reading_hours"]) and said["t4"]["assumes"]


@pytest.mark.parametrize("args, says", [
    (("--device", "h10"), "Did you mean 'h100'?"), (("--decoders", "0"), "expected 1 or more"),
    (("--decoders", "many"), "a valid integer")])
def test_bad_options(file, args, says):
    done = call("plan", file, *args)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_bad_grids(tmp_path):
    assert "Did you mean 'published-hac.yaml'?" in call("plan", "published-hax").stderr
    (tmp_path/"own.yaml").write_text(yaml.safe_dump(dict(base=dict(dataset="mini-hac"), axes=dict(target=["human"]))))
    absent = call("plan", tmp_path/"own.yaml", "--data-dir", tmp_path, timeout=PATIENT)
    assert absent.returncode == 2 and "moosa data get mini-hac" in absent.stderr


def test_unknown_devices():
    with pytest.raises(InputError, match="is not known"): device_named("")


def test_cut_points_are_of_every_modality():
    rows = cut_rows(load_grid("published-hac"))
    assert [row["modality"] for row in rows] == ["video", "audio", "flow"]
    assert all(float(row["stem, GB"]) > float(row["embedding, GB"]) > 0 for row in rows)
