"""`jaxpo losses [NAME]`: the catalogue of preference methods, or one of them with its equation. Imports no jax."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.losses_document import document, needs_in_words
from jaxpo.config.fields import default_of
from jaxpo.errors import ConfigError, did_you_mean


def main(argv: Sequence[str]) -> int:
    parser = Parser("losses", "The catalogue of preference methods, for `--stage.loss NAME`.")
    parser.add_argument("name", nargs="?", help="one method: its equation, hyper-parameters and needs")
    parser.add_argument("--family", help="only this family, e.g. pairs or lists")
    parser.add_argument("--json", action="store_true", help="a JSON list of objects")
    parser.add_argument("--markdown", action="store_true", help="the page docs/losses.md")
    args = parser.parse(argv)

    from jaxpo.objectives.methods import METHODS, resolve

    methods = [resolve(args.name)] if args.name else list(METHODS.values())
    rows = [describe(m) for m in methods if not args.family or m.INFO.family == args.family]
    if args.family and not rows:
        families = sorted({m.INFO.family for m in methods})
        raise ConfigError(
            f"--family: there is no {args.family!r}, only {', '.join(families)}.{did_you_mean(args.family, families)}"
        )
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif args.markdown:
        print(document(rows, function_doc), end="")
    elif args.name:
        print(page(rows[0]))
    else:
        show_table(rows)
    return 0


def describe(method: Any) -> dict[str, Any]:
    """A catalogue entry as plain values."""
    info, needs = method.INFO, method.NEEDS
    return {
        "name": info.name,
        "function": info.function,
        "family": info.family,
        "paper": info.paper,
        "arxiv": info.arxiv,
        "aliases": list(info.aliases),
        "needs": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(needs).items()}
        | {"networks": dict(needs.networks), "written": written(method)},
        "defaults": {f.name: default_of(f) for f in dataclasses.fields(method) if f.init},
        "certainty": info.certainty,
    }


def written(method: Any) -> str:
    """What a method on answers that the model writes is given instead of rows with answers; "" = it has such rows."""
    answering = getattr(method(), "answering", None)
    if answering is None:
        return ""
    given = "prompts" if answering.by != "policy_or_data" else "prompts with completions"
    if not set(method.NEEDS.roles) <= set(answering.roles):  # it reads more than what is written
        given = "pairs with a prompt"
    return f"{given} and rewards" if answering.rewarded else given


def function_doc(path: str) -> str:
    """The docstring of `package.function`, found in the package's sources without importing it; "" if it has none."""
    package, _, name = path.rpartition(".")
    return docstrings(package).get(name, "")


@cache
def docstrings(package: str) -> dict[str, str]:
    """Function name -> docstring, over all modules of a package (or of one module)."""
    spec = importlib.util.find_spec(package)
    folders = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    files = sorted(f for folder in folders for f in folder.glob("*.py"))
    if spec and spec.origin and not folders:
        files = [Path(spec.origin)]
    found = {}
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found[node.name] = ast.get_docstring(node) or ""
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in found:
                found |= {t.id: found[node.value.id] for t in node.targets if isinstance(t, ast.Name)}
    return found


def page(row: dict[str, Any]) -> str:
    """One method in full."""
    flags = "  ".join(f"--stage.loss.{k.replace('_', '-')} {words(v)}" for k, v in row["defaults"].items())
    arxiv = f" (arXiv {row['arxiv']})" if row["arxiv"] else ""
    lines = [
        f"{row['name']}: {row['paper']}{arxiv}",
        f"  family     {row['family']}",
        f"  needs      {needs_in_words(row['needs'])}",
        f"  use        --stage.loss {row['name']}  {flags}".rstrip(),
        f"  aliases    {', '.join(row['aliases']) or 'none'}",
        f"  certainty  {row['certainty']}",
        f"  function   {row['function']}",
    ]
    return "\n".join(lines) + "\n\n" + textwrap.indent(function_doc(row["function"]), "  ")


def words(value: Any) -> str:
    """A value as it stands on the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def show_table(rows: list[dict[str, Any]]) -> None:
    """One line per method."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "family", "needs", "defaults", "paper", "certainty"):
        grid.add_column(title, overflow="fold", no_wrap=title == "name")
    for row in rows:
        defaults = " ".join(f"{k}={v}" for k, v in row["defaults"].items())
        arxiv = f" ({row['arxiv']})" if row["arxiv"] else ""
        cells = (row["family"], needs_in_words(row["needs"]), defaults, row["paper"] + arxiv, row["certainty"])
        grid.add_row(Text(row["name"], style="bold cyan"), *map(Text, cells))
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(grid)
    console.print(f"\n{len(rows)} methods.", highlight=False)
    console.print("`jaxpo losses NAME` shows the equation and what a method needs.", markup=False)
