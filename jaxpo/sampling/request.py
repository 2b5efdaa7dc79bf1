"""What the engine is asked and what it gives back: plain values, no jax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from jaxpo.errors import RunError
from jaxpo.sampling.sampler import Sampler

if TYPE_CHECKING:
    from jaxpo.data.tokenizer.tokenizer import Tokenizer
    from jaxpo.sampling.shown import Shown

Reason = Literal["stop_id", "stop_string", "length", "cancelled", "error"]


class Constraint(Protocol):
    """A form that an answer must have, before it is bound to a tokenizer; see `jaxpo.sampling.constraints`."""

    def begin(self, tokenizer: Tokenizer, vocabulary: int) -> Matcher:
        """One answer's matcher; ConfigError for a form that is none (an invalid schema, an unknown pattern)."""
        ...


class Matcher(Protocol):
    """One answer on its way through a constraint."""

    def allowed(self, out: np.ndarray) -> bool:
        """Set in `out`, uint32 `[ceil(V / 32)]`, bit `i % 32` of word `i // 32` for every id that may come next.

        Returns:
          Whether any may; if not the answer ends.
        """
        ...

    def take(self, token: int) -> None:
        """The token that was drawn."""
        ...


@dataclass(frozen=True)
class Request:
    """One prompt to continue n times.

    A continuation is a function of (parameters, prompt, the settings here, seed, number, sample): what else runs, in
    which slot and in which order does not enter, beyond the rounding of products of another shape.

    Attributes:
      prompt: token ids, BOS included.
      n: continuations; the prompt is read once for all of them.
      sampler: how the next token is chosen.
      max_new_tokens: per continuation, the stop id included.
      min_new_tokens: before so many tokens no stop id is drawn.
      stop: strings that end an answer and are cut from its text; the engine needs a tokenizer for them.
      stop_ids: ids that end an answer; None = the tokenizer's turn end, without a tokenizer the model's end; () = none.
      seed: of the draws.
      number: what identifies the prompt to the random generator (an example's number in its dataset, say).
      logit_bias: id -> what is added to its logit before everything else.
      banned_ids: never drawn.
      allowed_ids: nothing else is drawn; None = everything but `banned_ids`.
      forced_ids: how every continuation begins; these tokens are taken, not drawn, and count as generated.
      prompt_logps: give log p of the prompt's own tokens, too.
      top_logps: give so many of the most probable ids at every position, at most `TOP_LOGPS`.
      constraint: a form that the answer must have.
      shown: its images, whose ids are among the prompt's.
    """

    prompt: Sequence[int]
    n: int = 1
    sampler: Sampler = field(default_factory=Sampler)
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] | None = None
    seed: int = 0
    number: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned_ids: tuple[int, ...] = ()
    allowed_ids: tuple[int, ...] | None = None
    forced_ids: tuple[int, ...] = ()
    prompt_logps: bool = False
    top_logps: int = 0
    constraint: Constraint | None = None
    shown: Shown | None = None


TOP_LOGPS = 20


@dataclass(frozen=True)
class TopLogps:
    """The most probable ids at each of N positions, most probable first.

    Attributes:
      ids: `[N, k]` int32.
      logps: `[N, k]` float32, under the model's own distribution, as `Generation.logps`.
    """

    ids: np.ndarray
    logps: np.ndarray


@dataclass(frozen=True)
class Generation:
    """One continuation of one prompt.

    Attributes:
      request: what `Engine.submit` gave for the request.
      sample: which of its n continuations.
      tokens: generated ids, the stop id included; of an answer that a stop string ended, up to the token that completed
        the string.
      logps: `[len(tokens)]` float32, log p(token | prompt, earlier tokens) under the model at temperature 1,
        unfiltered: what training on this text would compute.
      sampling_logps: `[len(tokens)]` float32, under the distribution that the token was drawn from; 0 when greedy, and
        of forced tokens.
      versions: `[len(tokens)]` int32, the engine's version of the weights that gave each token.
      reason: what ended it; "length" is `max_new_tokens`; None while it runs.
      text: without special tokens, cut before the stop string; None without a tokenizer.
      prompt_logps: `[len(prompt)]` float32, the first NaN; None unless asked for.
      prompt_top, top: most probable ids at the prompt's positions (the first row NaN and -1) and at those of `tokens`.
      error: what went wrong, where `reason` is "error".
    """

    request: int
    sample: int
    tokens: list[int]
    logps: np.ndarray
    sampling_logps: np.ndarray
    versions: np.ndarray
    reason: Reason | None
    text: str | None = None
    prompt_logps: np.ndarray | None = None
    prompt_top: TopLogps | None = None
    top: TopLogps | None = None
    error: str | None = None


def said(found: Generation) -> str:
    """An answer's text; RunError for one that ended in an error, which is no answer."""
    if found.reason == "error":
        raise RunError(f"an answer ended in an error: {found.error}.")
    return found.text or ""
