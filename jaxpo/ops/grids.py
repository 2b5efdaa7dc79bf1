"""Grids of few bits: what a weight is rounded to, and by which scale, group by group.

A row (the contracted axis, last here) is cut into groups; a group is `scale * codes`, with integers between `low` and
`high`. Every function takes numpy's arrays as well as JAX's, and gives back the same kind.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxpo.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Grid:
    """A grid.

    Attributes:
      low, high: smallest and largest code.
      group: values that share a scale; 0 = the whole row.
      signed: the scale has the sign that gives the value of the largest magnitude the code `low`, as ggml's Q4_0 does.
      stored: the type that scales are numbers of, which makes a grid a fixed point of its own rounding, bit for bit:
        products and quotients of so few digits are exact in float32.
      activations: what is multiplied with the weight is rounded as well, to eight bits per token.
    """

    low: int
    high: int
    group: int
    signed: bool = False
    stored: Literal["float16", "bfloat16"] = "float16"
    activations: bool = False

    @property
    def bits(self) -> int:
        """Of a code."""
        return (self.high - self.low).bit_length()

    def fits(self, length: int) -> bool:
        """Whether rows of that length are a whole number of groups."""
        return self.group == 0 or length % self.group == 0


GROUP = 32
GRIDS = {
    "int4": Grid(-7, 7, GROUP),
    "int8": Grid(-127, 127, GROUP),
    "q4_0": Grid(-8, 7, GROUP, signed=True),
    "8da4w": Grid(-8, 7, GROUP, stored="bfloat16", activations=True),
}
"""By name. "int8" in groups of 32 is ggml's Q8_0. "8da4w" is what ExecuTorch's XNNPACK recipe computes with: 4-bit
weights in groups with bfloat16 scales, and activations rounded to 8 bits when they are multiplied."""
_RATIOS = tuple(1 - k / 64 for k in range(33))
"""Of the absmax scale, tried for the best one."""


def grid(name: str, group: int = GROUP) -> Grid:
    """A grid by name; ConfigError for an unknown one, or a group that it has not."""
    if name not in GRIDS:
        raise ConfigError(f"grid is {name!r}; there are {', '.join(GRIDS)}.{did_you_mean(name, GRIDS)}")
    if group < 0 or (group != GROUP and name == "q4_0"):
        only = f"{name} has groups of {GROUP}" if name == "q4_0" else "give a number of values, or 0 for whole rows"
        raise ConfigError(f"group is {group}; {only}")
    found = GRIDS[name]
    return found if group == found.group else _with_group(found, group)


def head_grid(of: Grid) -> Grid:
    """Eight bits in the same groups for the output matrix, which decides every token: llama.cpp keeps it so too.

    8da4w has it like all others, as ExecuTorch does.
    """
    return of if of.activations else _with_group(GRIDS["int8"], of.group)


@functools.cache
def _with_group(of: Grid, group: int) -> Grid:
    return dataclasses.replace(of, group=group)


def absmax_scales(w: Float[Any, "*o i"], to: Grid) -> Float[Any, "*o n"]:
    """The smallest scale that cuts nothing off, `max(max w / high, min w / low)`, of every group; float32.

    Q4_0's instead is `w / low` of the value of the largest magnitude, and cuts one of the other sign off at `high`.
    """
    xp, parts = _space(w), split(w, to).astype(np.float32)
    if to.signed:
        first = xp.argmax(xp.abs(parts), axis=-1)
        return stored(xp.take_along_axis(parts, first[..., None], axis=-1)[..., 0] / np.float32(to.low), to)
    above, below = xp.max(parts, axis=-1) / np.float32(to.high), xp.min(parts, axis=-1) / np.float32(to.low)
    return stored(xp.maximum(above, below), to)


def stored(scales: Float[Any, "*s"], to: Grid) -> Float[Any, "*s"]:
    """The scales as they are kept, in float32."""
    return scales.astype(jnp.dtype(to.stored)).astype(np.float32)


def best_scales(w: Float[Any, "*o i"], to: Grid) -> Float[Any, "*o n"]:
    """The scale of least squared error of every group, among absmax times 1, 63/64, ..., 1/2 and, for the codes that
    each of them gives, `sum w q / sum q^2`, which is best for those codes. Never worse than absmax.
    """
    xp, parts = _space(w), split(w, to)
    first = absmax_scales(w, to)
    best, least = first, _error(parts, first, to)
    for ratio in _RATIOS:
        tried = stored(first * np.float32(ratio), to)
        codes = _codes(parts, tried, to)
        squares = xp.sum(codes * codes, axis=-1)
        fitted = stored(xp.sum(parts * codes, axis=-1) / xp.where(squares > 0, squares, 1), to)
        for scales in (tried, fitted):
            error = _error(parts, scales, to)
            best, least = xp.where(error < least, scales, best), xp.minimum(error, least)
    return best


def codes(w: Float[Any, "*o i"], scales: Float[Any, "*o n"], to: Grid) -> Float[Any, "*o i"]:
    """`clip(round(w / scale), low, high)`, ties to even; whole numbers in the type of `w`. 0 where the scale is 0."""
    return _codes(split(w, to), scales, to).reshape(w.shape)


def rounded(w: Float[Any, "*o i"], to: Grid, scales: Float[Any, "*o n"] | None = None) -> Float[Any, "*o i"]:
    """`scale * codes`, in the type of `w`; absmax scales unless some are given."""
    if scales is None:
        scales = absmax_scales(w, to)
    return _values(split(w, to), scales, to).reshape(w.shape).astype(w.dtype)


def split(w: Float[Any, "*o i"], to: Grid) -> Float[Any, "*o n g"]:
    """The groups of every row; ValueError where rows are no whole number of them."""
    if not to.fits(w.shape[-1]):
        raise ValueError(f"rows of {w.shape[-1]} values are no whole number of groups of {to.group}")
    group = to.group or w.shape[-1]
    return w.reshape(*w.shape[:-1], w.shape[-1] // group, group)


def rounded_activations(x: Float[Any, "... i"]) -> Float[Any, "... i"]:
    """int8 per token with a zero point, as 8da4w multiplies: `scale = (max(x, 0) - min(x, 0)) / 255`."""
    low, high = jnp.minimum(jnp.min(x, -1, keepdims=True), 0), jnp.maximum(jnp.max(x, -1, keepdims=True), 0)
    scale = jnp.maximum((high - low).astype(jnp.float32) / 255, jnp.finfo(jnp.float32).eps)
    zero = jnp.clip(-128 - jnp.round(low / scale), -128, 127)
    code = jnp.clip(jnp.round(x / scale) + zero, -128, 127)
    return ((code - zero) * scale).astype(x.dtype)


def _codes(parts: Any, scales: Any, to: Grid) -> Any:
    xp = _space(parts)
    safe = xp.where(scales == 0, xp.ones_like(scales), scales)[..., None]
    return xp.where(scales[..., None] == 0, 0, xp.clip(xp.round(parts / safe), to.low, to.high))


def _values(parts: Any, scales: Any, to: Grid) -> Any:
    return _codes(parts, scales, to) * scales[..., None]


def _error(parts: Any, scales: Any, to: Grid) -> Any:
    return _space(parts).sum((_values(parts, scales, to) - parts) ** 2, axis=-1)


def _space(x: Any) -> Any:
    return jnp if isinstance(x, jax.Array) else np
