"""How much of the image and how much noise there is at each time, and at which times a sampler stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpo.config.noise import LINEAR, NoiseSchedule, Parameterisation
from jaxpo.errors import ConfigError

CLEAN = -1
"""The time below 0."""
Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule's tables: x_t = a_t x0 + s_t e.

    Attributes:
      alpha_bars: `[T]` float32, a^2 / (a^2 + s^2); the signal-to-noise ratio is alpha_bar / (1 - alpha_bar).
      signal: `[T + 1]` float32 a; the last entry is that of the clean end.
      noise: `[T + 1]` float32 s, taken from float64: at small times 1 - alpha_bar in float32 has few digits left.
      parameterisation: what the model's output is.
    """

    alpha_bars: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    parameterisation: Parameterisation

    @property
    def steps(self) -> int:
        """T."""
        return len(self.alpha_bars)

    def levels(self, t: Int[Array, "..."] | int) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """`(a_t, s_t)`, float32; a negative t is the clean end."""
        index = jnp.where(jnp.asarray(t) < 0, self.steps, t)
        return jnp.asarray(self.signal)[index], jnp.asarray(self.noise)[index]


def schedule(config: NoiseSchedule) -> Schedule:
    """The tables of a configuration, computed in float64 and kept in float32."""
    bars = alpha_bars(config)
    first = bars[0] if config.clean == "first" else 1.0
    whole = np.append(bars, first)
    a, s = np.sqrt(whole), np.sqrt(1.0 - whole)
    if config.betas == "flow":
        a, s = a / (a + s), s / (a + s)
    bars, a, s = (x.astype(np.float32) for x in (bars, a, s))
    return Schedule(bars, a, s, config.parameterisation)


def alpha_bars(config: NoiseSchedule) -> np.ndarray:
    """alpha_bar_t = prod_{i <= t} (1 - beta_i), `[T]` float64.

        linear: beta = linspace(b0, b1, T);    scaled linear: beta = linspace(sqrt b0, sqrt b1, T)^2
        cosine: beta_i = min(1 - f((i + 1) / T) / f(i / T), 0.999),    f(u) = cos^2((u + .008) / 1.008 pi / 2)
        flow:   alpha_bar = a^2 / (a^2 + s^2),    s = (t + 1) / T,  a = 1 - s

    Reference: Ho et al. 2020, arXiv:2006.11239; Nichol and Dhariwal 2021, arXiv:2102.09672, Eq. 17; zero terminal SNR:
    Lin et al. 2023, arXiv:2305.08891, Algorithm 1.
    """
    t = config.steps
    bars: np.ndarray
    if config.betas == "flow":
        s = (np.arange(t) + 1.0) / t
        bars = (1.0 - s) ** 2 / ((1.0 - s) ** 2 + s**2)
    else:
        bars = np.cumprod(1.0 - _betas(config, t))
    return _zero_snr(bars) if config.zero_snr else bars


def _betas(config: NoiseSchedule, t: int) -> np.ndarray:
    if config.betas == "cosine":
        f = np.cos((np.arange(t + 1) / t + 0.008) / 1.008 * np.pi / 2.0) ** 2
        return np.minimum(1.0 - f[1:] / f[:-1], 0.999)
    start, end = LINEAR[config.betas]
    start = start if config.beta_start is None else config.beta_start
    end = end if config.beta_end is None else config.beta_end
    return np.linspace(start, end, t) if config.betas == "linear" else np.linspace(start**0.5, end**0.5, t) ** 2


def _zero_snr(bars: np.ndarray) -> np.ndarray:
    """r <- (r - r_T) r_0 / (r_0 - r_T), r = sqrt alpha_bar: the first stays, the last becomes 0."""
    r = np.sqrt(bars)
    return ((r - r[-1]) * r[0] / (r[0] - r[-1])) ** 2


def times(spacing: Spacing, n: int, steps: int = 1000, *, offset: int = 0) -> Int[np.ndarray, "n"]:
    """The n times at which a sampler calls the model, the noisiest first.

        leading:  k (T // n) + offset, k = n - 1 .. 0        trailing: round(T - k T / n) - 1, k = 0 .. n - 1
        linspace: round(linspace(0, T - 1, n)), reversed

    Raises:
      ConfigError: n is not within [1, T], or a time lies outside of [0, T).
    """
    if not 1 <= n <= steps:
        raise ConfigError(f"steps: {n} of a sampler; choose 1 to {steps}, the times that the schedule has")
    if offset and spacing != "leading":
        raise ConfigError(f"offset: {offset}; only leading times have one, not {spacing} ones")
    found: np.ndarray
    if spacing == "leading":
        found = np.arange(n)[::-1] * (steps // n) + offset
    elif spacing == "trailing":
        found = np.round(steps - np.arange(n) * steps / n) - 1
    elif spacing == "linspace":
        found = np.round(np.linspace(0, steps - 1, n))[::-1]
    else:
        raise ConfigError(f"spacing: {spacing!r}; choose one of leading, trailing, linspace")
    if found[0] >= steps or found[-1] < 0:
        raise ConfigError(f"offset: {offset} leads to time {int(found[0])}; the last one is {steps - 1}")
    return found.astype(np.int32)


def destinations(sources: Int[np.ndarray, "n"], steps: int = 1000, *, diffusers: bool = False) -> Int[np.ndarray, "n"]:
    """Where the step from each of these times leads: the next one of them, and from the last one to the clean end.

    Args:
      diffusers: its `t - T // n` instead, which for linspace and trailing times is not the next one of the list.
    """
    if diffusers:
        return (sources - steps // len(sources)).astype(np.int32)
    return np.append(sources[1:], CLEAN).astype(np.int32)


def per_example(level: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """A number, or one per example, shaped so that it multiplies `x` of `[B, ...]`."""
    level = jnp.asarray(level)
    return level.reshape(level.shape + (1,) * (jnp.ndim(x) - level.ndim)) if level.ndim else level


def levels_like(
    schedule: Schedule, t: Int[Array, "..."] | int, x: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(a_t, s_t)` of a time, or of one per example, shaped for `x`."""
    a, s = schedule.levels(t)
    return per_example(a, x), per_example(s, x)
