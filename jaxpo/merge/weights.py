"""The weights of a merge as they are used."""

from __future__ import annotations

from collections.abc import Sequence

from jaxpo.errors import ConfigError


def effective_weights(count: int, weights: Sequence[float] | None, *, normalize: bool = True) -> tuple[float, ...]:
    """One weight per model: 1 / count each when none are given; summing to 1 unless `normalize` is off.

    Raises:
      ConfigError: another number of weights than models; a sum of 0, which cannot be normalised.
    """
    if weights is None:
        return (1.0 / count,) * count
    if len(weights) != count:
        raise ConfigError(f"merge: {len(weights)} weights for {count} models; give one weight per model")
    if not normalize:
        return tuple(map(float, weights))
    total = sum(weights)
    if not abs(total) > 1e-12:
        raise ConfigError(f"merge: the weights {tuple(weights)} sum to 0 and cannot be normalised")
    return tuple(w / total for w in weights)
