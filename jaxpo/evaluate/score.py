"""Per-token log-probs of many token sequences, packed into batches of one fixed shape: one compilation for all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.errors import DataError
from jaxpo.objectives.encode import Scorer, next_tokens, to_targets
from jaxpo.ops.head import map_vocab
from jaxpo.sharding import BATCH_AXES, axis_size, current_mesh, to_host

Tree = Any
Kind = Literal["logps", "greedy"]
Progress = Callable[[int, int], None]
POSITIONS, ROW_LENGTH = 4096, 256
"""Of a batch, and of its shortest rows."""
SHORTEST = 8
"""A row of S positions has room for S / 8 segments; shorter segments than 8 tokens may leave space unused."""


def token_logps(
    scorer: Scorer, params: Tree, segments: Sequence[np.ndarray], *, rows: int = 16, row_length: int = 256
) -> list[np.ndarray]:
    """log p(token | earlier tokens of its segment), nats, float32 `[len(segment)]` each; 0 at the first token.

    Args:
      params: the model's tree.
      segments: token ids; each at most `row_length` long.
      rows, row_length: shape of the batches; every call with the same shape shares one program.

    Raises:
      DataError: a segment longer than a row.
    """
    run = functools.partial(_logps, scorer, params)
    found = {place.segment: row[place.span] for place, row in each_segment(run, segments, rows, row_length)}
    return [found[i] for i in range(len(segments))]


def token_scores(
    scorer: Scorer, params: Tree, segments: Sequence[np.ndarray], kind: Kind, progress: Progress = lambda *_: None
) -> list[np.ndarray]:
    """The scores of segments of any length, in batches of about `POSITIONS`: rows of 256, 512, ... as they need.

    Args:
      kind: "logps", `[len(segment)]` as `token_logps`; or "greedy", `[len(segment), 2]`: these, and 1 where the token
        is the most probable one.
      progress: told how many segments of how many are done.
    """
    run = functools.partial(_KINDS[kind], scorer, params)
    mesh = current_mesh()
    share = 1 if mesh is None else axis_size(mesh, BATCH_AXES)
    by_length: dict[int, list[int]] = {}
    for i, segment in enumerate(segments):
        by_length.setdefault(max(ROW_LENGTH, 1 << (len(segment) - 1).bit_length()), []).append(i)
    found: dict[int, np.ndarray] = {}
    for row_length, members in sorted(by_length.items()):
        rows = -(-max(1, POSITIONS // row_length) // share) * share
        for place, row in each_segment(run, [segments[i] for i in members], rows, row_length):
            found[members[place.segment]] = row[place.span]
            progress(len(found), len(segments))
    return [found[i] for i in range(len(segments))]


class Placed(NamedTuple):
    """Where a segment lies in its row: its slot, and its positions."""

    segment: int
    slot: int
    span: slice


def each_segment(
    run: Callable[[Batch], jax.Array],
    segments: Sequence[np.ndarray],
    rows: int,
    row_length: int,
    *,
    beside: Sequence[Mapping[str, np.ndarray]] = (),
    alone: bool = False,
) -> Iterator[tuple[Placed, np.ndarray]]:
    """Every segment's place, and the row of `run(batch)` that it lies in, `[S, ...]` or `[M, ...]`.

    Args:
      beside: of every segment, per-token columns; "completion" is the mask of its answer.
      alone: a row for each, so that what a row's key draws belongs to the segment.

    Raises:
      DataError: a segment longer than a row.
    """
    longest = max((len(s) for s in segments), default=0)
    if longest > row_length:
        raise DataError(f"a sequence of {longest} tokens does not fit rows of {row_length}.")
    filled = fill_rows([len(s) for s in segments], row_length, 1 if alone else row_length // SHORTEST)
    for first in range(0, len(filled), rows):
        chosen = filled[first : first + rows]
        values = to_host(run(packed_batch(segments, chosen, rows, row_length, beside)))
        for row, members in zip(values, chosen, strict=False):
            at = 0
            for slot, i in enumerate(members):
                yield Placed(i, slot, slice(at, at + len(segments[i]))), row
                at += len(segments[i])


@functools.partial(jax.jit, static_argnums=0)
def _logps(scorer: Scorer, params: Tree, batch: Batch) -> jax.Array:
    return scorer.logps(params, batch)


def likeliest_tokens(scorer: Scorer, params: Tree, batch: Batch) -> np.ndarray:
    """int32 `[R, S]`: the most probable token at each place, given those before it in its segment; 0 at the first."""
    return np.asarray(to_host(_likeliest(scorer, params, batch)))


@functools.partial(jax.jit, static_argnums=0)
def _likeliest(scorer: Scorer, params: Tree, batch: Batch) -> jax.Array:
    def term(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.argmax(logits, -1).astype(jnp.int32)

    streams = ((scorer.unembedding(params), scorer.hidden(params, batch)),)
    found = map_vocab(term, streams, next_tokens(batch), chunk=scorer.head_chunk)
    return to_targets(found, batch).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _logps_and_greedy(scorer: Scorer, params: Tree, batch: Batch) -> jax.Array:
    stats = scorer.token_stats(params, batch)
    return jnp.stack([stats.logps, stats.correct], -1)


_KINDS = {"logps": _logps, "greedy": _logps_and_greedy}


def fill_rows(lengths: Sequence[int], row_length: int, slots: int) -> list[list[int]]:
    """Which segments share a row: longest first, each into the row it leaves fullest (best fit)."""
    by_space: list[list[int]] = [[] for _ in range(row_length + 1)]
    rows: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        space = next((s for s in range(lengths[i], row_length + 1) if by_space[s]), None)
        if space is None:
            rows.append([])
            row, space = len(rows) - 1, row_length
        else:
            row = by_space[space].pop()
        rows[row].append(i)
        if len(rows[row]) < slots:
            by_space[space - lengths[i]].append(row)
    return rows


def packed_batch(
    segments: Sequence[np.ndarray],
    chosen: list[list[int]],
    rows: int,
    row_length: int,
    beside: Sequence[Mapping[str, np.ndarray]] = (),
) -> Batch:
    """Rows of segments, each of which is an example with the role "answer"; their numbers are the examples' ids."""
    slots, shape = row_length // SHORTEST, (rows, row_length)
    tokens, ids, positions = (np.zeros(shape, np.int32) for _ in range(3))
    columns = {name: np.zeros(shape, values.dtype) for name, values in (beside[0] if beside else {}).items()}
    answer, numbers = (np.full((rows, slots), -1, np.int32) for _ in range(2))
    for r, members in enumerate(chosen):
        at = 0
        for slot, i in enumerate(members, start=1):
            here = slice(at, at + len(segments[i]))
            tokens[r, here], ids[r, here] = segments[i], slot
            positions[r, here] = np.arange(len(segments[i]))
            answer[r, slot - 1], numbers[r, slot - 1] = slot - 1, i
            for name, column in columns.items():
                column[r, here] = beside[i][name]
            at += len(segments[i])
    masks = {"completion": columns.pop("completion")} if "completion" in columns else {}
    return Batch(
        tokens=jnp.asarray(tokens),
        segment_ids=jnp.asarray(ids),
        positions=jnp.asarray(positions),
        masks={name: jnp.asarray(mask) for name, mask in masks.items()},
        per_token={name: jnp.asarray(column) for name, column in columns.items()},
        per_segment={},
        per_example={},
        roles={"answer": jnp.asarray(answer.reshape(-1))},
        example_id=jnp.asarray(numbers.reshape(-1)),
        block_rows=1,
        slots=slots,
        max_segment=row_length,
    )
