"""What every program here is told, as JSON on standard input, and what it answers."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Request = Mapping[str, Any]


def serve(convert: Callable[[Request], None], ask: Callable[[Request], tuple[np.ndarray, list[int]]]) -> None:
    """Convert `source` to the folder `out` as `dtype`, where that is asked; then put questions to `out`.

    `tokens` are cut as each of `chunkings` says and given on one cache, which starts empty; then `prompt` is continued
    greedily by `new` ids. The file `answers` gets `log_probs` `[chunkings, S, V]`, `ids`, and `versions` of `packages`.
    """
    request = json.load(sys.stdin)
    if request.get("source"):
        convert(request)
    if not request.get("answers"):
        return
    logits, ids = ask(request)
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    found = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    versions = {name: importlib.metadata.version(name) for name in request["packages"]}
    np.savez(request["answers"], log_probs=found.astype(np.float32), ids=ids, versions=json.dumps(versions))


def cut(tokens: list[int], sizes: list[int]) -> list[list[int]]:
    """The tokens in pieces of these sizes."""
    starts = np.cumsum([0, *sizes])
    return [tokens[a:b] for a, b in itertools.pairwise(starts)]


def greedily(step: Callable[[list[int]], np.ndarray], prompt: list[int], new: int) -> list[int]:
    """The most probable ids, one after another; `step(ids) -> logits [n, V]` goes on from what it was given before."""
    found: list[int] = []
    for _ in range(new):
        found.append(int(np.argmax(step(prompt if not found else found[-1:])[-1])))
    return found
