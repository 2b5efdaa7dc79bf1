"""What the groups that EM has found are worth to their users: held-out pairs under the reward of each one's group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.construct.maxmin import USERS, ByGroups
from jaxpo.construct.tastes import ACCURACY, groups_of, kept, lengths, sides_of
from jaxpo.train.files import read_json

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext
    from jaxpo.data.rows.rows import Record


@dataclass(frozen=True)
class MeasureGroups(ByGroups):
    """Held-out pairs, each by the reward of its user's group, and by all groups' rewards alike.

    Who belongs to which group is what `assigned` found on the pairs that were trained on. Rewards are divided by their
    standard deviation in each group before they are mixed. Writes `accuracy.json`; the report has the table, with
    'longer wins' beside it, and how many users of each taste a group has.

    Attributes:
      assigned: the stage of `AssignUsers`.
      group: column of tastes that the results are split by; rows without it are of one taste.
    """

    name: str = "served"
    assigned: str = "assign"
    group: str = "group"

    def outputs(self) -> tuple[str, ...]:
        return (ACCURACY,)

    def inputs(self) -> tuple[str, ...]:
        return (*self.rows, f"stage:{self.assigned}/{USERS}")

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.needed_models():
            found.append("model and models name no stage; name what judges.")
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        self.read([file for file in files if file.name != USERS])

    def run(self, context: WorkContext) -> dict[str, Any]:
        records, _, _ = self.read(context.files(self.rows))
        (file,) = context.files((f"stage:{self.assigned}/{USERS}",))
        known = (read_json(file) or {})["responsibilities"]
        weights = np.asarray([self.weights(record, known) for record in records])
        rewards = self.rewards(context, records)
        margins = (rewards[: len(records)] - rewards[len(records) :]) / np.maximum(rewards.std(0), 1e-12)
        right = {"their group's": (weights * margins).sum(1) > 0, "all groups alike": margins.mean(1) > 0}
        network = context.network(self.needed_models()[0], "whole")
        report = kept(context, records, right, lengths(network, sides_of(records)), self.group)
        return report | {"tables": [*report["tables"], self.members(records, known)]}

    def weights(self, record: Record, known: dict[str, list[float]]) -> list[float]:
        """Of the groups, for the user of a pair; DataError where `assigned` has not met them."""
        user = str(record.row.data[self.column])
        if user not in known:
            raise record.row.error(f"{self.assigned} has put no user {user!r} into a group.", field=self.column)
        return known[user]

    def members(self, records: Sequence[Record], known: dict[str, list[float]]) -> dict[str, Any]:
        """Users of each taste by the group that they belong to most."""
        tastes: dict[str, set[str]] = defaultdict(set)
        for record, taste in zip(records, groups_of(records, self.group), strict=True):
            tastes[taste].add(str(record.row.data[self.column]))
        rows = []
        for taste in sorted(tastes):
            places = [int(np.argmax(known[user])) for user in tastes[taste]]
            rows.append([taste, *(places.count(k) for k in range(self.groups))])
        head = ["taste", *(f"group {k}" for k in range(self.groups))]
        return {"title": "Users of each taste in each group", "head": head, "rows": rows}
