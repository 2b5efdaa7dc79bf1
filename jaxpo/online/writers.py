"""Who else writes: an opponent, a mixture with another network, or the data themselves.

Each stands in the place of the policy's `Writer`, which it keeps as `own`: held-out prompts are answered by that one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.data.rows.needs import REFERENCE, TEACHER
from jaxpo.models.family import TextConfig
from jaxpo.models.mixture import FIRST, SECOND, Mixture
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.wrappers.lora import BASE
from jaxpo.online.answers import Answer, Group, Prompt
from jaxpo.online.completions import completion_of
from jaxpo.online.environments.writing import EnvironmentWriter
from jaxpo.online.writer import Asked, Writer
from jaxpo.sampling.sampler import Sampler

Tree = Any
OPPONENT = 1 << 40
"""Added to the seed of an opponent's draws: with those of the policy it would write the policy's answers at first."""


class Writes(Protocol):
    """What a generation is made with."""

    @property
    def own(self) -> Writes:
        """The policy's, which answers held-out prompts."""
        ...

    def use(self, params: Tree, most: int) -> None:
        """Write with these weights of the policy from now on; `most` answers of one writer may be asked for at once."""
        ...

    def write(
        self, asked: Sequence[Asked], n: int, sampler: Sampler, max_new_tokens: int, what: str
    ) -> Iterable[Group]:
        """Groups of n answers as they are whole."""
        ...


@dataclass
class Halves:
    """The first half of every group by the policy, the second by an opponent.

    Attributes:
      weights: the policy's -> the opponent's.
    """

    own: Writer
    opponent: Writer
    weights: Callable[[Tree], Tree]
    _given: Tree = field(default=None, init=False)

    def use(self, params: Tree, most: int) -> None:
        """See `Writes`."""
        self.own.use(params, most)
        given = self.weights(params)
        if given is not self._given:
            self.opponent.use(given, most)
            self._given = given

    def write(
        self, asked: Sequence[Asked], n: int, sampler: Sampler, max_new_tokens: int, what: str
    ) -> Iterable[Group]:
        """See `Writes`."""
        settings = (n // 2, sampler, max_new_tokens)
        own = {group.position: group for group in self.own.write(asked, *settings, what)}
        for group in self.opponent.write(asked, *settings, f"{what}, opponent"):
            yield dataclasses.replace(group, answers=own[group.position].answers + group.answers)


@dataclass
class Blended:
    """All by a mixture of the policy with another network.

    Attributes:
      weights: the policy's -> the mixture's.
    """

    own: Writer
    mixture: Writer
    weights: Callable[[Tree], Tree]

    def use(self, params: Tree, most: int) -> None:
        """See `Writes`."""
        self.mixture.use(self.weights(params), most)

    def write(
        self, asked: Sequence[Asked], n: int, sampler: Sampler, max_new_tokens: int, what: str
    ) -> Iterable[Group]:
        """See `Writes`."""
        return self.mixture.write(asked, n, sampler, max_new_tokens, what)


@dataclass
class PolicyOr:
    """A prompt is answered by the policy, or by another writer; which, its position and the seed say.

    Attributes:
      share: of the prompts that the policy answers.
    """

    own: Writer
    other: Rows | Teacher
    share: float
    seed: int

    def use(self, params: Tree, most: int) -> None:
        """See `Writes`."""
        self.own.use(params, most)
        self.other.use(most)

    def write(
        self, asked: Sequence[Asked], n: int, sampler: Sampler, max_new_tokens: int, what: str
    ) -> Iterable[Group]:
        """See `Writes`."""
        writers: tuple[Rows | Teacher | Writer, ...] = (self.other, self.own)
        for drawn, writer in enumerate(writers):
            if part := [one for one in asked if self.drawn(one.position) == drawn]:
                yield from writer.write(part, n, sampler, max_new_tokens, what)

    def drawn(self, position: int) -> bool:
        """Whether the policy answers the prompt at a position."""
        key = np.asarray([self.seed & (2**64 - 1), position + (1 << 48)], np.uint64)
        return bool(np.random.Philox(key=key).random_raw() < self.share * 2.0**64)


@dataclass
class Rows:
    """The completions of the prompts' rows.

    Attributes:
      completion: the answer of a prompt's row.
    """

    completion: Callable[[Prompt], Answer]

    def use(self, most: int) -> None:
        """Rows are there."""

    def write(
        self, asked: Sequence[Asked], n: int, sampler: Sampler, max_new_tokens: int, what: str
    ) -> Iterable[Group]:
        """See `Writes`."""
        for one in asked:
            yield Group(one.place, one.position, one.prompt, (self.completion(one.prompt),) * n)


@dataclass
class Teacher:
    """A network that does not move. What it writes is not the policy's: its log-probs are left out, as NaN."""

    writer: Writer
    weights: Tree
    _given: bool = field(default=False, init=False)

    def use(self, most: int) -> None:
        """Give the writer the weights, once."""
        if not self._given:
            self.writer.use(self.weights, most)
            self._given = True

    def write(
        self, asked: Sequence[Asked], n: int, sampler: Sampler, max_new_tokens: int, what: str
    ) -> Iterable[Group]:
        """See `Writes`."""
        for group in self.writer.write(asked, n, sampler, max_new_tokens, f"{what}, teacher"):
            yield dataclasses.replace(group, answers=tuple(_of_nobody(answer) for answer in group.answers))


def _of_nobody(answer: Answer) -> Answer:
    nobody = np.full_like(answer.logps, np.nan)
    return dataclasses.replace(answer, logps=nobody, sampling_logps=nobody)


def writer_of(
    stage: Any, answering: Answering, own: Writer, frozen: Mapping[str, Tree], scorers: Mapping[str, Scorer]
) -> tuple[Writes, dict[str, Any]]:
    """Who writes the answers of a stage, and what these depend on besides the policy.

    Args:
      stage: a `jaxpo.config.Online`.
      own: the policy's writer.
      frozen, scorers: the networks beside it, and how those are run that have an architecture of their own.
    """
    if stage.environment is not None:
        return EnvironmentWriter(own, stage.environment), {"environment": stage.environment.identity()}
    if answering.by == "policy":
        return own, {}
    about: dict[str, Any] = {"by": answering.by, "weight": answering.weight}
    if answering.by == "policy_or_data":
        how: dict[str, Any] = {"tokenizer": own.tokenizer, "max_completion_length": stage.max_completion_length}
        return PolicyOr(own, Rows(partial(completion_of, **how)), answering.weight, own.seed), {"writers": about}
    name = TEACHER if answering.by in ("teacher_mixture", "policy_or_teacher") else REFERENCE
    other = frozen.get(name, frozen.get(BASE))
    config = scorers[name].config if name in scorers else own.config
    writer = _with_network(answering, own, other, config)
    return writer, {"writers": about | {"network": fingerprint(other)}}


def _with_network(answering: Answering, own: Writer, other: Tree, config: TextConfig) -> Writes:
    """A second network as an opponent, or in a mixture."""
    if answering.by == "policy_and_reference":
        rival = dataclasses.replace(own, config=config, seed=own.seed + OPPONENT)
        return Halves(own, rival, lambda params: other)

    if answering.by == "policy_or_teacher":
        rival = dataclasses.replace(own, config=config, seed=own.seed + OPPONENT)
        return PolicyOr(own, Teacher(rival, other), answering.weight, own.seed)

    def both(params: Tree) -> Tree:
        return {FIRST: params, SECOND: other}

    if answering.by == "teacher_mixture":
        mixed: Any = Mixture(own.config, config, answering.weight, "arithmetic")
        return Blended(own, dataclasses.replace(own, config=mixed), both)
    mixed = Mixture(own.config, config, answering.weight, "geometric")
    return Halves(own, dataclasses.replace(own, config=mixed, seed=own.seed + OPPONENT), both)
