"""Prompts, continuations and documents as the token sequences that are scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxpo.sampling.prompts import Prompt

if TYPE_CHECKING:
    from jaxpo.data.tokenizer.tokenizer import Tokenizer
    from jaxpo.data.tokens.examples import Segment


def pair(tokenizer: Tokenizer, prompt: Prompt, continuation: str) -> Segment:
    """A prompt and its continuation as one sequence; `supervised` marks the continuation's tokens.

    Raises:
      ConfigError: the continuation adds no token.
    """
    raise NotImplementedError


def documents(tokenizer: Tokenizer, text: str, max_length: int) -> tuple[Segment, ...]:
    """A text whole, in pieces of at most `max_length` tokens in which every token is predicted once."""
    raise NotImplementedError


def log_likelihood(logps: np.ndarray, segment: Segment) -> float:
    """sum log p over the supervised tokens, nats, in float64."""
    return float(logps[segment.supervised].sum(dtype=np.float64))
