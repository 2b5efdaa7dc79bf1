"""Batches of several kinds in one common shape, as numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.errors import ConfigError, RunError

Arrays = Mapping[str, np.ndarray]
GROUPS = ("masks", "per_token", "per_segment", "per_example", "roles")
LARGEST = np.iinfo(np.int32).max


class CommonBlock:
    """The block that several kinds of batch share, and what stands where one kind has nothing.

    Args:
      names: of the kinds, for messages.
      batches: one of each kind, without any example.

    Attributes:
      block_rows: the least common multiple; blocks of fewer rows are put together.
      slots, max_segment, examples: the largest of any kind; examples per block of `block_rows`.
      fill: group -> name -> what stands at one row or example of that column.

    Raises:
      ConfigError: kinds with rows of different lengths, or with one column in different shapes or dtypes.
    """

    def __init__(self, names: Sequence[str], batches: Sequence[Batch]):
        self.names = tuple(names)
        self.block_rows = math.lcm(*(b.block_rows for b in batches))
        self.slots = max(b.slots for b in batches)
        self.max_segment = max(b.max_segment for b in batches)
        self.examples = max(_per_block(b) * (self.block_rows // b.block_rows) for b in batches)
        problems = list(self._disagreements(batches))
        if problems:
            raise ConfigError(problems)
        self.fill = {group: _longest([getattr(b, group) for b in batches]) for group in GROUPS}
        slots = self.fill["per_segment"].items()
        self.fill["per_segment"] = {name: np.repeat(fill[:1], self.slots, axis=0) for name, fill in slots}

    def join(self, batches: Sequence[Batch]) -> Batch:
        """One batch of all kinds, whose blocks alternate: of each kind its share, in every part of the rows."""
        found = [self._conformed(i, batch) for i, batch in enumerate(batches)]
        turns = math.gcd(*(batch.blocks for batch in found))
        return jax.tree.map(lambda *xs: _alternating(xs, turns), *found)

    def _conformed(self, number: int, batch: Batch) -> Batch:
        per_row = {
            group: {name: _fitted(getattr(batch, group).get(name), fill, batch.rows) for name, fill in fills.items()}
            for group, fills in self.fill.items()
            if group in ("masks", "per_token", "per_segment")
        }
        roles = {name: self._renumbered(role, batch) for name, role in batch.roles.items()}
        return batch.replace(  # type: ignore[attr-defined]
            **per_row,
            per_example=self._of_examples(batch, batch.per_example, self.fill["per_example"]),
            roles=self._of_examples(batch, roles, self.fill["roles"]),
            example_id=self._in_blocks(batch, self._ids(number, np.asarray(batch.example_id)), np.array(-1, np.int32)),
            block_rows=self.block_rows,
            slots=self.slots,
            max_segment=self.max_segment,
        )

    def _of_examples(self, batch: Batch, columns: Arrays, fills: Arrays) -> dict[str, np.ndarray]:
        n = len(batch.example_id)
        return {name: self._in_blocks(batch, _fitted(columns.get(name), fill, n), fill) for name, fill in fills.items()}

    def _in_blocks(self, batch: Batch, x: np.ndarray, fill: np.ndarray) -> np.ndarray:
        """`[N, ...]` with room for as many examples in every block as in those of the fullest kind."""
        x = x.reshape(batch.rows // self.block_rows, -1, *x.shape[1:])
        room = np.broadcast_to(fill, (len(x), self.examples - x.shape[1], *x.shape[2:]))
        return np.concatenate([x, room], axis=1).reshape(-1, *x.shape[2:])

    def _renumbered(self, role: np.ndarray, batch: Batch) -> np.ndarray:
        """Block-relative `row * slots + slot`, with the slots and in the blocks of this shape."""
        block = np.arange(len(role)) // _per_block(batch) % (self.block_rows // batch.block_rows)
        first_row = (block * batch.block_rows).reshape(-1, *(1,) * (role.ndim - 1))
        row, slot = np.divmod(role, batch.slots)
        return np.where(role >= 0, (first_row + row) * self.slots + slot, -1).astype(role.dtype)

    def _ids(self, number: int, ids: np.ndarray) -> np.ndarray:
        """Ids that no other kind has."""
        found = np.where(ids >= 0, ids.astype(np.int64) * len(self.names) + number, -1)
        if found.max() > LARGEST:
            raise RunError(
                f"{self.names[number]}: example id {ids.max()} is too large to tell {len(self.names)} sources apart; "
                f"it must stay below {LARGEST // len(self.names)}."
            )
        return found.astype(np.int32)

    def _disagreements(self, batches: Sequence[Batch]) -> list[str]:
        def listed(found: Mapping[str, object]) -> str:
            return ", ".join(f"{name} has {what}" for name, what in found.items())

        lengths = dict(zip(self.names, (b.tokens.shape[1] for b in batches), strict=True))
        problems = []
        if len(set(lengths.values())) > 1:
            problems.append(f"rows of different lengths: {listed(lengths)}; give all the same data.row_length.")
        for group in GROUPS:
            columns = {n: getattr(b, group) for n, b in zip(self.names, batches, strict=True)}
            for name in sorted(set().union(*columns.values())):
                kinds = {n: _kind(group, found[name]) for n, found in columns.items() if name in found}
                if len(set(kinds.values())) > 1:
                    problems.append(
                        f"{group}[{name!r}] differs: {listed(kinds)}; give its files values of one kind, or rename it."
                    )
        return problems


def _per_block(batch: Batch) -> int:
    return len(batch.example_id) // batch.blocks


def _kind(group: str, x: np.ndarray) -> str:
    """Dtype and shape of a column; lists of examples, and slots of rows, may differ in length."""
    free = x.ndim == 2 or group not in ("per_example", "roles")
    shape = ("*", *x.shape[2:]) if free else x.shape[1:]
    return f"{x.dtype} [{', '.join(map(str, shape))}]"


def _longest(columns: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """One entry of every column, of the kind in which it is longest."""
    names = sorted(set().union(*columns))
    return {name: max((c[name][0] for c in columns if name in c), key=np.size) for name in names}


def _fitted(x: np.ndarray | None, fill: np.ndarray, n: int) -> np.ndarray:
    """A column `[n, ...]` as long as its fill, or nothing but fill."""
    if x is None:
        return np.broadcast_to(fill, (n, *fill.shape))
    if x.ndim == 1 or x.shape[1] == len(fill):
        return x
    rest = fill[x.shape[1] :]
    return np.concatenate([x, np.broadcast_to(rest, (n, *rest.shape))], axis=1)


def _alternating(xs: Sequence[np.ndarray], turns: int) -> np.ndarray:
    """The first axes in turn: a `turns`-th of each array, then the next of each."""
    whole = np.concatenate([x.reshape(turns, -1, *x.shape[1:]) for x in xs], axis=1)
    return whole.reshape(-1, *whole.shape[2:])
