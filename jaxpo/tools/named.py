"""Tools as a configuration names them: by one word each."""

from __future__ import annotations

from collections.abc import Sequence

from jaxpo.errors import ConfigError
from jaxpo.sandbox import Limits, Sandbox
from jaxpo.tools.base import Tool, Toolbox, unknown
from jaxpo.tools.calculator import Calculator
from jaxpo.tools.calendar import Calendar
from jaxpo.tools.function import Function
from jaxpo.tools.python import Python
from jaxpo.tools.table import Table

PLAIN: dict[str, type[Tool]] = {"calculator": Calculator, "calendar": Calendar}
WORDS = (*PLAIN, "python", "table:FILE", "module:function", "file.py:function")


def toolbox(words: Sequence[str], *, unsandboxed: bool = False) -> Toolbox:
    """The tools of these names.

    Args:
      unsandboxed: see `jaxpo.sandbox.Sandbox`; of programs.

    Raises:
      ConfigError: no tool, or one of a name that does not exist.
    """
    if not words:
        raise ConfigError(f"there is no tool; give some of {', '.join(WORDS)}.")
    return Toolbox([tool(word, unsandboxed) for word in words])


def tool(word: str, unsandboxed: bool = False) -> Tool:
    """One of calculator, calendar, python, table:FILE, module:function, file.py:function."""
    if word in PLAIN:
        return PLAIN[word]()
    if word == "python":
        return Python(Sandbox(Limits(seconds=5.0), unsandboxed))
    if word.startswith("table:"):
        return Table(word.removeprefix("table:"))
    if ":" in word:
        return Function(word)
    raise unknown(word, WORDS)
