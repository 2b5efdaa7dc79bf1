"""The endpoints that generate: a body is read, typed and asked, and its answers are sent, whole or as they grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from jaxpo.errors import JaxpoError
from jaxpo.sampling.sampler import Sampler
from jaxpo.serve.asked import Asked
from jaxpo.serve.desk import Desk
from jaxpo.serve.errors import ApiError, late, wrong
from jaxpo.serve.gate import Note
from jaxpo.serve.http import DONE, Gone, begin_events, read_body, send_event, send_part, unless_gone
from jaxpo.serve.protocol import read_object
from jaxpo.serve.reply import Envelope, Reply
from jaxpo.serve.served import Served

Body = TypeVar("Body")
SLACK = 5.0
"""Seconds beyond the time limit in which a client must have read what was sent."""


class Answering(Generic[Body]):
    """One endpoint, as an ASGI application.

    Args:
      read: the typed body of a JSON object.
      make: what answers it; both are called off the event loop.
    """

    def __init__(
        self,
        desk: Desk,
        read: Callable[[Mapping[str, Any], Sampler], Body],
        make: Callable[[Served, Body], Reply],
    ):
        self._desk, self._read, self._make = desk, read, make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._desk.limits.seconds
        self._desk.check_open()
        with self._desk.places.hold() as held:
            body = await read_body(Request(scope, receive), self._desk.limits)
            try:
                async with asyncio.timeout_at(deadline + SLACK):
                    await unless_gone(self._answer(scope, receive, send, body, held.need, deadline), receive)
            except TimeoutError as error:
                raise Gone from error

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, body: bytes, need: Callable[[int], None], deadline: float
    ) -> None:
        note: Note = scope["note"]
        reply = await asyncio.to_thread(self._prepare, body)
        need(sum(request.n for request in reply.requests))
        self._desk.check_open()
        asked = Asked(reply.requests, reply.settings.stream, deadline, late(self._desk.limits.seconds))
        envelope = Envelope(reply, note.identity, self._desk.served.name, int(time.time()))
        note.prompt = envelope.prompt_tokens
        self._desk.thread.ask(asked)
        try:
            await asked.accepted()
            send_it = self._stream if reply.settings.stream else self._whole
            await send_it(asked, envelope, note, scope, receive, send)
        except ApiError as error:
            note.reason = error.code or "error"
            raise
        finally:
            self._desk.thread.cancel(asked)
            note.generated = envelope.generated
            self._desk.metrics.prompt_tokens += note.prompt
            self._desk.metrics.generated_tokens += note.generated

    def _prepare(self, body: bytes) -> Reply:
        values = read_object(body)
        self._desk.served.check_name(values.get("model") if isinstance(values.get("model"), str) else None)
        reply = self._make(self._desk.served, self._read(values, self._desk.served.sampler))
        constraint, served = reply.settings.constraint, self._desk.served
        if constraint is not None:
            # A form that is none is found here, where nobody else waits for it.
            try:
                constraint.begin(served.tokenizer, served.vocabulary)
            except JaxpoError as error:
                raise wrong(reply.settings.form, str(error)) from error
        return reply

    async def _whole(
        self, asked: Asked, envelope: Envelope, note: Note, scope: Scope, receive: Receive, send: Send
    ) -> None:
        answers = []
        async for updates in asked.updates():
            envelope.count(updates)
            answers += updates
        answers.sort(key=lambda update: (update[0], update[1].sample))
        note.reason = _reason(envelope)
        await JSONResponse(envelope.whole(answers))(scope, receive, send)

    async def _stream(
        self, asked: Asked, envelope: Envelope, note: Note, scope: Scope, receive: Receive, send: Send
    ) -> None:
        await begin_events(send)
        try:
            for chunk in envelope.opening():
                await send_event(send, chunk)
            await self._grow(asked, envelope, note, send)
            for chunk in envelope.closing():
                await send_event(send, chunk)
            note.reason = _reason(envelope)
            await send_part(send, DONE, more=False)
        except ApiError as error:
            # The status was sent long ago: the client reads of it in the stream.
            note.reason = error.code or "error"
            await send_event(send, error.body())
            await send_part(send, b"", more=False)

    async def _grow(self, asked: Asked, envelope: Envelope, note: Note, send: Send) -> None:
        async for updates in asked.updates():
            if not envelope.generated:
                self._desk.metrics.first.add(time.monotonic() - note.began)
            envelope.count(updates)
            for chunk in envelope.chunks(updates):
                await send_event(send, chunk)


def _reason(envelope: Envelope) -> str:
    return ",".join(sorted(set(envelope.reasons)))
