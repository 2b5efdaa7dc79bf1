"""Reference log-probs, computed once per dataset and kept on disk per token: resumable, and checked before use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.data.packing.batch import Batch
from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.ragged import RaggedColumn
from jaxpo.errors import DataError
from jaxpo.objectives.encode import Scorer
from jaxpo.sharding import put_batch

Tree = Any
FLUSH_EVERY = 16


def reference_log_probs(
    scorer: Scorer,
    model: Tree,
    make_loader: Callable[[RaggedColumn | None], Loader],
    directory: Path,
    mesh: jax.sharding.Mesh,
    say: Callable[[str], None],
) -> Loader:
    """A loader whose batches carry log pi_ref of every token, float32, as `per_token["ref_logps"]`.

    Keyed by the hash of the parameters, the dataset (which covers tokenizer, template and truncation) and the compute
    dtype. An interrupted computation goes on where it stopped. At the end one batch is computed again and the largest
    difference from the stored values is printed.

    Args:
      model: the reference's parameters.
      make_loader: gives the loader of a dataset with the column of stored values, or without one.
      directory: one folder per key is made below it.

    Raises:
      DataError: the stored values are not those that the reference gives.
    """
    loader = make_loader(None)
    key = _key(scorer, model, loader)
    column = RaggedColumn.create(directory / key[:16], loader.dataset.lengths, key)
    batches = loader.one_pass()
    compute = jax.jit(scorer.logps)

    def logps(batch: Batch) -> np.ndarray:
        return local_rows(compute(model, put_batch(batch, mesh)))

    missing = set(column.missing().tolist())
    todo = [i for i in range(len(batches)) if missing & set(batches[i].example_id.tolist())]
    if todo:
        say(f"reference log-probs: {len(todo)} of {len(batches)} batches to compute")
    for n, i in enumerate(todo, start=1):
        batches.scatter(i, logps(batches[i]), column)
        if n % FLUSH_EVERY == 0:
            column.flush()
    column.flush()
    with_column = make_loader(column)
    worst = _check(with_column.one_pass()[0], logps, column)
    say(f"reference log-probs: max |stored - recomputed| = {worst:.2e}")
    return with_column


def _check(batch: Batch, logps: Callable[[Batch], np.ndarray], column: RaggedColumn) -> float:
    """Largest difference between a batch's stored values and recomputed ones; DataError when it is no rounding."""
    worst = float(np.max(np.abs(logps(batch) - batch.per_token["ref_logps"])))
    if not worst <= 1e-2:
        raise DataError(
            f"stored reference log-probs differ from recomputed ones by {worst:.3g} nats.",
            file=column.directory,
            remedy="Delete the folder to compute them again.",
        )
    return worst


def _key(scorer: Scorer, model: Tree, loader: Loader) -> str:
    parts = (loader.dataset.hash, scorer.dtype, fingerprint(model))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def local_rows(x: jax.Array) -> np.ndarray:
    """The rows of a row-sharded array that this process holds, in order."""
    shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
