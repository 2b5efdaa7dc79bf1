"""Sources whose shares of the tokens change while training: by position, as those that stay.

With u the tokens given so far, over the first U of them the share of a source goes from a to b:

    p(u) = a + (b - a) min(u / U, 1)
    P(u) = int_0^u p = a u + (b - a) u^2 / (2 U) up to U, then b u - (b - a) U / 2

A source of n examples and T tokens has given P(u) n / T examples; its example j is due where that is j + 1/2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxpo.data.packing.mixture import SCALE, Mixture
from jaxpo.data.tokens.shares import Share


@dataclass(frozen=True)
class Annealed(Mixture):
    """The order that sources make together while their shares change.

    Attributes:
      until: epochs, of all sources together, after which they have their last shares.
    """

    until: float = 1.0

    @cached_property
    def ends(self) -> tuple[float, ...]:
        """Each source's share of all tokens at the end."""
        weights = [share.weight if share.end_weight is None else share.end_weight for share in self.shares]
        return tuple(weight / sum(weights) for weight in weights)

    @cached_property
    def period(self) -> int:
        """U, tokens."""
        return max(1, round(self.until * sum(share.tokens for share in self.shares)))

    @cached_property
    def _between(self) -> tuple[tuple[int, int], ...]:
        """First and last rate of each source, examples per `SCALE` tokens."""
        found = []
        for a, b, share in zip(self.portions, self.ends, self.shares, strict=True):
            first, last = (round(p * share.examples / share.tokens * SCALE) for p in (a, b))
            found.append((first, last))
        return tuple(found)

    @cached_property
    def examples(self) -> int:
        """Of an epoch, as many as the first."""
        return max(1, sum(self.due(sum(share.tokens for share in self.shares))))

    def tokens(self, total: float) -> list[float]:
        """What of the first `total` tokens is each source's."""
        u, later = min(total, self.period), max(total - self.period, 0)
        pairs = zip(self.portions, self.ends, strict=True)
        return [a * u + (b - a) * u * u / (2 * self.period) + b * later for a, b in pairs]

    def due(self, time: int) -> list[int]:
        """How many examples each source gives up to a time, which is tokens here; exact."""
        whole, u = 2 * self.period * SCALE, min(time, self.period)
        found = []
        for a, b in self._between:
            given = 2 * a * u * self.period + (b - a) * u * u + 2 * b * (time - u) * self.period
            found.append((2 * given + whole) // (2 * whole))
        return found

    def times(self, s: int, numbers: np.ndarray) -> np.ndarray:
        """When a source's examples are due; one that has given its last is never."""
        a, b = (rate / SCALE for rate in self._between[s])
        period, half = float(self.period), np.asarray(numbers) + 0.5
        inside = np.maximum((a * period) ** 2 + 2 * (b - a) * period * half, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            early = 2 * period * half / (a * period + np.sqrt(inside))
            late = (half + (b - a) * period / 2) / b if b else np.full(len(half), np.inf)
        return np.where(half <= (a + b) * period / 2, early, late)

    def latest(self, position: int) -> int:
        """A time at which more than `position` examples are due."""
        time = self.period
        while sum(self.due(time)) <= position:
            time *= 2
        return time + 1

    def pieces(self) -> Iterator[bytes]:
        """What the order depends on."""
        yield from super().pieces()
        yield repr((self.period, [share.end_weight for share in self.shares])).encode()


def mixture_of(shares: tuple[Share, ...], seed: int, shuffle: bool, until: float) -> Mixture:
    """The order of these sources, whose shares change where one of them has another weight at the end."""
    if all(share.end_weight is None for share in shares):
        return Mixture(shares, seed, shuffle)
    return Annealed(shares, seed, shuffle, until)
