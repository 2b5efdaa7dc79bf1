"""Continue prompts of unequal length, n samples each, with log-probs that equal teacher forcing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp

from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, decoder, limits
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.slots import Generation, Interrupt, Slots, Task, groups, power_of_two

Tree = Any


def generate(
    params: Tree,
    config: TextConfig,
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
    passes = generate_as_done(
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


def generate_as_done(
    params: Tree,
    config: TextConfig,
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
    """The continuations of `generate` as they are finished, those of short prompts first."""
    numbers = list(range(len(prompts)) if prompt_numbers is None else prompt_numbers)
    stop_ids = (config.eos_token_id,) if stop_ids is None else tuple(stop_ids)
    check_request(config, prompts, max_new_tokens, n=n, numbers=numbers, vocab_limit=vocab_limit, max_rows=max_rows)
    width = min(n, max_rows)
    tasks = [
        Task(i, tuple(range(s, min(n, s + width))))
        for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for s in range(0, n, width)
    ]
    slots = Slots(
        params,
        config,
        prompts,
        numbers,
        max_new_tokens=max_new_tokens,
        sampler=sampler or Sampler(),
        width=width,
        stop_ids=stop_ids,
        seed=seed,
        vocab_limit=vocab_limit,
        dtype=dtype,
        interrupt=interrupt,
    )
    count = power_of_two(max_rows // width + 1, 1) // 2
    for group in groups(tasks, [len(p) for p in prompts], max_new_tokens, count):
        yield from slots.run(group, count)


def check_request(
    config: TextConfig,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    n: int = 1,
    numbers: Sequence[int] = (),
    vocab_limit: int | None = None,
    max_rows: int = 1,
) -> None:
    """ConfigError that lists everything wrong with a request, before any work."""
    decoder(config)  # or the model's family cannot generate
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


def _bad_prompt(config: TextConfig, prompt: Sequence[int], name: str, max_new_tokens: int) -> list[str]:
    context = limits(config).context
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
