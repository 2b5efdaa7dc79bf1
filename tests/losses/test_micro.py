"""MiCRo against its equations in float64, and every property that the specification lists."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, check_bfloat16, sig, sp

from jaxpo import losses

RNG = np.random.default_rng(2)
N, K = 5, 3
R_W, R_L, Z = (RNG.normal(size=(N, K)).astype(np.float32) for _ in range(3))


def softmax(z):
    z = np.asarray(z, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_the_mixture_is_its_equation():
    def reference(w, v, z):
        pi, d = softmax(z), np.asarray(w, np.float64) - v
        likelihood = -0.9 * np.log((pi * sig(d)).sum(1)) - 0.1 * np.log((pi * sig(-d)).sum(1))
        return likelihood + 0.4 * (pi * np.log(pi)).sum(1)

    def loss(w, v, z):
        return losses.micro(w, v, z, entropy_coefficient=0.4, label_smoothing=0.1)

    check_against(loss, reference, (R_W, R_L, Z), (0, 1, 2))
    check_bfloat16(loss, (R_W, R_L, Z), (0, 1, 2))


def test_the_gradient_is_a_step_of_em():
    grads = jax.grad(lambda *a: jnp.mean(losses.micro(*a, entropy_coefficient=0.0)), argnums=(0, 2))(R_W, R_L, Z)
    d, pi = R_W.astype(np.float64) - R_L, softmax(Z)
    gamma = pi * sig(d)
    gamma /= gamma.sum(1, keepdims=True)
    np.testing.assert_allclose(grads[0], -gamma * sig(-d) / N, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads[1], (pi - gamma) / N, rtol=1e-4, atol=1e-6)


def test_the_variants_are_their_equations():
    def mixed(w, v, z_w, z_v):
        c, r = ((softmax(z) * np.asarray(x, np.float64)).sum(1) for x, z in ((w, z_w), (v, z_v)))
        return 0.9 * sp(r - c) + 0.1 * sp(c - r)

    check_against(lambda *a: losses.micro_mixed(*a, label_smoothing=0.1), mixed, (R_W, R_L, Z, 0.5 * Z), (0, 1, 2, 3))
    check_against(losses.micro_heads, lambda w, v: sp(np.asarray(v, np.float64) - w).mean(1), (R_W, R_L), (0, 1))


def test_one_head_equal_heads_or_a_sure_router_are_bradley_terry():
    none = {"entropy_coefficient": 0.0}
    for k in range(K):
        plain = losses.bradley_terry(R_W[:, k], R_L[:, k])
        one = losses.micro(R_W[:, k : k + 1], R_L[:, k : k + 1], Z[:, :1], **none)
        np.testing.assert_allclose(one, plain, rtol=1e-5)
        equal = (np.repeat(x[:, k : k + 1], K, axis=1) for x in (R_W, R_L))
        np.testing.assert_allclose(losses.micro(*equal, Z, **none), plain, rtol=1e-5)
        sure = np.where(np.arange(K) == k, 200.0, 0.0).astype(np.float32) * np.ones((N, 1), np.float32)
        np.testing.assert_allclose(losses.micro(R_W, R_L, sure, **none), plain, rtol=1e-5)


def test_entropy_bounds_shifts_and_permutations():
    whole, none = (np.asarray(losses.micro(R_W, R_L, Z, entropy_coefficient=c)) for c in (1.0, 0.0))
    assert np.all((whole - none <= 1e-6) & (whole - none >= -np.log(K) - 1e-6))
    np.testing.assert_allclose(losses.micro(R_W, R_L, Z + 7.0, entropy_coefficient=0.0), none, rtol=1e-5)
    each = sp(-(R_W.astype(np.float64) - R_L))
    assert np.all(none <= (softmax(Z) * each).sum(1) + 1e-6)  # Jensen
    for order in itertools.permutations(range(K)):
        moved = losses.micro(*(x[:, list(order)] for x in (R_W, R_L, Z)), entropy_coefficient=0.0)
        np.testing.assert_allclose(moved, none, rtol=1e-5)


def test_differences_of_fifty_are_finite():
    r = np.float32([[50, -50, 0], [-50, -50, -50]])
    value, slope = jax.value_and_grad(lambda r: jnp.sum(losses.micro(r, jnp.zeros((2, 3)), jnp.zeros((2, 3)))))(r)
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))


def test_hedge():
    prior, seen = softmax(RNG.normal(size=K)).astype(np.float32), sp(RNG.normal(size=(6, K))).astype(np.float32)
    weights = losses.micro_hedge(prior, seen, eta=0.7)
    expected = prior.astype(np.float64) * np.exp(-0.7 * seen.astype(np.float64).sum(0))
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(losses.micro_hedge(prior, seen[:0]), prior, rtol=1e-6)
    np.testing.assert_allclose(losses.micro_hedge(prior, seen, where=np.zeros(6, bool)), prior, rtol=1e-6)
    np.testing.assert_allclose(losses.micro_hedge(prior, seen[::-1], eta=0.7), weights, rtol=1e-5)
    one = jnp.asarray(prior)
    for comparison in seen:
        one = losses.micro_hedge(one, comparison[None], eta=0.7)
    np.testing.assert_allclose(one, weights, rtol=1e-4)
    sure = losses.micro_hedge(prior, seen, eta=1e4)
    assert int(np.argmax(sure)) == int(np.argmin(seen.sum(0)))
    assert float(sure.sum()) == pytest.approx(1.0)


def test_distilling_and_scoring():
    target = softmax(RNG.normal(size=(N, K))).astype(np.float32)
    check_against(
        lambda z: losses.micro_distil(z, target),
        lambda z: -(target.astype(np.float64) * np.log(softmax(z))).sum(1), (Z,), (0,),
    )  # fmt: skip
    slope = jax.grad(lambda z: jnp.sum(losses.micro_distil(z, target)))(jnp.log(target))
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)
    w = target.astype(np.float64)
    np.testing.assert_allclose(losses.micro_score(R_W, target), (w * -sp(-R_W)).sum(1), rtol=1e-5)
    np.testing.assert_allclose(losses.micro_score(R_W, target, combine="mean"), (w * R_W).sum(1), rtol=1e-4, atol=1e-6)


def test_what_one_model_cannot_do_and_when_the_likelihood_is_flat():
    """A half each of two opposed groups with |D| = 3: log 2 at best, about 0.19 nats when they are told apart."""
    signs = np.float32([1, -1] * 50)
    one = lambda scale: float(np.mean(sp(-scale * signs.astype(np.float64))))  # noqa: E731
    assert min(one(s) for s in np.linspace(-3, 3, 61)) == pytest.approx(np.log(2))
    # Labels of that model: each group's are right with probability sigmoid(3); here the groups' entropy.
    p = float(sig(3.0))
    routed = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    assert routed == pytest.approx(0.19, abs=0.005)
    heads, zero = np.stack([3 * np.ones(100), -3 * np.ones(100)], 1).astype(np.float32), np.zeros((100, 2), np.float32)
    known = np.stack([40 * (signs > 0), 40 * (signs < 0)], 1).astype(np.float32)
    expected = {}
    for name, z in (("routed", known), ("constant", zero)):
        right, wrong = (
            losses.micro(h, zero, z, entropy_coefficient=0.0) for h in (heads * signs[:, None] * 0 + heads, -heads)
        )
        own = np.where(signs > 0, 1, -1)
        # The label that the row's own group gives is the first response with probability p where the group is +1.
        first = np.where(own > 0, p, 1 - p)
        expected[name] = float(np.mean(first * np.asarray(right) + (1 - first) * np.asarray(wrong)))
    assert expected["routed"] == pytest.approx(routed, abs=1e-3)
    # With a constant router every pair has probability 1/2, whatever the heads' common size: the likelihood is flat.
    for size in (0.0, 1.0, 3.0):
        opposed = np.float32([[size, -size]] * 4)
        flat = losses.micro(opposed, 0 * opposed, 0 * opposed, entropy_coefficient=0.0)
        np.testing.assert_allclose(flat, np.log(2), rtol=1e-5)
    assert expected["constant"] == pytest.approx(np.log(2), rel=1e-4)
