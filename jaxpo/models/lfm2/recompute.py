"""What of a layer is kept for the backward pass, by name, and where; the rest is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from jaxpo.errors import ConfigError
from jaxpo.sharding.host_memory import HOST, require_host_memory

INPUT, MIXER = "layer_input", "mixer"
_TO_HOST = {"offload_src": "device", "offload_dst": HOST}
_policies = jax.checkpoint_policies

POLICIES: dict[str, Callable[..., Any]] = {
    "dots": _policies.dots_with_no_batch_dims_saveable,
    "mixer": _policies.save_only_these_names(MIXER),
    "full": _policies.nothing_saveable,
    "offload_dots": _policies.offload_dot_with_no_batch_dims(**_TO_HOST),
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=[INPUT], **_TO_HOST
    ),
}
"""Name -> what `jax.checkpoint` keeps of a layer beside its input."""


def recomputed(run: Callable[..., Any], remat: str, *, looped: bool) -> Callable[..., Any]:
    """A layer `run(params, x)` of which the backward pass finds what the policy names; "none" keeps everything.

    Args:
      looped: it is the body of a loop, whose forward and backward pass no compiler joins.

    Raises:
      ConfigError: an unknown policy, or one that moves to host memory where devices have none.
    """
    if remat == "none":
        return run
    if remat not in POLICIES:
        raise ConfigError(f"compute.remat: there is no policy {remat!r}; known: none, {', '.join(POLICIES)}")
    if remat.startswith("offload"):
        require_host_memory(f"compute.remat {remat!r}", "choose 'full' instead")

    def named(params: Any, x: Array) -> Any:
        return run(params, checkpoint_name(x, INPUT))

    return jax.checkpoint(named, policy=POLICIES[remat], prevent_cse=not looped)


def keep(x: Array) -> Array:
    """Mark what the policy "mixer" keeps: the products of a mixer and what it adds."""
    named: Array = checkpoint_name(x, MIXER)
    return named
