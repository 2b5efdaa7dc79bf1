"""Answers of `/v1/chat/completions`: an assistant's turn, with the calls of tools that it makes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from jaxpo.data.chat.reading_calls import Call
from jaxpo.errors import ConfigError, DataError
from jaxpo.sampling.prompts import Conversation
from jaxpo.sampling.request import Generation
from jaxpo.sampling.viewing import seen
from jaxpo.serve.errors import wrong
from jaxpo.serve.growing import Growing, Piece
from jaxpo.serve.logprobs import chat_logprobs
from jaxpo.serve.protocol import ChatBody
from jaxpo.serve.reply import FINISH, scored
from jaxpo.serve.served import Served, seed_of


class ChatReply:
    """See `Reply`. The conversation is rendered and tokenised here, so this is made off the event loop.

    Raises:
      ApiError: 400, a conversation that the template cannot render, or that does not fit; an image that cannot be used.
    """

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, served: Served, body: ChatBody):
        self.settings, self._body, self._tokenizer = body.settings, body, served.tokenizer
        try:
            asked = Conversation(body.messages, body.tools, body.pictures)
            if served.viewer is not None and body.pictures:  # before anything is decoded
                served.room(served.viewer.planned(asked), "messages", least=1)
            prompt, shown = seen(served.viewer, served.tokenizer, asked)
        except (ConfigError, DataError) as error:
            raise wrong("messages", str(error)) from error
        request = served.request(
            prompt,
            body.settings,
            param="messages",
            default=None,
            seed=seed_of(body.settings),
            top_logps=body.logprobs or 0,
            shown=shown,
        )
        self.requests = [request]
        tools = bool(body.tools)
        self._growing = [Growing(served.tokenizer, body.settings.stop, calls=tools) for _ in range(body.settings.n)]

    def opening(self) -> Iterator[dict[str, Any]]:
        for sample in range(self.settings.n):
            yield _choice(sample, {"delta": {"role": "assistant", "content": ""}}, None, None)

    def whole(self, index: int, generation: Generation) -> dict[str, Any]:
        growing = self._growing[generation.sample]
        piece = growing.feed(generation)
        message: dict[str, Any] = {"role": "assistant", "content": piece.text or None if piece.calls else piece.text}
        if piece.calls:
            message["tool_calls"] = listed_calls(piece.calls)
        finish = _finish(generation, growing)
        return _choice(generation.sample, {"message": message}, self._logprobs(generation, piece), finish)

    def delta(self, index: int, generation: Generation) -> Iterator[dict[str, Any]]:
        growing = self._growing[generation.sample]
        before = growing.called
        piece = growing.feed(generation)
        delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
        if piece.calls:
            numbered = enumerate(listed_calls(piece.calls), start=before)
            delta["tool_calls"] = [{"index": at} | call for at, call in numbered]
        logprobs = self._logprobs(generation, piece)
        if delta or (logprobs is not None and piece.last > piece.first):
            yield _choice(generation.sample, {"delta": delta}, logprobs, None)
        if generation.reason is not None:
            yield _choice(generation.sample, {"delta": {}}, None, _finish(generation, growing))

    def _logprobs(self, generation: Generation, piece: Piece) -> dict[str, Any] | None:
        return None if self._body.logprobs is None else chat_logprobs(self._tokenizer, scored(generation, piece))


def listed_calls(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Calls in OpenAI's form, each with an id of its own."""
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]


def _finish(generation: Generation, growing: Growing) -> str | None:
    ended_itself = generation.reason in ("stop_id", "stop_string")
    return "tool_calls" if growing.called and ended_itself else FINISH[generation.reason]


def _choice(sample: int, said: dict[str, Any], logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
    return {"index": sample, **said, "logprobs": logprobs, "finish_reason": finish}
