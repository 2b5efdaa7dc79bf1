"""What a text's tokens got: sums over those that count, in float64. Imports no jax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxpo.data.tokens.examples import Segment


def log_likelihood(logps: np.ndarray, segment: Segment) -> float:
    """sum log p over the supervised tokens, nats."""
    return float(logps[segment.supervised].sum(dtype=np.float64))


def predicted(segment: Segment) -> int:
    """How many tokens that sums: the first of a segment has no predecessor and does not count."""
    return int(segment.supervised[1:].sum())
