"""Generation from text or conversations to text: stop strings, and streaming for chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.data.chat.chat import encode_spans
from jaxpo.data.chat.reasoning import said_once
from jaxpo.data.chat.rendered import prompt_spans
from jaxpo.data.chat.template_choice import template_of
from jaxpo.data.rows.turns import Malformed
from jaxpo.data.tokenizer.tokenizer import Tokenizer, check_vocabulary
from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig
from jaxpo.sampling import decode
from jaxpo.sampling.generate import check_request, generate_as_done
from jaxpo.sampling.prompts import Prompt, as_conversation
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.slots import Generation, begin, row_keys

Tree = Any
STREAM_EVERY = 4


@dataclass(frozen=True)
class TextGeneration:
    """One continuation as text.

    Attributes:
      text: without special tokens, cut before the stop string.
      tokens: generated ids up to the stop id, or up to the token that completed the stop string.
      logps, sampling_logps: `[len(tokens)]`, see `Generation`.
      reason: what ended it; "length" is `max_new_tokens`.
      prompt, sample: which prompt it continues, and which of the n samples it is.
    """

    text: str
    tokens: list[int]
    logps: np.ndarray
    sampling_logps: np.ndarray
    reason: Literal["stop_id", "stop_string", "length"]
    prompt: int
    sample: int


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Ids to continue: BOS + text, or a rendered conversation that ends with an opened assistant turn.

    A string that was rendered before is continued as it is, its marks as control tokens, as in training.
    """
    if isinstance(prompt, str):
        try:
            return encode_spans(tokenizer, prompt_spans(prompt))[0].tolist()
        except Malformed as error:
            raise ConfigError(f"a prompt begins as one rendered with the chat template, but {error}") from error
    asked = as_conversation(prompt)
    if not asked.messages:
        raise ConfigError('a conversation without messages; give at least one {"role": "user", "content": ...}')
    chat = template_of(tokenizer).render
    spans = chat(said_once(asked.messages), tools=asked.tools, add_generation_prompt=True, train_on="none")
    return encode_spans(tokenizer, spans)[0].tolist()


def generate_text(
    params: Tree,
    config: TextConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    n: int = 1,
    stop: Sequence[str] = (),
    stop_ids: Sequence[int] | None = None,
    seed: int = 0,
    prompt_numbers: Sequence[int] | None = None,
    dtype: Any = jnp.float32,
    max_rows: int = 64,
) -> list[TextGeneration]:
    """Answer every prompt n times.

    Args:
      prompts: texts to continue, or conversations (lists of messages) to answer.
      stop: strings that end an answer and are cut from it.
      stop_ids: default the tokenizer's turn end.
      (others): see `generate`. Ids that the tokenizer does not have are never drawn.

    Returns:
      `len(prompts) * n` generations; sample s of prompt p at `p * n + s`.

    Raises:
      ConfigError: a prompt that is empty or too long, an empty stop string, a tokenizer larger than the model.
    """
    passes = generate_text_as_done(
        params,
        config,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        sampler=sampler,
        n=n,
        stop=stop,
        stop_ids=stop_ids,
        seed=seed,
        prompt_numbers=prompt_numbers,
        dtype=dtype,
        max_rows=max_rows,
    )
    return sorted((one for finished in passes for one in finished), key=lambda one: (one.prompt, one.sample))


def generate_text_as_done(
    params: Tree,
    config: TextConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    n: int = 1,
    stop: Sequence[str] = (),
    stop_ids: Sequence[int] | None = None,
    seed: int = 0,
    prompt_numbers: Sequence[int] | None = None,
    dtype: Any = jnp.float32,
    max_rows: int = 64,
) -> Iterator[list[TextGeneration]]:
    """The answers of `generate_text` as they are finished, those of short prompts first."""
    _check_text_request(config, tokenizer, stop)
    passes = generate_as_done(
        params,
        config,
        [encode_prompt(tokenizer, p) for p in prompts],
        max_new_tokens=max_new_tokens,
        sampler=sampler,
        n=n,
        stop_ids=(tokenizer.eos_id,) if stop_ids is None else stop_ids,
        seed=seed,
        prompt_numbers=prompt_numbers,
        vocab_limit=tokenizer.vocab_size,
        dtype=dtype,
        max_rows=max_rows,
        interrupt=(lambda rows: [cut_text(tokenizer, ids, stop)[2] for ids in rows]) if stop else None,
    )
    for finished in passes:
        yield [_as_text(tokenizer, one, stop) for one in finished]


def cut_text(tokenizer: Tokenizer, ids: Sequence[int], stop: Sequence[str]) -> tuple[str, int, bool]:
    """Text before the first stop string, how many tokens it took to complete that string, whether there was one."""
    text, decoder = "", tokenizer.stream()
    for used, token in enumerate(ids, start=1):
        text += decoder.feed(token)
        if (at := _first(text, stop)) is not None:
            return text[:at], used, True
    return text + decoder.finish(), len(ids), False


def stream_text(
    params: Tree,
    config: TextConfig,
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    stop: Sequence[str] = (),
    stop_ids: Sequence[int] | None = None,
    seed: int = 0,
    dtype: Any = jnp.float32,
) -> Iterator[str]:
    """Answer one prompt piece by piece; joined, the pieces are the text that `generate_text` returns.

    A piece never ends inside a character, and text that may be the beginning of a stop string is held back.
    """
    _check_text_request(config, tokenizer, stop)
    ids = encode_prompt(tokenizer, prompt)
    check_request(config, [ids], max_new_tokens)
    stop_ids = (tokenizer.eos_id,) if stop_ids is None else tuple(stop_ids)
    state, options = begin(
        params,
        config,
        [ids],
        max_new_tokens=max_new_tokens,
        sampler=sampler or Sampler(),
        n=1,
        stop_ids=stop_ids,
        keys=row_keys(seed, [0], [0]),
        vocab_limit=tokenizer.vocab_size,
        dtype=dtype,
    )
    held, done, decoder = "", 0, tokenizer.stream()
    while True:
        tokens, length, finished = jax.device_get((state.tokens[0], state.lengths[0], state.finished[0]))
        ended = bool(finished) or length >= max_new_tokens
        held += "".join(decoder.feed(token) for token in tokens[done:length])
        held += decoder.finish() if ended else ""
        if (at := _first(held, stop)) is not None:
            yield held[:at]
            return
        safe = len(held) if ended else len(held) - _unfinished(held, stop)
        if safe:
            yield held[:safe]
        if ended:
            return
        held, done = held[safe:], int(length)
        state = decode.extend(params, state, min(done + STREAM_EVERY, max_new_tokens), **options)


def _as_text(tokenizer: Tokenizer, result: Generation, stop: Sequence[str]) -> TextGeneration:
    text, used, hit = cut_text(tokenizer, result.tokens, stop)
    return TextGeneration(
        text=text,
        tokens=result.tokens[:used],
        logps=result.logps[:used],
        sampling_logps=result.sampling_logps[:used],
        reason="stop_string" if hit else "stop_id" if result.finished else "length",
        prompt=result.prompt,
        sample=result.sample,
    )


def _check_text_request(config: TextConfig, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
    check_vocabulary(tokenizer, config.vocab_size)
    if isinstance(stop, str) or not all(stop):
        raise ConfigError(f"stop is {stop!r}; give a list of non-empty strings")


def _first(text: str, stop: Sequence[str]) -> int | None:
    """Where the earliest stop string starts."""
    return min((at for at in (text.find(s) for s in stop) if at >= 0), default=None)


def _unfinished(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of the text that is the beginning of a stop string."""
    return max((k for s in stop for k in range(1, len(s)) if text.endswith(s[:k])), default=0)
