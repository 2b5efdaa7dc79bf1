"""Texts with the name of a class, as ratings that a classification head is trained on; and its answers for others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError

BLOCK = 1024
"""Texts that are classified at once."""


@dataclass(frozen=True)
class Classes(Construction):
    """Rows of a text and its class as rows that rate it 1 for that class and 0 for all others.

    Attributes:
      text: column of the text.
      label: column of the class: a name or a number.
      labels: all classes, where the rows may lack one (held-out rows); none = those of the rows.
    """

    text: str = "text"
    label: str = "label"
    labels: tuple[str, ...] = ()

    NAME = "classes"
    READS = "text, label"
    WRITES = "prompt, ratings"

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        read = [(row, *self._read(row)) for row in rows]
        names = sorted(set(self.labels) or {name for _, _, name in read})
        if len(names) < 2 and read:
            row = read[0][0]
            raise row.error(
                f"all rows are of class {names[0]!r}.", field=self.label, remedy="Give rows of two classes."
            )
        for row, text, name in read:
            if name not in names:
                remedy = f"--labels has {', '.join(names)}."
                raise row.error(f"the class {name!r} is none of those given.", field=self.label, remedy=remedy)
            yield {"prompt": text, "ratings": {each: int(each == name) for each in names}}

    def _read(self, row: Row) -> tuple[str, str]:
        text, name = text_of(row, self.text), row.data.get(self.label)
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            remedy = "Give a name or a number, or name its column with --label."
            raise row.error("there is no class.", field=self.label, remedy=remedy)
        return text, str(name)


@dataclass(frozen=True)
class Classify(Construction):
    """Rows with the class that a classification head (`rating` with softmax) takes each text for.

    Attributes:
      text: column of the text.
    """

    text: str = "text"

    NAME = "classify"
    READS = "text"
    WRITES = "the same rows with label, the likeliest class, and classes: {class: probability}"

    def needed_networks(self) -> tuple[str, ...]:
        return ("reward",)

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        network = tools.network("reward")
        method = network.asked_reader().method
        if getattr(method, "form", "") != "softmax":
            raise ConfigError(f"classify: the model was trained by {method.INFO.name} and tells no classes.")
        for first in range(0, len(rows), BLOCK):
            some = rows[first : first + BLOCK]
            names, values = network.heads([text_of(row, self.text) for row in some], None)
            for row, shares in zip(some, values.tolist(), strict=True):
                found = dict(zip(names, shares, strict=True))
                yield {**row.data, "label": max(found, key=lambda name: found[name]), "classes": found}


def text_of(row: Row, column: str) -> str:
    """The text of a row; DataError where there is none."""
    text = row.data.get(column)
    if not isinstance(text, str) or not text.strip():
        raise row.error("there is no text.", field=column, remedy="Give a text, or name its column with --text.")
    return text
