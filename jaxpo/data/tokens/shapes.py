"""What all examples of a data set together show, found while they are written: the arrays that batches will need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.data.tokens.examples import Example


class Shapes:
    """Collects the widest list, the roles and classes that occur, and checks that every row names the same rewards."""

    def __init__(self) -> None:
        self.roles: dict[str, int] = {}
        self.columns: dict[str, list[int]] = {}
        self.seen: set[str] = set()
        self.classes: set[bool] = set()
        self.rewards: tuple[str, ...] = ()

    def see(self, example: Example, files: Sequence[Path]) -> None:
        """Count an example in; its rewards become a list.

        Raises:
          DataError: rewards of other names than in earlier rows.
        """
        for role, index in example.roles.items():
            listed = len(index) if isinstance(index, list) else 0
            self.roles[role] = max(self.roles.get(role, 0), listed)
            if index != -1:
                self.seen.add(role)
        if "label" in example.columns:
            self.classes.add(example.columns["label"])
        for name, value in example.columns.items():
            if name == "rewards":
                self._see_rewards(example, value, files)
            width = [len(value)] if isinstance(value, list) else []
            self.columns[name] = max(self.columns.get(name, []), width)

    def _see_rewards(self, example: Example, value: dict[str, Any], files: Sequence[Path]) -> None:
        names = tuple(value)
        self.rewards = self.rewards or names
        if names != self.rewards:
            raise example.error(
                f"rewards are named {list(names)}, but {list(self.rewards)} in earlier rows.",
                field="rewards",
                remedy="Every row must have the same names.",
                file=files[example.file],
            )
        example.columns["rewards"] = list(value.values())

    def as_meta(self) -> dict[str, Any]:
        """What a store keeps beside its examples."""
        if self.rewards:
            self.columns["rewards"] = [len(self.rewards), 2]
        found = {"seen": sorted(self.seen), "classes": sorted(self.classes)}
        return {"roles": self.roles, "columns": self.columns, "rewards": list(self.rewards), **found}
