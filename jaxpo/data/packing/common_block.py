"""Batches of several kinds in one common shape, as numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxpo.data.packing.batch import Batch, Media
from jaxpo.data.tokens.media import MEDIA, PER_VECTOR
from jaxpo.errors import ConfigError, RunError

Arrays = Mapping[str, np.ndarray]
PER_ROW = ("masks", "per_token", "per_segment")
GROUPS = (*PER_ROW, "per_example", "roles")
LARGEST = np.iinfo(np.int32).max


class CommonBlock:
    """The block that several kinds of batch share, and what stands where one kind has nothing.

    Args:
      names: of the kinds, for messages.
      batches: one of each kind, without any example.

    Attributes:
      block_rows: the least common multiple; blocks of fewer rows are put together.
      slots, max_segment, examples, media_rows: the largest of any kind; the last two per block of `block_rows`.
      fill: group -> name -> what stands at one row or example of that column.
      media: kind of media -> what stands at one of their rows.

    Raises:
      ConfigError: kinds with rows of different lengths, with one column in different shapes or dtypes, or with
        different kinds of media.
    """

    def __init__(self, names: Sequence[str], batches: Sequence[Batch]):
        self.names = tuple(names)
        self.block_rows = math.lcm(*(b.block_rows for b in batches))
        self.slots = max(b.slots for b in batches)
        self.max_segment = max(b.max_segment for b in batches)
        together = [self.block_rows // b.block_rows for b in batches]
        self.examples = max(n * _per_block(b) for n, b in zip(together, batches, strict=True))
        self.media_rows = max(n * _media_rows(b) for n, b in zip(together, batches, strict=True))
        problems = _disagreements(names, batches)
        if problems:
            raise ConfigError(problems)
        self.fill = {group: _longest([getattr(b, group) for b in batches]) for group in GROUPS}
        self.media = {kind: jax.tree.map(lambda x: x[0], m) for b in batches for kind, m in b.media.items()}
        slots = self.fill["per_segment"].items()
        self.fill["per_segment"] = {name: np.repeat(fill[:1], self.slots, axis=0) for name, fill in slots}

    def join(self, batches: Sequence[Batch]) -> Batch:
        """One batch of all kinds, whose blocks alternate: of each kind its share, in every part of the rows."""
        found = [self._conformed(i, batch) for i, batch in enumerate(batches)]
        turns = math.gcd(*(batch.blocks for batch in found))
        return jax.tree.map(lambda *xs: _alternating(xs, turns), *found)

    def _conformed(self, number: int, batch: Batch) -> Batch:
        per_row = {
            group: {n: _fitted(getattr(batch, group).get(n), fill, batch.rows) for n, fill in self.fill[group].items()}
            for group in PER_ROW
        }
        if batch.media:
            per_row["per_token"][MEDIA] = self._moved_marks(batch)
        roles = {name: self._renumbered(role, batch) for name, role in batch.roles.items()}
        return batch.replace(  # type: ignore[attr-defined]
            **per_row,
            per_example=self._of_examples(batch, batch.per_example, self.fill["per_example"]),
            roles=self._of_examples(batch, roles, self.fill["roles"]),
            example_id=self._in_blocks(batch, self._ids(number, batch), np.array(-1, np.int32), self.examples),
            block_rows=self.block_rows,
            slots=self.slots,
            max_segment=self.max_segment,
            media={kind: self._of_media(batch, kind, fill) for kind, fill in self.media.items()},
        )

    def _of_examples(self, batch: Batch, columns: Arrays, fills: Arrays) -> dict[str, np.ndarray]:
        n = len(batch.example_id)
        return {
            name: self._in_blocks(batch, _fitted(columns.get(name), fill, n), fill, self.examples)
            for name, fill in fills.items()
        }

    def _of_media(self, batch: Batch, kind: str, fill: Media) -> Media:
        nothing = jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), fill)
        grid = batch.media.get(kind, nothing)
        return jax.tree.map(lambda x, one: self._in_blocks(batch, x, one, self.media_rows), grid, fill)

    def _in_blocks(self, batch: Batch, x: np.ndarray, fill: np.ndarray, count: int) -> np.ndarray:
        """`[n, ...]` with room for `count` entries in every block."""
        blocks = batch.rows // self.block_rows
        x = x.reshape(blocks, len(x) // blocks, *x.shape[1:])
        room = np.broadcast_to(fill, (blocks, count - x.shape[1], *x.shape[2:]))
        return np.concatenate([x, room], axis=1).reshape(-1, *x.shape[2:])

    def _moved_marks(self, batch: Batch) -> np.ndarray:
        """Block-relative places of vectors, in the blocks of this shape."""
        (grid,) = batch.media.values()
        marks = np.asarray(batch.per_token[MEDIA])
        vectors = grid.segment_ids.size // batch.blocks // PER_VECTOR
        return np.where(marks >= 0, marks + self._place(batch, batch.rows)[:, None] * vectors, -1).astype(marks.dtype)

    def _place(self, batch: Batch, n: int) -> np.ndarray:
        """`[n]`: of what is `n` in the batch, the number of its block among those that are put together."""
        return np.arange(n) // (n // batch.blocks) % (self.block_rows // batch.block_rows)

    def _renumbered(self, role: np.ndarray, batch: Batch) -> np.ndarray:
        """Block-relative `row * slots + slot`, with the slots and in the blocks of this shape."""
        first_row = (self._place(batch, len(role)) * batch.block_rows).reshape(-1, *(1,) * (role.ndim - 1))
        row, slot = np.divmod(role, batch.slots)
        return np.where(role >= 0, (first_row + row) * self.slots + slot, -1).astype(role.dtype)

    def _ids(self, number: int, batch: Batch) -> np.ndarray:
        """Ids that no other kind has."""
        ids = np.asarray(batch.example_id)
        found = np.where(ids >= 0, ids.astype(np.int64) * len(self.names) + number, -1)
        if found.max() > LARGEST:
            raise RunError(
                f"{self.names[number]}: example id {ids.max()} is too large to tell {len(self.names)} sources apart; "
                f"it must stay below {LARGEST // len(self.names)}."
            )
        return found.astype(np.int32)


def _disagreements(names: Sequence[str], batches: Sequence[Batch]) -> list[str]:
    """One sentence for each thing that the kinds cannot have in common."""
    named = dict(zip(names, batches, strict=True))

    def differs(what: str, found: Mapping[str, object], remedy: str) -> list[str]:
        listed = ", ".join(f"{name} has {one}" for name, one in found.items())
        return [f"{what}: {listed}; {remedy}."] if len(set(found.values())) > 1 else []

    lengths = {n: b.tokens.shape[1] for n, b in named.items()}
    problems = differs("rows of different lengths", lengths, "give all the same data.row_length")
    media = {n: "/".join(b.media) for n, b in named.items() if b.media}
    problems += differs("media of different kinds", media, "a step holds one kind")
    for group in (*GROUPS, "media"):
        columns = {n: _columns(b, group) for n, b in named.items()}
        for column in sorted(set().union(*columns.values())):
            kinds = {n: _kind(group, found[column]) for n, found in columns.items() if column in found}
            problems += differs(f"{group}[{column!r}] differs", kinds, "make them alike, or rename one")
    return problems


def _per_block(batch: Batch) -> int:
    return len(batch.example_id) // batch.blocks


def _media_rows(batch: Batch) -> int:
    return sum(len(grid.values) // batch.blocks for grid in batch.media.values())


def _columns(batch: Batch, group: str) -> Arrays:
    found = getattr(batch, group)
    return {kind: grid.values for kind, grid in found.items()} if group == "media" else found


def _kind(group: str, x: np.ndarray) -> str:
    """Dtype and shape of a column; lists of examples, and slots of rows, may differ in length."""
    free = x.ndim == 2 or group in PER_ROW
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
