"""General preference model: a skew-symmetric score of two embedded responses (arXiv:2410.02197)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean, keep, softplus

LEAST_TEMPERATURE = 1e-2
"""A learnt temperature is never smaller."""
TARGET = 10.0
"""What the score over tau is drawn to by the form "regression"."""


def gpm(
    chosen_embeddings: Float[Array, "B E"],
    rejected_embeddings: Float[Array, "B E"],
    gates: Float[Array, "B k"] | None = None,
    *,
    temperature: float | Float[Array, "B"] = 0.1,
    margin: float = 0.0,
    form: Literal["logistic", "regression"] = "logistic",
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """GPM: the negative log-likelihood of a pair under a skew-symmetric score.

        L = softplus(-(s(c > r) - m) / tau),    or, as a regression,    L = (s(c > r) / tau - 10)^2 / 2

    with s of `gpm_score`.

    Args:
      chosen_embeddings, rejected_embeddings: `[B, 2k]` v_c, v_r.
      gates: `[B, k]` lambda of the pair's prompt; None = 1.
      temperature: tau; one number, or one per pair where it is learnt (`gpm_temperature`).
      margin: m, of the logistic form.
      form: "logistic", or "regression", which the released code has beside it.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: with k = 1 and v = (reward, c) it is Bradley-Terry at temperature tau / c.

    Reference: Zhang et al. 2024, arXiv:2410.02197, Sec. 4; margin and regression: the authors' code.
    """
    check_choice("form", form, ("logistic", "regression"))
    here = None if where is None else where[:, None]
    v_c, v_r = clean(here, chosen_embeddings, rejected_embeddings)
    lam = None if gates is None else clean(here, gates)[0]
    s = gpm_score(v_c, v_r, lam)
    if form == "regression":
        return keep(where, 0.5 * jnp.square(s / temperature - TARGET))
    return keep(where, softplus(-(s - margin) / temperature))


def gpm_score(
    first: Float[Array, "... E"], second: Float[Array, "... E"], gates: Float[Array, "... k"] | None = None
) -> Float[Array, "..."]:
    """s(i > j) = sum_l lambda_l (v_i[2l] v_j[2l+1] - v_i[2l+1] v_j[2l]) = <R D v_i, D v_j>, D = diag(sqrt lambda).

    Args:
      first, second: `[..., 2k]` v_i and v_j.
      gates: `[..., k]` lambda >= 0; None = 1.

    Returns:
      `[...]` float32 score; the log-odds that i is preferred are s / tau.

    Limits: s(i > j) = -s(j > i) and s(i > i) = 0 exactly; |s| <= max lambda for vectors of length 1.

    Reference: Zhang et al. 2024, arXiv:2410.02197, Sec. 4.1; the paper's two displays differ by a transpose, this is
    <R v_i, v_j>.
    """
    x, y = (jnp.asarray(v).astype(jnp.float32).reshape(*v.shape[:-1], -1, 2) for v in (first, second))
    blocks = x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]
    return jnp.sum(blocks if gates is None else jnp.asarray(gates).astype(jnp.float32) * blocks, axis=-1)


def gpm_table(embeddings: Float[Array, "... K E"], gates: Float[Array, "... k"] | None = None) -> Float[Array, "..."]:
    """Scores of every two of K responses to a prompt, of one embedding each: `[..., K, K]`, entry (i, j) s(i > j)."""
    lam = None if gates is None else gates[..., None, None, :]
    return gpm_score(embeddings[..., :, None, :], embeddings[..., None, :, :], lam)


def gpm_mean_scores(
    table: Float[Array, "... K K"],
    *,
    temperature: float | Float[Array, "..."] = 1.0,
    where: Bool[Array, "... K"] | None = None,
) -> Float[Array, "... K"]:
    """sbar_i = (1 / K) sum_j s(i > j) / tau: a response against a draw from its own list, the term of itself being 0.

    Args:
      table: `[..., K, K]` of `gpm_table`.
      temperature: tau.
      where: `[..., K]` False beyond the end of a list.

    Returns:
      `[..., K]` float32; the sbar of a list add up to 0, and those of two differ by their log-odds.

    Reference: Zhang et al. 2024, arXiv:2410.02197, Sec. 5. (The released script doubles it.)
    """
    s = jnp.asarray(table).astype(jnp.float32)
    here = jnp.ones(s.shape[:-1], bool) if where is None else where
    s = jnp.where(here[..., :, None] & here[..., None, :], s, 0.0)
    count = jnp.maximum(jnp.sum(here, axis=-1, keepdims=True), 1)
    return jnp.sum(s, axis=-1) / (count * temperature)


def gpm_gates(logits: Float[Array, "... k"], *, scaled: bool = False) -> Float[Array, "... k"]:
    """lambda = softmax(z) over the k blocks, or k softmax(z), which is 1 everywhere where z is uniform.

    Reference: Zhang et al. 2024, arXiv:2410.02197, Sec. 4.2 and the authors' inference code; scaled by k in training.
    """
    z = jnp.asarray(logits).astype(jnp.float32)
    return jax.nn.softmax(z, axis=-1) * (z.shape[-1] if scaled else 1)


def gpm_temperature(theta: Float[Array, "..."]) -> Float[Array, "..."]:
    """tau = max(softplus(theta), 0.01), a learnt temperature; kink at the bound, below which the gradient is 0.

    Reference: the authors' code.
    """
    tau = softplus(jnp.asarray(theta).astype(jnp.float32))
    return jnp.where(tau > LEAST_TEMPERATURE, tau, LEAST_TEMPERATURE)


def gpm_ptx(
    chosen_logps: Float[Array, "B"], *, beta: float = 1e-3, where: Bool[Array, "B"] | None = None
) -> Float[Array, "B"]:
    """`softplus(-b P)`: keeps the chosen response likely, P being its log-probability summed over its tokens.

    Args:
      chosen_logps: `[B]` P, nats.
      beta: b.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32, 0 where there is no pair. The whole loss is (1 - c) L + c times this.

    Reference: the authors' code; off in the released runs.
    """
    (p,) = clean(where, chosen_logps)
    return keep(where, softplus(-beta * p))
