"""The engine as a stage uses it: groups of answers to prompts, by the weights of the moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import RunError
from jaxpo.models.family import TextConfig
from jaxpo.online.answers import Answer, Group, Prompt
from jaxpo.sampling.engine import Engine
from jaxpo.sampling.request import Generation, Request
from jaxpo.sampling.sampler import Sampler
from jaxpo.sharding import BATCH_AXES, axis_size, current_mesh

Tree = Any
MOST_SLOTS = 128
SAY_EVERY = 10.0


@dataclass(frozen=True)
class Asked:
    """A prompt to be answered: of its place in the generation and its position in the order of prompts."""

    place: int
    position: int
    prompt: Prompt


@dataclass
class Writer:
    """Writes answers; the engine is made with the first weights, and told of the next ones.

    Attributes:
      context: positions of a prompt and its answer.
      dtype: compute type.
      seed: of the draws.
      settings: a `jaxpo.config.RolloutEngine`.
      say: shows one line to the user.
    """

    config: TextConfig
    tokenizer: Tokenizer
    context: int
    dtype: str
    seed: int
    settings: Any
    say: Callable[[str], None]
    _engine: Engine | None = field(default=None, init=False)

    @property
    def own(self) -> Writer:
        """The policy's writer: itself, where nobody else writes."""
        return self

    @property
    def engine(self) -> Engine:
        """With the weights that were given last."""
        assert self._engine is not None
        return self._engine

    def use(self, params: Tree, most: int) -> None:
        """Write with these weights from now on.

        Args:
          most: answers that may be asked for at once.
        """
        if self._engine is not None:
            self._engine.update(params)
            return
        mesh, how = current_mesh(), self.settings
        share = 1 if mesh is None else axis_size(mesh, BATCH_AXES)
        slots = how.slots or min(most, MOST_SLOTS)
        self._engine = Engine(
            params,
            self.config,
            tokenizer=self.tokenizer,
            slots=-(-slots // share) * share,
            context=self.context,
            dtype=jnp.dtype(self.dtype),
            rounds=how.rounds,
            cache=how.cache,
            quantize=how.quantize,
            one_shape=how.one_shape,
        )

    def write(
        self, asked: Sequence[Asked], n: int, sampler: Sampler, max_new_tokens: int, what: str
    ) -> Iterable[Group]:
        """Groups of n answers, each as soon as its last has ended.

        Raises:
          RunError: the engine gave up an answer.
        """
        engine = self.engine
        numbers = {
            engine.submit(
                Request(
                    one.prompt.ids.tolist(),
                    n=n,
                    sampler=sampler,
                    max_new_tokens=max_new_tokens,
                    seed=self.seed,
                    number=one.position,
                )
            ): one
            for one in asked
        }
        found: dict[int, dict[int, Answer]] = {number: {} for number in numbers}
        said = time.monotonic()
        ended = 0
        while engine.busy:
            for generation in engine.step():
                answers = found[generation.request]
                answers[generation.sample] = answer_of(generation)
                ended += 1
                if len(answers) == n:
                    one = numbers[generation.request]
                    yield Group(one.place, one.position, one.prompt, tuple(answers[k] for k in range(n)))
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                self.say(f"{what}: {ended} of {n * len(numbers)} answers, {engine.load.running} being written")


def answer_of(generation: Generation) -> Answer:
    """What the engine gave."""
    if generation.reason == "error":
        raise RunError(f"the engine gave up an answer: {generation.error}")
    return Answer(
        np.asarray(generation.tokens, np.int32),
        np.asarray(generation.logps, np.float32),
        np.asarray(generation.sampling_logps, np.float32),
        generation.reason in ("stop_id", "stop_string"),
        generation.text or "",
    )
