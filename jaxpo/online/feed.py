"""The batches of consecutive steps: generations begun by the weights that the schedule says, trained on in slices."""

from __future__ import annotations

import contextvars
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.online.batches import Trained, batch_of, taken_apart
from jaxpo.online.generation import Generation
from jaxpo.online.training import own_rows

if TYPE_CHECKING:
    from jaxpo.online.source import RolloutSource

Tree = Any


class RolloutFeed:
    """See `jaxpo.data.source.Feed`.

    Args:
      step: the first, from 0.
      steps: how many.
    """

    def __init__(self, source: RolloutSource, step: int, steps: int):
        self.source, self.step = source, step
        self.last = source.schedule.generation(step + steps - 1)
        self._pending: dict[int, Future[Generation]] = {}
        self._slices: list[list[Trained]] = []
        self._now = -1
        # With staleness answers are written while steps are trained; without it there is nothing to wait for. Several
        # processes must give the devices their work in one order, which two threads do not keep: they write first.
        beside = source.schedule.staleness and jax.process_count() == 1
        self._pool = ThreadPoolExecutor(1, "rollouts") if beside else None

    def next(self, state: Any) -> Batch:
        """The batch of the next step."""
        source, schedule = self.source, self.source.schedule
        for number in schedule.begun_at(self.step):
            if number <= self.last:
                self._begin(number, source.policy(state.params))
        generation = schedule.generation(self.step)
        if generation != self._now:
            self._take(generation, state)
        answers = self._slices[schedule.part(self.step)]
        self.step += 1
        source.show("training")
        return own_rows(batch_of(answers, source.layout, source.per_token, source.columns))

    def _begin(self, number: int, params: Tree) -> None:
        """Have a generation written: now, or beside the steps, by a copy of the weights."""
        maker = self.source.maker
        if self._pool is None:
            done: Future[Generation] = Future()
            done.set_result(maker.make(number, params))
            self._pending[number] = done
            return
        held = jax.tree.map(jnp.copy, params)
        context = contextvars.copy_context()
        self._pending[number] = self._pool.submit(context.run, maker.make, number, held)

    def _take(self, number: int, state: Any) -> None:
        """Turn to a generation; one that an earlier start began is read."""
        source, stage = self.source, self.source.stage
        pending = self._pending.pop(number, None)
        generation = source.maker.read(number) if pending is None else pending.result()
        each = stage.prompts_per_step
        parts = [range(part * each, (part + 1) * each) for part in range(stage.steps_per_generation)]
        first, began = self.step % source.schedule.cycle == 0, time.monotonic()
        source.show(f"generation {number}, the trainer's networks")
        recorded = source.recorder.of(generation, parts, state, first=first)
        reading = time.monotonic() - began
        shaped, columns = source.shape(generation, recorded)
        if source.recorder.asked:
            source.figures[number]["rollouts/reading_seconds"] = reading
        source.watch(generation, recorded, state)
        self._slices = [source.examples(generation, shaped, recorded, columns, places) for places in parts]
        self._now = number
        self._compare_types(state)

    def _compare_types(self, state: Any) -> None:
        """Say once how far a sampler of another type is from the trainer."""
        source = self.source
        dtype = source.stage.engine.dtype or source.scorer.dtype
        same = dtype == source.scorer.dtype and source.stage.engine.quantize is None
        if same or "types" in source.said:
            return
        answers = self._slices[0]
        batch = batch_of(answers, source.layout, source.per_token, source.columns)
        own = taken_apart(source.logps(state, batch), answers, source.layout)
        apart = [
            np.abs(a - t.per_token["sampling_logps"])[slice(None) if t.mask is None else t.mask]
            for a, t in zip(own, answers, strict=True)
            if t.own
        ]
        if not apart:
            return
        every = np.concatenate(apart)
        how = f"{dtype}{', int8' if source.stage.engine.quantize else ''}"
        correction = getattr(source.method, "importance_sampling_correction", "none")
        corrected = "which the loss does not correct for" if correction == "none" else "the loss corrects for that"
        source.once(
            "types",
            f"warning: answers are written in {how} and trained on in {source.scorer.dtype}: log-probs of tokens "
            f"differ by {every.mean():.2e} on average, {every.max():.2e} at most ({corrected})",
        )

    def settle(self) -> None:
        """Wait for the generations that were begun: they are in the ledger then."""
        for pending in self._pending.values():
            pending.result()

    def close(self) -> None:
        """End the thread, after what it is writing."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
