"""Continue prompts of unequal length, n samples each, with log-probs that equal teacher forcing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.sampling import decode
from jaxpo.sampling.sampler import Sampler

Tree = Any
Interrupt = Callable[[list[list[int]]], Sequence[bool]]
INTERRUPT_EVERY = 16


@dataclass(frozen=True)
class Generation:
    """One continuation of one prompt.

    Attributes:
      tokens: generated ids; ends with the stop id if one was generated.
      logps: `[len(tokens)]` float32, log p(token | prompt, earlier tokens) under the model at temperature 1,
        unfiltered: what training on this text would compute.
      sampling_logps: `[len(tokens)]` float32, under the distribution that the token was drawn from.
      finished: a stop id was generated (else `max_new_tokens` was reached).
      prompt, sample: which prompt it continues, and which of the n samples it is.
    """

    tokens: list[int]
    logps: np.ndarray
    sampling_logps: np.ndarray
    finished: bool
    prompt: int
    sample: int


def generate(
    params: Tree,
    config: LFM2Config,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    n: int = 1,
    stop_ids: Sequence[int] | None = None,
    seed: int = 0,
    prompt_numbers: Sequence[int] | None = None,
    vocab_limit: int | None = None,
    dtype: Any = jnp.float32,
    max_rows: int = 64,
    interrupt: Interrupt | None = None,
) -> list[Generation]:
    """Generate n continuations of every prompt.

    A continuation is a function of (params, prompt, sampler, seed, prompt number, sample number): how prompts are
    ordered, padded and batched does not enter, beyond the rounding of matrix products. Shapes are rounded up to a few
    sizes, so that few programs are compiled.

    Args:
      params: the model's tree.
      prompts: token ids, BOS included; none empty.
      max_new_tokens: per continuation, the stop id included.
      sampler: default `Sampler()`, temperature 1 without filters.
      n: samples per prompt; the prompt is read once for all of them.
      stop_ids: default `(config.eos_token_id,)`; `()` = never stop.
      seed: of the draws.
      prompt_numbers: what identifies each prompt to the random generator (an example's number in its dataset, say);
        default 0, 1, ...
      vocab_limit: number of ids that the tokenizer has; later rows of the vocabulary are never drawn.
      dtype: compute type.
      max_rows: continuations in flight at once.
      interrupt: asked every `INTERRUPT_EVERY` tokens, `(tokens of each row) -> bool per row`: True ends the row there.

    Returns:
      `len(prompts) * n` generations; sample s of prompt p at `p * n + s`.

    Raises:
      ConfigError: lists every prompt that is empty, holds an unknown id, or leaves no room in the model's context.
    """
    passes = generate_passes(
        params,
        config,
        prompts,
        max_new_tokens=max_new_tokens,
        sampler=sampler,
        n=n,
        stop_ids=stop_ids,
        seed=seed,
        prompt_numbers=prompt_numbers,
        vocab_limit=vocab_limit,
        dtype=dtype,
        max_rows=max_rows,
        interrupt=interrupt,
    )
    done = {(g.prompt, g.sample): g for finished in passes for g in finished}
    return [done[p, s] for p in range(len(prompts)) for s in range(n)]


def generate_passes(
    params: Tree,
    config: LFM2Config,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    n: int = 1,
    stop_ids: Sequence[int] | None = None,
    seed: int = 0,
    prompt_numbers: Sequence[int] | None = None,
    vocab_limit: int | None = None,
    dtype: Any = jnp.float32,
    max_rows: int = 64,
    interrupt: Interrupt | None = None,
) -> Iterator[list[Generation]]:
    """The continuations of `generate` as they are finished, at most `max_rows` at a time, shortest prompts first."""
    numbers = list(range(len(prompts)) if prompt_numbers is None else prompt_numbers)
    stop_ids = (config.eos_token_id,) if stop_ids is None else tuple(stop_ids)
    check_request(config, prompts, max_new_tokens, n=n, numbers=numbers, vocab_limit=vocab_limit, max_rows=max_rows)
    for rows, samples in _passes(prompts, n, max_rows):
        state, options = begin(
            params,
            config,
            [prompts[i] for i in rows],
            max_new_tokens=max_new_tokens,
            sampler=sampler or Sampler(),
            n=len(samples),
            stop_ids=stop_ids,
            keys=row_keys(seed, [numbers[i] for i in rows], samples),
            vocab_limit=vocab_limit,
            dtype=dtype,
        )
        state = _run(params, state, max_new_tokens, len(rows) * len(samples), interrupt, options)
        yield list(read(state, rows, samples, stop_ids))


def _run(
    params: Tree, state: decode.Decoding, until: int, rows: int, interrupt: Interrupt | None, options: dict[str, Any]
) -> decode.Decoding:
    """Extend to the end; with an interrupt in short runs, ending the first `rows` rows as it says."""
    if interrupt is None:
        return decode.extend(params, state, until, **options)
    for reached in range(INTERRUPT_EVERY, until, INTERRUPT_EVERY):
        state = decode.extend(params, state, reached, **options)
        tokens, lengths, finished = jax.device_get((state.tokens, state.lengths, state.finished))
        ended = finished.copy()
        ended[:rows] |= np.asarray(interrupt([tokens[i, : lengths[i]].tolist() for i in range(rows)]), bool)
        if ended.all():
            return state
        state = dataclasses.replace(state, finished=jnp.asarray(ended))
    return decode.extend(params, state, until, **options)


def begin(
    params: Tree,
    config: LFM2Config,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    n: int,
    stop_ids: Sequence[int],
    keys: Key[Array, "P n"],
    vocab_limit: int | None,
    dtype: Any,
) -> tuple[decode.Decoding, dict[str, Any]]:
    """Prefill one batch in rounded-up shapes and draw its first tokens; also the keywords that `extend` needs."""
    longest = max(len(p) for p in prompts)
    count = power_of_two(len(prompts), 1)
    tokens = np.zeros((count, power_of_two(longest, 16)), np.int32)
    lengths = np.zeros((count,), np.int32)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = prompt
        lengths[i] = len(prompt)
    stops = np.full((power_of_two(len(stop_ids), 4),), -1, np.int32)
    stops[: len(stop_ids)] = stop_ids
    options = {"config": config, "sampler": sampler, "vocab_limit": vocab_limit, "dtype": dtype}
    state = decode.start(
        params,
        tokens,
        lengths,
        jnp.resize(keys, (count, n)).reshape(-1),
        stops,
        n=n,
        capacity=half_steps(longest + max_new_tokens),
        size=power_of_two(max_new_tokens, 16),
        **options,
    )
    return state, options


def read(
    state: decode.Decoding, rows: Sequence[int], samples: Sequence[int], stop_ids: Sequence[int]
) -> Iterator[Generation]:
    """Copy the batch to the host and cut every row to its length."""
    names = ("tokens", "logps", "sampling_logps", "lengths")
    host = dict(zip(names, jax.device_get([getattr(state, name) for name in names]), strict=True))
    for i, prompt in enumerate(rows):
        for j, number in enumerate(samples):
            row = i * len(samples) + j
            cut = slice(0, int(host["lengths"][row]))
            tokens = host["tokens"][row, cut].tolist()
            yield Generation(
                tokens=tokens,
                logps=host["logps"][row, cut],
                sampling_logps=host["sampling_logps"][row, cut],
                finished=tokens[-1] in stop_ids,
                prompt=prompt,
                sample=number,
            )


def row_keys(seed: int, numbers: Sequence[int], samples: Sequence[int]) -> Key[Array, "P n"]:
    """`fold_in(fold_in(key(seed), prompt number), sample number)`."""
    of_prompt = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(numbers, jnp.uint32))
    of_row = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return of_row(of_prompt, jnp.asarray(samples, jnp.uint32))


def check_request(
    config: LFM2Config,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    n: int = 1,
    numbers: Sequence[int] = (),
    vocab_limit: int | None = None,
    max_rows: int = 1,
) -> None:
    """ConfigError that lists everything wrong with a request, before any work."""
    problems = [
        f"{name} is {value}; it must be at least 1"
        for name, value in (("max_new_tokens", max_new_tokens), ("n", n), ("max_rows", max_rows))
        if value < 1
    ]
    if numbers and len(numbers) != len(prompts):
        problems.append(f"{len(numbers)} prompt_numbers for {len(prompts)} prompts; give one per prompt")
    if vocab_limit is not None and not 1 <= vocab_limit <= config.vocab_size:
        problems.append(f"vocab_limit is {vocab_limit}; it must lie in 1..{config.vocab_size} (the model's vocab_size)")
    for i, prompt in enumerate(prompts):
        problems += _bad_prompt(config, prompt, f"prompt {i}", max_new_tokens)
    if problems:
        raise ConfigError(problems)


def _bad_prompt(config: LFM2Config, prompt: Sequence[int], name: str, max_new_tokens: int) -> list[str]:
    context = config.max_position_embeddings
    if not len(prompt):
        return [f"{name} is empty; start it with the BOS id ({config.bos_token_id})"]
    if len(prompt) >= context:
        return [f"{name} has {len(prompt)} tokens and the model's context is {context}; shorten it"]
    if len(prompt) + max_new_tokens > context:
        return [
            f"{name} has {len(prompt)} tokens; with max_new_tokens={max_new_tokens} that exceeds the model's context "
            f"of {context}; shorten it or set max_new_tokens to at most {context - len(prompt)}"
        ]
    low, high = min(prompt), max(prompt)
    if low < 0 or high >= config.vocab_size:
        wrong = low if low < 0 else high
        return [
            f"{name} holds the id {wrong}, outside the model's vocabulary of {config.vocab_size}; check the tokenizer"
        ]
    return []


def _passes(prompts: Sequence[Sequence[int]], n: int, max_rows: int) -> Iterator[tuple[list[int], list[int]]]:
    """Prompt and sample indices of each pass: at most `max_rows` rows, prompts of similar length together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    samples = min(n, max_rows)
    count = power_of_two(max_rows // samples + 1, 1) // 2
    for first in range(0, len(order), count):
        for s in range(0, n, samples):
            yield order[first : first + count], list(range(s, min(n, s + samples)))


def power_of_two(x: int, least: int) -> int:
    """The smallest `least * 2^i` that is not below x."""
    size = least
    while size < x:
        size *= 2
    return size


def half_steps(x: int) -> int:
    """The smallest of 64, 96, 128, 192, 256, 384, ... that is not below x."""
    size = power_of_two(x, 64)
    return size * 3 // 4 if size > 64 and x <= size * 3 // 4 else size
