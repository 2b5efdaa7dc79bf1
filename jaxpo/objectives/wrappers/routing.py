"""Any objective of a mixture of experts: its balance losses, its load metrics, and the update of its routing bias."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.config import Routing
from jaxpo.data.packing.batch import Batch
from jaxpo.losses.balance import load_balance, router_z, updated_bias
from jaxpo.models.language import RouterSums
from jaxpo.models.parts import Experts
from jaxpo.objectives.base import Counts, Mean, Objective, OfSums, Out

Tree = Any
INNER, ROUTER, TOKENS = "objective", "router", "router_tokens"


def with_routing(objective: Objective, experts: Experts, routing: Routing) -> Objective:
    """The same objective, with what keeps the experts busy alike and shows whether they are.

        L = L_objective + aux_coef * mean over layers of the load balance loss + z_coef * mean of the z loss

    Statistics are over all real tokens of the step, however it is accumulated, packed or sharded. The auxiliary loss
    is a product of two means over them and makes the objective coupled; load metrics, z loss and bias update are
    functions of sums and do not. The routers that count are those of the pass whose `aux` the objective hands on.

    Args:
      objective: any whose `encode` returns the `aux` of the trained model's forward pass.
      experts: of that model.
      routing: coefficients; 0 switches a part off.
    """

    def counts(batch: Batch) -> dict[str, Array]:
        return {**objective.counts(batch), TOKENS: jnp.sum((batch.segment_ids > 0).astype(jnp.float32))}

    def encode(params: Tree, frozen: Tree, batch: Batch, rng: jax.Array | None) -> tuple[Tree, dict[str, Any]]:
        features, aux = objective.encode(params, frozen, batch, rng)
        if ROUTER not in aux:
            raise ValueError(f"objective {objective.name!r} hands on no {ROUTER!r} sums of the trained model's pass")
        rest = {name: x for name, x in aux.items() if name != ROUTER}
        return {INNER: features, ROUTER: aux[ROUTER]}, rest

    def loss(features: Tree, batch: Batch, carry: Tree, counts: Counts) -> Out:
        out = objective.loss(features[INNER], batch, carry, counts)
        sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), features[ROUTER])
        total = out.loss + _balance(sums, counts[TOKENS], experts, routing)
        load = jax.lax.stop_gradient(sums.load)
        metrics = out.metrics | load_metrics(jax.lax.stop_gradient(sums), experts)
        return Out(total, metrics, {INNER: out.stats, "load": load})

    def after(carry: Tree, stats: Tree) -> Tree:
        return objective.after(carry, stats[INNER])

    def adjust(params: Tree, stats: Tree) -> Tree:
        return {
            **params,
            "model": move_biases(params["model"], stats["load"], experts.biases, routing.bias_update_rate),
        }

    return dataclasses.replace(
        objective,
        counts=counts,
        encode=encode,
        loss=loss,
        after=after,
        adjust=adjust if experts.biases and routing.bias_update_rate > 0 else objective.adjust,
        coupled=objective.coupled or routing.router_aux_loss_coef > 0,
    )


def _balance(sums: RouterSums, tokens: Float[Array, ""], experts: Experts, routing: Routing) -> Array:
    """The weighted balance losses of these rows; over the whole step they add up to those of the step."""
    loss = routing.router_z_loss_coef * jnp.mean(router_z(sums.z, tokens))
    if routing.router_aux_loss_coef > 0:
        balance = load_balance(sums.load, sums.share, sums.tokens, top_k=experts.chosen)
        # An evaluation set is several steps: each counts by its tokens.
        loss += routing.router_aux_loss_coef * jnp.mean(balance) * sums.tokens / jnp.maximum(tokens, 1.0)
    return loss


def move_biases(model: Tree, load: Float[Array, "L E"], paths: Sequence[str], rate: float) -> Tree:
    """The model with the routing biases of its layers after one more step; everything else is as it was."""
    for row, path in enumerate(paths):
        model = _replaced(model, path.split("/"), functools.partial(updated_bias, load=load[row], rate=rate))
    return model


def _replaced(tree: Tree, path: Sequence[str], change: Callable[[Array], Array]) -> Tree:
    if not path:
        return change(tree)
    first, *rest = path
    return {**tree, first: _replaced(tree[first], rest, change)}


def load_metrics(sums: RouterSums, experts: Experts) -> dict[str, Any]:
    """How evenly the tokens of the step were spread, means over the mixture layers; see `MEASURES`."""
    metrics: dict[str, Any] = {name: OfSums(sums.load, measure) for name, measure in MEASURES.items()}
    aux = {"load": sums.load, "share": sums.share, "tokens": sums.tokens}
    metrics["aux_loss"] = OfSums(aux, _Auxiliary(experts.chosen))
    metrics["router_z_loss"] = Mean(jnp.mean(sums.z), sums.tokens)
    return metrics


@dataclasses.dataclass(frozen=True)
class _Auxiliary:
    top_k: int

    def __call__(self, sums: Mapping[str, Array]) -> Array:
        return jnp.mean(load_balance(sums["load"], sums["share"], sums["tokens"], top_k=self.top_k))


def max_load_violation(load: Float[Array, "L E"]) -> Float[Array, ""]:
    """`max_e load_e / mean(load) - 1`: 0 when balanced (Wang et al. 2024, arXiv 2408.15664, MaxVio)."""
    return jnp.mean(jnp.max(_relative(load), axis=-1)) - 1.0


def mean_load_violation(load: Float[Array, "L E"]) -> Float[Array, ""]:
    """`mean_e |load_e / mean(load) - 1|`."""
    return jnp.mean(jnp.abs(_relative(load) - 1.0))


def load_entropy(load: Float[Array, "L E"]) -> Float[Array, ""]:
    """Entropy of the load over `log E`: 1 when balanced, 0 when one expert of several has everything; 1 if E = 1."""
    if load.shape[-1] == 1:
        return jnp.ones(())
    p = load / jnp.maximum(jnp.sum(load, axis=-1, keepdims=True), 1.0)
    return jnp.mean(jnp.sum(jax.scipy.special.entr(p), axis=-1)) / jnp.log(float(load.shape[-1]))


def dead_experts(load: Float[Array, "L E"]) -> Float[Array, ""]:
    """Share of the experts that no token of the step chose."""
    return jnp.mean((load == 0).astype(jnp.float32))


def _relative(load: Array) -> Array:
    return load / jnp.maximum(jnp.mean(load, axis=-1, keepdims=True), 1e-9)


MEASURES: Mapping[str, Callable[[Array], Array]] = {
    "moe/max_load_violation": max_load_violation,
    "moe/mean_load_violation": mean_load_violation,
    "moe/load_entropy": load_entropy,
    "moe/dead_experts": dead_experts,
}
