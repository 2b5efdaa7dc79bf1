"""Answers of unequal length with gaps, and the float64 numpy formulas that the losses on them are held against."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

N, T = 5, 6
MASK = np.array([
    [1, 1, 1, 1, 1, 1],
    [1, 1, 1, 0, 0, 0],
    [1, 1, 0, 0, 1, 1],  # what a tool wrote lies between
    [0, 1, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
], bool)  # fmt: skip
RNG = np.random.default_rng(17)
OLD = -RNG.gamma(2.0, 1.0, (N, T))
NEW = OLD + 0.35 * RNG.standard_normal((N, T))
REF = OLD + 0.5 * RNG.standard_normal((N, T))
PER_ANSWER = np.array([1.3, -0.8, -1.7, 0.6, 2.0])
SAME = np.broadcast_to(PER_ANSWER[:, None], (N, T)).copy()
A = RNG.standard_normal((N, T))
LENGTH = np.maximum(MASK.sum(1), 1)


def single(*arrays):
    """Float32 jax arrays."""
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def spoiled(x, mask=MASK, by=np.nan):
    """Something else where the mask is off."""
    return np.where(mask, x, by)


@functools.cache
def program(loss, **_):
    """Terms, and the gradient of their sum in the first array, as one compiled function."""

    def total(first, *rest):
        terms = loss(first, *rest)
        return jnp.sum(terms), terms

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))

    def run(*args):
        (_, terms), grad = compiled(*(jnp.asarray(a, jnp.float32 if a.dtype.kind == "f" else None) for a in args))
        return np.asarray(terms), np.asarray(grad)

    return run


def slopes(reference, x, step=1e-6):
    """Central differences of sum(reference(x)), float64."""
    grad = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        grad[index] = (np.sum(reference(up)) - np.sum(reference(down))) / (2 * step)
    return grad


# --- the formulas, by loops over answers and tokens ---


def by_token(term):
    """`[N, T]` of `term(n, t)`, 0 outside the mask."""
    return np.array([[term(n, t) if MASK[n, t] else 0.0 for t in range(T)] for n in range(N)])


def ratio(new, old, level):
    """`[N, T]` importance ratios."""
    d = np.where(MASK, new - old, 0.0)
    return np.exp(d if level == "token" else np.repeat(d.sum(1, keepdims=True) / LENGTH[:, None], T, axis=1))


def clipped(w, a, low, high, delta=None):
    """`-min(min(w, delta) A, clip(w) A)` of numbers."""
    best = w if delta is None else min(w, delta)
    return -min(best * a, min(max(w, 1 - low), 1 + high) * a)


def surrogate(new, old, a, low=0.2, high=0.2, delta=None, level="token"):
    """The clipped terms."""
    w = ratio(new, old, level)
    return by_token(lambda n, t: clipped(w[n, t], a[n, t], low, high, delta))
