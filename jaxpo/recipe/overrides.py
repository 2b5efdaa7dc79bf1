"""From a configuration file and command-line flags to one resolved `Run`, with the origin of every value.

    run = load_run("sft")
    resolved = resolve_run(run, ["--sft.optimizer.learning-rate", "1e-4", "--mesh.tensor", "2"])

Flags address run fields by name and stage fields by the stage's name; `--stage.X` means the one stage that has X.
An optional part of a stage is switched on by its own name or any of its fields (`--sft.lora.rank 8`). `tyro` reads each
value by the field's annotation. Imports no jax.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

from jaxpo.config import Run, serialise
from jaxpo.config.fields import BUDGETS, Leaf, describe, flag, key, leaves, put
from jaxpo.config.file import explained, load_module
from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.recipe.checks.run import check_names
from jaxpo.recipe.choices import add_named, choose_values, switch_parts
from jaxpo.recipe.library import locate

ALIASES = {"preset": "model", "run": "name"}


@dataclass(frozen=True)
class Resolved:
    """A run as it will be executed.

    Attributes:
      origins: dotted path -> the flag that set it; what is absent comes from the file or is a default.
    """

    run: Run
    origins: dict[str, str]


def load_run(spec: str) -> Run:
    """The `Run` of a configuration file; see `load_run_with`."""
    return load_run_with(spec, ())[0]


def load_run_with(spec: str, words: Sequence[str]) -> tuple[Run, list[str]]:
    """The `Run` of a configuration file, and the command-line words that are not parameters of its function.

    Args:
      spec: `file.py` (its function `config`), `file.py:function`, the same of a recipe's name, a saved `config.json`,
        or a run directory.
      words: a flag named like a parameter of the function (`--text PATH` for `config(text=None)`) is its argument.

    Raises:
      ConfigError: what is missing or broken, with the file and, for errors in Python files, the line.
    """
    rest = list(words)
    path_text, _, function = spec.partition(":") if not Path(spec).exists() else (spec, "", "")
    path = locate(path_text)
    if path.suffix == ".json":
        run = serialise.load(path, trust_files=True)
    else:
        run, rest = call_config(load_module(path), path, function or "config", rest)
    if not isinstance(run, Run):
        raise ConfigError(f"{spec}: must give a jaxpo.config.Run, got {type(run).__name__}.")
    return run, rest


def call_config(module: ModuleType, path: Path, function: str, words: Sequence[str]) -> tuple[Any, list[str]]:
    """Call the named function of a configuration module with the flags named like its parameters; and the others."""
    found = getattr(module, function, None)
    if not callable(found):
        names = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
        has = f"it has {', '.join(names)}" if names else "it has no functions"
        raise ConfigError(f"{path}: has no function {function}() ({has}).{did_you_mean(function, names)}")
    known = inspect.signature(found).parameters
    arguments: dict[str, Any] = {}
    rest: list[str] = []
    for name, values in split_flags(words):
        parameter = name.replace("-", "_")
        if parameter not in known:
            rest += [f"--{name}", *values]
            continue
        hint = _hint(found, parameter)
        values = values or (["True"] if hint is bool else [])
        if len(values) != 1:
            raise ConfigError(f"--{name}: needs one value (a parameter of {function}() in {path}), got {values}.")
        default = known[parameter].default
        arguments[parameter] = parse_value(Leaf((parameter,), hint, default, default), values)
    with explained(path):
        return found(**arguments), rest


def _hint(found: Any, parameter: str) -> Any:
    """What type a flag is read as: the parameter's annotation, or text where there is none."""
    try:
        return get_type_hints(found).get(parameter, str)
    except NameError:  # annotations that are there for type checkers alone
        return str


def resolve_run(run: Run, argv: Sequence[str]) -> Resolved:
    """Apply command-line flags to a run.

    Raises:
      ConfigError: all unknown flags (with suggestions) and unreadable values together.
    """
    check_names(run)
    problems: list[str] = []
    origins: dict[str, str] = {}
    groups = [(canonical(run, name, problems), name, values) for name, values in split_flags(argv)]
    groups = [g for g in groups if g[0]]
    run, groups = switch_parts(run, groups, origins, problems)
    run, groups = add_named(run, groups, problems)
    run, rest = choose_values(run, groups, origins, problems)
    table = {leaf.dotted: leaf for leaf in leaves(run)}
    for path, name, values in rest:
        leaf, values = find_leaf(table, path, values)
        if leaf is None:
            problems.append(f"--{name}: there is no such option.{suggest(path, table)}")
        elif not leaf.settable:
            problems.append(f"--{name}: is set in the configuration file only.")
        else:
            try:
                run = put(run, leaf.path, parse_value(leaf, values))
                origins[leaf.dotted] = "command line"
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Resolved(replace_budgets(run, origins), origins)


def split_flags(argv: Sequence[str]) -> list[tuple[str, list[str]]]:
    """[`--a.b`, `1`, `--c=2`] -> [("a.b", ["1"]), ("c", ["2"])].

    Raises:
      ConfigError: a word that belongs to no flag.
    """
    groups: list[tuple[str, list[str]]] = []
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            groups.append((name, [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise ConfigError(f"{word!r}: expected an option such as --seed 1 or --sft.optimizer.learning-rate 1e-4.")
    return groups


def canonical(run: Run, name: str, problems: list[str]) -> str:
    """A flag's dotted path: underscores, aliases, and `stage.X` as the name of the stage that is meant; "" if none."""
    path = name.replace("-", "_")
    head, _, rest = path.partition(".")
    if not rest:
        return ALIASES.get(head, head)
    if head != "stage" or any(key(s.name) == "stage" for s in run.stages):
        return path
    names = [key(s.name) for s in run.stages]
    first = rest.partition(".")[0]
    stages = [s for s in run.stages if any(f.name == first for f in dataclasses.fields(s))]
    if len(stages) > 1 and first in ("loss", "precompute_ref_log_probs", "beside"):
        # SFT's and Reward's methods are optional: a stage that has chosen one is meant before a stage that has not.
        stages = [s for s in stages if getattr(s, "loss", None) is not None] or stages
    having = [key(s.name) for s in stages]
    if len(having) == 1:
        return f"{having[0]}.{rest}"
    if having:
        shown = flag((rest,))[2:]
        problems.append(f"--{name}: several stages have it; name one: {', '.join(f'--{s}.{shown}' for s in having)}.")
    else:
        known = sorted({f.name for s in run.stages for f in dataclasses.fields(s)})
        hint = did_you_mean(first, [k.replace("_", "-") for k in known], prefix="--stage.")
        problems.append(f"--{name}: no stage ({', '.join(names)}) has a field {first!r}.{hint}")
    return ""


def find_leaf(table: dict[str, Leaf], path: str, values: list[str]) -> tuple[Leaf | None, list[str]]:
    """The field of a path; `--x` and `--no-x` set a boolean."""
    leaf = table.get(path)
    if leaf is not None:
        return leaf, values or (["True"] if leaf.hint is bool else [])
    head, _, last = path.rpartition(".")
    positive = table.get(f"{head}.{last[3:]}".lstrip(".")) if last.startswith("no_") else None
    if positive is not None and positive.hint is bool and not values:
        return positive, ["False"]
    return None, values


def suggest(path: str, table: dict[str, Leaf]) -> str:
    """Near misses: by the whole path, then fields of that last name anywhere."""
    dashed = {p.replace("_", "-"): leaf for p, leaf in table.items() if leaf.settable}
    wanted = path.replace("_", "-")
    last = wanted.rpartition(".")[2]
    same = [p for p in dashed if p.rpartition(".")[2] == last]
    if same and "." not in wanted:
        return f" Did you mean {' or '.join('--' + p for p in same[:4])}?"
    return did_you_mean(wanted, dashed, prefix="--") or did_you_mean(
        last, {p.rpartition(".")[2] for p in dashed}, prefix="--…"
    )


def parse_value(leaf: Leaf, values: list[str]) -> Any:
    """The words after a flag as a value of the field's type.

    Raises:
      ConfigError: names the flag, the type and what was given.
    """
    import tyro

    kinds = {leaf.hint, *get_args(leaf.hint)}
    if bool in kinds:
        values = [v.capitalize() if v.lower() in ("true", "false") else v for v in values]
    if int in kinds and float not in kinds and str not in kinds:
        values = [whole_number(v) for v in values]
    holder = dataclasses.make_dataclass("Value", [("value", leaf.hint)])
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            parsed: Any = tyro.cli(holder, args=["--value", *values], config=(tyro.conf.FlagConversionOff,))
    except SystemExit:
        given = " ".join(values) if values else "nothing"
        raise ConfigError(f"{flag(leaf.path)}: expected {describe(leaf.hint)}, got {given!r}.") from None
    return parsed.value


def whole_number(text: str) -> str:
    """`1e6` as an integer's digits; anything else unchanged."""
    if re.fullmatch(r"[+-]?\d+(\.\d+)?[eE]\+?\d+", text) and float(text).is_integer():
        return str(int(float(text)))
    return text


def replace_budgets(run: Run, origins: dict[str, str]) -> Run:
    """A budget given on the command line replaces the file's, whatever unit that one has."""
    for stage in run.stages:
        given = [b for b in BUDGETS if f"{key(stage.name)}.{b}" in origins]
        if len(given) != 1:
            continue
        for other in BUDGETS:
            if other not in given and getattr(stage, other, None) is not None:
                run = put(run, (key(stage.name), other), None)
                origins[f"{key(stage.name)}.{other}"] = f"command line ({flag((given[0],))})"
    return run
