"""Pairs of people who are known from the start, and of newcomers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpo.config import Work
from jaxpo.construct.micro_router import with_context
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.json_lines import write_jsonl

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext


@dataclass(frozen=True)
class SplitUsers(Work):
    """The pairs of the people who are known from the start, and a few of each newcomer.

    Attributes:
      train, heldout: files of pairs with a column `user`.
      new: the newcomers.
      few: pairs of each that they are fitted by.
      wishes: (group, text) pairs: what a known person of the group says in front of a prompt; newcomers say nothing.
    """

    name: str = "split"
    train: str = ""
    heldout: str = ""
    new: tuple[str, ...] = ()
    few: int = 20
    wishes: tuple[tuple[str, str], ...] = ()

    def outputs(self) -> tuple[str, ...]:
        return ("known.jsonl", "few.jsonl", "heldout_known.jsonl", "heldout_new.jsonl")

    def inputs(self) -> tuple[str, ...]:
        return (self.train, self.heldout)

    def run(self, context: WorkContext) -> dict[str, Any]:
        train, heldout = ([row.data for row in read_rows([path])] for path in context.files(self.inputs()))
        few = [[row for row in train if row["user"] == user][: self.few] for user in self.new]
        parts = {
            "known.jsonl": [self.told(row) for row in train if row["user"] not in self.new],
            "few.jsonl": [row for rows in few for row in rows],
            "heldout_known.jsonl": [self.told(row) for row in heldout if row["user"] not in self.new],
            "heldout_new.jsonl": [row for row in heldout if row["user"] in self.new],
        }
        return {name: write_jsonl(context.folder / name, rows) for name, rows in parts.items()}

    def told(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its person's wish in the prompt."""
        wish = dict(self.wishes).get(row.get("group", ""))
        return row if wish is None else {**row, "prompt": with_context(wish, row["prompt"])}
