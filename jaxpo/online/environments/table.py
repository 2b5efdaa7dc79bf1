"""Questions about a table that can be looked up in, line by line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.online.environments.base import EnvironmentOf, Tool, ToolConversation, describe


@dataclass(frozen=True)
class TableLookUp(EnvironmentOf):
    """The tool `look_up(key)` in the row's `table`, an object; the reward is 1 where the final answer holds the row's
    `answer`, whatever the case, else 0."""

    NAME: ClassVar[str] = "table"

    def open(self) -> LookingUp:
        return LookingUp()

    def tools(self) -> tuple[Any, ...]:
        return (describe("look_up", "What the table says of a key.", key="string"),)

    def check(self, row: Mapping[str, Any]) -> str | None:
        if not isinstance(row.get("table"), Mapping) or not row["table"]:
            return "column 'table' is no object of keys and values, which are looked up."
        return None if str(row.get("answer", "")).strip() else "column 'answer' is empty, which the answer must hold."


class LookingUp(ToolConversation):
    """One question."""

    def tool_functions(self) -> Mapping[str, Tool]:
        return {"look_up": self._look_up}

    def _look_up(self, key: str) -> Any:
        table = self.row["table"]
        if key not in table:
            raise LookupError(f"the table has no {key!r}")
        return table[key]

    def score(self, answer: str) -> float:
        return float(str(self.row["answer"]).strip().lower() in answer.lower())
