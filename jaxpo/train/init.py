"""The first `State` of a stage, and the shardings of every leaf of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpo.models.spec import Table, abstract_params, param_shardings, trained_part
from jaxpo.objectives.base import Objective
from jaxpo.sharding import replicated
from jaxpo.train.optimizers.offload import in_host_memory
from jaxpo.train.state import State

Tree = Any


def build_state(
    params: Tree,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    rng: jax.Array,
    *,
    average: bool = False,
) -> State:
    """A state at step 0 around `params`; with `average`, a moving average that starts at them."""
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params) if average else None
    # A copy of what the carry takes from the parameters: the training step donates both.
    carry = jax.tree.map(jnp.copy, objective.start(objective.init_carry(), params))
    return State(zero, zero, params, optimizer.init(params), ema, carry, rng)


def abstract_state(
    tables: Mapping[str, Table],
    optimizer: optax.GradientTransformation,
    objective: Objective,
    mesh: Mesh,
    rules: Mapping[str, str | tuple[str, ...] | None] | None = None,
    *,
    average: bool = False,
    offload: bool = False,
) -> State:
    """The state's shapes, dtypes and shardings, from the parameter tables alone.

    Optimiser moments, the moving average, and parameters that the carry holds live where their parameters live;
    everything else is replicated, also row and column means of a factored moment: they are sums of axes, not products.

    Args:
      offload: optimiser moments live in the memory of the hosts.

    Raises:
      ConfigError: these devices cannot use their host's memory.
    """
    shardings = {name: param_shardings(table, mesh, rules) for name, table in tables.items()}
    params = {name: abstract_params(table, jnp.float32, shardings[name]) for name, table in tables.items()}
    shapes = jax.eval_shape(lambda p: build_state(p, optimizer, objective, jax.random.key(0), average=average), params)
    everywhere = replicated(mesh)
    place = in_host_memory if offload else lambda sharding: sharding

    def at(shape: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    def moment(shape: Any, param: jax.ShapeDtypeStruct) -> Any:
        if isinstance(shape, optax.MaskedNode):
            return shape
        return at(shape, place(beside(shape, param)))

    opt_state = optax.tree.map_params(
        optimizer,
        moment,
        shapes.opt_state,
        trained_part(tables, params),
        transform_non_params=lambda x: at(x, everywhere),
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    own = jax.tree.map(lambda _: everywhere, jax.eval_shape(objective.init_carry))
    carry = jax.tree.map(at, shapes.carry, objective.start(own, shardings))
    rest = jax.tree.map(
        lambda x: at(x, everywhere), dataclasses.replace(shapes, params=None, opt_state=None, carry=None, ema=None)
    )
    ema = jax.tree.map(at, shapes.ema, shardings) if average else None
    return dataclasses.replace(rest, params=params, opt_state=opt_state, carry=carry, ema=ema)


def beside(shape: jax.ShapeDtypeStruct, param: jax.ShapeDtypeStruct) -> NamedSharding:
    """Where something lives that belongs to a parameter: axis by axis with it, unless an axis is summed up.

    An array of another rank is a mean over axes (a factored moment) and replicated.
    """
    sharding: Any = param.sharding
    if shape.ndim != param.ndim or any(n not in (m, 1) for n, m in zip(shape.shape, param.shape, strict=True)):
        return replicated(sharding.mesh)
    names = (*sharding.spec, *(None,) * (param.ndim - len(sharding.spec)))
    spec = [name if n == m else None for n, m, name in zip(shape.shape, param.shape, names, strict=True)]
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def init_state(
    abstract: State, params: Tree, optimizer: optax.GradientTransformation, objective: Objective, seed: int
) -> State:
    """A state at step 0 with `params` placed as `abstract` says.

    The parameters are copied: the training step donates its state, and the caller may still need its own.
    """
    placed = jax.tree.map(lambda x, a: jax.device_put(jnp.copy(x), a.sharding), params, abstract.params)
    shardings = jax.tree.map(lambda a: a.sharding, abstract)

    def build(params: Tree) -> State:
        average = abstract.ema is not None
        return build_state(params, optimizer, objective, jax.random.key(seed), average=average)

    return jax.jit(build, out_shardings=shardings)(placed)
