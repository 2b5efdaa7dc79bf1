"""Conversations of the model with environments, many at once: tokens in, tokens out.

What the model wrote is never tokenised again: its next turn goes on from the very tokens of those before, to which the
environment's messages are added. The engine keeps what it has read of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxpo.errors import RunError
from jaxpo.online.answers import Answer, Group
from jaxpo.online.environments.base import Environment, EnvironmentOf, Message
from jaxpo.online.environments.turns import after_turn, message_of
from jaxpo.online.talk import Talk
from jaxpo.online.writer import Asked, Writer
from jaxpo.sampling.request import Generation, Request
from jaxpo.sampling.sampler import Sampler
from jaxpo.sharding.turns import by_first_process

Tree = Any
DRAWS = 41
"""Bits by which the draws of a conversation's later turns lie beside those of the first."""


@dataclass
class _Conversation:
    """One under way."""

    one: Asked
    sample: int
    environment: Environment
    messages: list[Message]
    tokens: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    sampling_logps: list[float] = field(default_factory=list)
    reward: float = 0.0
    turns: int = 0
    finished: bool = False
    cut_off: bool = False
    calls: int = 0
    failures: int = 0
    trouble: str = ""

    def add(self, tokens: Sequence[int], logps: Any = None, sampling_logps: Any = None) -> None:
        """Tokens of the model with their log-probs, or of the environment."""
        self.tokens += tokens
        self.mask += [logps is not None] * len(tokens)
        self.logps += [0.0] * len(tokens) if logps is None else np.asarray(logps).tolist()
        self.sampling_logps += [0.0] * len(tokens) if sampling_logps is None else np.asarray(sampling_logps).tolist()

    def answer(self, opening: int) -> Answer:
        """What has come of it; `opening` messages were the prompt."""
        said = [m["content"] for m in self.messages[opening:] if m["role"] == "assistant"]
        talk = Talk(
            np.asarray(self.mask, bool),
            tuple(self.messages[opening:]),
            self.reward,
            self.turns,
            self.cut_off,
            self.calls,
            self.failures,
            self.trouble,
        )
        logps, drawn = (np.asarray(values, np.float32) for values in (self.logps, self.sampling_logps))
        tokens, last = np.asarray(self.tokens, np.int32), said[-1] if said else ""
        return Answer(tokens, logps, drawn, self.finished, last, talk)


@dataclass
class EnvironmentWriter:
    """Answers that are conversations; stands in the place of a `Writer`.

    Attributes:
      writer: has the engine.
      environment: how environments are made.
    """

    writer: Writer
    environment: EnvironmentOf

    @property
    def own(self) -> EnvironmentWriter:
        """Held-out prompts are played too."""
        return self

    def use(self, params: Tree, most: int) -> None:
        """See `jaxpo.online.writers.Writes`."""
        self.writer.use(params, most)

    def write(
        self, asked: Sequence[Asked], n: int, sampler: Sampler, max_new_tokens: int, what: str
    ) -> Iterable[Group]:
        """Groups of n conversations, each as soon as its last is over.

        Args:
          max_new_tokens: of a conversation, the environment's tokens among them.

        Raises:
          RunError: the engine gave up an answer.
        """
        engine = self.writer.engine
        under_way: dict[int, list[_Conversation]] = {}
        over: dict[int, dict[int, Answer]] = {one.position: {} for one in asked}
        for one in asked:
            first = Request(one.prompt.ids.tolist(), n, sampler, max_new_tokens, seed=self.writer.seed)
            number = engine.submit(replace(first, number=one.position))
            under_way[number] = [self._opened(one, k) for k in range(n)]
        while engine.busy:
            for generation in engine.step():
                talk = under_way[generation.request][generation.sample]
                if self._goes_on(talk, generation, max_new_tokens):
                    left = max_new_tokens - len(talk.tokens)
                    under_way[engine.submit(self._request(talk, n, sampler, left))] = [talk]
                    continue
                answers = over[talk.one.position]
                answers[talk.sample] = talk.answer(len(talk.one.prompt.text))
                if len(answers) == n:
                    one = talk.one
                    yield Group(one.place, one.position, one.prompt, tuple(answers[k] for k in range(n)))

    def _opened(self, one: Asked, sample: int) -> _Conversation:
        environment = self.environment.open()
        return _Conversation(one, sample, environment, environment.reset(dict(one.prompt.columns)))

    def _request(self, talk: _Conversation, n: int, sampler: Sampler, left: int) -> Request:
        """The next turn: its draws belong to the conversation and the turn."""
        seed = self.writer.seed + ((talk.turns * n + talk.sample) << DRAWS)
        prompt = [*talk.one.prompt.ids.tolist(), *talk.tokens]
        return Request(prompt, 1, sampler, left, seed=seed, number=talk.one.position)

    def _goes_on(self, talk: _Conversation, generation: Generation, limit: int) -> bool:
        """Take a turn of the model, and what the environment says of it; whether another turn follows."""
        if generation.reason == "error":
            raise RunError(f"the engine gave up an answer: {generation.error}")
        talk.add(generation.tokens, generation.logps, generation.sampling_logps)
        talk.turns += 1
        talk.messages.append(message_of(self.writer.tokenizer, generation.tokens))
        if generation.reason == "length":
            return False
        said = by_first_process(lambda: self._said(talk))
        talk.calls, talk.failures, talk.trouble = said["calls"], said["failures"], said["trouble"]
        if talk.trouble:
            return False
        done, added = said["done"], said["added"]
        talk.reward += said["reward"]
        talk.messages += said["messages"]
        talk.finished = done
        talk.cut_off = not done and talk.turns >= self.environment.turns
        if done or talk.cut_off or len(talk.tokens) + len(added) >= limit:
            return False
        talk.add(added)
        return True

    def _said(self, talk: _Conversation) -> dict[str, Any]:
        """What the environment says of the model's newest turn; of several processes the first one asks it."""
        environment = talk.environment
        said: dict[str, Any] = {"trouble": ""}
        try:
            further, reward, done = environment.step(tuple(talk.messages))
            added = after_turn(self.writer.tokenizer, further)
            said |= {"messages": list(further), "added": added, "reward": float(reward), "done": bool(done)}
        except Exception as error:  # of the user's environment: kept as the reason that there is no reward
            said["trouble"] = f"{type(error).__name__}: {error}"[:300]
        return said | {"calls": environment.calls, "failures": environment.failures}
