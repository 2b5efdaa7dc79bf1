"""What a request must be before it may join a batch: everything wrong with it is said at once, before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, family, sees
from jaxpo.sampling import row_settings
from jaxpo.sampling.request import Matcher, Request
from jaxpo.sampling.shown import problems_of

if TYPE_CHECKING:
    from jaxpo.data.tokenizer.tokenizer import Tokenizer


def check(
    request: Request,
    config: TextConfig,
    context: int,
    tokenizer: Tokenizer | None,
    stop_ids: Sequence[int],
    patches: int,
) -> None:
    """ConfigError that lists every field of a request that the engine cannot serve.

    Args:
      context: positions of a slot.
      stop_ids: those that hold for the request.
      patches: of an image, encoded at once.
    """
    vocab_limit = None if tokenizer is None else tokenizer.vocab_size
    problems = [
        *_numbers(request),
        *_prompt(request, config, context),
        *_shown(request, config, patches),
        *row_settings.problems(request, row_settings.Widths(), config.vocab_size, stop_ids, vocab_limit),
        *_text(request, tokenizer),
        *_form(request, config, tokenizer),
    ]
    if problems:
        raise ConfigError(problems)


def _numbers(request: Request) -> Iterator[str]:
    least = 0 if request.prompt_logps else 1
    for name, value, low in (("n", request.n, 1), ("max_new_tokens", request.max_new_tokens, least)):
        if value < low:
            yield f"{name} is {value}; it must be at least {low}"
    for name, value in (("seed", request.seed), ("number", request.number)):
        if not isinstance(value, Integral):
            yield f"{name} is {value!r}; it must be a whole number"
    if not 0 <= request.min_new_tokens <= max(request.max_new_tokens, 0):
        yield f"min_new_tokens is {request.min_new_tokens}; it must lie in 0..max_new_tokens ({request.max_new_tokens})"
    if len(request.forced_ids) > request.max_new_tokens:
        yield f"forced_ids are {len(request.forced_ids)} tokens, more than max_new_tokens ({request.max_new_tokens})"


def _prompt(request: Request, config: TextConfig, context: int) -> Iterator[str]:
    length, new = len(request.prompt), request.max_new_tokens
    if not length:
        yield f"the prompt is empty; start it with the BOS id ({config.bos_token_id})"
    elif length >= context + (new == 0):
        yield f"the prompt has {length} tokens and the context is {context}; shorten it"
    elif length + new > context:
        yield (
            f"the prompt has {length} tokens; with max_new_tokens={new} that exceeds the context of {context}; shorten "
            f"it or set max_new_tokens to at most {context - length}"
        )
    wrong = next((i for i in request.prompt if not 0 <= i < config.vocab_size), None)
    if wrong is not None:
        yield (
            f"the prompt holds the id {wrong}, outside the model's vocabulary of {config.vocab_size}; "
            "check the tokenizer"
        )


def _shown(request: Request, config: TextConfig, patches: int) -> Iterator[str]:
    if request.shown is None:
        return
    if not sees(config):
        yield f"the prompt shows images, and a model of the family {family(config).name!r} reads text alone"
        return
    yield from problems_of(request.shown, len(request.prompt), patches)


def _text(request: Request, tokenizer: Tokenizer | None) -> Iterator[str]:
    if isinstance(request.stop, str) or not all(request.stop):
        yield f"stop is {request.stop!r}; give a list of non-empty strings"
    for name, value in (("stop", request.stop), ("constraint", request.constraint)):
        if value and tokenizer is None:
            yield f"{name} needs a tokenizer; give the engine one"


def _form(request: Request, config: TextConfig, tokenizer: Tokenizer | None) -> Iterator[str]:
    """What is wrong with a constraint, and with forced ids that do not have its form."""
    if request.constraint is None or tokenizer is None:
        return
    try:
        matcher = request.constraint.begin(tokenizer, config.vocab_size)
        for i, token in enumerate(request.forced_ids):
            if not may_follow(matcher, token, config.vocab_size):
                yield f"forced_ids[{i}] is {token}, which the constraint does not allow there"
                return
            matcher.take(token)
    except ConfigError as error:
        yield from error.problems


def may_follow(matcher: Matcher, token: int, vocabulary: int) -> bool:
    """Whether a constraint lets a token come next."""
    mask = np.zeros(-(-vocabulary // row_settings.WORD), np.uint32)
    matcher.allowed(mask)
    return 0 <= token < vocabulary and bool(mask[token // row_settings.WORD] >> (token % row_settings.WORD) & 1)
