"""What all examples of a data set together show, found while they are written: the arrays that batches will need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.data.rows.bad_rows import check_number
from jaxpo.data.rows.columns import BY_NAME, extent
from jaxpo.data.tokens.examples import Example
from jaxpo.data.tokens.notes import counted
from jaxpo.errors import DataError


class Shapes:
    """Collects the widest list, the roles and classes that occur, and checks that rewards have the same names."""

    def __init__(self) -> None:
        self.roles: dict[str, int] = {}
        self.columns: dict[str, list[int]] = {}
        self.seen: set[str] = set()
        self.classes: set[bool] = set()
        self.named: dict[str, tuple[str, ...]] = {}

    def see(self, example: Example, files: Sequence[Path]) -> None:
        """Count an example in; its rewards and ratings become lists.

        Raises:
          DataError: they have other names than in earlier rows.
        """
        for role, index in example.roles.items():
            listed = len(index) if isinstance(index, list) else 0
            self.roles[role] = max(self.roles.get(role, 0), listed)
            if index != -1:
                self.seen.add(role)
        if "label" in example.columns:
            self.classes.add(example.columns["label"])
        for name, value in example.columns.items():
            if name in BY_NAME:
                self._see_named(name, example, value, files)
            self.columns[name] = max(self.columns.get(name, []), extent(example.columns[name]))

    def _see_named(self, column: str, example: Example, value: dict[str, Any], files: Sequence[Path]) -> None:
        names = tuple(value)
        first = self.named.setdefault(column, names)
        if names != first:
            raise example.error(
                f"{column} are named {list(names)}, but {list(first)} in earlier rows.",
                field=column,
                remedy="Every row must have the same names.",
                file=files[example.file],
            )
        example.columns[column] = list(value.values())

    def as_meta(self) -> dict[str, Any]:
        """What a store keeps beside its examples."""
        found = {"seen": sorted(self.seen), "classes": sorted(self.classes)}
        named = {column: list(names) for column, names in self.named.items()}
        return {"roles": self.roles, "columns": self.columns, "rewards": [], **named, **found}


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
    named = {column: _one_of(metas, column) for column in BY_NAME}
    bad = [row for meta in metas for row in meta.get("bad_rows", ())]
    check_number(len(bad), most_bad)
    found: dict[str, Any] = {"seen": set(), "classes": set()}
    for name, values in found.items():
        found[name] = sorted(values.union(*(meta[name] for meta in metas)))
    return {
        **{name: metas[0][name] for name in ("settings", "reading", "annotators", "names") if name in metas[0]},
        "counts": counted(counts),
        "roles": roles,
        "columns": columns,
        **{column: names for column, names in named.items() if names or column == "rewards"},
        **found,
        **({"bad_rows": bad} if bad else {}),
    }


def _one_of(metas: Sequence[dict[str, Any]], column: str) -> list[str]:
    """The names that all shards give a column's numbers."""
    named = {tuple(meta[column]) for meta in metas if meta.get(column)}
    if len(named) > 1:
        remedy = "Every row must have the same names."
        listed = " and ".join(str(list(names)) for names in sorted(named))
        raise DataError(f"{column} are named {listed}.", field=column, remedy=remedy)
    return list(next(iter(named), ()))
