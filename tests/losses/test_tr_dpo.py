"""The moving reference's update against numpy, its two limits, and its types."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.losses import tr_dpo_reference

RNG = np.random.default_rng(0)
POLICY = {"a": RNG.standard_normal((3, 2)), "b": {"c": RNG.standard_normal(4)}}
REFERENCE = {"a": RNG.standard_normal((3, 2)), "b": {"c": RNG.standard_normal(4)}}
as_jax = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)  # noqa: E731


@pytest.mark.parametrize(("alpha", "every"), [(0.6, 4), (1.0, 3), (0.0, 1), (0.25, 1)])
def test_a_trajectory_is_the_recursion(alpha, every):
    """The policy moves in every step; the reference only every tau-th, with that step's policy."""
    update = jax.jit(lambda r, p, n: tr_dpo_reference(r, p, n, alpha=alpha, every=every))
    expected, got = REFERENCE, as_jax(REFERENCE)
    for n in range(1, 10):
        policy = jax.tree.map(lambda x, n=n: x + 0.1 * n, POLICY)
        if n % every == 0:
            expected = jax.tree.map(lambda r, p: alpha * p + (1 - alpha) * r, expected, policy)
        got = update(got, as_jax(policy), n)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    moved = np.abs(np.asarray(got["a"]) - REFERENCE["a"]).max()
    assert (moved > 0.05) == (alpha > 0)


def test_hard_updates_copy_the_bits_and_between_updates_nothing_changes():
    old, new = as_jax(REFERENCE), as_jax(POLICY)
    for step, expected in ((6, new), (5, old)):
        got = tr_dpo_reference(old, new, step, alpha=1.0, every=3)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(x, y)


def test_the_reference_keeps_its_type_and_is_mixed_in_float32():
    old, new = jnp.full(3, 1.0, jnp.bfloat16), jnp.full(3, 1.0078125, jnp.float32)
    got = tr_dpo_reference(old, new, 1, alpha=0.5, every=1)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, jnp.full(3, 1.00390625).astype(jnp.bfloat16))


def test_no_gradient_reaches_the_policy():
    f = lambda p: jnp.sum(tr_dpo_reference(jnp.ones(3), p, 1, alpha=0.6, every=1))  # noqa: E731
    np.testing.assert_array_equal(jax.grad(f)(jnp.arange(3.0)), np.zeros(3))


def test_a_policy_that_is_not_finite_does_no_harm_between_updates():
    got = tr_dpo_reference(jnp.ones(2), jnp.array([jnp.nan, jnp.inf]), 1, alpha=0.6, every=2)
    np.testing.assert_array_equal(got, np.ones(2))


def test_defaults_are_those_of_the_paper_and_trl():
    defaults = {k: p.default for k, p in inspect.signature(tr_dpo_reference).parameters.items() if p.default != p.empty}
    assert defaults == {"alpha": 0.6, "every": 512}
