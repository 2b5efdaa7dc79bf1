"""Rows in flight as slots: the slot of a row that is done goes to a prompt that waits, so that none is idle long."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxpo.models.family import TextConfig
from jaxpo.sampling import decode
from jaxpo.sampling.sampler import Sampler
from jaxpo.sharding import to_host

Tree = Any
Interrupt = Callable[[list[list[int]]], Sequence[bool]]
INTERRUPT_EVERY = 16


@dataclass(frozen=True)
class Generation:
    """One continuation of one prompt.

    Attributes:
      tokens: generated ids; ends with the stop id if one was generated.
      logps: `[len(tokens)]` float32, log p(token | prompt, earlier tokens) under the model at temperature 1,
        unfiltered: what training on this text would compute.
      sampling_logps: `[len(tokens)]` float32, under the distribution that the token was drawn from.
      finished: a stop id was generated (else `max_new_tokens` was reached).
      prompt, sample: which prompt it continues, and which of the n samples it is.
    """

    tokens: list[int]
    logps: np.ndarray
    sampling_logps: np.ndarray
    finished: bool
    prompt: int
    sample: int


@dataclass(frozen=True)
class Task:
    """Samples of one prompt that are started together."""

    prompt: int
    samples: tuple[int, ...]


def groups(tasks: Sequence[Task], lengths: Sequence[int], new: int, count: int) -> Iterator[list[Task]]:
    """Tasks that share one size of cache, `count` of them being in flight at once; one group if that is all."""
    if len(tasks) <= count:
        yield from [list(tasks)] if tasks else []
        return
    for _, group in itertools.groupby(tasks, key=lambda task: half_steps(lengths[task.prompt] + new)):
        yield list(group)


@dataclass
class Slots:
    """What all groups of a request share.

    Attributes:
      numbers: what identifies each prompt to the random generator.
      width: slots of a task; one with fewer samples leaves the rest empty.
      (others): see `generate`.
    """

    params: Tree
    config: TextConfig
    prompts: Sequence[Sequence[int]]
    numbers: Sequence[int]
    max_new_tokens: int
    sampler: Sampler
    width: int
    stop_ids: Sequence[int]
    seed: int
    vocab_limit: int | None
    dtype: Any
    interrupt: Interrupt | None

    def run(self, tasks: Sequence[Task], count: int) -> Iterator[list[Generation]]:
        """The continuations of the tasks as they are done, `count` tasks in flight at once."""
        waiting = deque(tasks)
        capacity = half_steps(max(len(self.prompts[t.prompt]) for t in tasks) + self.max_new_tokens)
        first = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        state, options = self._begin(first, capacity)
        owners = self._owners(first, state.tokens.shape[0])
        state = dataclasses.replace(state, finished=state.finished | jnp.asarray([o is None for o in owners]))
        together = max(1, count // 4)
        while any(owners):
            enough = together * self.width if waiting else len(owners)
            until = self._until(state)
            state = decode.extend(self.params, state, until, jnp.int32(enough), **options)
            state, done = self._collect(state, owners)
            if done:
                yield done
            while waiting and owners.count(None) >= together * self.width:
                some = [waiting.popleft() for _ in range(min(together, len(waiting)))]
                state = self._refill(state, some, owners, together, capacity, options)

    def _begin(self, tasks: Sequence[Task], capacity: int) -> tuple[decode.Decoding, dict[str, Any]]:
        return begin(
            self.params,
            self.config,
            [self.prompts[t.prompt] for t in tasks],
            max_new_tokens=self.max_new_tokens,
            sampler=self.sampler,
            n=self.width,
            stop_ids=self.stop_ids,
            keys=self._keys(tasks),
            vocab_limit=self.vocab_limit,
            dtype=self.dtype,
            capacity=capacity,
        )

    def _keys(self, tasks: Sequence[Task]) -> Key[Array, "P n"]:
        """A key for every slot of the tasks; those of missing samples are never used."""
        samples = [t.samples[0] + np.arange(self.width) for t in tasks]
        return row_keys(self.seed, [self.numbers[t.prompt] for t in tasks], np.stack(samples))

    def _owners(self, tasks: Sequence[Task], rows: int) -> list[tuple[int, int] | None]:
        """(prompt, sample) of every slot, None = empty."""
        owners = [
            (t.prompt, t.samples[0] + s) if s < len(t.samples) else None for t in tasks for s in range(self.width)
        ]
        return owners + [None] * (rows - len(owners))

    def _until(self, state: decode.Decoding) -> Array:
        """How far every row may go before it is looked at."""
        if self.interrupt is None:
            return jnp.full(state.lengths.shape, self.max_new_tokens)
        return jnp.minimum((state.lengths // INTERRUPT_EVERY + 1) * INTERRUPT_EVERY, self.max_new_tokens)

    def _collect(
        self, state: decode.Decoding, owners: list[tuple[int, int] | None]
    ) -> tuple[decode.Decoding, list[Generation]]:
        """Take the rows that are done out of their slots; ask the interrupt about the others."""
        names = ("tokens", "logps", "sampling_logps", "lengths", "finished")
        host = dict(zip(names, to_host([getattr(state, name) for name in names]), strict=True))
        ended = host["finished"] | (host["lengths"] >= self.max_new_tokens)
        open_ = [row for row, owner in enumerate(owners) if owner is not None and not ended[row]]
        if self.interrupt is not None and open_:
            said = self.interrupt([host["tokens"][row, : host["lengths"][row]].tolist() for row in open_])
            ended = ended.copy()
            ended[open_] = np.asarray(said, bool)
            state = dataclasses.replace(state, finished=jnp.asarray(host["finished"] | ended))
        done = []
        for row, owner in enumerate(owners):
            if owner is not None and ended[row]:
                done.append(_generation(host, row, owner, self.stop_ids))
                owners[row] = None
        return state, done

    def _refill(
        self,
        state: decode.Decoding,
        tasks: Sequence[Task],
        owners: list[tuple[int, int] | None],
        together: int,
        capacity: int,
        options: dict[str, Any],
    ) -> decode.Decoding:
        """Start tasks in empty slots."""
        tokens, lengths = padded([self.prompts[t.prompt] for t in tasks], together)
        empty = (row for row, owner in enumerate(owners) if owner is None)
        slots = np.full(together * self.width, len(owners), np.int32)
        for i, owner in enumerate(self._owners(tasks, len(slots))):
            if owner is not None:
                slots[i] = next(empty)
                owners[slots[i]] = owner
        keys = jnp.resize(self._keys(tasks), (together, self.width)).reshape(-1)
        return decode.refill(
            self.params, state, tokens, lengths, keys, slots, n=self.width, capacity=capacity, **options
        )


def _generation(host: dict[str, Any], row: int, owner: tuple[int, int], stop_ids: Sequence[int]) -> Generation:
    cut = slice(0, int(host["lengths"][row]))
    tokens = host["tokens"][row, cut].tolist()
    return Generation(
        tokens=tokens,
        logps=host["logps"][row, cut].copy(),
        sampling_logps=host["sampling_logps"][row, cut].copy(),
        finished=tokens[-1] in stop_ids,
        prompt=owner[0],
        sample=owner[1],
    )


def begin(
    params: Tree,
    config: TextConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    n: int,
    stop_ids: Sequence[int],
    keys: Key[Array, "P n"],
    vocab_limit: int | None,
    dtype: Any,
    capacity: int | None = None,
) -> tuple[decode.Decoding, dict[str, Any]]:
    """Prefill one batch in rounded-up shapes and draw its first tokens; also the keywords that `extend` needs."""
    count = power_of_two(len(prompts), 1)
    tokens, lengths = padded(prompts, count)
    stops = np.full((power_of_two(len(stop_ids), 4),), -1, np.int32)
    stops[: len(stop_ids)] = stop_ids
    options = {"config": config, "sampler": sampler, "vocab_limit": vocab_limit, "dtype": dtype}
    state = decode.start(
        params,
        tokens,
        lengths,
        jnp.resize(keys, (count, n)).reshape(-1),
        stops,
        n=n,
        capacity=capacity or half_steps(int(lengths.max()) + max_new_tokens),
        size=power_of_two(max_new_tokens, 16),
        **options,
    )
    return state, options


def padded(prompts: Sequence[Sequence[int]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts in one array `[count, S]` of a rounded-up size, and their lengths `[count]`, 0 where there is none."""
    tokens = np.zeros((count, power_of_two(max(len(p) for p in prompts), 16)), np.int32)
    lengths = np.zeros((count,), np.int32)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = prompt
        lengths[i] = len(prompt)
    return tokens, lengths


def row_keys(seed: int, numbers: Sequence[int], samples: Any) -> Key[Array, "P n"]:
    """`fold_in(fold_in(key(seed), prompt number), sample number)`; samples `[n]`, or `[P, n]`: each prompt's own."""
    of_prompt = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(numbers, jnp.uint32))
    of_row = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
    samples = jnp.asarray(np.asarray(samples), jnp.uint32)
    return of_row(of_prompt, jnp.broadcast_to(samples, (len(numbers), samples.shape[-1])))


def power_of_two(x: int, least: int) -> int:
    """The smallest `least * 2^i` that is not below x."""
    size = least
    while size < x:
        size *= 2
    return size


def half_steps(x: int) -> int:
    """The smallest of 64, 96, 128, 192, 256, 384, ... that is not below x."""
    size = power_of_two(x, 64)
    return size * 3 // 4 if size > 64 and x <= size * 3 // 4 else size
