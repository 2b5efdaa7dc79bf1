"""Python programs, in the sandbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from jaxpo.sandbox import Limits, Sandbox
from jaxpo.tools.base import Tool, ToolError


@dataclass(frozen=True)
class Python(Tool):
    """Runs a program and gives what it prints.

    Attributes:
      sandbox: where it runs; see `jaxpo.sandbox`.
    """

    sandbox: Sandbox = field(default_factory=lambda: Sandbox(Limits(seconds=5.0)))

    NAME: ClassVar[str] = "python"
    USE: ClassVar[str] = "a Python program; gives what it prints."

    def check(self) -> None:
        """ConfigError where there is no fence and nobody has asked to go without."""
        self.sandbox.check()

    def call(self, text: str) -> str:
        result = self.sandbox.python(text)
        if not result.ok:
            raise ToolError(f"the program {result.why}")
        return result.output or "(nothing was printed)"
