"""Flags that decide which other flags exist: optional parts, losses, optimisers, merges, the model. Imports no jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jaxpo.config import OPTIMIZERS, OptimizerBase, Run
from jaxpo.config.fields import entries, is_config, key, named_config, optional_config, put
from jaxpo.errors import ConfigError, did_you_mean

Group = tuple[str, str, list[str]]


def switch_parts(
    run: Run, groups: list[Group], origins: dict[str, str], problems: list[str]
) -> tuple[Run, list[Group]]:
    """Optional parts of a stage: `--sft.lora` or any `--sft.lora.FIELD` switches one on, `--sft.lora None` off.

    Parts of parts too: `--pretrain.data.fim.rate 0.5`.
    """
    rest: list[Group] = []
    stages = {key(s.name): s for s in run.stages}
    wanted: dict[tuple[str, ...], Any] = {}
    for path, name, values in groups:
        head, _, field = path.partition(".")
        found = optional_part(stages[head], field.split(".")) if head in stages else None
        if found is None:
            rest.append((path, name, values))
            continue
        cls, present, part, below = found
        where = (head, *part)
        if below:
            rest.append((path, name, values))
            wanted.setdefault(where, present or cls())
        elif values in ([], ["True"], ["None"]):
            wanted[where] = None if values == ["None"] else present or cls()
            origins[".".join(where)] = "command line"
        else:
            shown = ", ".join(f"--{name}.{f.name.replace('_', '-')}" for f in dataclasses.fields(cls))
            problems.append(f"--{name}: takes no value, or None to leave it out; its fields are {shown}.")
    for where, value in wanted.items():
        run = put(run, where, value)
    return run, rest


def optional_part(value: Any, words: Sequence[str]) -> tuple[Any, Any, tuple[str, ...], tuple[str, ...]] | None:
    """The optional configuration on a path: its class, its present value, its path, and what lies below it."""
    for i, word in enumerate(words):
        if not is_config(value) or not hasattr(value, word):
            return None
        cls, value = optional_config(type(value), word), getattr(value, word)
        if cls is not None:
            return cls, value, tuple(words[: i + 1]), tuple(words[i + 1 :])
    return None


def add_named(run: Run, groups: list[Group], problems: list[str]) -> tuple[Run, list[Group]]:
    """Entries that a flag speaks of are there: `--preference.beside.reference.source sft` adds the reference's."""
    rest: list[Group] = []
    for path, name, values in groups:
        words = path.split(".")
        found = _named_part(next((s for s in run.stages if key(s.name) == words[0]), None), words[1:])
        if found is None:
            rest.append((path, name, values))
            continue
        owner, cls, at = found[0], found[1], found[2] + 2
        if len(words) < at + 2:
            fields = ", ".join(f"--{'.'.join(words[:at])}.NAME.{f.name}" for f in dataclasses.fields(cls))
            problems.append(f"--{name}: takes no value; its entries have names and fields: {fields}.")
            continue
        rest.append((path, name, values))
        if words[at] not in map(key, entries(owner, words[at - 1]) or ()):
            run = put(run, tuple(words[:at]), (*getattr(owner, words[at - 1]), (words[at], cls())))
    return run, rest


def _named_part(value: Any, words: Sequence[str]) -> tuple[Any, Any, int] | None:
    """The field of named entries on a path: what it is a field of, the class of its entries, its place on the path."""
    for i, word in enumerate(words):
        if not is_config(value) or not hasattr(value, word):
            return None
        if (cls := named_config(type(value), word)) is not None:
            return value, cls, i
        value = getattr(value, word)
    return None


def choose_values(
    run: Run, groups: list[Group], origins: dict[str, str], problems: list[str]
) -> tuple[Run, list[Group]]:
    """First the flags that choose a whole value, since they decide which other flags exist.

    These are losses, optimisers, merge methods and the model.
    """
    rest: list[Group] = []
    stages = {key(s.name): s for s in run.stages}
    for path, name, values in groups:
        head, _, field = path.partition(".")
        choose = chooser(stages.get(head), field, values)
        if choose is not None:
            try:
                run = put(run, (head, *field.split(".")), choose(values))
                origins[path] = "command line"
            except ConfigError as error:
                problems += [f"--{name}: {p}" for p in error.problems]
        elif path == "model" and is_config(run.model) and len(values) == 1:
            run, origins["model"] = dataclasses.replace(run, model=values[0]), "command line"
        else:
            rest.append((path, name, values))
    if isinstance(run.model, str) and any(p.startswith("model.") for p, _, _ in rest):
        from jaxpo.models.family import preset

        chosen = next((v[0] for p, _, v in rest if p == "model" and v), run.model)
        rest = [g for g in rest if g[0] != "model"]
        run = dataclasses.replace(run, model=preset(chosen))
        origins.update({f"model.{f.name}": f"preset {chosen}" for f in dataclasses.fields(run.model)})
    return run, rest


def chooser(stage: Any, field: str, values: list[str]) -> Callable[[list[str]], Any] | None:
    """What makes the whole value of a stage's field out of a flag's words; None = the field is not chosen by name."""
    if field == "loss" and hasattr(stage, "loss") and len(values) == 1:
        return choose_loss
    if field == "optimizer" and hasattr(stage, "optimizer"):
        return partial(choose_optimizer, stage.optimizer)
    if field in ("method", "search.methods") and hasattr(stage, "search") and values:
        return choose_merge if field == "method" else choose_merges
    return None


def choose_loss(values: list[str]) -> Any:
    """A method with its defaults."""
    from jaxpo.objectives.methods import resolve

    return resolve(values[0])()


def choose_optimizer(present: Any, values: list[str]) -> OptimizerBase:
    """Another optimiser, with whatever fields it shares with the present one."""
    cls = OPTIMIZERS.get(values[0].lower()) if len(values) == 1 else None
    if cls is None:
        given = " ".join(values) or "nothing"
        near = did_you_mean(given, OPTIMIZERS)
        raise ConfigError(f"there is no optimiser {given!r}; there are {', '.join(OPTIMIZERS)}.{near}")
    shared = {f.name for f in dataclasses.fields(cls)} & {f.name for f in dataclasses.fields(present)}
    return cls(**{field: getattr(present, field) for field in shared})


def choose_merge(values: list[str]) -> Any:
    """A merge method by name."""
    if len(values) != 1:
        raise ConfigError(f"needs one name, got {values}; a search tries several (search.methods).")
    return choose_merges(values)[0]


def choose_merges(values: list[str]) -> tuple[Any, ...]:
    """The merge methods that a search tries."""
    from jaxpo.merge.methods import resolve

    return tuple(resolve(value)() for value in values)
