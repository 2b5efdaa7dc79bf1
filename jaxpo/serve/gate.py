"""What every request passes: its id, the key, the name it was sent to; and its line in the log."""

from __future__ import annotations

import hmac
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxpo.serve.desk import Desk
from jaxpo.serve.errors import ApiError, wrong
from jaxpo.serve.http import GONE, Gone

OPEN = ("/health",)
"""Paths that need no key."""
ANSWERS = ("/v1/completions", "/v1/chat/completions")
LOGGED = (*ANSWERS, "/v1/models", "/tokenize", "/detokenize", "/tokenizer_info", "/health", "/metrics")
_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


@dataclass
class Note:
    """What the log says of a request; handlers fill it in.

    Attributes:
      identity: the client's X-Request-Id, or one that was made.
      began: when it came, of `time.monotonic`.
      reason: why its answers ended.
    """

    identity: str
    began: float
    prompt: int = 0
    generated: int = 0
    reason: str = ""


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, desk: Desk, log: Callable[[str], None]):
        self._app, self._desk, self._log = app, desk, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = GONE
        headers = Headers(scope=scope)
        given = headers.get("x-request-id")
        valid = given is not None and _ID.fullmatch(given) is not None
        note = Note(given if given is not None and valid else uuid.uuid4().hex, time.monotonic())
        scope["note"] = note

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", note.identity.encode())]
            await send(message)

        try:
            self._check(scope, headers, id_fits=valid or given is None)
            await self._app(scope, receive, sending)
        except ApiError as error:
            await refused(error)(scope, receive, sending)
        except Gone:
            status, note.reason = GONE, "gone"
            self._desk.metrics.gone += 1
        finally:
            self._write(scope, note, status, time.monotonic() - note.began)

    def _check(self, scope: Scope, headers: Headers, *, id_fits: bool) -> None:
        if not id_fits:
            raise wrong("X-Request-Id", "X-Request-Id must be 1 to 128 letters, digits and `._:/+=-`.")
        name = headers.get("host", "")
        # A page in a browser can reach this machine under a name of its own.
        if name and self._desk.hosts and _host(name) not in self._desk.hosts:
            raise ApiError(403, f"The server is not {_host(name)!r}; start it with --api-key to use other names.")
        if self._desk.key is not None and scope["path"] not in OPEN and not self._has_key(headers):
            raise ApiError(
                401,
                "Send the server's key as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = (self._desk.key or "").encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key)

    def _write(self, scope: Scope, note: Note, status: int, seconds: float) -> None:
        path = scope["path"] if scope["path"] in LOGGED else "other"
        self._desk.metrics.answered[path, status] += 1
        if path in ANSWERS and status == 200:
            self._desk.metrics.seconds.add(seconds)
        tokens = f" prompt={note.prompt} generated={note.generated}" if path in ANSWERS else ""
        reason = f" reason={note.reason}" if note.reason else ""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        self._log(f"{stamp} id={note.identity} {scope['method']} {path} {status}{tokens} seconds={seconds:.3f}{reason}")


def refused(error: ApiError) -> JSONResponse:
    """The response of an error."""
    return JSONResponse(error.body(), error.status, error.headers)


def _host(name: str) -> str:
    """Of `host:port`, the host."""
    return name.partition("]")[0].lstrip("[") if name.startswith("[") else name.partition(":")[0].lower()
