"""What this machine can do: products of given shapes, and memory read; measured in the run that they judge."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

Shape = tuple[int, int, int]
ARRAY = 1 << 28
REPEATS, AT_LEAST = 5, 0.1
"""Repetitions at least, and seconds: the fastest of a few milliseconds' worth is what else the machine did then."""


def products(shapes: Sequence[Shape], dtype: str = "float32", library: str = "jax") -> float:
    """FLOP/s of `[m, k] @ [k, n]` over all `shapes` (m, k, n) in turn: their operations by the least time of each.

    Args:
      shapes: one that stands there several times is measured once and counts as often.
      library: "jax", "torch", or "int8" for XLA's products of 8-bit integers, whatever `dtype` says.
    """
    total = sum(2.0 * m * k * n for m, k, n in shapes)
    return total / sum(times * _fastest(PRODUCT[library](shape, dtype)) for shape, times in Counter(shapes).items())


def best_products(shapes: Sequence[Shape], dtype: str = "float32", *, peers: bool = True) -> dict[str, float]:
    """FLOP/s by library, of those that are here."""
    names = ["jax"] + (["torch"] if peers and has("torch") else [])
    return {name: products(shapes, dtype, name) for name in names}


def fastest_products(shapes: Sequence[Shape], *, peers: bool = True) -> float:
    """FLOP/s in float32 where each of the products is computed by the way that is fastest for it."""
    ways = ["jax", "turned", "eigen"] + (["torch"] if peers and has("torch") else [])
    total = sum(2.0 * m * k * n for m, k, n in shapes)
    found = Counter(shapes)
    return total / sum(n * min(_fastest(PRODUCT[way](s, "float32")) for way in ways) for s, n in found.items())


def described(found: dict[str, float]) -> dict[str, tuple[float, str]]:
    """The products' figures as `Result.ceilings` holds them."""
    return {f"products through {'XLA' if n == 'jax' else 'PyTorch'}": (v / 1e9, "GFLOP/s") for n, v in found.items()}


def memory_read(size: int = ARRAY) -> float:
    """Bytes/s at which weights of `size` bytes are read, by the fastest of some ways: what bounds decoding.

    A product with one vector, with eight, and a sum: XLA for CPU reads at another speed in each.
    """
    import jax
    import jax.numpy as jnp

    width = 2048
    w = jnp.zeros((size // 4 // width, width), jnp.float32)
    ways = [jax.jit(lambda w: w @ jnp.ones((width,))), jax.jit(lambda w: w @ jnp.ones((width, 8))), jax.jit(jnp.sum)]
    return max(size / _fastest(lambda way=way: jax.block_until_ready(way(w))) for way in ways)


def has(library: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(library) is not None


def _fastest(run: Callable[[], Any]) -> float:
    run()
    times, end = [], time.perf_counter() + AT_LEAST
    while len(times) < REPEATS or time.perf_counter() < end:
        times.append(_seconds(run))
    return min(times)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _jax(shape: Shape, dtype: str) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    m, k, n = shape
    a, b = jnp.ones((m, k), dtype), jnp.ones((k, n), dtype)
    product = jax.jit(lambda a, b: a @ b)
    return lambda: jax.block_until_ready(product(a, b))


def _turned(shape: Shape, dtype: str) -> Callable[[], Any]:
    """The second factor with the contracted axis last, as an output matrix lies."""
    import jax
    import jax.numpy as jnp

    m, k, n = shape
    a, b = jnp.ones((m, k), dtype), jnp.ones((n, k), dtype)
    product = jax.jit(lambda a, b: jnp.einsum("mk,nk->mn", a, b))
    return lambda: jax.block_until_ready(product(a, b))


def _eigen(shape: Shape, dtype: str) -> Callable[[], Any]:
    """As `jaxpo.ops.eigen` computes it."""
    import jax
    import jax.numpy as jnp

    from jaxpo.ops.eigen import Eigen

    m, k, n = shape
    a, b = jnp.ones((m, k), dtype), Eigen(jnp.ones((k, n), dtype))
    product = jax.jit(lambda a, b: b.linear(a))
    return lambda: jax.block_until_ready(product(a, b))


def _torch(shape: Shape, dtype: str) -> Callable[[], Any]:
    import torch

    m, k, n = shape
    a, b = torch.ones(m, k, dtype=getattr(torch, dtype)), torch.ones(k, n, dtype=getattr(torch, dtype))
    return lambda: a @ b


def _int8(shape: Shape, dtype: str) -> Callable[[], Any]:
    """Both factors with the contracted axis last, where XLA for CPU is fast; at least two rows."""
    import jax
    import jax.numpy as jnp

    m, k, n = shape
    a, b = jnp.ones((max(m, 2), k), jnp.int8), jnp.ones((n, k), jnp.int8)
    last = (((1,), (1,)), ((), ()))
    product = jax.jit(lambda a, b: jax.lax.dot_general(a, b, last, preferred_element_type=jnp.int32))
    return lambda: jax.block_until_ready(product(a, b))


PRODUCT = {"jax": _jax, "turned": _turned, "eigen": _eigen, "torch": _torch, "int8": _int8}
