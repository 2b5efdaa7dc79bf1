"""Part 1: every attention backend's value and gradients beside `xla`, and its time."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.device.shapes import seconds
from jaxpo.errors import BackendError
from jaxpo.ops import attention as ops

# Case -> keywords of `attention`.
CASES: dict[str, dict[str, Any]] = {
    "causal": {},
    "max_segment": {"max_segment": True},
    "window": {"window": 100},
    "not causal": {"causal": False},
    "key ids": {"key_ids": True},
}
TOLERANCE = {"bfloat16": 3e-2, "float32": 2e-3}
"""Largest relative difference that counts as rounding; float32 products of a GPU are TF32."""


def run(tiny: bool) -> Iterator[dict[str, Any]]:
    """A line per backend, type and case; then each one's time at 4,096 positions."""
    names = [name for name in ops.available() if name != "xla"]
    if not names:
        yield {"name": "xla", "note": f"the only backend on {jax.default_backend()}: nothing to compare"}
        names = ["xla"] if tiny else []
    for name in names:
        for dtype in ("bfloat16", "float32"):
            for case, options in CASES.items():
                yield {"name": name, "case": f"{dtype}, {case}", **compared(name, dtype, options, tiny)}
    for name in ["xla", *(n for n in names if n != "xla")]:
        yield {"name": name, "case": "forward and backward, [4, 4096], 32 heads of 64", **timed(name, tiny)}


def inputs(rows: int, length: int, heads: int, groups: int, width: int, dtype: str) -> tuple[Any, ...]:
    """q, k, v, a cotangent and segments that fill the row but for its end."""
    keys = jax.random.split(jax.random.key(0), 4)
    counts = (heads, groups, groups, heads)
    arrays = [jax.random.normal(k, (rows, length, n, width)).astype(dtype) for k, n in zip(keys, counts, strict=True)]
    lengths = [length // 2, length // 8, length // 4, length // 16]
    segments = np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)])
    segments = np.pad(segments, (0, length - len(segments)))
    return (*arrays, jnp.asarray(np.tile(segments, (rows, 1)), jnp.int32), lengths[0])


def compared(name: str, dtype: str, options: dict[str, Any], tiny: bool) -> dict[str, Any]:
    """Largest differences from `xla` in float32, relative to the largest value."""
    q, k, v, ct, segments, longest = inputs(*((1, 64, 2, 1, 16) if tiny else (2, 1024, 8, 2, 64)), dtype)
    more = dict(options)
    if more.pop("key_ids", False):
        more["key_ids"] = jnp.where(jnp.arange(segments.shape[1]) % 7 == 3, 0, segments)
    if more.get("max_segment"):
        more["max_segment"] = longest
    wide = tuple(x.astype(jnp.float32) for x in (q, k, v, ct))
    with jax.default_matmul_precision("highest"):
        expected = value_and_gradients("xla", *wide, segments, more)
    try:
        found = value_and_gradients(name, q, k, v, ct, segments, more)
    except BackendError as refusal:
        return {"refused": str(refusal).splitlines()[0]}
    error = {part: _relative(a, b) for part, a, b in zip(("value", "dq", "dk", "dv"), found, expected, strict=True)}
    return {"error": error, "passed": max(error.values()) <= TOLERANCE[dtype]}


def value_and_gradients(name: str, q: Any, k: Any, v: Any, ct: Any, segments: Any, options: dict[str, Any]) -> Any:
    """Output and the gradients of its product with `ct`."""

    def f(q: Any, k: Any, v: Any) -> tuple[Any, Any]:
        out = ops.attention(q, k, v, segments, implementation=name, **options)
        return jnp.sum(out.astype(jnp.float32) * ct), out

    (_, out), grads = jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return jax.tree.map(lambda x: np.asarray(x, np.float64), (out, *grads))


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def timed(name: str, tiny: bool) -> dict[str, Any]:
    """Milliseconds of forward and backward."""
    shape = (1, 64, 2, 1, 16) if tiny else (4, 4096, 32, 8, 64)
    q, k, v, ct, segments, _ = inputs(*shape, "bfloat16")
    dot = lambda q, k, v: jnp.sum(ops.attention(q, k, v, segments, implementation=name).astype(jnp.float32) * ct)  # noqa: E731
    try:
        step = jax.jit(jax.grad(dot, argnums=(0, 1, 2)))
        took = seconds(lambda: step(q, k, v))
    except BackendError as refusal:
        return {"refused": str(refusal).splitlines()[0]}
    return {"seconds": took, "milliseconds": 1e3 * median(took)}
