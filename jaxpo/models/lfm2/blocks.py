"""LFM2's and LFM3's layers, in training and generation: with a cache they continue, else they start at the segment."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float, Int

from jaxpo.models.language import RouterSums, Tap
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.experts import mixture
from jaxpo.models.lfm2.feed_forward import feed_forward
from jaxpo.models.lfm2.mixers import MIXERS, Packed, See, Step
from jaxpo.models.lfm2.recompute import keep
from jaxpo.ops.norm import rms_norm
from jaxpo.ops.rope import Rope, rope_table
from jaxpo.sharding import constrain

Tree = Any


def rotations(config: LFM2Config, positions: Int[Array, "R S"]) -> dict[str, Rope]:
    """Rotation angles for each layer type of the model that turns its queries and keys."""
    kinds = [kind for kind, mixer in MIXERS.items() if mixer.rotary and kind in config.layer_types]
    return {kind: rope_table(positions, config.head_dim, *config.rotation(kind)) for kind in kinds}


def layer(
    params: Tree,
    x: Float[Array, "R S D"],
    where: Packed | Step,
    *,
    config: LFM2Config,
    kind: str,
    cache: Tree = None,
    tap: Tap | None = None,
    name: str = "",
) -> tuple[Float[Array, "R S D"], Tree, dict[str, Any], RouterSums | None]:
    """`h = x + Mixer(operator_norm(x)); y = h + MLP(ffn_norm(h))`: returns y, the new cache, what `tap` returned, and,
    where the feed-forward is a mixture of experts, the sums of its router.

    With sandwich norms (Ding et al. 2021, arXiv 2105.13290) `post_operator_norm` and `post_ffn_norm` are applied to
    what is added. `tap` sees `{name}/mixer` and `{name}/feed_forward` (as they are added) and `{name}` (the layer's
    output), and inside them `{name}/mixer/...` (b, c, x, out of a convolution; q, k, v, rotated_q, rotated_k, out and,
    where there is one, gate of attention) and `{name}/feed_forward/hidden` of a dense one.
    """
    mixer = MIXERS[kind]
    inner: dict[str, Any] = {}

    def inside(part: str) -> See:
        return lambda what, x: inner.update(collect(tap, {f"{name}/{part}/{what}": x}))

    normed = rms_norm(x, params["operator_norm"]["weight"], config.norm_eps)
    mixed, cache = mixer.apply(params[mixer.name], normed, where, config, cache, inside("mixer"))
    mixed = keep(mixed)
    if config.sandwich_norm:
        mixed = rms_norm(mixed, params["post_operator_norm"]["weight"], config.norm_eps)
    h = constrain(x + mixed, "batch", "sequence", "embed_act")
    normed = rms_norm(h, params["ffn_norm"]["weight"], config.norm_eps)
    fed, routed = _fed(params["feed_forward"], normed, where, config, inside("feed_forward"))
    if config.sandwich_norm:
        fed = rms_norm(fed, params["post_ffn_norm"]["weight"], config.norm_eps)
    y = constrain(h + fed, "batch", "sequence", "embed_act")
    tapped = {f"{name}/mixer": mixed, f"{name}/feed_forward": fed, name: y}
    return y, cache, inner | collect(tap, tapped), routed


def _fed(params: Tree, x: Array, where: Packed | Step, config: LFM2Config, see: See) -> tuple[Array, RouterSums | None]:
    if "experts" in params:
        return mixture(params, x, where.real, config, implementation=where.experts)
    return feed_forward(params, x, see), None


def collect(tap: Tap | None, tapped: dict[str, Array]) -> dict[str, Any]:
    """What `tap` made of each named activation; entries for which it returned None are left out."""
    if tap is None:
        return {}
    seen = {name: tap(name, x) for name, x in tapped.items()}
    return {name: value for name, value in seen.items() if value is not None}
