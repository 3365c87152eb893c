"""Reference pages: a definition is shown by its signature, a table of its parameters, and its source and tests folded.

nbdev documents a definition in Markdown (`show_doc`); what its parameters are is read from the module's source, where
each stands on a line with its comment.
"""
import ast
import functools
import html
import io
import re
import tokenize
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTED = re.compile(r"\[source\]\(/blob/\w+/(?P<file>moosa/[\w/]+\.py)#L\d+\).*?^### (?P<name>\w+)$\n+"
                        r"^```python\n(?P<signature>.*?)^```$", re.M | re.S)
LISTED = 'code-fold="true" code-summary="Source"'
CITED = re.compile(r"(?P<code>(?P<ends>`+).+?(?P=ends))|\bref \d+(?:\.\d+)?(?:(?:, | and | to )\d+(?:\.\d+)?)*", re.S)
DATA = {"dataclass", "NamedTuple", "TypedDict"}  # classes that are made of their fields


@functools.cache
def module(file: str) -> tuple[dict[str, ast.AST], list[str], dict[int, str]]:
    "The definitions of a module by name, its lines, and its comments by line."
    text = (ROOT/file).read_text("utf-8")
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {n.name: n for n in ast.parse(text).body if isinstance(n, kinds)}, text.splitlines(), comments(text)


def comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string.lstrip("# ").rstrip() for t in tokens if t.type == tokenize.COMMENT}


def made_of_fields(node: ast.ClassDef) -> bool:
    names = {ast.unparse(n.func if isinstance(n, ast.Call) else n) for n in (*node.decorator_list, *node.bases)}
    return bool({name.split(".")[-1] for name in names} & DATA)


def called(node: ast.AST) -> ast.AST | None:
    "What is called when a definition is: of a class, its `__init__`, or the class itself where fields make it."
    if not isinstance(node, ast.ClassDef): return node
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    return init or (node if made_of_fields(node) else None)


def fields(node: ast.ClassDef) -> list[tuple]:
    return [(n.target.id, n.annotation, n.value, n.lineno) for n in node.body
            if isinstance(n, ast.AnnAssign) and n.target.id[0] != "_"]


def arguments(node: ast.AST) -> list[tuple]:  # name, type, default, line
    if isinstance(node, ast.ClassDef): return fields(node)
    a, found = node.args, []
    plain = [*a.posonlyargs, *a.args]
    defaults = [*[None]*(len(plain) - len(a.defaults)), *a.defaults]
    found += [(arg.arg, arg.annotation, value, arg.lineno) for arg, value in zip(plain, defaults)]
    if a.vararg: found.append((f"*{a.vararg.arg}", a.vararg.annotation, None, a.vararg.lineno))
    found += [(arg.arg, arg.annotation, value, arg.lineno) for arg, value in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: found.append((f"**{a.kwarg.arg}", a.kwarg.annotation, None, a.kwarg.lineno))
    return [row for row in found if row[0] not in ("self", "cls")]


def text_of(node: ast.AST | None) -> str: return "" if node is None else ast.unparse(node)


def default_of(value: ast.AST | None) -> str:
    "A default as readers want it: `field(default_factory=dict)` is `dict()`, and a long one is shortened."
    shown = re.sub(r"^(?:dataclasses\.)?field\(default_factory=(\w+)\)$", r"\1()", text_of(value))
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def signature(name: str, node: ast.AST) -> str:
    "A call with names and defaults, one line if it fits."
    def shown(row): return f"{row[0]}={default_of(row[2])}" if row[2] is not None else row[0]

    rows, ends = arguments(node), "" if isinstance(node, ast.ClassDef) else text_of(node.returns)
    keyword_only = {arg.arg for arg in node.args.kwonlyargs} if hasattr(node, "args") else set()
    starred = hasattr(node, "args") and node.args.vararg
    first = next((i for i, row in enumerate(rows) if row[0] in keyword_only), None)
    parts = [shown(row) for row in rows]
    if first is not None and not starred: parts.insert(first, "*")
    ends = f" -> {ends}" if ends not in ("", "None") else ""
    line = f"{name}({', '.join(parts)}){ends}"
    return line if len(line) <= 88 else f"{name}(\n    {wrapped(parts)}\n){ends}"


def wrapped(parts: list[str]) -> str:
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) > 80: lines.append("")
        lines[-1] += f"{part}, "
    return "\n    ".join(line.rstrip() for line in lines).rstrip(",")


def marked(comment: str) -> str: return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(comment))


def table(node: ast.AST, said: dict[int, str]) -> str:
    """Parameters with type, default and what the source says beside them: those on one line share what it says.

    What stands behind a whole signature is said of what comes back, or else of the last parameter."""
    rows, body = arguments(node), []
    returns = text_of(getattr(node, "returns", None)) not in ("", "None")
    in_one_line = not isinstance(node, ast.ClassDef) and {line for *_, line in rows} == {node.lineno}
    for i, (name, kind, value, line) in enumerate(rows):
        cells = [name, text_of(kind), default_of(value)]
        shown = "".join(f"<td><code>{html.escape(c)}</code></td>" if c else "<td></td>" for c in cells)
        told, alike = marked(said.get(line, "")), sum(row[3] == line for row in rows)
        if in_one_line: shown += f"<td>{'' if returns or i + 1 < len(rows) else told}</td>"
        elif i == 0 or rows[i - 1][3] != line: shown += f'<td rowspan="{alike}">{told}</td>'
        body.append(f"<tr>{shown}</tr>")
    if returns:
        what = marked(said.get(node.returns.end_lineno, ""))
        kind = html.escape(text_of(node.returns))
        body.append(f"<tr><td>returns</td><td><code>{kind}</code></td><td></td><td>{what}</td></tr>")
    if not body: return ""
    head = "<thead><tr><th>parameter</th><th>type</th><th>default</th><th>what it is</th></tr></thead>"
    return f'```{{=html}}\n<table class="parameters">{head}<tbody>{"".join(body)}</tbody></table>\n```\n'


def first_line(node: ast.AST) -> int: return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def folded_source(node: ast.AST, lines: list[str]) -> str:
    text = "\n".join(lines[first_line(node) - 1:node.end_lineno])
    return f"````{{.python .cell-code {LISTED}}}\n{text}\n````\n"


def documented(doc: str) -> str:
    "What `show_doc` wrote, tidied, with a short signature, a table of parameters, and the source as it is."
    m = DOCUMENTED.search(doc)
    if not m: return tidy(doc)
    definitions, lines, said = module(m["file"])
    node = definitions.get(m["name"])
    if node is None: return tidy(doc)
    call = called(node)
    if call is None:  # as nbdev found it: of another class, or made by a function
        try: call, said = ast.parse(f"{m['signature'].rstrip()}\n    pass").body[0], comments(m["signature"])
        except (SyntaxError, tokenize.TokenError): return tidy(doc)
        call.returns = None
    short = signature(m["name"], call)
    rest = doc[m.end():].strip()
    before = doc[:m.start("signature")].replace("```python\n", "```{.python .signature code-line-numbers=true}\n")
    told = tidy(f"{before}{short}\n```\n\n{rest}")
    return f"{told}\n\n{table(call, said)}\n{folded_source(node, lines)}"


def listed(cells: list) -> set[str]:
    "The definitions whose source stands folded below their documentation."
    outputs = [out for cell in cells if cell.cell_type == "code" for out in cell.outputs]
    texts = [out.get("data", {}).get("text/markdown") or "" for out in outputs]
    return {name for text in texts if LISTED in text for name in re.findall(r"^### (\w+)$", text, re.M)}


def exported(cell) -> bool:
    "Whether nbdev shows a cell as one that is exported."
    return cell.cell_type == "code" and 'code-summary: "Exported source"' in cell.source


def without(source: str, names: set[str]) -> str:
    "The source of a cell without the definitions of `names`; empty where nothing else is in it."
    lines, rest = source.splitlines(), []
    for node in ast.parse(source).body:
        if getattr(node, "name", None) not in names: rest.append(node)
        else: lines[first_line(node) - 1:node.end_lineno] = [None]*(node.end_lineno - first_line(node) + 1)
    kept = "\n".join(line for line in lines if line is not None)
    return re.sub(r"\n{3,}", "\n\n", kept).rstrip() + "\n" if rest else ""


def listed_once(cells: list) -> list:
    "The cells of a page, where code that is listed below its documentation is not shown again."
    names, kept = listed(cells), []
    for cell in cells:
        if exported(cell) and not cell.outputs:
            cell.source = without(cell.source, names)
            if not cell.source: continue
        kept.append(cell)
    return kept


def is_test(node: ast.AST) -> bool:
    name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return isinstance(node, ast.Assert) or name.split(".")[-1].startswith("test_")


def only_tests(cell) -> bool:
    "Whether a code cell shows nothing and asserts something."
    if cell.cell_type != "code" or cell.get("outputs"): return False
    try: tree = ast.parse(cell.source)
    except SyntaxError: return False
    return any(is_test(node) for node in ast.walk(tree))


def fold(cell):
    "Fold a cell that only tests, or is closed in JupyterLab."
    closed = cell.cell_type == "code" and cell.metadata.get("jupyter", {}).get("source_hidden")
    summary = "Tests" if only_tests(cell) else "Code" if closed else ""
    if summary: cell.source = f'#| code-fold: true\n#| code-summary: {summary}\n{cell.source}'


# --- as nbdev writes it ----------------------------------------------------------------------------------------------

def escape_stars(m: re.Match) -> str:
    "The first line of a docstring, which nbdev sets in italics: its own stars, but for those in code, are no marks."
    return "*" + re.sub(r"(`[^`]*`)|\*", lambda part: part[1] or r"\*", m[1]) + "*"


def tidy(doc: str) -> str:
    "Shorten the signatures that show_doc writes, and let [source] lead to our own page when no repository is named."
    for pattern, new in (
        (r"\b(?:moosa(?:\.[a-z_0-9]+)*|collections\.abc|pathlib|typing)\.(?=[A-Z])", ""),
        (r"\btorch\.(nn|optim)(?:\.[a-z_]+)+\.(?=[A-Z])", r"\1."),
        (r":(?:builtin_function_or_method|function|type)=", "="),  # types that were guessed from a default
        (r"=([A-Z]\w*)\([^()`]{20,}\)", r"=\1(...)"),  # a long default
        (r"(?m)^def (_?[A-Z]\w*\((?:(?:\n    .*)+\n)?\))(?:->None)?:", r"class \1:"),
        (r"(?m)^(class \w+\()\n    \*args(?::Any)?, \*\*kwargs(?::Any)?\n\)", r"\1)"),  # no __init__ of its own
        (r"(?m)^\*(.+)\*$", escape_stars),
        (r"(?m)^```python", "```{.python code-line-numbers=true}"),
        (r"\]\(/blob/\w+/(moosa/[\w/]+)\.py#L", r"](/source/\1.md#cb1-"),
        (r'\{target="_blank" style="[^"]*"\}', "{.source-link}"),
    ): doc = re.sub(pattern, new, doc)
    return CITED.sub(cite, doc)


@functools.cache
def sections() -> dict[str, str]:
    "Number of a section of nbs/reference.ipynb -> its address there."
    text = "\n".join(cell.source for cell in nbformat.read(ROOT/"nbs"/"reference.ipynb", 4).cells)
    found = re.findall(r"^##+ (\d+(?:\.\d+)?) (.+)$", text, re.M)
    return {number: re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for number, title in found}


def cite(m: re.Match) -> str:
    "A docstring's `ref 4.1, 4.2` with links to the reference; code stays."
    if m["code"]: return m[0]
    return re.sub(r"(?:ref )?(\d+(?:\.\d+)?)", lambda n: f"[{n[0]}](/reference.html#{sections()[n[1]]})", m[0])
