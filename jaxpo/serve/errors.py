"""What a client is told when its request is not answered, in the form of OpenAI's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
NOT_AGAIN = {"x-should-retry": "false"}
"""Tells the `openai` client that asking again would only cost as much again."""


class ApiError(Exception):
    """An answer other than 200.

    Attributes:
      param: the field that is wrong.
      code: a word for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """`{"error": {...}}`."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def wrong(param: str | None, message: str, code: str | None = None) -> ApiError:
    """400: a field that cannot be used."""
    return ApiError(400, message, param=param, code=code)


def too_long(param: str, message: str) -> ApiError:
    """400: more tokens than the window has."""
    return wrong(param, message, "context_length_exceeded")


def busy(seconds: int) -> ApiError:
    """429: the queue is full."""
    message = f"All places of the queue are taken; ask again in {seconds} s."
    return ApiError(429, message, code="queue_full", headers={"Retry-After": str(seconds)})


def ending() -> ApiError:
    """503: the server takes no new requests because it is being stopped."""
    return ApiError(503, "The server is being stopped.", code="stopping", headers={"Retry-After": "5"})


def failed(message: str) -> ApiError:
    """500: the engine could not answer."""
    return ApiError(500, message, code="engine_error", headers=NOT_AGAIN)


def late(seconds: float) -> ApiError:
    """504: the time limit of a request."""
    message = f"The request took more than {seconds:g} s, the server's --time-limit; ask for fewer tokens."
    return ApiError(504, message, code="timeout", headers=NOT_AGAIN)
