"""What each row of a running batch was asked for, as arrays: no setting is part of a compiled program.

Held by the host as numpy arrays and passed to every compiled call. A call that runs may read the very memory of its
numpy arguments, so nothing here changes an array in place: `fill` gives new settings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Float, Int, UInt32

from jaxpo.errors import ConfigError
from jaxpo.sampling.request import TOP_LOGPS, Request

Array = Any
WORD = 32
"""Ids per word of a mask."""


@struct.dataclass
class RowSettings:
    """Settings of B rows over a vocabulary of V ids.

    Attributes:
      temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty: `[B]`, as in `Sampler`.
      keys: `[B, 2]` raw threefry keys; token t of a row is drawn with `fold_in(key, t)`.
      stop_ids: `[B, K]`, -1 = none.
      start: `[B]` tokens of the prompt.
      limit: `[B]` tokens, the prompt's included, at which the row ends; 0 = no row.
      min_length: `[B]` tokens, the prompt's included, before which no stop id is drawn.
      bias_ids, bias_values: `[B, N]`, -1 = none.
      mask: `[B, ceil(V / 32)]`, bit `i % 32` of word `i // 32` is set where id i may be drawn: banned and allowed ids,
        constraints and the end of the tokenizer's vocabulary alike.
      forced: `[B, F]` the first tokens of the answer, -1 = none.
      top_logps: `[B]` how many of the most probable ids to report.
    """

    temperature: Float[Array, "B"]
    top_k: Int[Array, "B"]
    top_p: Float[Array, "B"]
    min_p: Float[Array, "B"]
    repetition_penalty: Float[Array, "B"]
    frequency_penalty: Float[Array, "B"]
    presence_penalty: Float[Array, "B"]
    keys: UInt32[Array, "B 2"]
    stop_ids: Int[Array, "B K"]
    start: Int[Array, "B"]
    limit: Int[Array, "B"]
    min_length: Int[Array, "B"]
    bias_ids: Int[Array, "B N"]
    bias_values: Float[Array, "B N"]
    mask: UInt32[Array, "B W"]
    forced: Int[Array, "B F"]
    top_logps: Int[Array, "B"]


@dataclass(frozen=True)
class Widths:
    """How many ids of each kind a row has room for; powers of two.

    Raises:
      ConfigError: a width that is none.
    """

    stop_ids: int = 16
    logit_bias: int = 512
    forced_ids: int = 64

    def __post_init__(self) -> None:
        wrong = [
            f"widths.{name} is {width!r}; it must be a power of two"
            for name, width in dataclasses.asdict(self).items()
            if width < 1 or width & (width - 1)
        ]
        if wrong:
            raise ConfigError(wrong)


def empty(rows: int, vocabulary: int, widths: Widths | None = None) -> RowSettings:
    """Settings of rows that nobody asked for: greedy, at their limit, every id allowed."""
    widths = widths or Widths()

    def full(value: float, *width: int, kind: Any = np.int32) -> np.ndarray:
        return np.full((rows, *width), value, kind)

    return RowSettings(
        temperature=full(0, kind=np.float32),
        top_k=full(0),
        top_p=full(1, kind=np.float32),
        min_p=full(0, kind=np.float32),
        repetition_penalty=full(1, kind=np.float32),
        frequency_penalty=full(0, kind=np.float32),
        presence_penalty=full(0, kind=np.float32),
        keys=full(0, 2, kind=np.uint32),
        stop_ids=full(-1, widths.stop_ids),
        start=full(0),
        limit=full(0),
        min_length=full(0),
        bias_ids=full(-1, widths.logit_bias),
        bias_values=full(0, widths.logit_bias, kind=np.float32),
        mask=np.tile(to_words(np.ones(vocabulary, bool)), (rows, 1)),
        forced=full(-1, widths.forced_ids),
        top_logps=full(0),
    )


def fill(settings: RowSettings, rows: Mapping[int, Mapping[str, Any]]) -> RowSettings:
    """The settings with the `row_values` of some rows; the arrays given stay as they are."""
    changed = {name: value.copy() for name, value in vars(settings).items()}
    for row, values in rows.items():
        for name, value in values.items():
            changed[name][row] = value
    return RowSettings(**changed)


def row_values(
    request: Request,
    widths: Widths,
    *,
    key: np.ndarray,
    vocabulary: int,
    stop_ids: Sequence[int] = (),
    vocab_limit: int | None = None,
) -> dict[str, Any]:
    """What a row that continues the request has in each of the `RowSettings`.

    The request is one in which `problems` finds none.

    Args:
      key: of the sample, of `row_keys`.
      vocabulary: V, rows of the model's output matrix.
      stop_ids: those that hold for the request, whose own may be None.
      vocab_limit: ids from here on belong to no token; default V.
    """
    sampler, start = request.sampler, len(request.prompt)
    # Below the smallest normal float32 a temperature divides as 0 does.
    temperature = sampler.temperature if sampler.temperature >= np.finfo(np.float32).tiny else 0.0
    return {
        "temperature": temperature,
        "top_k": 0 if sampler.top_k >= vocabulary else int(sampler.top_k),
        "top_p": sampler.top_p,
        "min_p": sampler.min_p,
        "repetition_penalty": sampler.repetition_penalty,
        "frequency_penalty": sampler.frequency_penalty,
        "presence_penalty": sampler.presence_penalty,
        "keys": key,
        "stop_ids": _padded(stop_ids, widths.stop_ids, -1),
        "start": start,
        "limit": start + request.max_new_tokens,
        "min_length": start + request.min_new_tokens,
        "bias_ids": _padded(tuple(request.logit_bias), widths.logit_bias, -1),
        "bias_values": _padded(tuple(request.logit_bias.values()), widths.logit_bias, 0),
        "mask": allowed_words(request, vocabulary, vocab_limit),
        "forced": _padded(request.forced_ids, widths.forced_ids, -1),
        "top_logps": request.top_logps,
    }


def with_masks(settings: RowSettings, rows: Sequence[int], words: np.ndarray) -> RowSettings:
    """The settings with other masks `[len(rows), W]` of some rows."""
    mask = settings.mask.copy()
    mask[list(rows)] = words
    return settings.replace(mask=mask)  # type: ignore[attr-defined]


def problems(
    request: Request,
    widths: Widths,
    vocabulary: int,
    stop_ids: Sequence[int] = (),
    vocab_limit: int | None = None,
) -> list[str]:
    """Everything that keeps a request from being held in a row, one sentence each."""
    named: dict[str, tuple[Sequence[int], int | None]] = {
        "stop_ids": (stop_ids, widths.stop_ids),
        "logit_bias": (tuple(request.logit_bias), widths.logit_bias),
        "forced_ids": (request.forced_ids, widths.forced_ids),
        "banned_ids": (request.banned_ids, None),
        "allowed_ids": (request.allowed_ids or (), None),
    }
    found = []
    for name, (ids, width) in named.items():
        if width is not None and len(ids) > width:
            found.append(f"{name} holds {len(ids)} ids; there is room for {width}")
        if wrong := [i for i in ids if not 0 <= i < vocabulary]:
            found.append(f"{name} holds the id {wrong[0]}; the model's vocabulary is 0..{vocabulary - 1}")
    for token, value in request.logit_bias.items():
        if not (math.isfinite(value) and abs(value) <= _MOST_BIAS):
            found.append(f"logit_bias[{token}] is {value!r}; it must lie in [-{_MOST_BIAS:g}, {_MOST_BIAS:g}]")
    if not 0 <= request.top_logps <= TOP_LOGPS:
        found.append(f"top_logps is {request.top_logps}; it must lie in 0..{TOP_LOGPS}")
    if not found and not allowed_words(request, vocabulary, vocab_limit).any():
        found.append("allowed_ids and banned_ids leave no id to draw; allow one more")
    return found


_MOST_BIAS = 1e6


def allowed_words(request: Request, vocabulary: int, vocab_limit: int | None = None) -> UInt32[np.ndarray, "W"]:
    """The mask that a request has throughout; a constraint's is combined with it by `&`."""
    allowed = np.zeros(vocabulary, bool)
    if request.allowed_ids is None:
        allowed[:] = True
    else:
        allowed[list(request.allowed_ids)] = True
    allowed[list(request.banned_ids)] = False
    allowed[vocabulary if vocab_limit is None else vocab_limit :] = False
    return to_words(allowed)


def to_words(allowed: np.ndarray) -> UInt32[np.ndarray, "W"]:
    """Booleans `[V]` as words of 32 bits, the first in the lowest bit."""
    padded = np.pad(allowed, (0, -len(allowed) % WORD))
    return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)


@cache
def _fold() -> Any:
    def folded(key: Any, number: Any, sample: Any) -> Any:
        typed = jax.random.wrap_key_data(key, impl="threefry2x32")
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(typed, number), sample))

    return jax.jit(jax.vmap(folded))


def row_keys(samples: Sequence[tuple[int, int, int]], room: int) -> UInt32[np.ndarray, "n 2"]:
    """`fold_in(fold_in(key(seed), number), sample)` of each of n samples.

    Args:
      samples: (seed, number, sample) of each; the lower 64 bits of a seed count, and the lower 32 of the others.
      room: the most there may be: all are folded by a program of this size.
    """
    low = (1 << WORD) - 1
    parts = np.zeros((room, 4), np.uint32)
    for i, (seed, number, sample) in enumerate([map(int, each) for each in samples]):
        parts[i] = seed >> WORD & low, seed & low, number & low, sample & low
    return np.asarray(_fold()(parts[:, :2], parts[:, 2], parts[:, 3]))[: len(samples)]


def _padded(values: Sequence[float], width: int, filler: int) -> list[float]:
    return [*values, *[filler] * (width - len(values))]
