"""Answers of `/v1/completions`: texts that go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxpo.sampling.request import Generation
from jaxpo.sampling.text import encode_prompt
from jaxpo.serve.growing import Growing, Piece
from jaxpo.serve.logprobs import Scored, completion_logprobs
from jaxpo.serve.protocol import CompletionBody
from jaxpo.serve.reply import FINISH, scored
from jaxpo.serve.served import Served, seed_of
from jaxpo.serve.tokens import text_and_offsets

MAX_TOKENS = 16
"""Of an answer where the request does not say; OpenAI's own."""


class CompletionReply:
    """See `Reply`. The prompts are tokenised here, so this is made off the event loop.

    Raises:
      ApiError: 400, a prompt that does not fit.
    """

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, served: Served, body: CompletionBody):
        self.settings, self._body, self._tokenizer = body.settings, body, served.tokenizer
        seed = seed_of(body.settings)
        prompts = [
            encode_prompt(served.tokenizer, prompt) if isinstance(prompt, str) else prompt for prompt in body.prompts
        ]
        self.requests = [
            served.request(
                prompt,
                body.settings,
                param="prompt",
                default=MAX_TOKENS,
                seed=seed,
                number=number,
                # A prompt that is echoed without an answer is read for its log-probs, whether or not they are shown.
                prompt_logps=body.echo and (body.logprobs is not None or body.settings.max_tokens == 0),
                top_logps=body.logprobs or 0,
            )
            for number, prompt in enumerate(prompts)
        ]
        echoed = self.requests if body.echo else ()
        self._echoes = [text_and_offsets(served.tokenizer, request.prompt) for request in echoed]
        self._growing: dict[tuple[int, int], Growing] = {}

    def opening(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def whole(self, index: int, generation: Generation) -> dict[str, Any]:
        return next(self.delta(index, generation))

    def delta(self, index: int, generation: Generation) -> Iterator[dict[str, Any]]:
        key = (index, generation.sample)
        echoes = self._body.echo and key not in self._growing
        piece = self._growing.setdefault(key, self._begun(index)).feed(generation)
        shown = piece.text or (self._body.logprobs is not None and piece.last > piece.first)
        if shown or echoes or generation.reason is not None:
            yield {
                "index": index * self.settings.n + generation.sample,
                "text": (self._echoes[index][0] if echoes else "") + piece.text,
                "logprobs": self._logprobs(index, generation, piece, echoes=echoes),
                "finish_reason": FINISH[generation.reason],
            }

    def _begun(self, index: int) -> Growing:
        begins = len(self._echoes[index][0]) if self._body.echo else 0
        return Growing(self._tokenizer, self.settings.stop, begins=begins)

    def _logprobs(self, index: int, generation: Generation, piece: Piece, *, echoes: bool) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        parts = [scored(generation, piece)]
        if echoes and generation.prompt_logps is not None:
            prompt = Scored(
                self.requests[index].prompt, generation.prompt_logps, generation.prompt_top, self._echoes[index][1]
            )
            parts = [prompt, *parts]
        return completion_logprobs(self._tokenizer, parts)
