"""What a tool is, and a set of them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.errors import ConfigError, did_you_mean

LONGEST = 400
"""Characters of an observation that are kept."""


class ToolError(Exception):
    """Why a tool has no result, in words that a model can read."""


@dataclass(frozen=True)
class Observation:
    """What a call gave.

    Attributes:
      failed: there was no such tool, or it had no result; the text says why.
    """

    text: str
    failed: bool = False


@dataclass(frozen=True)
class Tool(ABC):
    """A function of one text.

    Attributes:
      NAME: by which it is called.
      USE: what it takes and gives, one line.
    """

    NAME: ClassVar[str]
    USE: ClassVar[str]

    @property
    def name(self) -> str:
        """By which a model calls it."""
        return self.NAME

    def check(self) -> None:
        """ConfigError where it cannot work here; asked before anything expensive."""
        return

    @abstractmethod
    def call(self, text: str) -> str:
        """The result; ToolError where there is none."""


class Toolbox:
    """Tools by name; whatever goes wrong in a call is its observation.

    Raises:
      ConfigError: two of one name.
    """

    def __init__(self, tools: Sequence[Tool]):
        names = [tool.name for tool in tools]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ConfigError(f"there are two tools of the name {twice[0]!r}; give each another.")
        self.tools = {tool.name: tool for tool in tools}

    def check(self) -> None:
        """ConfigError for the first tool that cannot work here."""
        for tool in self.tools.values():
            tool.check()

    def use(self, name: str, text: str) -> Observation:
        """Call a tool."""
        tool = self.tools.get(name.strip())
        if tool is None:
            known = ", ".join(self.tools)
            return Observation(f"there is no tool {name.strip()!r}; there are: {known}.", failed=True)
        try:
            return Observation(shown(tool.call(text.strip())))
        except ToolError as error:
            return Observation(shown(str(error)), failed=True)

    def describe(self) -> str:
        """A line for each tool."""
        return "\n".join(f"{name}: {tool.USE}" for name, tool in self.tools.items())


def shown(text: str) -> str:
    """An observation in one line, cut at `LONGEST` characters."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def unknown(word: str, known: Sequence[str]) -> ConfigError:
    """That there is no tool of a name, with what there is."""
    return ConfigError(f"there is no tool {word!r}; there are {', '.join(known)}.{did_you_mean(word, known)}")
