"""Pieces of HTTP: a body within its limits, a client that leaves, server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Send

from jaxpo.serve.desk import Limits
from jaxpo.serve.errors import ApiError

T = TypeVar("T")
JSON, EVENTS = "application/json", "text/event-stream"
GONE = 499
"""What the log and the metrics call a client that left; nginx's number."""
DONE = b"data: [DONE]\n\n"


class Gone(Exception):
    """The client has left; nobody reads what is sent."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body.

    Raises:
      ApiError: 415, not called JSON; 413, too large; 408, too slow.
      Gone: the client left before its end.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        # A page in a browser may send other types to this machine without asking.
        raise ApiError(415, f"Send the header `Content-Type: {JSON}`.", code="not_json")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.body:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _whole(request, limits)
    except TimeoutError as error:
        raise ApiError(408, f"The body did not come within {limits.body_seconds:g} s.", code="timeout") from error
    except ClientDisconnect as error:
        raise Gone from error


async def _whole(request: Request, limits: Limits) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.body:
            raise _too_large(limits)
    return bytes(body)


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"The body is larger than {limits.body:,} bytes, the server's --body-limit.", code="too_large")


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of `work`, which is cancelled when the client leaves.

    Raises:
      Gone: it left.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def begin_events(send: Send) -> None:
    """The head of a stream; proxies shall not collect it."""
    headers = {"content-type": f"{EVENTS}; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": raw})


async def send_event(send: Send, value: dict[str, Any]) -> None:
    """One event with a JSON value."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    await send_part(send, f"data: {text}\n\n".encode(), more=True)


async def send_part(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
