"""AWQ: inputs that are large get weights that are large, whose rounding costs less, before a model is rounded.

Lin et al. 2023, arXiv 2306.00978, section 3.2, equations 4 and 5: `Q(W diag(s)) diag(s)^-1 x` with `s = s_x^alpha`,
alpha from a search over [0, 1]. `diag(s)^-1` goes into what makes the inputs, a norm's weight or another matrix, so
that the scaled model computes what it did and needs nothing of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.convert.rounding.gptq import objective
from jaxpo.convert.rounding.inputs import Grams
from jaxpo.ops.grids import Grid, best_scales, rounded

ALPHAS = tuple(k / 20 for k in range(21))


@dataclass(frozen=True)
class Joint:
    """Inputs that several matrices read and something makes.

    Attributes:
      makes: path of what makes them, whose last axis they are; `gate` of it where it has three.
      reads: paths of the matrices, inputs first (after the expert's axis).
      also: further paths that read them and are not rounded.
    """

    makes: str
    reads: tuple[str, ...]
    also: tuple[str, ...] = ()
    gate: int | None = None


def joints(paths: Sequence[str], layers: int) -> Iterator[Joint]:
    """The joints of an LFM2 model: both norms of a layer, the gate that follows a convolution, the up projection.

    What attention's output projection reads is left alone: several heads share one value head.
    """
    for i in range(layers):
        at = f"layers/{i}"
        mine = [path for path in paths if path.startswith(f"{at}/")]
        here = {path.removeprefix(f"{at}/").removesuffix("/weight"): path for path in mine}
        mixed = [path for name, path in here.items() if name.endswith(("q_proj", "k_proj", "v_proj", "gate_proj"))]
        conv = [path for name, path in here.items() if name.endswith("conv/in_proj")]
        yield Joint(f"{at}/operator_norm/weight", tuple(mixed or conv))
        if conv:
            yield Joint(conv[0], (f"{at}/conv/out_proj/weight",), gate=1)
        mixture = "feed_forward/gate" in here
        fed = f"{at}/feed_forward/experts" if mixture else f"{at}/feed_forward"
        also = (f"{at}/feed_forward/gate/weight",) if mixture else ()
        yield Joint(f"{at}/ffn_norm/weight", (f"{fed}/w1/weight", f"{fed}/w3/weight"), also)
        yield Joint(f"{fed}/w3/weight", (f"{fed}/w2/weight",))


def scaled(weights: dict[str, np.ndarray], grams: Grams, layers: int, to: Grid) -> dict[str, np.ndarray]:
    """The model with its inputs rescaled for a grid: the same function, of other weights.

    Args:
      weights: every array by its path, float32.
      grams: `X^T X` of every matrix that will be rounded; a joint of which one is missing stays as it is.
    """
    weights = dict(weights)
    for joint in joints(tuple(weights), layers):
        if not joint.reads or not all(path in grams for path in joint.reads):
            continue
        by = best_factors([weights[path] for path in joint.reads], [grams[path] for path in joint.reads], to)
        for path in joint.reads:
            weights[path] = _times(weights[path], by, stacked=grams[path].ndim == 3)
        for path in joint.also:
            weights[path] = _times(weights[path], by, stacked=False)
        weights[joint.makes] = _divided(weights[joint.makes], by, joint.gate)
    return weights


def _times(w: np.ndarray, by: np.ndarray, *, stacked: bool) -> np.ndarray:
    """`[i, *o]`, or a stack `[E, i, o]`, by `[i]` or `[E, i]`."""
    return w * (by[..., None] if stacked else by.reshape(-1, *(1,) * (w.ndim - 1)))


def _divided(made: np.ndarray, by: np.ndarray, gate: int | None) -> np.ndarray:
    if gate is None:
        return made / (by[:, None, :] if by.ndim == 2 and made.ndim == 3 else by)
    out = made.copy()
    out[:, gate] /= by
    return out


def best_factors(weights: Sequence[np.ndarray], grams: Sequence[np.ndarray], to: Grid) -> np.ndarray:
    """`s` of least error of all matrices together; where it is one array per expert and they share no input, each its
    own `[E, i]`, else `[i]`. alpha = 0, no scaling, is among those tried.
    """
    apart = weights[0].ndim == 3 and grams[0].ndim == 3 and len(weights) == 1
    if apart:
        return np.stack([best_factors([w], [gram], to) for w, gram in zip(weights[0], grams[0], strict=True)])
    summed = [gram.sum(0) if gram.ndim == 3 else gram for gram in grams]
    size = np.sqrt(np.diag(sum(summed)))
    if not np.any(size):
        return np.ones(size.shape, np.float32)
    size = np.maximum(size, 1e-4 * size.max())
    parts = [part for w, gram in zip(weights, grams, strict=True) for part in _parts(w, gram)]
    tried = [_normalised(size**alpha) for alpha in ALPHAS]
    errors = [sum(_error(w, gram, s, to) for w, gram in parts) for s in tried]
    return tried[int(np.argmin(errors))]


def _parts(w: np.ndarray, gram: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Matrices `[o, i]`, each with its own products."""
    if gram.ndim == 3:
        yield from ((one.T, own) for one, own in zip(w, gram, strict=True))
    else:
        yield w.reshape(w.shape[0], -1).T, gram


def _normalised(s: np.ndarray) -> np.ndarray:
    """With the geometric mean of its extremes at 1; float32."""
    return (s / np.sqrt(s.max() * s.min())).astype(np.float32)


def _error(w: Any, gram: np.ndarray, s: np.ndarray, to: Grid) -> float:
    """Of the outputs, summed: the scaled matrix rounded and scaled back."""
    larger = (w * s).astype(np.float32)
    return float(objective(w, rounded(larger, to, best_scales(larger, to)) / s, gram).sum())
