"""Which example goes where in every epoch: a pure function of lengths, seed, epoch and settings."""

from __future__ import annotations

import bisect
import functools
import hashlib
import os
import threading
from collections import OrderedDict
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.data.durable import publish
from jaxpo.data.npz import read_arrays
from jaxpo.data.packing.best_fit import Caps, Laid, Packed, pack
from jaxpo.data.packing.mixture import Mixture
from jaxpo.data.packing.orders import PART, Given, InFile, Order, Shuffled
from jaxpo.data.tokens.index import pieces_of
from jaxpo.data.tokens.store import Lengths

VERSION = 1
CACHE_FROM = 20_000
KEPT_PARTS = 3
UNREADABLE = (OSError, ValueError, LookupError)


@dataclass(frozen=True)
class Part:
    """At most `PART` examples of an epoch, packed; with all of an epoch, or a stretch of it.

    Attributes:
      packed: where they lie, under the numbers that they have in this part.
      lengths: of them, by these numbers.
      examples: int64 `[n]`, their numbers in the dataset; ascending, one that a mixture repeats more than once.
    """

    packed: Packed
    lengths: Lengths
    examples: np.ndarray

    @classmethod
    def of(cls, lengths: Lengths, order: np.ndarray, caps: Caps, *, seed: int | None = None, number: int = 0) -> Part:
        """Pack examples of a dataset in this order."""
        own, local, examples = _within(lengths, order)
        return cls(pack(own, local, caps, seed=seed, epoch=number), own, examples)


def _within(lengths: Lengths, order: np.ndarray) -> tuple[Lengths, np.ndarray, np.ndarray]:
    """The lengths of some examples alone, the order by the numbers that they have there, and their own numbers."""
    ascending = np.argsort(order, kind="stable")
    examples, local = order[ascending], np.empty(len(order), np.int64)
    local[ascending] = np.arange(len(order))
    whole = len(examples) == len(lengths) and np.array_equal(examples, np.arange(len(examples)))
    return (lengths if whole else lengths.take(examples)), local, examples


class Plan:
    """The packed epochs of one dataset; random access, safe from several threads.

    An epoch of more than `PART` examples is packed in parts, one when it is needed: they bound the memory, whatever the
    number of examples. Parts are numbered through all epochs.

    Args:
      lengths: of all examples.
      caps: block shape (`choose_caps`).
      seed: of the shuffle.
      shuffle: a new order each epoch; False keeps the order of the file (or `order`) in every epoch.
      order: example numbers to train in this order instead (a curriculum), which implies no shuffle; or an order of
        its own.
      mixture: of sources by weight; has an order of its own.
      cache_dir: where epochs of large datasets are kept, and how many blocks their parts have.
    """

    def __init__(
        self,
        lengths: Lengths,
        caps: Caps,
        *,
        seed: int,
        shuffle: bool,
        order: np.ndarray | Order | None = None,
        mixture: Mixture | None = None,
        cache_dir: Path | None = None,
    ):
        self.lengths, self.caps, self.seed, self.mixture = lengths, caps, seed, mixture
        given = Given(order) if isinstance(order, np.ndarray) else order
        self.shuffle = shuffle and (given is None or not given.repeats)
        otherwise = Shuffled(len(lengths), seed) if shuffle else InFile(len(lengths))
        self.order: Order = mixture or given or otherwise
        self.parts_per_epoch = max(1, -(-self.order.examples // PART))
        self._cache_dir = cache_dir if self.order.examples >= CACHE_FROM else None
        self._parts: OrderedDict[int, Part] = OrderedDict()
        self._ends, self._tokens = self._load_ends()
        self._lock = threading.RLock()

    def part(self, number: int) -> Part:
        """One part: the packing of a whole epoch, unless that has several."""
        number = number % self.parts_per_epoch if self.order.repeats else number
        with self._lock:
            if number not in self._parts:
                self._parts[number] = self._load(number) or self._build(number)
            self._parts.move_to_end(number)
            while len(self._parts) > KEPT_PARTS:
                self._parts.popitem(last=False)
            return self._parts[number]

    def blocks_in(self, epoch: int) -> int:
        """Number of blocks of one epoch; it varies a little with the order."""
        return self.first_block(epoch + 1) - self.first_block(epoch)

    def first_block(self, epoch: int) -> int:
        """Number of blocks in all epochs before this one."""
        return self._before(epoch * self.parts_per_epoch)

    def locate(self, block: int) -> tuple[int, int]:
        """Part and place in it of block `block` of the endless sequence."""
        with self._lock:
            while not self._ends or self._ends[-1] <= block:
                self._before(len(self._ends) + 1)
            number = bisect.bisect_right(self._ends, block)
            return number, block - self._before(number)

    def epoch_of(self, block: int) -> float:
        """Epochs before a block, with the fraction of the current one; parts count by their examples."""
        number, place = self.locate(block)
        epoch, of_epoch = divmod(number, self.parts_per_epoch)
        start, stop = self._span(of_epoch)
        share = place / (self._ends[number] - self._before(number))
        return epoch + (start + share * (stop - start)) / max(self.order.examples, 1)

    def given(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Examples and tokens `[sources]` that each source of the mixture has given before a block."""
        number, place = self.locate(block)
        before = self._tokens[number - 1] if number else np.zeros_like(self._tokens[0])
        assert self.mixture is not None
        epoch, of_epoch = divmod(number, self.parts_per_epoch)
        examples = self.mixture.counts(epoch * self.order.examples + self._span(of_epoch)[0])
        here, tokens = self._of_sources(self.part(number), place)
        return np.asarray(examples) + here, before + tokens

    def _of_sources(self, part: Part, blocks: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Examples and tokens of each source in the first blocks of a part; none of them without a mixture."""
        if self.mixture is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        held = part.packed.blocks[:blocks]
        held = held[held >= 0]
        source, n = self.mixture.source_of(part.examples[held]), len(self.mixture.shares)
        tokens = np.bincount(source, part.lengths.totals()[held], n)
        return np.bincount(source, minlength=n), tokens.astype(np.int64)

    def _before(self, number: int) -> int:
        """Number of blocks in all parts before this one."""
        with self._lock:
            known = len(self._ends)
            while len(self._ends) < number:
                part = self.part(len(self._ends))
                tokens = self._of_sources(part)[1]
                self._tokens.append(tokens + self._tokens[-1] if self._ends else tokens)
                self._ends.append((self._ends[-1] if self._ends else 0) + len(part.packed.blocks))
            if len(self._ends) > known and self.parts_per_epoch > 1:
                self._save_ends()
            return self._ends[number - 1] if number else 0

    def _span(self, of_epoch: int) -> tuple[int, int]:
        """Places in the order of an epoch at which its part begins and ends."""
        return of_epoch * PART, min((of_epoch + 1) * PART, self.order.examples)

    def _order(self, number: int) -> np.ndarray:
        epoch, of_epoch = divmod(number, self.parts_per_epoch)
        return self.order.take(epoch, *self._span(of_epoch))

    def _build(self, number: int) -> Part:
        seed = self.seed if self.shuffle else None
        part = Part.of(self.lengths, self._order(number), self.caps, seed=seed, number=number)
        if self._cache_dir is not None and self.parts_per_epoch == 1:
            self._save(number, part.packed)
        return part

    def _file(self, name: object) -> Path:
        assert self._cache_dir is not None
        return self._cache_dir / f"plan-{self.hash[:16]}-{name}.npz"

    def _save(self, number: int, packed: Packed) -> None:
        arrays = _named("", packed.segments) | _named("media_", packed.media)
        _write(self._file(number), blocks=packed.blocks, **arrays)

    def _load(self, number: int) -> Part | None:
        """A kept part, whose zip checksums are compared; None where there is none, or it is not what was written."""
        if self._cache_dir is None or not self._file(number).exists():
            return None
        try:
            return self._read(number)
        except UNREADABLE:
            return None  # it is packed again, from the same lengths

    def _read(self, number: int) -> Part:
        own, _, examples = _within(self.lengths, self._order(number))
        stored = read_arrays(self._file(number))
        segments, media = (
            Laid(*(stored.get(prefix + f.name, np.zeros(0, np.int32)) for f in fields(Laid)))
            for prefix in ("", "media_")
        )
        return Part(Packed(stored["blocks"], segments, media), own, examples)

    def _save_ends(self) -> None:
        if self._cache_dir is not None:
            _write(self._file("ends"), ends=np.asarray(self._ends, np.int64), tokens=np.asarray(self._tokens, np.int64))

    def _load_ends(self) -> tuple[list[int], list[np.ndarray]]:
        """Of every part so far: blocks up to its end, and tokens of each source."""
        if self._cache_dir is None or not self._file("ends").exists():
            return [], []
        try:
            stored = read_arrays(self._file("ends"))
            return stored["ends"].tolist(), list(stored["tokens"])
        except UNREADABLE:
            return [], []  # they are counted again

    @functools.cached_property
    def hash(self) -> str:
        """Of all that the epochs depend on; it reads every length, which a plan of a few examples need not."""
        media = self.lengths.media
        # Without media, the numbers that plans were always named by.
        caps = astuple(self.caps) if media is not None else astuple(self.caps)[:-2]
        parts = () if self.parts_per_epoch == 1 else (PART,)
        digest = hashlib.sha256(repr((VERSION, caps, self.seed, self.shuffle, *parts)).encode())
        of_media = () if media is None else (media.offsets, media.values)
        for array in (self.lengths.offsets, self.lengths.values):
            _digest(digest, array)
        for piece in self.order.pieces():
            digest.update(piece)
        for array in of_media:
            _digest(digest, array)
        return digest.hexdigest()


def _digest(digest: Any, array: np.ndarray) -> None:
    """Take an array in, a piece in memory at a time."""
    for piece in pieces_of(array):
        digest.update(np.ascontiguousarray(piece).data)


def _write(file: Path, **arrays: np.ndarray) -> None:
    """Whole or not at all, whoever else writes the same."""
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.{threading.get_ident()}.tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    publish(temporary, file)


def _named(prefix: str, laid: Laid) -> dict[str, np.ndarray]:
    return {f"{prefix}{f.name}": getattr(laid, f.name) for f in fields(laid)}
