"""`jaxpo explain CONFIG [overrides]`: every field of the resolved run, its value, and where that came from."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.cli.recipe import OPTIONS, read_request, renamed, resolve_request
from jaxpo.config import OPTIMIZERS, Run
from jaxpo.config.fields import describe, flag, key, leaves
from jaxpo.config.serialise import to_jsonable
from jaxpo.errors import ConfigError
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.lineage import trained
from jaxpo.recipe.overrides import Resolved
from jaxpo.recipe.platform import PLATFORMS, expected_platform, shown

USAGE = f"""\
usage: jaxpo explain CONFIG [options]

Prints every field of the run, its value and its origin: default, config file, preset or command line.
Problems that would stop `jaxpo run` are listed at the end (and the exit code is 2).

  --json                 as a JSON list of objects: field, value, origin
  --changed              only what is not a default
  --platform NAME        cpu, gpu or tpu, for what the run leaves to it; default: that of this machine
{OPTIONS}"""


@dataclass(frozen=True)
class Row:
    """One field of a run: dotted path, value, and "default", "config file", "preset NAME", "platform (NAME)" or
    "command line", with what is decided later behind a semicolon."""

    field: str
    value: Any
    origin: str

    @property
    def changed(self) -> bool:
        """Whether somebody has said so: a file, a preset's name or the command line."""
        return self.origin != "default" and not self.origin.startswith("platform")


def main(argv: Sequence[str]) -> int:
    request = read_request(argv, {"json": False, "changed": False, "platform": True}, USAGE)
    if request is None:
        return 0
    if request.help:
        print(USAGE)
        return 0
    resolved = renamed(resolve_request(request), request.config)
    platform = parse_platform(request.flags.get("platform"))
    rows = [r for r in table(resolved, platform) if "changed" not in request.flags or r.changed]
    if "json" in request.flags:
        print(json.dumps([{**vars(r), "value": to_jsonable(r.value)} for r in rows], indent=2, ensure_ascii=False))
    else:
        show(rows)
    problems = list(find_problems(resolved.run))
    if problems:
        print("\nThis run cannot start:", *(f"  - {p}" for p in problems), sep="\n", file=sys.stderr)
    return 2 if problems else 0


def parse_platform(name: str | None) -> str:
    """The platform of that name, or this machine's."""
    if name is not None and name not in PLATFORMS:
        raise ConfigError(f"--platform: expected {', '.join(PLATFORMS)}, got {name!r}.")
    return name or expected_platform()


def table(resolved: Resolved, platform: str) -> Iterator[Row]:
    """Rows in the order of the configuration; fields of a named preset or optimiser follow its name.

    Args:
      platform: decides what the run leaves open.
    """
    decided = shown(resolved.run.compute, platform, layers_of(resolved.run))
    names = optimizer_names(resolved.run)
    unnamed = dict(names)
    for leaf in leaves(resolved.run):
        # Another optimiser keeps the fields that it shares with the file's.
        chosen = [p for p in (leaf.dotted, *parents(leaf.path)) if p in resolved.origins and p not in names]
        above = ".".join(leaf.path[:-1])
        if name := unnamed.pop(above, None):
            yield Row(above, name, resolved.origins.get(above, "default" if name == "adamw" else "config file"))
        same = leaf.default is not dataclasses.MISSING and leaf.value == leaf.default
        if leaf.dotted in resolved.origins:
            origin = resolved.origins[leaf.dotted]
        elif same:
            origin = "default"
        else:
            origin = f"command line ({flag(tuple(chosen[0].split('.')))})" if chosen else "config file"
        if leaf.path[0] == "compute" and decided[leaf.path[1]] != leaf.value:
            yield Row(leaf.dotted, decided[leaf.path[1]], f"platform ({platform})")
        elif (leaf.dotted, leaf.value) == ("compute.remat", "auto"):
            yield Row(leaf.dotted, leaf.value, f"{origin}; a policy is chosen when each stage begins")
        else:
            yield Row(leaf.dotted, leaf.value, origin)
        if leaf.dotted == "model" and isinstance(leaf.value, str):
            yield from preset_rows(leaf.value)


def layers_of(run: Run) -> int | None:
    """How deep the model is; None where a checkpoint says, or where it is not known how to count them."""
    from jaxpo.models.family import presets

    config = presets().get(run.model) if isinstance(run.model, str) else run.model
    found = getattr(config, "num_hidden_layers", None)
    return found if run.model_from is None and isinstance(found, int) else None


def optimizer_names(run: Any) -> dict[str, str]:
    """`{"sft.optimizer": "muon"}`: the name of each stage's optimiser, as the command line takes it."""
    names = {cls: name for name, cls in OPTIMIZERS.items()}
    return {f"{key(s.name)}.optimizer": names.get(type(s.optimizer), "") for s in trained(run)}


def parents(path: tuple[str, ...]) -> list[str]:
    return [".".join(path[:n]) for n in range(len(path) - 1, 0, -1)]


def preset_rows(name: str) -> Iterator[Row]:
    """The shape that a preset stands for; nothing for an unknown one, which is among the problems."""
    from jaxpo.models.family import presets

    config = presets().get(name)
    for leaf in leaves(config, ("model",)) if config is not None else ():
        yield Row(leaf.dotted, leaf.value, f"preset {name}")


def show(rows: Sequence[Row]) -> None:
    """A table when rich has a terminal to draw on, and the same columns in plain text otherwise."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"default": "dim", "config file": "cyan", "preset": "blue", "platform": "green"}
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("field", "value", "origin"):
        grid.add_column(title, overflow="fold")
    for row in rows:
        kind = row.origin.partition(";")[0]
        style = styles.get(kind if kind in styles else kind.partition(" ")[0], "bold yellow")
        grid.add_row(Text(row.field), Text(written(row.value)), Text(row.origin), style=style)
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    console.print(grid)


def written(value: Any) -> str:
    """A value as one would type it; long tuples are shortened."""
    if isinstance(value, tuple):
        text = " ".join(map(str, value)) or "()"
        return text if len(text) <= 100 else f"{text[:97]}…"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def field_help(run: Any) -> None:
    """`jaxpo run CONFIG --help`: the flags of this very recipe."""
    names, rows = optimizer_names(run), []
    for leaf in (leaf for leaf in leaves(run) if leaf.settable):
        if name := names.pop(".".join(leaf.path[:-1]), None):
            rows.append(Row(flag(leaf.path[:-1]), name, f"one of {', '.join(OPTIMIZERS)}"))
        rows.append(Row(flag(leaf.path), leaf.value, describe(leaf.hint)))
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("option", "now", "takes"):
        grid.add_column(title, overflow="fold")
    for row in rows:
        grid.add_row(Text(row.field, style="cyan"), Text(written(row.value)), Text(row.origin))
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    console.print(f"Options of the run {run.name!r}; `jaxpo run --help` explains the general ones.\n", markup=False)
    console.print(grid)
