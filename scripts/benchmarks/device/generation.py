"""Decoding at batch 64 on the device, and the vocabulary head."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.device.shapes import peak_bytes, seconds, size_of
from jaxpo.losses import vocab
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.ops.head import map_vocab
from jaxpo.sampling.fitted import fitted
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import GREEDY

BATCH, PROMPT, NEW = 64, 128, 256
TINY = 4, 8, 8
REPEATS = 3


def prompts_of(vocabulary: int, tiny: bool) -> tuple[np.ndarray, int]:
    """Random prompts, and how many tokens are to follow."""
    batch, prompt, new = TINY if tiny else (BATCH, PROMPT, NEW)
    return np.random.default_rng(0).integers(8, vocabulary, (batch, prompt)), new


def decode(tiny: bool) -> Iterator[dict[str, Any]]:
    """New tokens per second of an engine, the prompts' reading included."""
    size = size_of("lfm2_1_2b", tiny=tiny)
    params = init_params(param_table(size.config), jax.random.key(0), jnp.dtype(size.dtype))
    prompts, new = prompts_of(size.config.vocab_size, tiny)
    requests = [Request(row, max_new_tokens=new, sampler=GREEDY, stop_ids=()) for row in prompts.tolist()]
    options: dict[str, Any] = {"slots": len(prompts), "dtype": jnp.dtype(size.dtype)}
    # An engine that was used before knows the prompts.
    took = seconds(lambda: fitted(params, size.config, requests, **options).generate(requests), REPEATS, 1)
    yield {
        "name": f"jaxpo, 1.2B, decode at batch {len(prompts)}",
        "seconds": took,
        "tokens_per_second": len(prompts) * new / median(took),
        "peak_bytes": peak_bytes(),
        "note": f"{new} new tokens after {prompts.shape[1]}, greedy",
    }


def head(tiny: bool) -> Iterator[dict[str, Any]]:
    """Cross-entropy over the head with its gradients: chunks, and dense."""
    shape = (2, 16, 8, 64) if tiny else (8, 2048, 1024, 65536)
    rows, length, width, size = shape
    keys = jax.random.split(jax.random.key(0), 3)
    weight = 0.02 * jax.random.normal(keys[0], (size, width))
    hidden = jax.random.normal(keys[1], (rows, length, width)).astype(jnp.bfloat16)
    targets = jax.random.randint(keys[2], (rows, length), 0, size)
    for name, chunk in (("jaxpo", None), ("jaxpo, dense", length)):

        def value(weight: Any, hidden: Any, chunk: int | None = chunk) -> Any:
            return -map_vocab(vocab.log_prob, ((weight, hidden),), targets, chunk=chunk).mean()

        step = jax.jit(jax.value_and_grad(value, argnums=(0, 1))).lower(weight, hidden).compile()
        took = seconds(lambda step=step: step(weight, hidden))
        memory = step.memory_analysis()
        yield {
            "name": f"{name}, cross-entropy over the head, [{rows}, {length}], d {width}, V {size}",
            "seconds": took,
            "tokens_per_second": rows * length / median(took),
            "tflops": 6.0 * rows * length * width * size / median(took) / 1e12,
            "peak_bytes": None if memory is None else int(memory.temp_size_in_bytes),
            "note": "bfloat16; memory is the compiled program's temporary",
        }
