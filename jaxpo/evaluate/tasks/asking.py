"""Prompts with continuations, and documents, as the token sequences that are scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.data.chat.chat import Span, encode_many
from jaxpo.data.chat.reasoning import said_once
from jaxpo.data.chat.rendered import prompt_spans
from jaxpo.data.chat.template_choice import template_of
from jaxpo.data.rows.turns import is_rendered
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.examples import Segment
from jaxpo.errors import ConfigError
from jaxpo.evaluate.perplexity import document_pieces
from jaxpo.sampling.prompts import Prompt, as_conversation


def pair(tokenizer: Tokenizer, prompt: Prompt, continuation: str) -> Segment:
    """A prompt and its continuation as one sequence; `supervised` marks the continuation's tokens."""
    return pairs(tokenizer, prompt, (continuation,))[0]


def pairs(tokenizer: Tokenizer, prompt: Prompt, continuations: Sequence[str]) -> tuple[Segment, ...]:
    """A prompt with each of several continuations.

    After a text the continuation is what lm-eval takes it to be: white space at the prompt's end belongs to it, the
    text is encoded as a whole, and its tokens are those behind as many as the prompt alone has. After a conversation,
    or a string that was rendered as one, it begins the answer, as in training.

    Raises:
      ConfigError: a continuation that adds no token.
    """
    if isinstance(prompt, str) and not is_rendered(prompt):
        found = _after_text(tokenizer, prompt, continuations)
    else:
        given = _opened(tokenizer, prompt)
        found = encode_many(tokenizer, [[*given, Span(text, True, "assistant")] for text in continuations])
    for (_, supervised), text in zip(found, continuations, strict=True):
        if not supervised.any():
            raise ConfigError(f"the continuation {text!r} adds no token to its prompt, so it has no probability.")
    return tuple(Segment(tokens, supervised) for tokens, supervised in found)


def documents(tokenizer: Tokenizer, text: str, max_length: int) -> tuple[Segment, ...]:
    """A text in pieces of at most `max_length` tokens, in which each of its tokens is predicted once."""
    pieces = document_pieces(tokenizer, [text], max_length)[0]
    return tuple(Segment(piece, np.arange(len(piece)) > 0) for piece in pieces)


def _after_text(tokenizer: Tokenizer, prompt: str, continuations: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    bare = prompt.rstrip()
    wholes = [prompt_spans(prompt + text) for text in continuations]
    (given, _), *encoded = encode_many(tokenizer, [prompt_spans(bare), *wholes])
    return [(tokens, np.arange(len(tokens)) >= len(given)) for tokens, _ in encoded]


def _opened(tokenizer: Tokenizer, prompt: Prompt) -> list[Span]:
    """The spans of a conversation up to the answer."""
    if isinstance(prompt, str):
        return prompt_spans(prompt)
    asked = as_conversation(prompt)
    chat = template_of(tokenizer).render
    return chat(said_once(asked.messages), tools=asked.tools, add_generation_prompt=True, train_on="none")
