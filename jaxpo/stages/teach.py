"""Run a teacher over a dataset once and keep its K likeliest tokens: resumable, and shared among machines by parts."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.data.packing.fill import Place
from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.teacher_records import (
    PART_TOKENS,
    RecordsMeta,
    Taught,
    id_dtype,
    missing_parts,
    parts_of,
    recorded,
    start_records,
    write_part,
)
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import ConfigError
from jaxpo.losses.decoupled_topk_kd import TopKRecord, topk_record
from jaxpo.objectives.encode import Scorer
from jaxpo.ops.head import map_vocab
from jaxpo.sharding import BATCH_AXES, axis_size, put_batch, to_host
from jaxpo.sharding.turns import by_first_process, first_process_first
from jaxpo.stages.frozen import FrozenNetwork, Say

Tree = Any
BATCHES_PER_PART = 8


def records_meta(teacher: FrozenNetwork, dataset: Dataset, k: int, part_tokens: int = PART_TOKENS) -> RecordsMeta:
    """What a teacher's records of a dataset are made from."""
    return RecordsMeta(
        dataset=dataset.hash,
        tokenizer=dataset.tokenizer.hash,
        teacher=teacher.fingerprint,
        vocab_size=teacher.scorer.config.vocab_size,
        k=k,
        compute=teacher.scorer.dtype,
        examples=len(dataset),
        part_tokens=part_tokens,
    )


def check_k(k: int, vocab_size: int, where: str = "top_k") -> None:
    """ConfigError when a record would hold more ids than there are tokens."""
    if k < 1:
        raise ConfigError(f"{where}: {k} must be at least 1.")
    if k > vocab_size:
        raise ConfigError(f"{where}: {k} exceeds the vocabulary of {vocab_size} tokens; use at most {vocab_size}.")


def batch_rows(loader: Loader, mesh: jax.sharding.Mesh, part_tokens: int = PART_TOKENS, most: int | None = None) -> int:
    """Rows of a teacher's batch, in whole blocks for every device.

    A part is computed in whole batches of one shape, so its last batch is padded: batches of an eighth of a part keep
    that padding small, whatever the training's batches are.

    Args:
      most: rows that fit the devices' memory, unless one block per device is more; None = those of a training step.
    """
    unit = loader.block_rows * axis_size(mesh, BATCH_AXES)
    wanted = min(part_tokens, loader.dataset.tokens) // (BATCHES_PER_PART * loader.data.row_length * unit)
    return unit * max(1, min(wanted, (most or loader.rows_per_step) // unit))


def teach(
    teacher: FrozenNetwork,
    loader: Loader,
    folder: Path,
    k: int,
    mesh: jax.sharding.Mesh,
    say: Say,
    *,
    shard: tuple[int, int] = (0, 1),
    part_tokens: int = PART_TOKENS,
    most_rows: int | None = None,
    check: Callable[[], None] = lambda: None,
    done: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Write the records of a loader's dataset that are not there yet; returns counts and speed.

    Several processes compute every batch together; the first gathers the records and writes them.

    Args:
      loader: gives dataset, row length and blocks; its order does not matter.
      folder: of the records; the same call goes on with it.
      k: ids per token.
      shard: (i, n): of the parts only those with number i modulo n.
      most_rows: in a batch, see `batch_rows`.
      check: called between batches; may raise to stop.
      done: called with the `figures` of every part as soon as it is written.

    Returns:
      {"tokens", "bytes", "bytes_per_token", "file_bytes", "seconds", "tokens_per_second", "parts", "parts_done"}: of
      this call, except "parts" (all that there are) and "parts_done" (now complete, of this shard).

    Raises:
      ConfigError: K exceeds the vocabulary, or a shard that does not exist.
      DataError: the folder holds records of another teacher, dataset or setting.
    """
    check_k(k, teacher.scorer.config.vocab_size)
    index, count = shard
    if not 0 <= index < count:
        raise ConfigError(f"--shard: there is no shard {index} of {count}; they count from 0.")
    meta = records_meta(teacher, loader.dataset, k, part_tokens)
    first_process_first(lambda: start_records(folder, meta))
    parts = parts_of(loader.dataset, part_tokens)
    own = range(index, len(parts), count)
    # The first looks: it keeps damaged parts aside, and what is missing for it is missing for all.
    todo = by_first_process(lambda: missing_parts(folder, own, say))
    if todo:
        say(f"teacher records: {len(todo)} of {len(own)} parts to compute")
    rows = batch_rows(loader, mesh, part_tokens, most_rows)
    began = before = time.perf_counter()
    tokens, size = 0, 0
    for n, i in enumerate(todo, start=1):
        entries = _part(teacher, loader, parts[i], rows, k, mesh, check)
        new = sum(len(taught.log_odds) for taught in entries)
        # The others wait: what is there for one of them must be there for all.
        written = by_first_process(functools.partial(write_part, folder, i, meta, entries))
        now = time.perf_counter()
        done(figures(meta, len(parts), new, written, now - before))
        before, tokens, size = now, tokens + new, size + written
        elapsed, ready = now - began, max(sum(len(parts[j]) for j in todo[:n]), 1)
        rate, left = tokens / elapsed, elapsed / ready * sum(len(parts[j]) for j in todo[n:])
        say(f"teacher records: part {n}/{len(todo)}, {tokens:,} tokens, {rate:,.0f} tokens/s, {left:,.0f} s left")
    return figures(meta, len(parts), tokens, size, time.perf_counter() - began) | {"parts_done": len(own)}


def figures(meta: RecordsMeta, parts: int, tokens: int, file_bytes: int, seconds: float) -> dict[str, Any]:
    """Size and speed of records as `teach` reports them."""
    return {
        "tokens": tokens,
        "bytes": tokens * meta.bytes_per_token,
        "bytes_per_token": meta.bytes_per_token,
        "file_bytes": file_bytes,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if tokens else 0.0,
        "parts": parts,
    }


def _part(
    teacher: FrozenNetwork,
    loader: Loader,
    examples: range,
    rows: int,
    k: int,
    mesh: jax.sharding.Mesh,
    check: Callable[[], None],
) -> list[Taught]:
    """Records of consecutive examples, in order. One batch is computed while the one before it is read back."""
    batches, places = loader.one_pass(rows, examples), loader.of_all_processes().one_pass(rows, examples).places
    found: dict[int, Taught] = {}
    waiting: list[tuple[int, TopKRecord]] = []
    for i, batch in enumerate(batches):
        check()
        waiting.append((i, run_teacher(teacher.scorer, k, teacher.params, put_batch(batch, mesh))))
        if len(waiting) > 1:
            found |= _gather(loader, places(waiting[0][0]), waiting.pop(0)[1])
    for i, record in waiting:
        found |= _gather(loader, places(i), record)
    return [found[e] for e in examples]


def _gather(loader: Loader, places: list[Place], record: TopKRecord) -> dict[int, Taught]:
    """Every example's records out of a batch's: token t's lie where the logits do that predict it, at t - 1."""
    columns = to_host(tuple(record))
    found = {}
    for place, example in zip(places, loader.dataset.store.read([p.example for p in places]), strict=True):
        rows = place.block * loader.block_rows + place.row
        pieces = [
            [x[row, start + positions - 1] for x in columns]
            for positions, row, start in zip(recorded(example), rows, place.start, strict=True)
        ]
        found[place.example] = Taught(*(np.concatenate(x) for x in zip(*pieces, strict=True)))
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def run_teacher(scorer: Scorer, k: int, params: Tree, batch: Batch) -> TopKRecord:
    """`[R, S, K]` records at the positions of their logits, in the dtypes that are stored."""
    streams = ((scorer.unembedding(params), scorer.hidden(params, batch)),)
    record = map_vocab(lambda logits, _: topk_record(logits, k), streams, batch.tokens, chunk=scorer.head_chunk)
    ids = record.ids.astype(id_dtype(scorer.config.vocab_size))
    return TopKRecord(ids, record.logps.astype(jnp.bfloat16), record.log_odds)
