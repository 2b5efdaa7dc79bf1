"""A Python function of yours as a tool: a search, a translator, the weather."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxpo.judges.function import load_function
from jaxpo.tools.base import Tool, ToolError


@dataclass(frozen=True)
class Function(Tool):
    """`f(text) -> text`; whatever it raises is what the model observes.

    Attributes:
      function: "module:function", or "file.py:function"; the tool is called by the function's name.
    """

    function: str = ""

    NAME: ClassVar[str] = "function"
    USE: ClassVar[str] = "a text; gives a text."

    @property
    def name(self) -> str:
        return self.function.rpartition(":")[2]

    def check(self) -> None:
        """ConfigError where it cannot be loaded."""
        load_function(self.function)

    def call(self, text: str) -> str:
        function = load_function(self.function)
        try:
            return str(function(text))
        except Exception as error:
            raise ToolError(f"{type(error).__name__}: {error}") from error
