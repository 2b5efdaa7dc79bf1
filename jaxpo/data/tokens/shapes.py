"""What all examples of a data set together show, found while they are written: the arrays that batches will need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.data.rows.bad_rows import check_number
from jaxpo.data.tokens.examples import Example
from jaxpo.data.tokens.notes import counted
from jaxpo.errors import DataError


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


def merged(metas: Sequence[dict[str, Any]], most_bad: int) -> dict[str, Any]:
    """What a store keeps of all its shards together.

    Raises:
      DataError: shards with rewards of other names; more rows that cannot be used than are allowed.
    """
    counts, roles, columns = Counter[str](), dict[str, int](), dict[str, list[int]]()
    for meta in metas:
        counts.update(meta["counts"])
        for role, listed in meta["roles"].items():
            roles[role] = max(roles.get(role, 0), listed)
        for name, width in meta["columns"].items():
            columns[name] = max(columns.get(name, []), width)
    named = {tuple(meta["rewards"]) for meta in metas if meta["rewards"]}
    if len(named) > 1:
        remedy = "Every row must have the same names."
        listed_names = " and ".join(str(list(names)) for names in sorted(named))
        raise DataError(f"rewards are named {listed_names}.", field="rewards", remedy=remedy)
    bad = [row for meta in metas for row in meta.get("bad_rows", ())]
    check_number(len(bad), most_bad)
    found: dict[str, Any] = {"seen": set(), "classes": set()}
    for name, values in found.items():
        found[name] = sorted(values.union(*(meta[name] for meta in metas)))
    return {
        **{name: metas[0][name] for name in ("settings", "reading", "annotators")},
        "counts": counted(counts),
        "roles": roles,
        "columns": columns,
        "rewards": list(next(iter(named), ())),
        **found,
        **({"bad_rows": bad} if bad else {}),
    }
