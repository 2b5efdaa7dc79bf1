"""Back to the newest intact checkpoint: a damaged one is kept under another name, which is said with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxpo.checkpoint.store import CheckpointStore, together
from jaxpo.errors import DamagedError
from jaxpo.sharding.turns import first_process_first

Tree = Any
Say = Callable[[str], None]


def set_damaged_aside(store: CheckpointStore, say: Say) -> None:
    """Until the newest checkpoint is one whose files are as they were written; its arrays are not read.

    Every process calls it; process 0 looks.
    """

    def look() -> None:
        while jax.process_index() == 0 and (step := store.latest()) is not None:
            try:
                store.meta(step)
                return
            except DamagedError as error:
                say(_said(store, error, store.set_aside(step)))

    first_process_first(look)


def restore_newest(
    store: CheckpointStore,
    abstract: Tree,
    consistent: Callable[[int, Tree, Mapping[str, Any]], str | None],
    say: Say,
) -> tuple[int, Tree, dict[str, Any]] | None:
    """`(step, state, meta)` of the newest checkpoint that is intact; None where there is none.

    Every process calls it, and all of them go back to the same step.

    Args:
      consistent: `(step, state, meta)` -> what does not fit together, or None.

    Raises:
      CheckpointError: other leaves, shapes or dtypes than `abstract` has, which is no damage; files that cannot be read
        here; or the checkpoint that was asked for (`CheckpointStore.back_to`) is damaged.
    """
    while (step := store.latest()) is not None:
        try:
            state, meta = store.restore(step, abstract)
            if wrong := consistent(step, state, meta):
                raise store.damaged(step, wrong)
            return step, state, meta
        except DamagedError as error:
            if store.limit is not None:
                raise
            together("a damaged checkpoint is found")
            moved = store.set_aside(step)
            together("and set aside")
            say(_said(store, error, moved))
    return None


def _said(store: CheckpointStore, error: DamagedError, moved: Path) -> str:
    older = store.latest()
    on = "the stage starts again" if older is None else f"the stage goes on from step {older}"
    return f"warning: {error.what}. It is kept as {moved.name}, and {on}"
