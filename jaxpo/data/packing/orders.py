"""In which order the examples of an epoch are trained: any stretch without the rest, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from jaxpo.data.packing.best_fit import random_order

PART = 1 << 20
"""Examples of an epoch that are ordered and packed together; arrays over more of them exist nowhere."""
ROUNDS = 6
# Of `random_order`: far above the streams of windows (`best_fit.pack`) and of curricula.
KEYS = 1 << 14


class Order(Protocol):
    """An endless sequence of example numbers, cut into epochs.

    Attributes:
      examples: of one epoch, the same of every epoch.
      repeats: whether every epoch has the same order.
    """

    @property
    def examples(self) -> int: ...
    @property
    def repeats(self) -> bool: ...

    def take(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """int64 `[stop - start]`: the examples at these places of an epoch, which depend on the arguments alone."""
        ...

    def pieces(self) -> Iterator[bytes]:
        """What the order depends on beside seed and shuffle, for a hash."""
        ...


class InFile:
    """The order of the file, in every epoch."""

    repeats = True

    def __init__(self, examples: int):
        self.examples = examples

    def take(self, epoch: int, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop)

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, self.examples, PART):
            yield np.arange(start, min(start + PART, self.examples)).tobytes()


class Shuffled(InFile):
    """A new order each epoch."""

    repeats = False

    def __init__(self, examples: int, seed: int):
        super().__init__(examples)
        self.seed = seed

    def take(self, epoch: int, start: int, stop: int) -> np.ndarray:
        return shuffled(self.seed, epoch, self.examples, start, stop)


class Given:
    """An order made beforehand (a curriculum), the same in every epoch."""

    repeats = True

    def __init__(self, order: np.ndarray):
        self.order = np.asarray(order, np.int64)
        self.examples = len(self.order)

    def take(self, epoch: int, start: int, stop: int) -> np.ndarray:
        return self.order[start:stop]

    def pieces(self) -> Iterator[bytes]:
        yield self.order.tobytes()


def shuffled(seed: int, epoch: int, n: int, start: int, stop: int, stream: int = 0) -> np.ndarray:
    """Places `start` to `stop` of a permutation of 0..n-1; up to `PART` are sorted, of more each is computed."""
    if n <= PART:
        return random_order(seed, epoch, n, stream)[start:stop]
    return permuted(np.arange(start, stop), n, _keys(seed, epoch, stream))


def permuted(numbers: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Images of some numbers under a permutation of 0..n-1: a Feistel network, walked until it is back below n.

    Args:
      keys: uint64, one for each round.
    """
    half = np.uint64((max(2, int(n - 1).bit_length()) + 1) // 2)
    found = _network(np.asarray(numbers, np.uint64), half, keys)
    outside = np.flatnonzero(found >= n)
    while len(outside):
        found[outside] = _network(found[outside], half, keys)
        outside = outside[found[outside] >= n]
    return found.astype(np.int64)


def _network(x: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    """A permutation of the numbers of `2 half` bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _keys(seed: int, epoch: int, stream: int) -> np.ndarray:
    key = np.asarray([seed & (2**64 - 1), epoch + ((stream + KEYS) << 48)], np.uint64)
    return np.random.Philox(key=key).random_raw(ROUNDS)
