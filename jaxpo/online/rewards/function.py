"""A Python function as a reward, with TRL's signature."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, JaxpoError, did_you_mean
from jaxpo.judges.asking import Ask, Reply
from jaxpo.judges.base import Networks
from jaxpo.judges.function import load_function, source_hash
from jaxpo.online.rewards.base import Response, RewardFunction, failure


@dataclass(frozen=True)
class FunctionReward(RewardFunction):
    """`f(prompts, completions, **columns) -> list of numbers or None`, also `async def`; one call per generation.

    Prompts and completions are strings, or lists of messages where the rows have messages; columns are those of the
    rows, as lists; `completion_ids` are the answers' tokens and `finished` says which ended by themselves. A function
    without `**kwargs` is given what it names.

    Attributes:
      function: "module:function", or "file.py:function".
      seconds: time limit of a call of an `async def`; None = none. A call that takes longer is given up, and every
        answer of it asked about alone, all at once; those that take longer again have failed.
    """

    function: str = ""
    seconds: float | None = None

    NAME: ClassVar[str] = "function"

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.function.rpartition(":")[2])

    def check(self, rows: Sequence[Row]) -> None:
        function = load_function(self.function)
        if rows:
            check_arguments(self.function, function, rows)
        if self.seconds is None:
            return
        if not self.seconds > 0:
            raise ConfigError(f"seconds is {self.seconds}; it must be more than 0.")
        if not inspect.iscoroutinefunction(function):
            raise ConfigError(
                f"seconds is {self.seconds}, but {self.function} is no `async def`, and another call cannot be given "
                "up; make it one, or leave seconds out."
            )

    def columns(self) -> None:
        return None

    def identity(self, networks: Networks) -> dict[str, Any]:
        # How long it may take does not enter: a value is one however long it took.
        return {"reward": self.NAME, "function": self.function, "source": source_hash(self.function)}

    def open(self, networks: Networks) -> Ask:
        function = load_function(self.function)
        if not inspect.iscoroutinefunction(function):
            return super().open(networks)
        return lambda items: asyncio.run(self._awaited(function, items))

    def values(self, answers: Sequence[Response]) -> Sequence[float | None]:
        function = load_function(self.function)
        found: Any = function(**accepted(function, arguments(answers)))
        return asyncio.run(found) if inspect.isawaitable(found) else found  # type: ignore[arg-type]

    async def _awaited(self, function: Callable[..., Any], items: Sequence[Any]) -> list[Reply]:
        """One call for all; where that fails one for each, at the same time."""
        try:
            return await self._within(function, items)
        except JaxpoError:
            raise
        except Exception as error:
            if len(items) == 1:
                return [self._failed(error)]
        each = await asyncio.gather(*(self._awaited(function, [item]) for item in items))
        return [reply for (reply,) in each]

    async def _within(self, function: Callable[..., Any], items: Sequence[Any]) -> list[Reply]:
        found = await asyncio.wait_for(function(**accepted(function, arguments(items))), self.seconds)
        return self.replies(items, found)

    def _failed(self, error: Exception) -> Reply:
        late = isinstance(error, TimeoutError) and self.seconds is not None
        return Reply(failed=f"no value within {self.seconds:g} s") if late else failure(error)


OF_ANSWERS = ("prompts", "completions", "completion_ids", "finished")
"""What a function may ask for besides the columns of the rows."""
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
"""The kinds of parameters that are given by their names."""


def check_arguments(name: str, function: Callable[..., Any], rows: Sequence[Row]) -> None:
    """ConfigError where a function cannot be called with what the rows have: else every answer would fail."""
    there = (*OF_ANSWERS, *columns_of(rows))
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for p in inspect.signature(function).parameters.values():
        if p.kind in variadic or p.default is not inspect.Parameter.empty or (p.kind in NAMED and p.name in there):
            continue
        what = "has no name to give it by" if p.kind not in NAMED else "is no column of the rows"
        raise ConfigError(
            f"the reward {name} asks for {p.name!r}, which {what}; there are {', '.join(there)}."
            f"{did_you_mean(p.name, there)}"
        )


def columns_of(rows: Iterable[Row]) -> list[str]:
    """The columns that a function is given: all that some row has, but for the file's own prompt and completion."""
    return list(dict.fromkeys(name for row in rows for name in row.data if name not in ("prompt", "completion")))


def arguments(answers: Sequence[Response]) -> dict[str, list[Any]]:
    """What a function is called with; a column that some rows lack is None there."""
    names = columns_of(a.row for a in answers)
    return {name: [a.row.data.get(name) for a in answers] for name in names} | {
        "prompts": [a.prompt for a in answers],
        "completions": [a.completion for a in answers],
        "completion_ids": [list(a.ids) for a in answers],
        "finished": [a.finished for a in answers],
    }


def accepted(function: Callable[..., Any], given: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Those of the arguments that a function takes; None for each answer where none of their rows has a column."""
    parameters = inspect.signature(function).parameters.values()
    nothing = [None] * len(given["prompts"])
    named = [p for p in parameters if p.kind in NAMED and (p.name in given or p.default is inspect.Parameter.empty)]
    more = given if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters) else {}
    return {**more, **{p.name: given.get(p.name, nothing) for p in named}}
