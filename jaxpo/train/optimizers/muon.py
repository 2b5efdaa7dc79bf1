"""Muon on the leaves that the parameter table labels as matrices of a product, AdamW on all others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxpo.config import Muon
from jaxpo.models.spec import Param, Table, map_table
from jaxpo.train.optimizers import adamw
from jaxpo.train.optimizers.gate import chained
from jaxpo.train.optimizers.moments import Storage, storage

Tree = Any
MUON, ADAM = "muon", "adam"
# Of the quintic iteration (Jordan et al. 2024); optax's default.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def build(config: Muon, tables: dict[str, Table], schedule: optax.Schedule) -> optax.GradientTransformation:
    """Momentum, orthogonalised per matrix, scaled to a size that does not depend on the matrix's shape.

        M_t = beta M_{t-1} + (1 - beta) G_t;   N = bias-corrected M_t, with Nesterov's look ahead
        O   = Newton-Schulz(N / |N|_F):  X <- a X + (b A + c A^2) X,  A = X X^T
        theta <- theta - lr (consistent_rms sqrt(max(in, out)) O + lambda theta)

    `optax.contrib.muon` is not used whole: its AdamW half would look ahead too, and decays norm weights or nothing.

    Reference:
      Jordan et al. 2024 (Muon); Liu et al. 2025, arXiv 2502.16982, eq. 4 (the scale and the decay).
    """
    labels = {name: map_table(lambda p: ADAM if p.muon is None else MUON, t) for name, t in tables.items()}
    numbers = {name: map_table(_dimension_numbers, t) for name, t in tables.items()}
    scales = {name: map_table(lambda p: _scale(p, config.consistent_rms), t) for name, t in tables.items()}
    decay = adamw.decay_mask(tables)
    momentum = scale_by_muon(
        beta=config.muon_beta,
        # One row per iteration makes optax loop instead of unrolling, which compiles in two thirds of the time.
        ns_coeffs=(COEFFICIENTS,) * config.ns_steps,
        ns_steps=config.ns_steps,
        nesterov=config.nesterov,
        mu_dtype=jnp.float32,
        weight_dimension_numbers=numbers,
    )
    matrices = chained(
        _stored(momentum, storage(config.moments, signed=True)),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u, s: u * s, updates, scales)),
        optax.add_decayed_weights(config.weight_decay, mask=_only(decay, labels, MUON)),
        optax.scale_by_learning_rate(schedule),
    )
    rest = adamw.build(config, tables, schedule, mask=_only(decay, labels, ADAM))
    return optax.partition({MUON: matrices, ADAM: rest}, labels)


def _stored(momentum: optax.GradientTransformation, kind: Storage) -> optax.GradientTransformation:
    """Muon whose momentum is kept in another form between steps."""

    def init(params: Tree) -> Any:
        return momentum.init(params)._replace(mu=kind.start(params))

    def update(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        updates, new = momentum.update(grads, state._replace(mu=kind.read(state.mu)), params)
        return updates, new._replace(mu=kind.write(new.mu, new.count))

    return optax.GradientTransformation(init, update)


def _dimension_numbers(param: Param) -> Any:
    """The table's label; leaves of the other half are masked, as `optax.partition` masks their updates."""
    return optax.MaskedNode() if param.muon is None else MuonDimensionNumbers(*param.muon)


def _scale(param: Param, consistent_rms: float | None) -> Any:
    """Factor of an orthogonal update, whose root mean square is 1 / sqrt(max(in, out))."""
    if param.muon is None:
        return optax.MaskedNode()
    n_in, n_out = (math.prod(param.shape[axis] for axis in axes) for axes in param.muon)
    return math.sqrt(max(1.0, n_out / n_in)) if consistent_rms is None else consistent_rms * math.sqrt(max(n_in, n_out))


def _only(mask: Tree, labels: Tree, kind: str) -> Callable[[Tree], Tree]:
    """The mask of one half: a function, because half of a tree has another structure than the whole."""
    half = jax.tree.map(lambda m, label: m if label == kind else optax.MaskedNode(), mask, labels)
    return lambda params: half
