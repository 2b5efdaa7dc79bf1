"""What a device reaches in plain products: a peak for `mfu` where no table knows one."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

SIZES = (512, 1024, 2048, 4096, 8192)
ENOUGH_SECONDS, TRIES = 0.1, 3


def measured_peak(dtype: str) -> float:
    """The most FLOP/s of `[n, n] @ [n, n]` over growing n, until one product takes a tenth of a second; 2 n^3 each."""
    product = jax.jit(jnp.matmul)
    best = 0.0
    for n in SIZES:
        a = jnp.ones((n, n), dtype)
        jax.block_until_ready(product(a, a))
        took = min(_seconds(partial(product, a, a)) for _ in range(TRIES))
        best = max(best, 2.0 * n**3 / took)
        if took > ENOUGH_SECONDS:
            break
    return best


def _seconds(run: Callable[[], jax.Array]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began
