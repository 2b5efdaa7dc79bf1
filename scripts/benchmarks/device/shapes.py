"""Models and rows of the device's parts, and how their time and memory are taken."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.models import TINY
from jaxpo.data.packing.batch import Batch
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.presets import PRESETS
from jaxpo.train.flops import training_flops_per_token

DOCUMENTS = (512, 1024, 256, 1536, 768)
"""Lengths of packed documents, again and again; together 4,096."""
STEPS, WARM = 6, 2


@dataclasses.dataclass(frozen=True)
class Size:
    """What a part is run at.

    Attributes:
      rows: rows per step to try, the most first; the next is taken where memory ends.
      dtype: of compute.
    """

    config: LFM2Config
    rows: tuple[int, ...]
    length: int
    documents: tuple[int, ...]
    dtype: str


def size_of(preset: str, *, tiny: bool) -> Size:
    """A released shape at 4,096 positions in bfloat16, or the tiny one."""
    if tiny:
        return Size(TINY, (2,), 32, (16, 10, 6), "float32")
    return Size(PRESETS[preset], (8, 4, 2, 1), 4096, DOCUMENTS, "bfloat16")


def packed(size: Size, rows: int, roles: tuple[str, ...] = ("text",)) -> Batch:
    """Rows of packed documents with random tokens; segment i of a row plays role i, each row an example."""
    lengths = size.documents
    segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    positions = np.concatenate([np.arange(n) for n in lengths])
    assert len(segments) == size.length
    tokens = np.random.default_rng(0).integers(8, size.config.vocab_size, (rows, size.length))
    tile = lambda x: np.tile(x[None], (rows, 1))  # noqa: E731
    return Batch(
        tokens=tokens.astype(np.int32),
        segment_ids=tile(segments).astype(np.int32),
        positions=tile(positions).astype(np.int32),
        masks={"completion": tile(positions > 0)},
        per_token={},
        per_segment={},
        per_example={},
        roles={role: np.full(rows, i, np.int32) for i, role in enumerate(roles)},
        example_id=np.arange(rows, dtype=np.int32),
        block_rows=1,
        slots=len(lengths),
        max_segment=max(lengths),
    )


def attended(size: Size) -> float:
    """Mean number of positions that a token sees: half of its document, by tokens."""
    lengths = np.asarray(size.documents, float)
    return float(np.sum(lengths * (lengths + 1) / 2) / np.sum(lengths))


def flops_per_token(size: Size) -> float:
    """Of a training step: 3 (2 N + M), see `jaxpo.train.flops`; recomputation is not counted."""
    return training_flops_per_token(size.config, attended(size))


def seconds(run: Callable[[], Any], steps: int = STEPS, warm: int = WARM) -> list[float]:
    """Of each repetition, after some that warm up."""
    found = []
    for i in range(steps + warm):
        start = time.perf_counter()
        jax.block_until_ready(run())
        if i >= warm:
            found.append(time.perf_counter() - start)
    return found


def peak_bytes() -> int | None:
    """Most device memory in use at once in this process, where the device tells."""
    stats = jax.devices()[0].memory_stats()
    return None if not stats else int(stats["peak_bytes_in_use"])


def is_out_of_memory(error: Exception) -> bool:
    return any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory"))
