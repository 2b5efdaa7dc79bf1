"""What every loss must pass, against an independent float64 reference."""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np

ARRAYS = {"where", "weight", "probability"}


def jitted(loss):
    """The loss compiled as a whole, its hyper-parameters static: one small compilation per set of shapes."""
    parameters = inspect.signature(loss).parameters.values()
    static = [p.name for p in parameters if p.name == "num_annotators" or p.kind is p.KEYWORD_ONLY]
    return jax.jit(loss, static_argnames=[name for name in static if name not in ARRAYS])


def sp(z):
    """Float64 log(1 + e^z)."""
    return np.logaddexp(np.asarray(z, np.float64), 0.0)


def sig(z):
    """Float64 logistic function."""
    return np.exp(-sp(-np.asarray(z, np.float64)))


def numeric_gradient(reference, args, i, step=1e-5):
    """Central differences of sum(reference(*args)) in argument i, float64."""
    base = [np.array(a, np.float64) if np.asarray(a).dtype.kind == "f" else np.asarray(a) for a in args]
    grad = np.zeros_like(base[i])
    for index in np.ndindex(*grad.shape):
        up, down = base[i].copy(), base[i].copy()
        up[index] += step
        down[index] -= step
        high = np.sum(reference(*base[:i], up, *base[i + 1 :]))
        low = np.sum(reference(*base[:i], down, *base[i + 1 :]))
        grad[index] = (high - low) / (2 * step)
    return grad


@functools.lru_cache(maxsize=16)
def value_and_grad_program(loss, wrt):
    """The loss of every example and the gradients of their sum; one program serves all arrays of the same shapes."""

    def total(*a):
        per_example = loss(*a)
        return jnp.sum(per_example), per_example

    return jax.jit(jax.value_and_grad(total, argnums=wrt, has_aux=True))


def value_and_grads(loss, args, wrt):
    """Per-example loss and the gradients of its sum, as one compiled function."""
    (_, per_example), grads = value_and_grad_program(loss, tuple(wrt))(*(jnp.asarray(a) for a in args))
    return np.asarray(per_example), [np.asarray(g) for g in grads]


def check_against(loss, reference, args, wrt, *, rtol=2e-5, atol=2e-6):
    """Value and gradient of a jitted loss against the reference and its finite differences."""
    value, grads = value_and_grads(loss, args, wrt)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, reference(*args), rtol=rtol, atol=atol)
    for i, grad in zip(wrt, grads, strict=True):
        np.testing.assert_allclose(grad, numeric_gradient(reference, args, i), rtol=1e-4, atol=1e-5)
    return value, grads


def check_extreme(loss, args, wrt):
    """Finite value and gradient."""
    value, grads = value_and_grads(loss, args, wrt)
    assert np.all(np.isfinite(value))
    assert all(np.all(np.isfinite(g)) for g in grads)
    return value, grads


def check_bfloat16(loss, args, wrt):
    """bfloat16 inputs are computed in float32: the result is that of the same numbers given in float32."""
    half = [np.asarray(a).astype(jnp.bfloat16) if i in wrt else np.asarray(a) for i, a in enumerate(args)]

    def both(*half):
        return loss(*half), loss(*(a.astype(jnp.float32) if i in wrt else a for i, a in enumerate(half)))

    got, expected = jax.jit(both)(*half)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


def check_vmap(loss, args):
    """vmap over a stack of batches equals a loop over them."""
    stacked = [np.stack([np.asarray(a), np.asarray(a)[::-1]]) for a in args]

    def both(*stacked):
        return jax.vmap(loss)(*stacked), [loss(*(a[i] for a in stacked)) for i in range(2)]

    mapped, alone = jax.jit(both)(*stacked)
    for i in range(2):
        np.testing.assert_allclose(np.asarray(mapped[i]), np.asarray(alone[i]), rtol=1e-6, atol=1e-6)


def logps(rng, shape, scale=3.0, mean=-20.0):
    """Random float32 log-probabilities."""
    return (mean + scale * rng.standard_normal(shape)).astype(np.float32)


def quad(seed=0, n=6):
    """`chosen, rejected, reference of each`, all `[n]`."""
    rng = np.random.default_rng(seed)
    return tuple(logps(rng, n) for _ in range(4))


EXTREME = tuple(
    np.array(x, np.float32)
    for x in ([1e4, -1e4, 0.0, 0.0], [0.0, 0.0, 1e4, -1e4], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
)
"""Log-ratios of +-1e4 on either side."""
