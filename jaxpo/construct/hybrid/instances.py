"""Pairs of answers that people and a judge have labelled, or will label.

{"prompt": ..., "responses": [a, b], "human": 1, "ai": 2}      1 = the first is better, 2 = the second, 0 = a tie
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical
from jaxpo.data.rows.texts import Text, text_of_column

HUMAN, AI = "human", "ai"
KEPT = ("user", "group")
"""Columns that go along with a pair: they are about the instance, whoever labels it."""


@dataclass(frozen=True)
class Instance:
    """One pair.

    Attributes:
      labels: "human" and "ai", those that there are: 1, 2, or 0 for a tie.
    """

    row: Row
    prompt: Text
    responses: tuple[str, str]
    labels: dict[str, int]

    def pair(self, source: str) -> dict[str, Any] | None:
        """The row that a preference or reward stage trains on, by one of the labels; None for a tie.

        Raises:
          DataError: there is no such label.
        """
        if source not in self.labels:
            raise self.row.error(
                f"goes to {source!r}, but has no such label.",
                field=source,
                remedy="Collect it: 1 where the first response is better, 2 where the second is, 0 for a tie.",
            )
        label = self.labels[source]
        if label == 0:
            return None
        chosen, rejected = self.responses if label == 1 else self.responses[::-1]
        kept = {name: self.row.data[name] for name in KEPT if name in self.row.data}
        return kept | {"prompt": self.prompt, "chosen": chosen, "rejected": rejected, "label_from": source}


def read_instances(rows: Sequence[Row]) -> list[Instance]:
    """All rows; DataError names file, row, field and remedy."""
    return [_instance(canonical(row)) for row in rows]


def labelled(instances: Sequence[Instance], mask: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """D(m): number and pair of every instance that is no tie by its own label.

    Args:
      mask: m, `[N]`; True = the human label.
    """
    for number, (one, human) in enumerate(zip(instances, mask, strict=True)):
        pair = one.pair(HUMAN if human else AI)
        if pair is not None:
            yield number, pair


def _instance(row: Row) -> Instance:
    responses = row.data.get("responses")
    if not isinstance(responses, list) or len(responses) != 2 or not all(isinstance(x, str) for x in responses):
        raise row.error("must be a list of two texts.", field="responses", remedy="Give the two answers compared.")
    labels = {name: _label(row, name) for name in (HUMAN, AI) if row.data.get(name) is not None}
    return Instance(row, text_of_column(row, "prompt"), (responses[0], responses[1]), labels)


def _label(row: Row, name: str) -> int:
    value = row.data[name]
    if value not in (0, 1, 2) or isinstance(value, bool):
        raise row.error(
            f"is {value!r}.", field=name, remedy="1 = the first response is better, 2 = the second, 0 = tie."
        )
    return int(value)
