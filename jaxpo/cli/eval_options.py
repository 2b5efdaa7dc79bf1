"""The tasks of `jaxpo eval` and their settings, from the command line's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args, get_origin

from jaxpo.cli.args import Parser
from jaxpo.config.fields import Leaf, describe, hints_of
from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.recipe.overrides import parse_value

if TYPE_CHECKING:
    from jaxpo.evaluate.runner import Job

# Settings that many tasks have, with options of their own: whoever has the field takes the value.
_SHARED = (
    ("limit", "N", "examples per task, evenly spaced (default all)"),
    ("shots", "N", "solved examples before every question"),
    ("samples", "N", "answers per prompt"),
    ("k", "K[,K]", "pass@k of these; each at most --samples"),
    ("temperature", "T", "of answers; 0 = greedy"),
    ("max_new_tokens", "N", "per answer"),
    ("seed", "N", "of draws"),
)


def add_task_options(parser: Parser) -> None:
    """Settings of the tasks."""
    group = parser.add_argument_group("settings of the tasks that have them")
    for name, metavar, meaning in _SHARED:
        group.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=meaning)
    group.add_argument("--chat", action="store_true", help="put prompts into the chat template")
    group.add_argument(
        "--set", action="append", default=[], metavar="TASK.SETTING=VALUE", help="any other; may be repeated"
    )
    group.add_argument("--include", metavar="FOLDER", help="lm-eval's task files (YAML) of your own")


def jobs_of(args: Any) -> list[Job]:
    """The tasks with their settings, in order.

    Raises:
      ConfigError: lists every unknown task, unknown setting and unreadable value.
    """
    problems: list[str] = []
    found: list[tuple[str, str, str | None, type[Any]]] = []
    for word in args.tasks:
        name, colon, source = word.partition(":")
        try:
            found.append((word, name, source if colon else None, kind_of(name, args.include)))
        except ConfigError as error:
            problems += error.problems
    problems += twice(found)
    if problems:
        raise ConfigError(problems)
    classes = {cls.NAME: cls for *_, cls in found}
    settings = {name: shared(cls, args) for name, cls in classes.items()}
    problems += unused(args, classes.values())
    for text in args.set:
        problems += _put(text, classes, settings)
    if problems:
        raise ConfigError(problems)
    return [_job(word, name, source, cls, settings[cls.NAME]) for word, name, source, cls in found]


def twice(found: Sequence[tuple[str, str, str | None, type[Any]]]) -> Iterator[str]:
    """Words that ask for what another has asked for."""
    seen = set()
    for word, name, source, cls in found:
        asked = (cls, source if name == cls.NAME else word)
        if asked in seen:
            yield f"--tasks: {word} is given twice."
        seen.add(asked)


def kind_of(name: str, include: str | None) -> type[Any]:
    """The class of a task; lm-eval's for a name that only it knows."""
    from jaxpo.evaluate.harness.task import Harness
    from jaxpo.evaluate.tasks.registry import TASKS, task_class

    hint = did_you_mean(name, [*TASKS, Harness.NAME])
    if name in TASKS:
        return task_class(name)
    if name == Harness.NAME or (Harness.installed() and Harness.includes(name, include)):
        return Harness
    if hint:
        # Before lm-eval is asked, which takes half a minute to know its names.
        raise ConfigError(f"--tasks: there is no task {name!r}.{hint} A task of lm-eval is {Harness.NAME}:{name}.")
    if Harness.installed() and Harness.knows(name, include):
        return Harness
    looked = "" if Harness.installed() else " lm-eval, which has others, is not installed."
    raise ConfigError(f"--tasks: there is no task {name!r}.{looked} `jaxpo eval --list` lists them.")


def _job(word: str, name: str, source: str | None, cls: type[Any], settings: dict[str, Any]) -> Job:
    from jaxpo.evaluate.harness.task import Harness
    from jaxpo.evaluate.runner import TaskJob

    if cls is Harness:
        return Harness(source=source if name == Harness.NAME else word, **settings)
    return TaskJob(word, cls(source=source, **settings))


def shared(cls: type[Any], args: Any) -> dict[str, Any]:
    """What the options that many tasks share say for one of them."""
    names = {field.name for field in dataclasses.fields(cls)}
    given = {name: getattr(args, name) for name, *_ in _SHARED if name in names and getattr(args, name) is not None}
    found = {name: parsed(cls, name, text) for name, text in given.items()}
    found |= {"chat": True} if args.chat and "chat" in names else {}
    return found | ({"include": args.include} if args.include and "include" in names else {})


def unused(args: Any, classes: Any) -> Iterator[str]:
    """Options that none of the tasks has."""
    names = {field.name for cls in classes for field in dataclasses.fields(cls)}
    for name in (*(name for name, *_ in _SHARED), "chat", "include"):
        if getattr(args, name) not in (None, False) and name not in names:
            yield f"--{name.replace('_', '-')}: none of these tasks has it; leave it out."


def _put(text: str, classes: dict[str, type[Any]], settings: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Take one `TASK.SETTING=VALUE` into the settings; gives what is wrong with it."""
    where, equals, value = text.partition("=")
    task, dot, name = where.partition(".")
    name = name.replace("-", "_")
    if not equals or not dot:
        yield f"--set {text}: expected TASK.SETTING=VALUE."
    elif task not in classes:
        yield f"--set {text}: {task!r} is none of the tasks.{did_you_mean(task, classes)}"
    elif name not in (known := _settings(classes[task])):
        yield f"--set {text}: {task} has no setting {name!r}.{did_you_mean(name, known)}"
    else:
        try:
            settings[task][name] = parsed(classes[task], name, value)
        except ConfigError as error:
            yield from error.problems


def parsed(cls: Any, name: str, text: str) -> Any:
    """A setting's value as its annotation reads it; the parts of several are separated by commas."""
    hint = hints_of(cls)[name]
    kinds = (hint, *get_args(hint))
    several = any(kind is tuple or get_origin(kind) is tuple for kind in kinds)
    default = next(field.default for field in dataclasses.fields(cls) if field.name == name)
    return parse_value(Leaf((cls.NAME, name), hint, None, default), text.split(",") if several else [text])


def catalogue() -> Iterator[str]:
    """The tasks, what file each takes, and its settings."""
    from jaxpo.evaluate.harness.task import Harness
    from jaxpo.evaluate.tasks.registry import TASKS, task_class

    for name in (*TASKS, Harness.NAME):
        cls: Any = Harness if name == Harness.NAME else task_class(name)
        yield f"{name}{_usage(cls)}  {cls.ABOUT}"
        if cls.NEEDS:
            yield f"    {cls.SOURCE}: {cls.NEEDS}"
        fields = {field.name: field for field in dataclasses.fields(cls)}
        told = [f"{n}={fields[n].default!r} ({describe(hints_of(cls)[n])})" for n in _settings(cls)]
        yield f"    settings: {', '.join(told)}"


def _usage(cls: type[Any]) -> str:
    return "" if not cls.NEEDS else f"[:{cls.SOURCE}]" if cls.OPTIONAL else f":{cls.SOURCE}"


def _settings(cls: type[Any]) -> Sequence[str]:
    return [field.name for field in dataclasses.fields(cls) if field.name != "source"]
