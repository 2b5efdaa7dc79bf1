"""Who runs a mixture of experts, and what its routers counted: heard while an objective's `encode` is traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jaxpo.models.lfm2.router import RouterSums

Tree = Any
Heard = list[tuple[Tree, RouterSums]]

_heard: ContextVar[Heard | None] = ContextVar("jaxpo_routed", default=None)


@contextmanager
def listen() -> Iterator[Heard]:
    """Collects `(parameters, sums)` of every forward pass inside, whose authors need not know of experts."""
    heard: Heard = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


def notice(params: Tree, aux: dict[str, Any]) -> None:
    """Tell whoever listens."""
    heard = _heard.get()
    if heard is not None and "router" in aux:
        heard.append((params, aux["router"]))
