"""SparsePO's weights per response token, from the activations of the frozen reference.

Every activation is reduced to one number per position inside the tap, so that the hidden states of all layers never
exist side by side. What a position computes is about the next token: it is moved to that token before it is gathered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.data.packing.batch import Batch, rows_of
from jaxpo.losses.sparsepo import dropout, mapo_mask, mask_scores, mix_scores
from jaxpo.objectives.encode import Scorer, to_targets

Tree = Any
Heads = Literal["all_layers", "last_layer", "two_layer"]
SIDES = ("chosen", "rejected")
Weights = dict[str, Array]
"""`{side}_{network}` -> `[N, T]`, network being "reward" or "kl"."""

# Released code -> here: MLP after its activation; what attention (here: the mixer) computes before its output
# projection; the residual stream with what each half of a layer adds to it.
FAMILIES = {
    "feed_forward": re.compile(r"layers/\d+/feed_forward/.+"),
    "mixer": re.compile(r"layers/\d+/mixer/.+"),
    "residual": re.compile(r"layers/\d+(/mixer|/feed_forward)?|embedding_norm"),
}


def learned(
    scorer: Scorer,
    networks: Mapping[str, Tree],
    reference: Tree,
    batch: Batch,
    rng: Array | None,
    *,
    heads: Heads,
    rate: float,
) -> Weights:
    """The mask networks' weights of both sides.

    Args:
      networks: "reward", and "kl" for independent masks; see `jaxpo.models.heads.mask_table`.
      rng: key of the step; None = without dropout (evaluation).
      heads: which states the networks read.
      rate: of the dropout on every z_l and on the mask.
    """
    names = _state_names(scorer.config.num_hidden_layers, heads)

    def tap(name: str, x: Array) -> dict[str, Array] | None:
        if name not in names:
            return None
        return {net: mask_scores(p, names.index(name), x) for net, p in networks.items()}

    seen = scorer.taps(jax.lax.stop_gradient(reference), batch, tap)
    found: Weights = {}
    for s, side in enumerate(SIDES):
        for k, (net, p) in enumerate(networks.items()):
            z = jnp.stack([rows_of(to_targets(seen[n][net], batch), batch.roles[side], batch) for n in names])
            u = None if rng is None or not rate else uniforms(rng, batch, 2 * s + k, len(names) + 1)
            z = z if u is None else dropout(z, u[:-1], rate)
            m = mix_scores(p, z)
            # One layer without a mixer has one dropout, as there is one output.
            found[f"{side}_{net}"] = m if u is None or "mixer" not in p else dropout(m, u[-1], rate)
    return found


def mapo(scorer: Scorer, reference: Tree, batch: Batch) -> Weights:
    """MaPO's weights: every activation of the reference averaged over its features, then mapped to [0, 1]."""

    def tap(name: str, x: Array) -> Array | None:
        known = any(pattern.fullmatch(name) for pattern in FAMILIES.values())
        return jnp.mean(x.astype(jnp.float32), axis=tuple(range(2, x.ndim))) if known else None

    seen = scorer.taps(jax.lax.stop_gradient(reference), batch, tap)
    shifted = {name: to_targets(x, batch) for name, x in seen.items()}
    members = {k: [n for n in shifted if pattern.fullmatch(n)] for k, pattern in FAMILIES.items()}
    found: Weights = {}
    for side in SIDES:
        index = batch.roles[side]
        on = rows_of(batch.masks["completion"].astype(jnp.float32), index, batch) > 0
        maps = {k: [rows_of(shifted[n], index, batch) for n in names] for k, names in members.items() if names}
        found[f"{side}_reward"] = mapo_mask(maps, on)
    return found


def random(batch: Batch, rng: Array | None, *, independent: bool) -> Weights:
    """Uniform weights in [0, 1], drawn anew in every step; at evaluation the same ones each time."""
    key = jax.random.key(0) if rng is None else rng
    nets = ("reward", "kl") if independent else ("reward",)
    draws = {(s, k): uniforms(key, batch, 2 * s + k, 1)[0] for s in range(2) for k in range(len(nets))}
    return {f"{SIDES[s]}_{nets[k]}": u for (s, k), u in draws.items()}


def uniforms(rng: Array, batch: Batch, stream: int, count: int) -> Float[Array, "C N T"]:
    """Uniform draws keyed by (step, example, stream): they follow a token wherever packing puts it."""

    def draw(example: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(rng, example), stream)
        return jax.random.uniform(key, (batch.max_segment, count))

    return jnp.moveaxis(jax.vmap(draw)(batch.example_id), -1, 0)


def _state_names(layers: int, heads: Heads) -> list[str]:
    """Taps of the layers' outputs; the last one after the final norm, as `output_hidden_states` counts."""
    if heads == "last_layer":
        return ["embedding_norm"]
    return [f"layers/{i}" for i in range(layers - 1)] + ["embedding_norm"]
