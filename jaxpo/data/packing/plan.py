"""Which example goes where in every epoch: a pure function of lengths, seed, epoch and settings."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import zlib
from collections import OrderedDict
from dataclasses import astuple, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from jaxpo.data.durable import publish
from jaxpo.data.packing.best_fit import Caps, Laid, Packed, pack, random_order
from jaxpo.data.tokens.store import Lengths

VERSION = 1
CACHE_FROM = 20_000
KEPT_EPOCHS = 3


class Plan:
    """The packed epochs of one dataset; random access, safe from several threads.

    Args:
      lengths: of all examples.
      caps: block shape (`choose_caps`).
      seed: of the shuffle.
      shuffle: a new order each epoch; False keeps the order of the file (or `order`) in every epoch.
      order: example numbers to train in this order instead (a curriculum); implies no shuffle.
      cache_dir: where epochs of large datasets are kept.
    """

    def __init__(
        self,
        lengths: Lengths,
        caps: Caps,
        *,
        seed: int,
        shuffle: bool,
        order: np.ndarray | None = None,
        cache_dir: Path | None = None,
    ):
        self.lengths, self.caps, self.seed = lengths, caps, seed
        self.shuffle = shuffle and order is None
        self.order = np.arange(len(lengths)) if order is None else np.asarray(order, np.int64)
        self.hash = self._hash()
        self._cache_dir = cache_dir if len(self.order) >= CACHE_FROM else None
        self._epochs: OrderedDict[int, Packed] = OrderedDict()
        self._ends: list[int] = []
        self._lock = threading.RLock()

    def epoch(self, epoch: int) -> Packed:
        """The packing of one epoch."""
        epoch = epoch if self.shuffle else 0
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = self._load(epoch) or self._build(epoch)
            self._epochs.move_to_end(epoch)
            while len(self._epochs) > KEPT_EPOCHS:
                self._epochs.popitem(last=False)
            return self._epochs[epoch]

    def blocks_in(self, epoch: int) -> int:
        """Number of blocks of one epoch; it varies a little with the order."""
        return self.first_block(epoch + 1) - self.first_block(epoch)

    def first_block(self, epoch: int) -> int:
        """Number of blocks in all epochs before this one."""
        with self._lock:
            while len(self._ends) < epoch:
                before = self._ends[-1] if self._ends else 0
                self._ends.append(before + len(self.epoch(len(self._ends)).blocks))
            return self._ends[epoch - 1] if epoch else 0

    def locate(self, block: int) -> tuple[int, int]:
        """Epoch and place in it of block `block` of the endless sequence."""
        for epoch in itertools.count():
            if block < self.first_block(epoch + 1):
                return epoch, block - self.first_block(epoch)
        raise AssertionError("unreachable")

    def _build(self, epoch: int) -> Packed:
        if self.shuffle:
            order = self.order[random_order(self.seed, epoch, len(self.order))]
            packed = pack(self.lengths, order, self.caps, seed=self.seed, epoch=epoch)
        else:
            packed = pack(self.lengths, self.order, self.caps)
        if self._cache_dir is not None:
            self._save(epoch, packed)
        return packed

    def _file(self, epoch: int) -> Path:
        assert self._cache_dir is not None
        return self._cache_dir / f"plan-{self.hash[:16]}-{epoch}.npz"

    def _save(self, epoch: int, packed: Packed) -> None:
        file = self._file(epoch)
        temporary = file.with_name(f".{file.stem}.{os.getpid()}.{threading.get_ident()}.tmp")
        with temporary.open("wb") as stream:
            arrays = _named("", packed.segments) | _named("media_", packed.media)
            np.savez(stream, blocks=packed.blocks, **arrays)  # type: ignore[arg-type]
        publish(temporary, file)

    def _load(self, epoch: int) -> Packed | None:
        """A kept epoch, whose zip checksums are compared; None where there is none, or it is not what was written."""
        if self._cache_dir is None or not self._file(epoch).exists():
            return None
        try:
            return self._read(epoch)
        except (OSError, ValueError, LookupError, EOFError, BadZipFile, zlib.error):
            return None  # it is packed again, from the same lengths

    def _read(self, epoch: int) -> Packed:
        with np.load(self._file(epoch)) as stored:
            segments, media = (
                Laid(*(stored.get(prefix + f.name, np.zeros(0, np.int32)) for f in fields(Laid)))
                for prefix in ("", "media_")
            )
            return Packed(stored["blocks"], segments, media)

    def _hash(self) -> str:
        media = self.lengths.media
        # Without media, the numbers that plans were always named by.
        caps = astuple(self.caps) if media is not None else astuple(self.caps)[:-2]
        digest = hashlib.sha256(repr((VERSION, caps, self.seed, self.shuffle)).encode())
        of_media = () if media is None else (media.offsets, media.values)
        for array in (self.lengths.offsets, self.lengths.values, self.order, *of_media):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def _named(prefix: str, laid: Laid) -> dict[str, np.ndarray]:
    return {f"{prefix}{f.name}": getattr(laid, f.name) for f in fields(laid)}
