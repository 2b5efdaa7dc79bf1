"""The gate of the feed-forward, with a gradient that keeps nothing but its two inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def swiglu(gate: Float[Array, "*n"], up: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`silu(gate) * up` with `silu(x) = x sigmoid(x)` (Shazeer 2020, arXiv 2002.05202, eq. 6).

    Differentiable in reverse mode, any number of times.

    Differentiated by rule, the sigmoid and `silu(gate)` of every layer would be kept too: with them four arrays as wide
    as the feed-forward instead of two.

    Args:
      gate, up: of one shape and type, which is the result's.
    """
    return jax.nn.silu(gate) * up


def _backward(saved: tuple[Array, Array], d_hidden: Array) -> tuple[Array, Array]:
    """`d gate = d_hidden up s (1 + gate (1 - s))`, `d up = d_hidden gate s`, `s = sigmoid(gate)`, in float32."""
    gate, up = (x.astype(jnp.float32) for x in saved)
    # Both tails from the small side: 1 - s would cancel. Written unlike the forward's sigmoid also because XLA would
    # find that again and keep it after all.
    small = jnp.exp(-jnp.abs(gate))
    s, rest = (jnp.where(side, 1.0, small) / (1.0 + small) for side in (gate >= 0, gate < 0))
    wide = d_hidden.astype(jnp.float32)
    d_gate, d_up = wide * up * (s * (1.0 + gate * rest)), wide * (gate * s)
    return d_gate.astype(saved[0].dtype), d_up.astype(saved[1].dtype)


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _backward)
