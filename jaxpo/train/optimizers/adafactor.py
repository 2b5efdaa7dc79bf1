"""Adafactor with decoupled decay scaled by the learning rate, as AdamW's."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from jaxpo.config import Adafactor
from jaxpo.models.spec import Table
from jaxpo.train.optimizers.adamw import decay_mask


def build(config: Adafactor, tables: dict[str, Table], schedule: optax.Schedule) -> optax.GradientTransformation:
    """Second moments from row and column means, update clipping, relative steps.

        v_ij = r_i c_j / mean(r),   r, c: moving means of g^2 + eps over columns and rows, decay b_t = 1 - t^-decay_rate
        u    = g / sqrt(v);   u <- u / max(1, rms(u) / clipping_threshold);   u <- u * max(1e-3, rms(theta))
        theta <- theta - lr (ema(u) + lambda theta)

    The relative step is optional, and so are clipping and momentum. Leaves with fewer than two long axes keep v whole.

    Reference:
      Shazeer and Stern 2018, arXiv 1804.04235, algorithms 4 to 6.
    """
    parts = [
        optax.scale_by_factored_rms(
            decay_rate=config.decay_rate,
            min_dim_size_to_factor=config.min_dim_size_to_factor,
            epsilon=config.adafactor_epsilon,
        )
    ]
    if config.clipping_threshold is not None:
        parts.append(optax.clip_by_block_rms(config.clipping_threshold))
    if config.multiply_by_parameter_scale:
        parts.append(optax.scale_by_param_block_rms(1e-3))
    if config.momentum is not None:
        parts.append(optax.ema(config.momentum, debias=False, accumulator_dtype=jnp.float32))
    parts.append(optax.add_decayed_weights(config.weight_decay, mask=decay_mask(tables)))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts)
