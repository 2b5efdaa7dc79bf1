"""Log-probs or values of a network, computed once per dataset and kept on disk per token: resumable, and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.ragged import RaggedColumn
from jaxpo.data.rows.needs import recorded_column
from jaxpo.errors import DataError
from jaxpo.objectives.encode import per_token
from jaxpo.sharding import put_batch, to_host, whole_rows
from jaxpo.sharding.turns import by_first_process, first_process_first
from jaxpo.stages.frozen import FrozenNetwork

Tree = Any
FLUSH_EVERY = 16
WORDS = {"logps": "log-probs", "values": "values"}


def record_per_token(
    network: FrozenNetwork,
    name: str,
    kind: str,
    loader: Loader,
    directory: Path,
    mesh: jax.sharding.Mesh,
    say: Callable[[str], None],
) -> RaggedColumn:
    """What is read of every token of a network, float32, as `per_token[recorded_column(name, kind)]`.

    Keyed by the hash of the parameters, the dataset (which covers tokenizer, template and truncation) and the compute
    dtype. An interrupted computation goes on where it stopped. At the end one batch is computed again and the largest
    difference from the stored values is printed.

    Args:
      kind: "logps" or "values".
      loader: gives dataset, row length and blocks; its order does not matter.
      directory: one folder per key is made below it.

    Raises:
      DataError: the stored values are not those that the network gives.
    """
    what = f"{name} {WORDS[kind]}"
    key = _key(network, kind, loader)
    where = (directory / key[:16], loader.dataset.lengths, key, recorded_column(name, kind))
    column = first_process_first(lambda: RaggedColumn.create(*where))
    for line in column.notes:
        say(f"{what}: {line}")
    batches, whole = loader.one_pass(), loader.of_all_processes().one_pass()
    compute = jax.jit(per_token(network.scorer, kind))

    def read(batch: Batch) -> jax.Array:
        return compute(network.params, put_batch(batch, mesh))

    def lacking() -> list[int]:
        missing = set(column.missing().tolist())
        return [i for i in range(len(whole)) if any(place.example in missing for place in whole.places(i))]

    todo = by_first_process(lacking)
    if todo:
        say(f"{what}: {len(todo)} of {len(batches)} batches to compute")
    for n, i in enumerate(todo, start=1):
        values = to_host(read(batches[i]))
        # One process writes: pages of one file that two hosts write would undo each other's work.
        if jax.process_index() == 0:
            whole.scatter(i, values, column)
            if n % FLUSH_EVERY == 0:
                column.flush()

    def written() -> RaggedColumn:
        if jax.process_index() == 0:
            column.flush()
        return RaggedColumn.open(*where)

    column = first_process_first(written)
    worst = _check(loader.reading(column).one_pass()[0], lambda batch: local_rows(read(batch)), column, what)
    say(f"{what}: max |stored - recomputed| = {worst:.2e}")
    return column


def _check(batch: Batch, read: Callable[[Batch], np.ndarray], column: RaggedColumn, what: str) -> float:
    """Largest difference between a batch's stored values and recomputed ones; DataError when it is no rounding."""
    worst = float(np.max(np.abs(read(batch) - batch.per_token[column.name])))
    if not worst <= 1e-2:
        raise DataError(
            f"stored {what} differ from recomputed ones by {worst:.3g}.",
            file=column.directory,
            remedy="Delete the folder to compute them again.",
        )
    return worst


def _key(network: FrozenNetwork, kind: str, loader: Loader) -> str:
    # Log-probs came first, and their keys had no kind.
    parts = (loader.dataset.hash, network.scorer.dtype, network.fingerprint, *([kind] if kind != "logps" else []))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def local_rows(x: jax.Array) -> np.ndarray:
    """The rows of an array that this process holds, whole and in order."""
    shards = {shard.index[0].start or 0: shard.data for shard in whole_rows(x).addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
