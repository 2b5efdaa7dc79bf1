"""Orbax in one of several processes that reads what the others do not."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import jax
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint._src.futures.synchronization import OperationIdGenerator


def alone() -> ocp.options.MultiprocessingOptions:
    """Orbax waits for no other process."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"alone{own}"
    )


@contextlib.contextmanager
def counted_apart() -> Iterator[None]:
    """What a process does by itself is not counted among the operations that Orbax numbers alike on all processes.

    Their number is part of every barrier's name: counted on one process only, it would wait for ever in the next one.
    """
    generator = OperationIdGenerator
    kept = generator._operation_id_counter, generator._operation_id
    generator._operation_id_counter = itertools.count(1 << 40)
    try:
        yield
    finally:
        generator._operation_id_counter, generator._operation_id = kept
