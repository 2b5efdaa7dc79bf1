"""The denoising loss of diffusion models, with min-SNR weights (arXiv:2006.11239, arXiv:2303.09556)."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean, keep

PARAMETERISATIONS = ("noise", "velocity", "x0", "flow")


def squared_error(
    prediction: Float[Array, "B ..."], target: Float[Array, "B ..."], *, where: Bool[Array, "B"] | None = None
) -> Float[Array, "B"]:
    """e_i = mean over an example's dimensions of (prediction - target)^2: `[B]` float32, 0 where there is no example.

    It is what the losses on pairs of images take: of the trained model and of the reference, for either image.
    """
    rows = None if where is None else where.reshape(where.shape + (1,) * (jnp.ndim(prediction) - 1))
    p, q = clean(rows, prediction, target)
    return jnp.mean(jnp.square(p - q).reshape(len(p), -1), axis=-1)


def min_snr_weights(
    alpha_bars: Float[Array, "B"],
    *,
    parameterisation: Literal["noise", "velocity", "x0", "flow"] = "noise",
    snr_limit: float = 5.0,
) -> Float[Array, "B"]:
    """Weights under which every parameterisation has the same loss, min(SNR, gamma) times the error of x0.

        SNR = abar / (1 - abar) = (a / s)^2
        noise: min(SNR, gamma) / SNR        velocity: min(SNR, gamma) / (SNR + 1)
        x0:    min(SNR, gamma)              flow:     min(SNR, gamma) / (sqrt SNR + 1)^2

    Args:
      alpha_bars: `[B]` of each example's time. At 0, where nothing is left of the image, the weight of "noise" is its
        limit, 1, and that of the others is 0. Computed without a division by 1 - abar, which at 1 is 0.
      snr_limit: gamma.

    Reference: Hang et al. 2023, arXiv:2303.09556, Eq. 8 and 9; flow: the same, with x0 = x - s u and a + s = 1.
    """
    check_choice("parameterisation", parameterisation, PARAMETERISATIONS)
    (abar,) = clean(None, alpha_bars)
    rest = 1.0 - abar  # SNR <= gamma where abar <= gamma (1 - abar)
    limited = jnp.minimum(abar, snr_limit * rest)  # min(SNR, gamma) (1 - abar)
    if parameterisation == "noise":
        return jnp.where(abar > 0, limited / jnp.where(abar > 0, abar, 1.0), 1.0)
    if parameterisation == "velocity":
        return limited
    if parameterisation == "x0":
        return jnp.where(rest > 0, limited / jnp.where(rest > 0, rest, 1.0), snr_limit)
    return limited / (jnp.sqrt(abar) + jnp.sqrt(rest)) ** 2


def denoising(
    errors: Float[Array, "B"],
    alpha_bars: Float[Array, "B"],
    *,
    parameterisation: Literal["noise", "velocity", "x0", "flow"] = "noise",
    snr_limit: float | None = None,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """The loss of pre-training: the squared error of the model's output, weighted by its time where asked.

        L = w_t e,    w = 1, or `min_snr_weights`

    Args:
      errors: `[B]` of `squared_error`, against the target of the parameterisation.
      alpha_bars: `[B]` of each example's time.
      parameterisation: what the model's output is.
      snr_limit: gamma of min-SNR (5 in the paper); None = no weights.
      where: `[B]` False where there is no example.

    Returns:
      `[B]` float32 loss, 0 where there is no example.

    Limits: gamma to infinity is the plain loss for "noise", the loss of x0 weighted by the SNR for the others.

    Reference: Ho et al. 2020, arXiv:2006.11239, Eq. 14; Hang et al. 2023, arXiv:2303.09556, Eq. 8.
    """
    check_choice("parameterisation", parameterisation, PARAMETERISATIONS)
    e, abar = clean(where, errors, alpha_bars)
    if snr_limit is None:
        return keep(where, e)
    return keep(where, e * min_snr_weights(abar, parameterisation=parameterisation, snr_limit=snr_limit))
