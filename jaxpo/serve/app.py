"""The application: which path is answered by what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from jaxpo.serve.answering import Answering
from jaxpo.serve.chat import ChatReply
from jaxpo.serve.completions import CompletionReply
from jaxpo.serve.desk import Desk
from jaxpo.serve.errors import ApiError, failed
from jaxpo.serve.gate import Gate, refused
from jaxpo.serve.http import read_body
from jaxpo.serve.protocol import read_chat, read_completion, read_detokenize, read_object, read_tokenize
from jaxpo.serve.tokens import described, detokenized, tokenized
from jaxpo.train.prometheus import CONTENT_TYPE


def make_app(desk: Desk, log: Callable[[str], None]) -> ASGIApp:
    """Everything that is served."""

    def tokenize(body: Mapping[str, Any]) -> dict[str, Any]:
        return tokenized(desk.served, read_tokenize(body))

    def detokenize(body: Mapping[str, Any]) -> dict[str, Any]:
        return detokenized(desk.served, read_detokenize(body))

    routes = [
        Route("/v1/completions", Answering(desk, read_completion, CompletionReply), methods=["POST"]),
        Route("/v1/chat/completions", Answering(desk, read_chat, ChatReply), methods=["POST"]),
        Route("/v1/models", _models(desk)),
        Route("/v1/models/{name:path}", _model(desk)),
        Route("/tokenize", _answered(desk, tokenize), methods=["POST"]),
        Route("/detokenize", _answered(desk, detokenize), methods=["POST"]),
        Route("/tokenizer_info", _tokenizer_info(desk)),
        Route("/health", _health(desk)),
        Route("/metrics", _metrics(desk)),
    ]
    handlers: Mapping[Any, Any] = {ApiError: _refused, HTTPException: _no_such, Exception: _unexpected}
    return Gate(Starlette(routes=routes, exception_handlers=handlers), desk, log)


def _models(desk: Desk) -> Callable[[Request], Any]:
    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_described(desk)]})

    return models


def _model(desk: Desk) -> Callable[[Request], Any]:
    async def model(request: Request) -> Response:
        desk.served.check_name(request.path_params["name"])
        return JSONResponse(_described(desk))

    return model


def _described(desk: Desk) -> dict[str, Any]:
    served = desk.served
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "jaxpo",
        "max_model_len": served.context,
    }


def _answered(desk: Desk, answer: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Callable[[Request], Any]:
    """A body of JSON and its answer, which is made off the event loop."""

    async def answered(request: Request) -> Response:
        with desk.places.hold():
            body = await read_body(request, desk.limits)
            return JSONResponse(await asyncio.to_thread(lambda: answer(read_object(body))))

    return answered


def _tokenizer_info(desk: Desk) -> Callable[[Request], Any]:
    async def tokenizer_info(request: Request) -> Response:
        return JSONResponse(described(desk.served))

    return tokenizer_info


def _health(desk: Desk) -> Callable[[Request], Any]:
    async def health(request: Request) -> Response:
        why = {"why": desk.thread.death} if desk.thread.death else {}
        return JSONResponse({"status": desk.state} | why, 200 if desk.state == "ok" else 503)

    return health


def _metrics(desk: Desk) -> Callable[[Request], Any]:
    async def metrics(request: Request) -> Response:
        return Response(desk.metrics.text(desk.gauges()), headers={"content-type": CONTENT_TYPE})

    return metrics


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return refused(error)


async def _no_such(request: Request, error: Exception) -> Response:
    """A path that is none, or another method than its own."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}."
    return refused(ApiError(error.status_code, what, code="not_found", headers=error.headers))


async def _unexpected(request: Request, error: Exception) -> Response:
    return refused(failed("The server failed; its log says more."))
