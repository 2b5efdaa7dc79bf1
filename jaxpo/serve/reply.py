"""What the answers of completions and chats have in common: the envelope, the counts of tokens, why they ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from jaxpo.sampling.request import Generation, Reason, Request
from jaxpo.serve.asked import Update
from jaxpo.serve.growing import Piece
from jaxpo.serve.logprobs import Scored
from jaxpo.serve.settings import Settings

FINISH: dict[Reason | None, str | None] = {None: None, "stop_id": "stop", "stop_string": "stop", "length": "length"}


class Reply(Protocol):
    """One endpoint's answers to one body.

    Attributes:
      kind, chunk_kind: `object` of the answer and of a stream's chunks.
      prefix: of its id.
    """

    @property
    def kind(self) -> str: ...

    @property
    def chunk_kind(self) -> str: ...

    @property
    def prefix(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def requests(self) -> Sequence[Request]: ...

    def opening(self) -> Iterator[dict[str, Any]]:
        """Choices of the first chunks of a stream."""
        ...

    def whole(self, index: int, generation: Generation) -> dict[str, Any]:
        """The choice of an answer that has ended."""
        ...

    def delta(self, index: int, generation: Generation) -> Iterator[dict[str, Any]]:
        """Choices of the chunks for what an answer has more than before."""
        ...


class Envelope:
    """Around choices: id, object, time and model.

    Attributes:
      prompt_tokens, generated: counts so far.
      reasons: why answers ended.
    """

    def __init__(self, reply: Reply, identity: str, model: str, created: int):
        self._reply = reply
        self._head = {"id": f"{reply.prefix}-{identity}", "created": created, "model": model}
        self.prompt_tokens = sum(len(request.prompt) for request in reply.requests)
        self._tokens: dict[tuple[int, int], int] = {}
        self.reasons: list[str] = []

    @property
    def generated(self) -> int:
        return sum(self._tokens.values())

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of the prompts, each counted once, and of all answers with their stop ids."""
        whole = self.prompt_tokens + self.generated
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.generated, "total_tokens": whole}

    def count(self, updates: Sequence[Update]) -> None:
        """Note how far answers are."""
        for index, generation in updates:
            self._tokens[index, generation.sample] = len(generation.tokens)
            if generation.reason is not None:
                self.reasons.append(generation.reason)

    def whole(self, answers: Sequence[Update]) -> dict[str, Any]:
        """The answer of a request that is not streamed."""
        choices = [self._reply.whole(index, generation) for index, generation in answers]
        return self._head | {"object": self._reply.kind, "choices": choices, "usage": self.usage}

    def opening(self) -> Iterator[dict[str, Any]]:
        """A stream's first chunks."""
        return (self._chunk([choice]) for choice in self._reply.opening())

    def chunks(self, updates: Sequence[Update]) -> Iterator[dict[str, Any]]:
        """A stream's further chunks."""
        for index, generation in updates:
            yield from (self._chunk([choice]) for choice in self._reply.delta(index, generation))

    def closing(self) -> Iterator[dict[str, Any]]:
        """A stream's last chunk, with the counts where they are asked for."""
        if self._reply.settings.usage:
            yield self._chunk([]) | {"usage": self.usage}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._reply.settings.usage else {}
        return self._head | {"object": self._reply.chunk_kind, "choices": choices} | usage


def scored(generation: Generation, piece: Piece) -> Scored:
    """The tokens of a piece with their log-probs."""
    whole = Scored(generation.tokens, generation.logps, generation.top, piece.offsets)
    return whole.part(piece.first, piece.last)
