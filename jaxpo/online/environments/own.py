"""An environment of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.config.json_text import parse
from jaxpo.errors import ConfigError
from jaxpo.judges.function import load_function, source_hash
from jaxpo.online.environments.base import Environment, EnvironmentOf


@dataclass(frozen=True)
class OwnEnvironment(EnvironmentOf):
    """What a class, or a function without arguments, gives: an object with `reset` and `step`, see
    `jaxpo.online.environments.base`.

    Attributes:
      factory: "module:name", or "file.py:name".
      tool_list: descriptions of the tools that the model may call, a JSON list; "" = none.
    """

    factory: str = ""
    tool_list: str = ""

    NAME: ClassVar[str] = "own"

    def open(self) -> Environment:
        found: Environment = load_function(self.factory)()
        return found

    def tools(self) -> tuple[Any, ...]:
        return tuple(parse(self.tool_list)) if self.tool_list else ()

    def problems(self) -> list[str]:
        found = super().problems()
        try:
            load_function(self.factory)
        except ConfigError as error:
            found += error.problems
        try:
            listed = parse(self.tool_list or "[]")
        except ValueError as error:
            listed = error
        if not isinstance(listed, list):
            found.append(f"tool_list is no JSON list of descriptions: {self.tool_list!r:.60}.")
        return found

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "source": source_hash(self.factory)}
