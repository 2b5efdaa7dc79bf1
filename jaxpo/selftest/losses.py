"""Losses on the machine's devices against the same equations in float64 numpy, values and slopes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo import losses
from jaxpo.selftest import require

Row = np.ndarray
TOLERANCE = 2e-5
PAIRS = 64


def softplus(x: Row) -> Row:
    return np.logaddexp(0.0, x)


def dpo(w: Row, lo: Row, r_w: Row, r_l: Row, n_w: Row, n_l: Row) -> Row:
    return softplus(-0.1 * ((w - r_w) - (lo - r_l)))


def ipo(w: Row, lo: Row, r_w: Row, r_l: Row, n_w: Row, n_l: Row) -> Row:
    return ((w - r_w) / n_w - (lo - r_l) / n_l - 5.0) ** 2


def simpo(w: Row, lo: Row, r_w: Row, r_l: Row, n_w: Row, n_l: Row) -> Row:
    return softplus(0.5 - 2.0 * (w / n_w - lo / n_l))


CASES: dict[str, tuple[Callable[..., Row], Callable[..., jax.Array]]] = {
    "dpo": (dpo, lambda w, lo, r_w, r_l, n_w, n_l: losses.dpo(w, lo, r_w, r_l)),
    "ipo": (ipo, lambda w, lo, r_w, r_l, n_w, n_l: losses.ipo(w, lo, r_w, r_l, n_w, n_l)),
    "simpo": (simpo, lambda w, lo, r_w, r_l, n_w, n_l: losses.simpo(w, lo, n_w, n_l)),
}
"""Name -> (equation in float64, what jaxpo computes), of pairs' log-probs, reference log-probs and lengths."""


def check(folder: Path) -> str:
    """Largest error of values and of slopes in the chosen log-probs.

    Raises:
      Broken: a loss that is wrong on this machine.
    """
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 40, (2, PAIRS)).astype(np.float64)
    # Exact in float32, so that both sides are given the same numbers.
    logps = np.round(draw.uniform(-3.0, -0.1, (4, PAIRS)) * 32) / 32 * np.tile(lengths, (2, 1))
    worst = 0.0
    for name, (equation, ours) in CASES.items():
        given = [*logps, *lengths]
        value, slope = jax.jit(jax.value_and_grad(lambda w, *rest, ours=ours: jnp.sum(ours(w, *rest))))(
            *(jnp.asarray(x, jnp.float32) for x in given)
        )
        step = 1e-6
        up, down = (equation(given[0] + sign * step, *given[1:]) for sign in (1, -1))
        expected, slopes = float(np.sum(equation(*given))), (up - down) / (2 * step)
        error = max(
            abs(float(value) - expected) / max(1.0, abs(expected)),
            float(np.max(np.abs(np.asarray(slope) - slopes) / np.maximum(1.0, np.abs(slopes)))),
        )
        require(error < TOLERANCE, f"{name}: differs from its equation by {error:.1e}")
        worst = max(worst, error)
    return f"{', '.join(CASES)} agree with float64, values and slopes, within {worst:.0e}"
