"""The mixture-of-experts feed-forward: its parameters, its forward on one device or many."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxpo.models.expert_axes import EXPERT, WIDTH, Shares, shares_of
from jaxpo.models.language import RouterSums
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.router import route, router_sums
from jaxpo.models.spec import TRANSPOSE, Param, Table, normal, zeros
from jaxpo.ops.grouped import block_size, combine, dispatch, group_rows, grouped_matmul
from jaxpo.ops.swiglu import swiglu
from jaxpo.sharding import Rules, current_rules, fitting_spec

Tree = Any
_PER_EXPERT = ((1,), (2,))


def experts_table(config: LFM2Config, hf: str) -> Table:
    """Router `gate` [D, E], its `expert_bias` [E], and `experts` w1, w3 [E, D, F], w2 [E, F, D].

    A file holds one tensor per expert. The bias is a buffer: steered by the load, not by a gradient. Muon sees each
    expert as a matrix of its own; the router stays on AdamW.
    """
    d, f, e = config.hidden_size, config.moe_intermediate_size, config.num_experts
    init = normal(config.initializer_range)

    def experts(name: str, n_in: int, n_out: int, axes: tuple[str, str]) -> Table:
        names = tuple(f"{hf}.experts.{i}.{name}.weight" for i in range(e))
        return {"weight": Param((e, n_in, n_out), (EXPERT, *axes), init, names, TRANSPOSE, muon=_PER_EXPERT)}

    table: dict[str, Any] = {"gate": {"weight": Param((d, e), ("embed", None), init, f"{hf}.gate.weight", TRANSPOSE)}}
    if config.use_expert_bias:
        bias = Param((e,), (None,), zeros, f"{hf}.expert_bias", decay=False, buffer=True)
        table["expert_bias"] = {"bias": bias}
    table["experts"] = {
        "w1": experts("w1", d, f, ("expert_embed", "expert_mlp")),
        "w2": experts("w2", f, d, ("expert_mlp", "expert_embed")),
        "w3": experts("w3", d, f, ("expert_embed", "expert_mlp")),
    }
    return table


def active_fraction(param: Param, config: LFM2Config) -> float:
    """Share of a parameter that one token is multiplied with: k / E of the experts, all of everything else."""
    return config.num_experts_per_tok / config.num_experts if EXPERT in param.axes else 1.0


def mixture(
    params: Tree,
    x: Float[Array, "R S D"],
    real: Bool[Array, "R S"],
    config: LFM2Config,
    *,
    implementation: str | None = None,
) -> tuple[Float[Array, "R S D"], RouterSums]:
    """`y = sum_{e in S} w_e w2_e(silu(w1_e x) * (w3_e x))`; no token is dropped, whatever the load.

    Under a mesh each device routes its own tokens. Those that share experts (the devices of one `expert` group) gather
    the group's tokens, multiply those that chose the experts they hold, and add up what each of them found.

    Args:
      params: subtree of `experts_table`.
      x: `[R, S, D]`.
      real: `[R, S]`; padding is computed by no expert (its result is 0) and counted nowhere.
      implementation: of `jaxpo.ops.grouped.grouped_matmul`.

    Returns:
      `[R, S, D]` in the type of `x`, and the sums of the router.

    Raises:
      ConfigError: the rules would add up results of devices that hold different tokens.
    """
    active = current_rules()
    if active is None or active[0].size == 1:
        return _local(params, x, real, config, implementation, Shares())
    mesh, rules = active
    spec = fitting_spec(x.shape, ("batch", "sequence", None))
    rows, columns, _ = spec
    shares = shares_of(rows, columns, rules, mesh.shape)
    weights = {name: {"weight": _own_spec(name, rules)} for name in params["experts"]}
    everywhere = jax.tree.map(lambda _: PartitionSpec(), {n: p for n, p in params.items() if n != "experts"})

    def local(params: Tree, x: Array, real: Array) -> tuple[Array, RouterSums]:
        y, found = _local(params, x, real, config, implementation, shares)
        # A row that is cut along its length adds up its parts.
        return y, found if columns is None else jax.tree.map(lambda s: jax.lax.psum(s, columns), found)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(everywhere | {"experts": weights}, spec, PartitionSpec(rows, columns)),
        out_specs=(spec, PartitionSpec(rows)),
        # The loops over blocks carry values that begin as zeros on every device.
        check_vma=False,
    )(params, x, real)


def _own_spec(name: str, rules: Rules) -> PartitionSpec:
    """An expert's matrix on a device: what the rules split of experts and width, its other side whole."""
    expert, width = rules[EXPERT], rules[WIDTH]
    return PartitionSpec(expert, width, None) if name == "w2" else PartitionSpec(expert, None, width)


def _local(
    params: Tree, x: Array, real: Array, config: LFM2Config, implementation: str | None, shares: Shares
) -> tuple[Array, RouterSums]:
    """What one device computes."""
    routing = route(params, x, config)
    chosen = jnp.where(real[..., None], routing.experts, -1)
    flat = tuple(a.reshape(-1, a.shape[-1]) for a in (x, chosen, routing.weights))
    if shares.gathered:
        flat = tuple(jax.lax.all_gather(a, shares.expert, axis=0, tiled=True) for a in flat)
    tokens, chosen, weights = flat
    held = params["experts"]["w1"]["weight"].shape[0]
    if shares.expert:
        chosen = chosen - jax.lax.axis_index(shares.expert) * held
    # Of the assignments seen here, those to experts held here are one in so many as there are devices that share.
    block = block_size(chosen.size // shares.devices, held)
    y = expert_outputs(params["experts"], tokens, chosen, weights, implementation=implementation, block=block)
    partial = shares.width + (() if shares.gathered else shares.expert)
    if partial:
        y = jax.lax.psum(y, partial)
    if shares.gathered:
        y = jax.lax.psum_scatter(y, shares.expert, scatter_dimension=0, tiled=True)
    # What devices add up is float32, as the sum over the experts of one device is.
    return y.astype(x.dtype).reshape(x.shape), router_sums(routing, real)


def expert_outputs(
    params: Tree,
    x: Float[Array, "T D"],
    chosen: Int[Array, "T k"],
    weights: Float[Array, "T k"],
    *,
    implementation: str | None = None,
    block: int | None = None,
) -> Float[Array, "T D"]:
    """`y[t] = sum_k weights[t, k] Expert_{chosen[t, k]}(x[t])`; ids outside the experts given contribute nothing.

    Args:
      params: `{"w1", "w2", "w3"}`, each `{"weight": [E, in, out]}`.
      block: see `jaxpo.ops.grouped.group_rows`.

    Returns:
      `[T, D]` in the type of the weights, float32.
    """
    if x.shape[0] == 0:
        # No slots: there is nothing to gather from or to multiply.
        return jnp.zeros(x.shape, weights.dtype)
    groups = group_rows(chosen, params["w1"]["weight"].shape[0], block=block)
    rows = dispatch(x, groups)

    def product(x: Array, name: str) -> Array:
        return grouped_matmul(x, params[name]["weight"], groups, implementation=implementation)

    hidden = swiglu(product(rows, "w1"), product(rows, "w3"))
    return combine(product(hidden, "w2"), weights, groups)
