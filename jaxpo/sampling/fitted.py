"""An engine as large as what is asked of it, for those who know all their requests beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxpo.config.axes import BATCH_AXES
from jaxpo.models.family import TextConfig, limits
from jaxpo.sampling.engine import Engine
from jaxpo.sampling.request import Request
from jaxpo.sharding import axis_size, current_mesh

Tree = Any
SMALLEST = 64


def fitted(params: Tree, config: TextConfig, requests: Sequence[Request], *, slots: int = 64, **options: Any) -> Engine:
    """An engine for these requests; see `sized`."""
    needed = max((len(request.prompt) + request.max_new_tokens for request in requests), default=1)
    return sized(params, config, needed=needed, answers=sum(request.n for request in requests), slots=slots, **options)


def sized(
    params: Tree,
    config: TextConfig,
    *,
    needed: int,
    answers: int,
    slots: int = 64,
    context: int | None = None,
    **options: Any,
) -> Engine:
    """An engine for so much, on the mesh of the enclosing `use_mesh` and by its rules.

    Args:
      needed: tokens of the longest prompt and answer together.
      answers: how many are asked for in all.
      slots: continuations in flight at once; fewer where fewer are asked for.
      context: tokens of a prompt and its answer at most; None = the model's.
      options: of `Engine`.
    """
    mesh = current_mesh()
    share = 1 if mesh is None else axis_size(mesh, BATCH_AXES)
    few = 1
    while few < min(slots, answers):
        few *= 4
    return Engine(
        params,
        config,
        slots=-(-min(few, slots) // share) * share,
        context=min(window(needed), context or limits(config).context),
        **options,
    )


def window(needed: int) -> int:
    """The next of 64, 96, 128, 192, 256, ...: few sizes, few compiled programs, a third wasted at most."""
    whole = SMALLEST
    while whole < needed:
        if whole + whole // 2 >= needed:
            return whole + whole // 2
        whole *= 2
    return whole


def as_scored(scorer: Any) -> dict[str, Any]:
    """Options of an `Engine` that computes as a `Scorer` does.

    Attention over a cache has implementations of its own: where the scorer's is none of them, the best here.
    """
    import jax.numpy as jnp

    from jaxpo.ops.attention import CACHED_BACKENDS

    known = {backend.name for backend in CACHED_BACKENDS}
    attention = scorer.attention if scorer.attention in known else None
    return {"dtype": jnp.dtype(scorer.dtype), "attention": attention, "experts": scorer.experts}
