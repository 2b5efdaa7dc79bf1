"""The engine: requests join and leave a running batch; one for chat, server, evaluation, data and rollouts."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax.sharding import Mesh

from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, limits
from jaxpo.sampling import weights
from jaxpo.sampling.checks import check
from jaxpo.sampling.in_flight import InFlight
from jaxpo.sampling.programs import Compute
from jaxpo.sampling.request import Generation, Request
from jaxpo.sampling.rows import Asked, Row
from jaxpo.sampling.spoken import Spoken

if TYPE_CHECKING:
    from jaxpo.data.tokenizer.tokenizer import Tokenizer

Tree = Any


@dataclass(frozen=True)
class Load:
    """What an engine is doing, and has done since it was made.

    Attributes:
      waiting, running: continuations.
      slots: how many may run at once.
      pages, pages_used: of the store of prompts.
      submitted: requests.
      ended: continuations.
      read: tokens of prompts that went through the model.
      shared: tokens of prompts that the store had.
      written: tokens drawn.
    """

    waiting: int
    running: int
    slots: int
    pages: int
    pages_used: int
    submitted: int
    ended: int
    read: int
    shared: int
    written: int


class Engine:
    """Continuous batching over a fixed number of slots.

    A continuation is a function of the weights and its request alone: see `Request`. Nothing is compiled after
    `warm_up`, whatever is asked.

    Args:
      params: the model's tree.
      config: its architecture.
      tokenizer: for stop strings, constraints and `Generation.text`; ids that it does not have are never drawn.
      slots: continuations in flight at once.
      context: positions of each, prompt and answer; default the model's, rounded up to whole pages.
      dtype: compute type.
      rounds: tokens per row between two looks of the host.
      together: columns of prompts that are read in one call.
      page: positions of a page: at each of its borders a prompt can be gone on from.
      prefix_pages: pages of the store of prompts; default as many as the slots have.
      cache: "dense" (a stretch of `context` positions per slot) or "pages" (rows take the pages they need, and share).
      patches: of an image's piece, encoded at once; larger pieces are refused.
      attention, experts: names of implementations; None = the best here.
      quantize: "int8" = matrices as 8-bit integers, see `jaxpo.models.quantize`; None = as they are.
      one_shape: compute all in one shape and every row alike, so that no bit of a result depends on what else runs;
        else few rows take less time than many, and rounding is that of the products of their number.
      mesh: devices that share the work; default those of the enclosing `use_mesh`, else one.

    Raises:
      ConfigError: settings that do not fit together, a model that cannot generate, a tokenizer larger than it.
    """

    def __init__(
        self,
        params: Tree,
        config: TextConfig,
        *,
        tokenizer: Tokenizer | None = None,
        slots: int = 64,
        context: int | None = None,
        dtype: Any = jnp.float32,
        rounds: int = 16,
        together: int = 512,
        page: int = 32,
        prefix_pages: int | None = None,
        cache: str = "dense",
        patches: int = 1024,
        attention: str | None = None,
        experts: str | None = None,
        quantize: str | None = None,
        one_shape: bool = False,
        mesh: Mesh | None = None,
    ) -> None:
        if tokenizer is not None:
            from jaxpo.data.tokenizer.tokenizer import check_vocabulary

            check_vocabulary(tokenizer, config.vocab_size)
        longest = limits(config).context
        context = min(context or longest, longest)
        self.config, self.tokenizer, self.context, self.version = config, tokenizer, context, 0
        compute = Compute(config, jnp.dtype(dtype), attention, experts, page)
        self._form = weights.Form(compute.dtype, quantize, weights.Where.of(mesh), alike=one_shape)
        prepared = weights.prepared(params, config, self._form)
        vocabulary = config.vocab_size if tokenizer is None else tokenizer.vocab_size
        self._flight = InFlight(
            prepared,
            compute,
            slots=slots,
            context=context,
            rounds=rounds,
            together=together,
            prefix_pages=prefix_pages,
            paged=_paged(cache),
            one_shape=one_shape,
            vocabulary=vocabulary,
            where=self._form.where,
            patches=patches,
        )
        self._patches = patches
        self._waiting: deque[Row] = deque()
        self._asked: dict[int, Asked] = {}
        self._cancelled: set[int] = set()
        self._submitted = self._ended = 0

    @property
    def busy(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self._asked)

    @property
    def load(self) -> Load:
        """What it is doing."""
        flight = self._flight
        return Load(
            waiting=len(self._waiting),
            running=len(flight.rows),
            slots=flight.count,
            pages=flight.prefixes.pages,
            pages_used=flight.prefixes.nodes,
            submitted=self._submitted,
            ended=self._ended,
            read=flight.read_tokens,
            shared=flight.shared_tokens,
            written=flight.written_tokens,
        )

    def submit(self, request: Request) -> int:
        """Queue a request; its number, by which its continuations are known.

        Raises:
          ConfigError: lists everything wrong with it; nothing is queued.
        """
        self._check(request)
        return self._queue(request)

    def _queue(self, request: Request) -> int:
        asked = Asked(self._submitted, request, self._stop_ids(request))
        rows = [Row(asked, sample, list(map(int, request.prompt))) for sample in range(request.n)]
        for row in rows:
            if self.tokenizer is not None:
                row.spoken = Spoken(self.tokenizer, request.stop)
                if request.constraint is not None:
                    row.matcher = request.constraint.begin(self.tokenizer, self.config.vocab_size)
        asked.rows = rows
        self._asked[asked.number] = asked
        self._submitted += 1
        self._waiting.extend(rows)
        return asked.number

    def _check(self, request: Request) -> None:
        check(request, self.config, self.context, self.tokenizer, self._stop_ids(request), self._patches)

    def _stop_ids(self, request: Request) -> tuple[int, ...]:
        if request.stop_ids is not None:
            return tuple(request.stop_ids)
        return (self.config.eos_token_id if self.tokenizer is None else self.tokenizer.eos_id,)

    def cancel(self, number: int) -> None:
        """End a request's continuations with the reason "cancelled" at the next step; one that has ended stays so."""
        if number in self._asked:
            self._cancelled.add(number)

    def so_far(self, number: int) -> list[Generation]:
        """Every continuation of a request of which some still run, as far as it is; `reason` is None of those."""
        asked = self._asked.get(number)
        return [] if asked is None else [row.generation() for row in asked.rows]

    def step(self) -> list[Generation]:
        """Give free slots to those who wait, read a part of their prompts, write some tokens: what ended with it.

        Raises:
          ConfigError: an array of the weights was donated to a program since they were given.
        """
        weights.check_there(self._flight.params)
        for number in self._cancelled:
            for row in self._asked[number].rows:
                row.reason = row.reason or "cancelled"
        self._cancelled.clear()
        done = [row for row in self._waiting if row.reason]
        done += self._flight.release()
        self._waiting = deque(row for row in self._waiting if not row.reason)
        before = len(self._flight.rows)
        self._admit()
        self._flight.read()
        # Other samples of a prompt that has just been read begin with it, not a round of writing later. More is read
        # before only while most rows are as new: those who write do not wait for it.
        while self._admit() and 2 * before < len(self._flight.rows):
            self._flight.read()
        self._flight.write(self.version)
        done += self._flight.release()
        return [self._finished(row) for row in done]

    def _admit(self) -> int:
        """Bring those who wait into slots, in order; other samples of a prompt that is being read wait for it.

        Returns:
          how many got one.
        """
        waiting: deque[Row] = deque()
        before = len(self._flight.rows)
        while self._waiting:
            row = self._waiting.popleft()
            ready = row.asked.read or row.sample == 0 or row.asked.rows[0].reason is not None
            if not ready:
                waiting.append(row)
            elif not self._flight.admit(row):
                waiting.append(row)
                break
        self._waiting = waiting + self._waiting
        self._flight.place()
        return len(self._flight.rows) - before

    def _finished(self, row: Row) -> Generation:
        self._ended += 1
        asked = row.asked
        found = row.generation()
        if all(other.reason for other in asked.rows):
            self._asked.pop(asked.number, None)
        return found

    def run(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """Submit all and give their continuations as they end; `Generation.request` counts from 0 in their order.

        Whoever stops listening ends what still runs.

        Raises:
          ConfigError: before anything is generated, lists what is wrong with each, or that the engine is busy.
        """
        if self._asked.keys() <= self._cancelled:
            self.step()  # what was cancelled since the last step ends
        if self.busy:
            raise ConfigError("the engine is busy with other requests; submit these to it and step it")
        numbers = self._submit_all(list(requests))
        try:
            while self.busy:
                for found in self.step():
                    yield dataclasses.replace(found, request=numbers[found.request])
        finally:
            for number in numbers:
                self.cancel(number)

    def _submit_all(self, requests: Sequence[Request]) -> dict[int, int]:
        problems = []
        for i, request in enumerate(requests):
            try:
                self._check(request)
            except ConfigError as error:
                problems += [f"request {i}: {problem}" for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        return {self._queue(request): i for i, request in enumerate(requests)}

    def generate(self, requests: Iterable[Request]) -> list[Generation]:
        """`run` in order: request by request, sample by sample."""
        return sorted(self.run(requests), key=lambda found: (found.request, found.sample))

    def update(self, params: Tree) -> int:
        """Swap the weights between two steps; the new version, which every token drawn from now on carries.

        Rows in flight go on under the new weights, as if the tokens that they have were their prompt. Arrays that need
        no cast are used where they lie: whoever gives their memory away, as a training step does, passes copies.

        Raises:
          ConfigError: the weights are of another form or not finite; the old ones stay.
        """
        prepared = weights.swapped(self._flight.params, params, self.config, self._form)
        for asked in self._asked.values():
            asked.vectors = None
        self._waiting.extendleft(reversed(self._flight.swap(prepared)))
        self.version += 1
        return self.version

    def warm_up(self) -> None:
        """Compile every program in every shape, so that no request waits for it."""
        self._flight.warm_up()


def _paged(cache: str) -> bool:
    if cache not in ("dense", "pages"):
        raise ConfigError(f'cache is {cache!r}; it must be "dense" or "pages"')
    return cache == "pages"
