"""What the models that denoise images share: embeddings of the time, and attention to a text and to a user."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from jaxpo.models.siglip.forward import affine
from jaxpo.models.siglip.table import linear_table
from jaxpo.models.spec import TRANSPOSE, Param, Table, normal, zeros

Tree = Any
HIDDEN = -10000.0
"""What is added to the score of a key that a mask hides; where it hides all of them, they count alike."""
MAX_PERIOD = 10000.0


def time_embedding(t: Real[Array, "B"], width: int) -> Float[Array, "B D"]:
    """`[cos(t f), sin(t f)]`, `f_i = 10000^(-i / (D/2))`, float32 (Ho et al. 2020, arXiv:2006.11239, cosines first)."""
    half = width // 2
    f = jnp.exp(-math.log(MAX_PERIOD) / half * jnp.arange(half, dtype=jnp.float32))
    angles = t.astype(jnp.float32)[:, None] * f
    return jnp.concatenate((jnp.cos(angles), jnp.sin(angles)), -1)


def embedded_time(params: Tree, t: Real[Array, "B"], width: int, dtype: Any) -> Float[Array, "B D"]:
    """`linear_2(silu(linear_1(time_embedding(t))))`."""
    inner = affine(params["linear_1"], time_embedding(t, width).astype(dtype))
    return affine(params["linear_2"], jax.nn.silu(inner))


def time_table(width: int, hidden: int, hf: str) -> Table:
    """The parameters of `embedded_time`."""
    return {
        "linear_1": linear_table(width, hidden, (None, "embed"), width**-0.5, f"{hf}.linear_1"),
        "linear_2": linear_table(hidden, hidden, (None, "embed"), hidden**-0.5, f"{hf}.linear_2"),
    }


def attention_table(
    width: int, context: int, hf: str, *, bias: bool, user: int = 0, std: float | None = None, out_std: float = 0.0
) -> Table:
    """`to_q`, `to_k`, `to_v` and `to_out/0`, and with `user` (the width of a user's vectors) `to_k_user`, `to_v_user`.

    Args:
      bias: of the first three; `to_out/0` always has one, those of the user never.
      std: of the initial matrices; None = 1 / sqrt(in).
      out_std: of the last; 0 = attention adds nothing at first, as a user does in any case.
    """

    def inwards(name: str, n_in: int) -> Table:
        return linear_table(n_in, width, ("embed", "heads"), std or n_in**-0.5, f"{hf}.{name}", bias=bias)

    def of_user(name: str, init: Any) -> Table:
        hf_name = f"{hf}.processor.{name}_ip.0"
        return {
            "weight": Param((user, width), (None, "heads"), init, f"{hf_name}.weight", TRANSPOSE, muon=((0,), (1,)))
        }

    out = linear_table(width, width, ("heads", "embed"), out_std, f"{hf}.to_out.0")
    return {
        "to_q": inwards("to_q", width),
        "to_k": inwards("to_k", context),
        "to_v": inwards("to_v", context),
        "to_out": {"0": out},
        **({"to_k_user": of_user("to_k", normal(user**-0.5)), "to_v_user": of_user("to_v", zeros)} if user else {}),
    }


def attend(
    params: Tree,
    x: Float[Array, "B N D"],
    context: Float[Array, "B L C"],
    *,
    heads: int,
    mask: Real[Array, "B L"] | None = None,
    user: Float[Array, "B U c"] | None = None,
    user_scale: float = 1.0,
) -> Float[Array, "B N D"]:
    """Attention of image to text, and with a second pair of maps to a user (Ye et al. 2023, arXiv:2308.06721, eq. 5).

        W_out (softmax(q k(text)^T / sqrt(h) + bias) v(text) + lambda softmax(q k'(user)^T / sqrt(h)) v'(user)) + b

    Args:
      mask: `[B, L]`, 1 = a key, 0 = none: `HIDDEN` is added to its score.
      user: vectors that describe a user; rows of zeros have no values and add nothing.
      user_scale: lambda.
    """
    shape = (*x.shape[:2], heads, x.shape[-1] // heads)

    def split(name: str, of: Array) -> Array:
        return affine(params[name], of).reshape(*of.shape[:2], *shape[2:])

    q = split("to_q", x)
    bias = None if mask is None else (HIDDEN * (1 - mask.astype(jnp.float32)))[:, None, None, :]
    mixed = jax.nn.dot_product_attention(q, split("to_k", context), split("to_v", context), bias)
    if user is not None:
        own = jax.nn.dot_product_attention(q, split("to_k_user", user), split("to_v_user", user))
        mixed = mixed + user_scale * own
    return affine(params["to_out"]["0"], mixed.reshape(x.shape))
