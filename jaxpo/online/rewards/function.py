"""A Python function as a reward, with TRL's signature."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.judges.base import Networks
from jaxpo.judges.function import load_function, source_hash
from jaxpo.online.rewards.base import Response, RewardFunction


@dataclass(frozen=True)
class FunctionReward(RewardFunction):
    """`f(prompts, completions, **columns) -> list of numbers or None`, also `async def`; one call per generation.

    Prompts and completions are strings, or lists of messages where the rows have messages; columns are those of the
    rows, as lists; `completion_ids` are the answers' tokens and `finished` says which ended by themselves. A function
    without `**kwargs` is given what it names.

    Attributes:
      function: "module:function", or "file.py:function".
    """

    function: str = ""

    NAME: ClassVar[str] = "function"

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.function.rpartition(":")[2])

    def check(self, rows: Sequence[Row]) -> None:
        load_function(self.function)

    def columns(self) -> None:
        return None

    def identity(self, networks: Networks) -> dict[str, Any]:
        return {"reward": self.NAME, "function": self.function, "source": source_hash(self.function)}

    def values(self, answers: Sequence[Response]) -> Sequence[float | None]:
        function = load_function(self.function)
        given = accepted(function, arguments(answers))
        found: Any = function(**given)
        return asyncio.run(found) if inspect.isawaitable(found) else found  # type: ignore[arg-type]


def arguments(answers: Sequence[Response]) -> dict[str, list[Any]]:
    """What a function is called with; a column that some rows lack is None there."""
    names = dict.fromkeys(name for a in answers for name in a.row.data if name not in ("prompt", "completion"))
    return {name: [a.row.data.get(name) for a in answers] for name in names} | {
        "prompts": [a.prompt for a in answers],
        "completions": [a.completion for a in answers],
        "completion_ids": [list(a.ids) for a in answers],
        "finished": [a.finished for a in answers],
    }


def accepted(function: Callable[..., Any], given: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Those of the arguments that a function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return given
    return {p.name: given[p.name] for p in parameters if p.name in given}
