"""A page for each command of `moosa`, made from the command itself: what `--help` says, with room for it."""
import html
import re
from itertools import groupby
from pathlib import Path

import typer
import yaml
from moosa.cli import app

FOLDER = "cli"  # of the site


def commands(command, name: str = "moosa") -> list[tuple]:
    "The command and all below it, by full name."
    below = getattr(command, "commands", {})
    return [(name, command), *(found for part, sub in below.items() for found in commands(sub, f"{name} {part}"))]


def all_commands() -> list[tuple]: return commands(typer.main.get_command(app))


def page_of(name: str) -> str:
    "Where the page of a command lies: `moosa data list` -> `cli/moosa-data-list.md`."
    return f"{FOLDER}/{name.replace(' ', '-')}.md"


def said(text: str | None) -> str:
    "Help as HTML: paths, options and commands in code."
    shown = html.escape(" ".join((text or "").split()))
    shown = re.sub(r"(?<![\w`/-])(--[a-z][\w-]*(?:=\S+\w)?|\$[A-Z_]+|[\w.]+\.(?:yaml|ipynb|json|csv|py)\b(?::\w+)?)",
                   r"<code>\1</code>", shown)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", shown)


def row(param, context) -> str:
    "A parameter as `--help` has it: names, kind of value, what it is, and at the end of that its default in brackets."
    called, about = param.get_help_record(context) or (param.human_readable_name, "")
    names, kind = re.fullmatch(r"((?:-\S+(?: / |, )?)+|\[?\S+)(.*)", called).groups()
    ends = re.search(r"\s*\[((?:default: |required).*)\]$", about)
    default = re.sub(r"^default: ", "", ends[1]) if ends else ""
    shown = [f"<code>{html.escape(name)}</code>" for name in re.split(r"[,/ ]+", names.strip("[] "))]
    value = f"<code>{html.escape(kind.strip())}</code>" if kind.strip() else ""
    cells = ("<br>".join(shown), value, said(about[:ends.start()] if ends else about),
             f"<code>{html.escape(default)}</code>" if default not in ("", "required") else default)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def table(params: list, context) -> str:
    head = "<thead><tr><th>name</th><th>value</th><th>what it is</th><th>default</th></tr></thead>"
    rows = "".join(row(param, context) for param in params)
    return f'```{{=html}}\n<table class="parameters options">{head}<tbody>{rows}</tbody></table>\n```'


def panels(command) -> list[tuple[str, list]]:
    "Arguments, and options by their panel, in the order in which `--help` shows them."
    def panel(param) -> str:
        kind = "Arguments" if param.param_type_name == "argument" else "Options"
        return getattr(param, "rich_help_panel", None) or kind

    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    order = list(dict.fromkeys(panel(param) for param in shown))
    shown.sort(key=lambda param: order.index(panel(param)))
    found = [(title, list(group)) for title, group in groupby(shown, panel)]
    return sorted(found, key=lambda part: part[0] != "Arguments")


def listing(name: str, command) -> str:
    "The commands of a group, with links and one line each."
    rows = [f"| [`{name} {part}`]({Path(page_of(f'{name} {part}')).name}) | {sub.get_short_help_str(200)} |"
            for part, sub in command.commands.items()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def page(name: str, command) -> str:
    "One command's page, in Markdown."
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    about, *more = re.split(r"\n\s*\n", (command.help or "").strip())
    title = name if " " in name else f"The {name} command"
    front = yaml.safe_dump({"title": title, "description": " ".join(about.split())}, allow_unicode=True)
    parts = [f"---\n{front}---", f"```bash\n{usage}\n```", *more]
    if hasattr(command, "commands"): parts += ["## Commands", listing(name, command)]
    for title, params in panels(command): parts += [f"## {title}", table(params, context)]
    if command.epilog: parts += ["## See also", command.epilog]
    return "\n\n".join(parts) + "\n"


def write_commands(site: Path) -> list[dict]:  # entries of the sidebar
    "Write a page for each command; return where they lie."
    entries = []
    for name, command in all_commands():
        (site/page_of(name)).parent.mkdir(parents=True, exist_ok=True)
        (site/page_of(name)).write_text(page(name, command), "utf-8")
        entries.append({"href": page_of(name), "text": name})
    return entries
