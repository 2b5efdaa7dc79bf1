"""How a recipe's reward models order held-out pairs, of users of several tastes or of anybody, beside 'longer wins'."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.construct.micro_router import with_context
from jaxpo.data.rows.formats import read_rows
from jaxpo.errors import DataError
from jaxpo.train.files import write_json

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext
    from jaxpo.data.rows.rows import Record
    from jaxpo.data.rows.texts import Text
    from jaxpo.judges.network import Network

ACCURACY = "accuracy.json"
Side = tuple[list["Text"], list["Text"]]
"""Prompts and answers."""


@dataclass(frozen=True)
class MeasureTastes(Work):
    """Held-out pairs under reward models: the share that each orders as its people did, by group.

    Writes `accuracy.json`; the report has the table, with what 'the longer answer is better' achieves.

    Attributes:
      rows: pairs; with a column of users where `named` asks for it.
      models: stages of reward models.
      named: those of them that are asked with the user's name in front of the prompt, as `micro_router` learns it.
      group: column that the results are split by; rows without it are of one group.
      max_length: of prompt and answer, in tokens; longer prompts lose their start.
    """

    name: str = "tastes"
    rows: tuple[OtherFile, ...] = ()
    models: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    group: str = "group"
    max_length: int = 1024

    def outputs(self) -> tuple[str, ...]:
        return (ACCURACY,)

    def inputs(self) -> tuple[str, ...]:
        return self.rows

    def needed_models(self) -> tuple[str, ...]:
        return self.models

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.rows:
            found.append("rows names no file.")
        if not self.models or not set(self.named) <= set(self.models):
            found.append(f"models is {self.models!r} but must name a stage, and those of named, {self.named!r}.")
        if self.max_length < 2:
            found.append(f"max_length is {self.max_length} but must be at least 2.")
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        self.read(files)

    def read(self, files: Sequence[Path]) -> list[Record]:
        """The pairs."""
        return read_users(files) if self.named else read_some(files)

    def run(self, context: WorkContext) -> dict[str, Any]:
        records = self.read(context.files(self.rows))
        plain = sides_of(records)
        right = {}
        for name in self.models:
            network = context.network(name, self.max_length, "prompt_left")
            if name in self.named:
                right[f"{name} (user in front)"] = ordered(network, _with_users(records, plain))
            else:
                right[name] = ordered(network, plain)
            context.check()
        return kept(context, records, right, lengths(network, plain), self.group)


def read_some(files: Sequence[Path]) -> list[Record]:
    """Pairs; DataError where there are none."""
    from jaxpo.construct.lcpo import read_pairs

    if not (records := read_pairs(list(read_rows(files)))):
        raise DataError("holds no rows.", file=files[0], remedy="Give pairs.")
    return records


def read_users(files: Sequence[Path]) -> list[Record]:
    """Pairs of named users; DataError for a row without one."""
    records = read_some(files)
    for record in records:
        if not isinstance(record.row.data.get("user"), str | int):
            raise record.row.error("the row names no user.", field="user")
    return records


def sides_of(records: Sequence[Record]) -> list[Side]:
    """The better side and the worse."""
    return [([r.sides[k].prompt or "" for r in records], [r.sides[k].completion for r in records]) for k in (0, 1)]


def _with_users(records: Sequence[Record], sides: Sequence[Side]) -> list[Side]:
    """The same with each user's name in front of the prompt."""
    users = [str(r.row.data["user"]) for r in records]
    return [([with_context(u, p) for u, p in zip(users, prompts, strict=True)], answers) for prompts, answers in sides]


def ordered(network: Network, sides: Sequence[Side]) -> np.ndarray:
    """Where the better answer has the larger reward, or wins the comparison, bool `[n]`; a tie is wrong."""
    if not network.asked_reader().method.COMPARES_ANSWERS:
        better, worse = (network.rewards(*side) for side in sides)
        return better > worse
    prompts, texts = ([x for pair in zip(sides[0][k], sides[1][k], strict=True) for x in pair] for k in (0, 1))
    found, _ = network.mean_scores(prompts, texts, [2] * len(sides[0][0]))
    return found[::2] > found[1::2]


def lengths(network: Network, sides: Sequence[Side]) -> np.ndarray:
    """Tokens of the better and of the worse answers, uncut, `[n, 2]`: the rule 'the longer' sees whole answers."""
    uncut = replace(network, max_length=sys.maxsize)
    return np.stack([uncut.token_counts(*side) for side in sides], axis=1)


def kept(
    context: WorkContext, records: Sequence[Record], right: dict[str, np.ndarray], counts: np.ndarray, group: str
) -> dict[str, Any]:
    """Write the accuracies by group; what a stage reports of them."""
    from jaxpo.evaluate.rewards.tastes import as_table, by_group

    found = by_group(right, groups_of(records, group), counts)
    write_json(context.folder / ACCURACY, found)
    return {"pairs": len(records), "tables": [as_table(found)]}


def groups_of(records: Sequence[Record], column: str) -> list[str]:
    """The group of each pair; "all" where it has none."""
    return [str(r.row.data.get(column, "all")) for r in records]
