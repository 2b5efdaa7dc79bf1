"""Several sources in one order of training, each with its share of the tokens: by position, without any state.

A source of n examples and T tokens that shall give the share w of all tokens gives examples at the rate w n / T. Its
example j is due at the time (j + 1/2) / rate; the mixture is all examples in the order of these times, ties in that of
the sources. A source that ends begins anew, in another order: its epochs are its own.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxpo.data.packing.orders import shuffled
from jaxpo.data.tokens.shares import Share

SCALE = 1 << 40
"""Rates are whole numbers that sum to about this, so that counts are exact at any position."""
STREAM = 1 << 13
"""Of the random generator: the first source's; windows, curricula and large orders have others."""


@dataclass(frozen=True)
class Mixture:
    """The order that sources make together (`orders.Order`); an epoch has as many tokens as all sources together.

    Attributes:
      seed, shuffle: of each source's own order, a new one each of its epochs.
    """

    shares: tuple[Share, ...]
    seed: int
    shuffle: bool = True
    repeats = False

    @cached_property
    def portions(self) -> tuple[float, ...]:
        """Each source's share of all tokens."""
        total = sum(share.weight for share in self.shares)
        return tuple(share.weight / total for share in self.shares)

    @cached_property
    def _rates(self) -> tuple[int, ...]:
        """Examples that each source gives in the time of `SCALE` examples of all."""
        own = [p * share.examples / share.tokens for p, share in zip(self.portions, self.shares, strict=True)]
        return tuple(max(1, round(rate / sum(own) * SCALE)) for rate in own)

    @cached_property
    def examples(self) -> int:
        """Of an epoch, all sources together."""
        tokens = sum(share.tokens for share in self.shares)
        own = (p * tokens * s.examples / s.tokens for p, s in zip(self.portions, self.shares, strict=True))
        return max(1, round(sum(own)))

    def tokens(self, total: float) -> list[float]:
        """What of the first `total` tokens is each source's."""
        return [portion * total for portion in self.portions]

    def due(self, time: int) -> list[int]:
        """How many examples each source gives up to a time."""
        return [(2 * rate * time + SCALE) // (2 * SCALE) for rate in self._rates]

    def times(self, s: int, numbers: np.ndarray) -> np.ndarray:
        """When a source's examples are due, by their numbers."""
        return (2.0 * numbers + 1) / self._rates[s]

    def latest(self, position: int) -> int:
        """A time at which more than `position` examples are due."""
        return position + position // 1000 + 2 * len(self.shares) + 2

    def counts(self, position: int) -> list[int]:
        """How many of the first `position` examples of the endless order each source gives."""
        time = bisect.bisect_right(range(self.latest(position)), position, key=lambda t: sum(self.due(t))) - 1
        found, later = self.due(time), self.due(time + 1)
        rest = position - sum(found)
        # Between two times most sources give one example at most; whoever is due first goes first.
        ends = [min(later[s], found[s] + rest) for s in range(len(self.shares))]
        waiting = sorted(
            (float(when), s, j)
            for s, end in enumerate(ends)
            for j, when in enumerate(self.times(s, np.arange(found[s], end)), start=found[s])
        )
        for _, s, _ in waiting[:rest]:
            found[s] += 1
        return found

    def take(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Examples at places of an epoch; sources begin anew within it, so that one may be there twice."""
        first = epoch * self.examples
        before, after = self.counts(first + start), self.counts(first + stop)
        numbers = [self._of(s, a, b) for s, (a, b) in enumerate(zip(before, after, strict=True))]
        times = [self.times(s, np.arange(a, b)) for s, (a, b) in enumerate(zip(before, after, strict=True))]
        return np.concatenate(numbers)[np.argsort(np.concatenate(times), kind="stable")]

    def pieces(self) -> Iterator[bytes]:
        """What the order depends on: the sources, but not what they are called or may at most give."""
        yield repr([(s.first, s.examples, s.tokens, s.weight) for s in self.shares]).encode()

    def source_of(self, examples: np.ndarray) -> np.ndarray:
        """Number of the source that each example is of."""
        return np.searchsorted([share.first for share in self.shares], examples, side="right") - 1

    def _of(self, s: int, start: int, stop: int) -> np.ndarray:
        """Examples `start` to `stop` that a source gives, counted through its epochs."""
        share = self.shares[s]
        found = []
        for epoch in range(start // share.examples, -(-stop // share.examples)):
            begin = epoch * share.examples
            here = max(start - begin, 0), min(stop - begin, share.examples)
            if self.shuffle:
                own = shuffled(self.seed, epoch, share.examples, *here, stream=STREAM + s)
            else:
                own = np.arange(*here)
            found.append(share.first + own)
        return np.concatenate([np.zeros(0, np.int64), *found])
