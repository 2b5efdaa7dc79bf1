"""Gaussian mixtures, whose denoiser is known in closed form: samplers and inversions without a trained model."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.diffusion.parameterisation import target


def posterior_mean(schedule, x, t, weights, means, variances):
    """E[x0 | x_t] for x0 ~ sum_k w_k N(m_k, v_k I); x `[B, D]`, t `[B]`, means `[K, D]`, variances `[K]`."""
    a, s = (level[:, None] for level in schedule.levels(t))
    total = a**2 * variances + s**2  # [B, K]
    apart = x[:, None] - a[..., None] * means
    logits = jnp.log(weights) - 0.5 * x.shape[-1] * jnp.log(total) - 0.5 * jnp.sum(apart**2, -1) / total
    share = jax.nn.softmax(logits, axis=-1)
    each = means + (a * variances / total)[..., None] * apart
    return jnp.sum(share[..., None] * each, axis=1)


def denoiser(schedule, weights, means, variances):
    """`denoise(x, t)` in the schedule's parameterisation."""
    weights, means, variances = (jnp.asarray(v, jnp.float32) for v in (weights, means, variances))

    def denoise(x, t):
        t = jnp.maximum(t, 0)
        a, s = (level[:, None] for level in schedule.levels(t))
        x0 = posterior_mean(schedule, x, t, weights, means, variances)
        return target(schedule, x0, (x - a * x0) / s, t)

    return denoise


def gaussian(schedule, mean=0.0, variance=1.0, dimensions=1):
    """The same for one Gaussian."""
    return denoiser(schedule, np.ones(1), np.full((1, dimensions), mean), np.full(1, variance))
