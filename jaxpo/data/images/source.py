"""Batches of images by position: `batch(rows_seen)` is a pure function, however many processes read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpo.config import Stage
from jaxpo.data.images.batch import ImageBatch
from jaxpo.data.images.captions import filled
from jaxpo.data.images.dataset import USER_TOKENS, ImageDataset
from jaxpo.data.images.pixels import finished
from jaxpo.data.images.states import joined_states
from jaxpo.data.images.store import Stored
from jaxpo.data.packing.ahead import Ahead
from jaxpo.data.packing.orders import InFile, Order, Shuffled
from jaxpo.data.source import steps_of

CENTRE = (0.5, 0.5)
DRAWS = 1 << 32
"""Of crops and mirrors, far from the streams of orders."""


class ImageSource:
    """An endless sequence of epochs of a data set; a row is an example, and none is dropped where epochs meet.

    Args:
      seed: of order, crops and mirrors.
      rows_per_step: examples of a step over all processes.
      shuffle: a new order each epoch.
      process_index, process_count: this process gets its contiguous share of every step.

    Attributes:
      hash: of data set and order; equal hashes give equal batches.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        seed: int,
        rows_per_step: int,
        shuffle: bool = True,
        process_index: int = 0,
        process_count: int = 1,
    ):
        self.dataset, self.seed, self.rows_per_step = dataset, seed, rows_per_step
        self.process_index, self.process_count = process_index, process_count
        self.order: Order = Shuffled(len(dataset), seed) if shuffle else InFile(len(dataset))
        self.hash = hashlib.sha256(f"{dataset.hash} {seed} {shuffle}".encode()).hexdigest()

    def total_steps(self, stage: Stage) -> int:
        """Optimiser steps of the stage's budget."""
        return steps_of(stage, lambda epoch: len(self.dataset))

    def epoch_of(self, rows_seen: int) -> float:
        """Epochs done after `rows_seen` examples."""
        return rows_seen / len(self.dataset)

    def figures_of(self, rows_seen: int) -> dict[str, float]:
        """Nothing more: there is one source."""
        return {}

    def open(self, rows_seen: int, steps: int) -> Ahead[ImageBatch]:
        """The next `steps` batches, read and decoded ahead on threads."""
        return Ahead(steps, lambda i: self.batch(rows_seen + i * self.rows_per_step))

    def batch(self, rows_seen: int) -> ImageBatch:
        """This process's share of the step that begins after `rows_seen` examples, as numpy arrays."""
        own = self.rows_per_step // self.process_count
        first = rows_seen + self.process_index * own
        places = [divmod(row, len(self.dataset)) for row in range(first, first + own)]
        numbers = [int(self.order.take(epoch, place, place + 1)[0]) for epoch, place in places]
        return self._assembled([(epoch, number) for (epoch, _), number in zip(places, numbers, strict=True)])

    def one_pass(self, examples: int | None = None) -> list[ImageBatch]:
        """The first examples (None = all) once, in file order, cut at the centre; the last batch is filled up."""
        own = self.rows_per_step // self.process_count
        last = len(self.dataset) if examples is None else min(examples, len(self.dataset))
        found = []
        for start in range(0, last, self.rows_per_step):
            first = start + self.process_index * own
            numbers = [n if n < last else -1 for n in range(first, first + own)]
            found.append(self._assembled([(-1, n) for n in numbers]))
        return found

    def _assembled(self, places: Sequence[tuple[int, int]]) -> ImageBatch:
        """Of (epoch, number) each; epoch -1 has neither crop nor mirror drawn, number -1 is no example."""
        read = self.dataset.store.read([max(number, 0) for _, number in places])
        images: Any = np.stack(
            [self._images_of(epoch, n, stored) for (epoch, n), stored in zip(places, read, strict=True)]
        )
        ids: Any = np.asarray([number for _, number in places], np.int32)
        return ImageBatch(images, columns=self._columns_of(read), example_id=ids, **self._texts_of(read))

    def _images_of(self, epoch: int, number: int, stored: Stored) -> np.ndarray:
        settings, size = self.dataset.images, self.dataset.shape.size
        if not stored.images:  # a caption alone: of the image that is drawn only the size is known
            return np.zeros((1, size, size, self.dataset.shape.channels), np.float32)
        if epoch < 0:
            return finished(stored.images, size, CENTRE, False)
        key = np.asarray([self.seed, DRAWS + epoch], np.uint64)
        draw = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, number])).random(3)
        place = (float(draw[0]), float(draw[1])) if settings.crop == "random" else CENTRE
        return finished(stored.images, size, place, settings.flip and bool(draw[2] < 0.5))

    def _texts_of(self, read: Sequence[Stored]) -> dict[str, Any]:
        """The fields of `ImageBatch` that say something of texts."""
        found = self._states_of(read) if self.dataset.states else {}
        if self.dataset.words:
            count, length = self.dataset.images.segments, self.dataset.shape.words or self.dataset.data.max_length
            texts = [filled(x.segments, count, length) for x in read]
            found |= {"tokens": np.stack([t for t, _ in texts]), "text_mask": np.stack([m for _, m in texts])}
        if self.dataset.shape.adapter:
            size = self.dataset.more_states, self.dataset.shape.adapter
            states, mask = joined_states([stored.more_states for stored in read], *size)
            found |= {"adapter_states": states, "adapter_mask": mask}
        return found

    def _states_of(self, read: Sequence[Stored]) -> dict[str, Any]:
        """States, and where they are in the place of tokens; what an encoder makes of the empty caption."""
        empty, width = self.dataset.empty, self.dataset.shape.states
        length = max(self.dataset.states, 0 if empty is None else len(empty))
        states, mask = joined_states([stored.states for stored in read], length, width)
        found = {"states": states, "states_mask": mask}
        found |= {"tokens": np.zeros((len(read), 1, length), np.int32), "text_mask": mask[:, None]}
        if empty is not None:
            found["empty_states"], found["empty_mask"] = joined_states([empty] * len(read), length, width)
        return found

    def _columns_of(self, read: Sequence[Stored]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in self.dataset.columns:
            values = [stored.columns[name] for stored in read]
            if name == "user":
                assert self.dataset.user_tokens is not None
                found[USER_TOKENS] = self.dataset.user_tokens[np.asarray(values, np.int64)]
            elif name == "rewards":
                found[name] = self._relative(np.asarray(values, np.float32))
            else:
                found[name] = np.asarray(values, np.float32)
        return found

    def _relative(self, rewards: np.ndarray) -> np.ndarray:
        """(r - r_min) / (r_max - r_min) over the training rows; 1/2 everywhere where all of them are equal."""
        assert self.dataset.reward_range is not None
        low, high = self.dataset.reward_range
        return (rewards - low) / (high - low) if high > low else np.full_like(rewards, 0.5)
