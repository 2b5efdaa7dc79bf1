"""Dates: the day of the week, the days between, a date so many days later."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import ClassVar

from jaxpo.tools.base import Tool, ToolError

_FORM = "give `weekday YYYY-MM-DD`, `days YYYY-MM-DD YYYY-MM-DD` or `add YYYY-MM-DD NUMBER`"
_WORDS = re.compile(r"(weekday|days|add)\s+(\d{4}-\d{2}-\d{2})(?:\s+(\d{4}-\d{2}-\d{2}|[+-]?\d{1,7}))?")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Calendar(Tool):
    """Questions about dates."""

    NAME: ClassVar[str] = "calendar"
    USE: ClassVar[str] = f"{_FORM}."

    def call(self, text: str) -> str:
        found = _WORDS.fullmatch(text.lower())
        if found is None:
            raise ToolError(_FORM)
        what, first, second = found.groups()
        day = _date(first)
        if what == "weekday" and second is None:
            return DAYS[day.weekday()]
        if what == "days" and second is not None and "-" in second[1:]:
            return str((_date(second) - day).days)
        if what == "add" and second is not None and "-" not in second[1:]:
            try:
                return (day + timedelta(days=int(second))).isoformat()
            except OverflowError:
                raise ToolError("there is no such date") from None
        raise ToolError(_FORM)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ToolError(f"{text} is no date") from None
