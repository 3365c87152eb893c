"""What the command says of itself: help that reads like a page, examples that can be typed, what the tab key knows, and
numbers for programs.
"""
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import typer
from conftest import call
from typer.testing import CliRunner

from moosa.cli import app
from moosa.commands.examples import EXAMPLES, NEXT
from moosa.commands.fields import PANELS
from moosa.commands.listing import KINDS
from moosa.runs.diff import HEADLINE
from moosa.runs.record import run_folder, write_record
from moosa.runs.resolve import resolve
from moosa.runs.spec import Spec

MOOSA = typer.main.get_command(app)
TYPED = [typed for examples in EXAMPLES.values() for typed, _ in examples]


def command_of(words: list[str]) -> tuple:
    "The command that words name, and what is left of them."
    command = MOOSA
    while words and words[0] in getattr(command, "commands", ()):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("typed", TYPED)
def test_examples_can_be_typed(typed):
    "Each is read as the command reads it: no unknown option, nothing missing, values of the right kind."
    _, *words = shlex.split(typed)
    command, rest = command_of(words)
    assert not hasattr(command, "commands"), typed
    command.make_context(" ".join(words), rest).close()


def test_examples_take_from_folders_what_is_taken_from_there():
    from inspect import signature

    from moosa.data.catalogue import DATASETS

    names = [typed.split()[3] for typed in TYPED if typed.startswith("moosa data get") and "--from" in typed]
    assert names and all("source" in signature(DATASETS[name].get).parameters for name in names)


def test_own_clips_are_trained_on_with_unknown_classes():
    "No data set of one's own says which classes are unknown; without, the command refuses."
    own = [typed for typed in TYPED if "run --dataset clips" in typed]
    assert own and all("--unknown" in typed for typed in own)


def test_an_example_that_cannot_be_typed_is_found():
    for words, said in ((["--tarket", "mfeat"], "tarket"), (["--epochs", "many", "--target", "mfeat"], "epochs")):
        with pytest.raises(Exception) as caught: command_of(["run"])[0].make_context("run", words)
        assert said in caught.value.format_message()


@pytest.mark.parametrize("name", NEXT)
def test_help_says_what_to_type_after_an_option(name):
    "Nothing after a flag, and words where there may be many; no type of Python's."
    command, _ = command_of(name.split())
    said = call(*name.split(), "--help", env={"COLUMNS": "200"}).stdout
    assert "<bool>" not in said and "list[" not in said
    for param in command.get_params(typer.Context(command)):
        many = getattr(param, "multiple", False)
        assert not many or re.search(rf"{param.opts[0]} .*(NAMES|NAME=VALUE|NUMBERS)", said), (param.name, said)


def test_the_help_of_all_commands_is_a_page():
    "Each has a panel and a sentence of its own, and what there is more to say stands in its own help."
    said = call("--help", env={"COLUMNS": "100"}).stdout
    assert "─ Commands ─" not in said and len(said.splitlines()) <= 60
    for name, command in MOOSA.commands.items():
        first, *more = command.help.split("\n\n")
        assert first.count(". ") == 0 or hasattr(command, "commands"), name
        assert all(paragraph not in said for paragraph in more)


def test_every_command_has_examples():
    groups = {name: c.commands for name, c in MOOSA.commands.items() if hasattr(c, "commands")}
    leaves = {f"{group} {name}" for group, commands in groups.items() for name in commands}
    assert {*EXAMPLES} == {"", *(MOOSA.commands.keys() - groups.keys()), *leaves} == {*NEXT}
    assert all(2 <= len({typed for typed, _ in examples}) <= 3 for examples in EXAMPLES.values())
    for name in ("", "run", "record diff"):
        said = call(*name.split(), "--help", env={"COLUMNS": "100"}).stdout
        assert "Examples" in said and EXAMPLES[name][0][0] in said and "Next:" in said


@pytest.mark.parametrize("name", NEXT)
def test_each_command_says_its_own_next_step(name):
    "And the commands in it are there."
    said = " ".join(call(*name.split(), "--help", env={"COLUMNS": "300"}).stdout.replace("│", " ").split())
    assert f"Next: {NEXT[name]}".replace("`", "") in said and len({*NEXT.values()}) == len(EXAMPLES)
    for words in re.findall("`moosa ([^`]+)`", NEXT[name].replace("COMMAND", "run")):
        assert not hasattr(command_of(words.split())[0], "commands"), words


def test_commands_say_where_to_go_next(two_runs, tmp_path):
    "In one line on standard error; and not beside what is for programs."
    def hint(*words):
        done = call(*words, "--data-dir", two_runs)
        hints = [line for line in done.stderr.splitlines() if line.startswith("next: ")]
        assert done.returncode == 0 and "next: " not in done.stdout and len(hints) <= 1, done.stderr
        return hints[0].removeprefix("next: ") if hints else ""

    grid, there = two_runs/"two.yaml", f"--data-dir {two_runs}"
    (tmp_path/"more.yaml").write_text(grid.read_text().replace("mnist", "mnist, optdigits"))
    run = next(path.name for path in sorted((two_runs/"runs").iterdir()) if (path/"record.json").exists())
    target = json.loads((two_runs/"runs"/run/"record.json").read_text())["spec"]["target"]
    again = hint("run", "--target", target, "--method", "erm", "--epochs", 1)
    assert again == f"`moosa explore {run} {there}` looks at it in JupyterLab"
    assert hint("status", grid).startswith(f"`moosa report {grid} {there}` makes")
    assert hint("status", tmp_path/"more.yaml").startswith(f"`moosa grid {tmp_path}/more.yaml {there}` runs")
    assert hint("status", grid, "--search", 2).startswith(f"`moosa grid {grid} --search 2 {there}` runs")
    assert hint("plan", grid).startswith(f"`moosa grid {grid} {there}` runs it")
    assert hint("rescore", grid, "--score", "energy").startswith(f"`moosa report {grid} {there}` shows")
    assert hint("list", "runs").startswith(f"`moosa explore RUN {there}`")
    assert hint("data", "get", "av-digits").startswith(f"`moosa data check av-digits {there}`")
    for words in (("status", grid), ("plan", grid), ("list", "runs")): assert hint(*words, "--json") == ""


def test_a_folder_without_runs_says_what_makes_one(tmp_path):
    done = call("list", "runs", "--data-dir", tmp_path)
    assert done.stdout == f"there are no runs in {tmp_path}/runs\n"
    assert done.stderr.startswith(f"next: `moosa run --target mfeat --data-dir {tmp_path}` makes one")
    assert call("list", "runs", "--json", "--data-dir", tmp_path).stderr == ""


def test_the_first_page_says_the_exit_codes_and_they_are_so():
    said = call("--help", env={"COLUMNS": "200"}).stdout
    assert all(text in said for text in ("Exit codes", "0 all is well", "2 bad input", "tutorials/commands"))
    codes = {"0": call("list", "protocols").returncode, "2": call("list", "protocolls").returncode}
    assert codes == {"0": 0, "2": 2}


def test_options_of_run_stand_in_panels():
    options = {p.name: p.rich_help_panel for p in MOOSA.commands["run"].params if p.name != "help"}
    assert {name: panel for panel, names in PANELS.items() for name in names} == options and len(options) >= 40
    said = call("run", "--help", env={"COLUMNS": "100"}).stdout
    places = [said.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places) and max(map(len, said.splitlines())) <= 100


def completed(words: str) -> set[str]:
    "What bash is told when the tab key is pressed behind words."
    asked = {"_MOOSA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = subprocess.run([sys.executable, "-c", "import sys; sys.argv[0] = 'moosa'; from moosa.cli import app; "
                           "app(prog_name='moosa')"], env={**os.environ, **asked}, capture_output=True, text=True)
    return {*done.stdout.split()}


def test_the_tab_key_knows_names(tmp_path):
    (tmp_path/"runs"/"3f2a00000000").mkdir(parents=True)
    assert completed("moosa run --dataset utd-mhad --target subjects-") == {
        "subjects-1-2", "subjects-3-4", "subjects-5-6", "subjects-7-8"}
    assert {"moosa", "mmd"} <= completed("moosa run --method m") and completed("moosa grid tin") == {"tiny.yaml"}
    assert completed(f"moosa record show --data-dir {tmp_path} 3f") == {"3f2a00000000"}
    assert completed("moosa list prot") == {"protocols"} and completed("moosa run --dataset av") == {"av-digits"}


# --- for programs -----------------------------------------------------------------------------------------------------

LISTS = {("list", "methods"): "name", ("list", "protocols"): "name", ("list", "scores"): "name",
         ("data", "list"): "name", ("weights", "list"): "url"}


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_lists_for_programs(words):
    rows = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert len(rows) >= 3 and all(LISTS[words] in row for row in rows)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "runs"])
def test_a_line_tells_what_to_choose(kind):
    "No two have the same line, none is but a name, and none cites a section that who reads it has not got."
    rows = json.loads(CliRunner().invoke(app, ["list", kind, "--json"]).output)
    lines = [row["about"] for row in rows]
    assert len(set(lines)) == len(lines) and not [line for line in lines if "(ref" in line]
    alone = [row for row in rows if row["about"].strip(" .").casefold() in (row["name"], row["name"].replace("-", "_"))]
    assert not alone and min(len(line.split()) for line in lines) >= 3
    paper = re.compile(r"\((.*\b(19|20)\d\d\b.*|ours|common practice)\)$")
    if kind == "methods": assert all(map(paper.search, lines))


def test_what_is_empty_is_an_empty_list(tmp_path):
    for words in (("cache", "list"), ("list", "runs")):
        found = CliRunner().invoke(app, [*words, "--json", "--data-dir", str(tmp_path)])
        assert found.exit_code == 0 and json.loads(found.output) == []


def test_findings_for_programs(tmp_path):
    "A list of clips whose films are none: exit code 1, and the findings as JSON."
    for i in range(8): (tmp_path/f"c{i}.mp4").write_text("no film")
    (tmp_path/"clips.csv").write_text("clip,class,domain,video\n" + "".join(
        f"c{i},{'run' if i % 2 else 'walk'},{'a' if i < 4 else 'b'},c{i}.mp4\n" for i in range(8)))
    found = call("data", "check", tmp_path/"clips.csv", "--json", "--workers", 1, "--data-dir", tmp_path)
    rows = json.loads(found.stdout)
    assert found.returncode == 1 and any(row["level"] == "error" for row in rows)


@pytest.fixture
def two_records(tmp_path):
    "Two runs that differ in the seed and in all numbers."
    for seed in (0, 1):
        spec = resolve(Spec(target="mfeat", method="erm", seed=seed))
        folder = run_folder(spec, tmp_path)
        folder.mkdir(parents=True)
        numbers = {}
        for name in HEADLINE: numbers.setdefault(name.split(".")[1], {})[name.split(".")[2]] = .5 + seed/10
        write_record(folder, spec, {**numbers, "accuracy": {"fused": .5 + seed/10, "image": .3 + seed/10}}, 1, "cpu",
                     2. + seed)
    return sorted(path.name for path in (tmp_path/"runs").iterdir())


def test_a_difference_is_ten_numbers_and_the_rest_on_demand(two_records, tmp_path):
    def differ(*options): return CliRunner().invoke(app, ["record", "diff", *two_records, *options, "--data-dir",
                                                          str(tmp_path)])
    short, whole, rows = differ(), differ("--all"), json.loads(differ("--json").output)
    assert short.exit_code == whole.exit_code == 1
    assert {row["name"] for row in rows} == {"hash", "spec.seed", *HEADLINE} and len(HEADLINE) == 10
    assert "spec.seed" in short.output and "results.accuracy.image" not in short.output and "--all" in short.output
    assert "results.accuracy.image" in whole.output and "seconds" in whole.output
