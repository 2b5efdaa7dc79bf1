"""The baselines of distillation against float64 references: whole distributions, and other uses of a top-K record."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, jitted
from scipy.special import log_softmax

from jaxpo import losses

N, V, K = 5, 11, 4
RNG = np.random.default_rng(0)
STUDENT, TEACHER = ((2 * RNG.normal(size=(N, V))).astype(np.float32) for _ in range(2))
IDS = np.argsort(-TEACHER, -1, kind="stable")[:, :K]
TOP = np.take_along_axis(TEACHER, IDS, -1)
TOTAL = np.log(np.exp(np.float64(TEACHER)).sum(-1)).astype(np.float32)


def kl(p, q):
    return (np.exp(p) * (p - q)).sum(-1)


def forward(z, t, tau=1.0):
    return kl(log_softmax(np.float64(t) / tau, -1), log_softmax(np.float64(z) / tau, -1))


def jsd(z, t, beta, tau=1.0):
    p, q = (log_softmax(np.float64(x) / tau, -1) for x in (t, z))
    m = np.log(beta * np.exp(p) + (1 - beta) * np.exp(q))
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def truncated(z, t, tau=1.0):
    return kl(log_softmax(np.float64(t) / tau, -1), np.take_along_axis(log_softmax(np.float64(z) / tau, -1), IDS, -1))


def bucketed(z, t, total):
    """Probabilities of K + 1 buckets; the teacher's from its record."""
    p = np.exp(np.float64(t) - np.float64(total)[:, None])
    q = np.take_along_axis(np.exp(log_softmax(np.float64(z), -1)), IDS, -1)
    p, q = (np.append(x, 1 - x.sum(-1, keepdims=True), -1) for x in (p, q))
    return (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize(
    ("loss", "reference", "settings"),
    [
        (losses.forward_kl, lambda z, t: forward(z, t, 2.0), {"tau": 2.0}),
        (losses.reverse_kl, lambda z, t: forward(t, z, 2.0), {"tau": 2.0}),
        (losses.generalized_jsd, lambda z, t: jsd(z, t, 0.3, 2.0), {"beta": 0.3, "tau": 2.0}),
        (losses.generalized_jsd, lambda z, t: forward(z, t), {"beta": 0.0}),
        (losses.generalized_jsd, lambda z, t: forward(t, z), {"beta": 1.0}),
    ],
    ids=["forward", "reverse", "jsd", "jsd_0", "jsd_1"],
)
def test_whole_distributions(loss, reference, settings):
    check_against(lambda z, t: loss(z, t, **settings), reference, (STUDENT, TEACHER), (0,))


def test_top_k_records():
    check_against(
        lambda z, t: losses.truncated_topk_kl(z, t, IDS, tau=2.0),
        lambda z, t: truncated(z, t, 2.0),
        (STUDENT, TOP),
        (0,),
    )
    check_against(lambda z, t, total: losses.bucket_topk_kl(z, t, total, IDS), bucketed, (STUDENT, TOP, TOTAL), (0,))


def test_tau_squared_multiplies_the_loss():
    forward_kl, reverse_kl, truncated_kl = map(jitted, (losses.forward_kl, losses.reverse_kl, losses.truncated_topk_kl))
    for loss, args in ((forward_kl, (TEACHER,)), (reverse_kl, (TEACHER,)), (truncated_kl, (TOP, IDS))):
        plain = np.asarray(loss(STUDENT, *args, tau=3.0))
        np.testing.assert_allclose(loss(STUDENT, *args, tau=3.0, tau_squared=True), 9 * plain, rtol=1e-6)


def test_jsd_between_the_ends():
    loss = jitted(losses.generalized_jsd)
    np.testing.assert_allclose(loss(STUDENT, TEACHER), loss(TEACHER, STUDENT), rtol=1e-5)  # symmetric at one half
    assert np.all(np.asarray(loss(50 * STUDENT, 50 * TEACHER)) <= np.log(2) + 1e-6)
    np.testing.assert_allclose(loss(TEACHER, TEACHER, beta=0.3), 0.0, atol=1e-6)
    np.testing.assert_allclose(
        jsd(STUDENT, TEACHER, 1e-6) / 1e-6, forward(STUDENT, TEACHER), rtol=1e-4
    )  # the docstring
    with pytest.raises(ValueError, match=r"beta 1.5 must lie in \[0, 1\]"):
        losses.generalized_jsd(STUDENT, TEACHER, beta=1.5)


def test_the_naive_form_is_the_full_kl_of_the_whole_vocabulary():
    order = np.argsort(-TEACHER, -1, kind="stable")
    got = jitted(losses.truncated_topk_kl)(STUDENT, np.take_along_axis(TEACHER, order, -1), order, tau=2.0)
    np.testing.assert_allclose(got, forward(STUDENT, TEACHER, 2.0), rtol=2e-5)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "generalized_jsd", "truncated_topk_kl", "bucket_topk_kl",
                                  "decoupled_topk_kd"])  # fmt: skip
def test_no_gradient_passes_to_the_teacher(name):
    args = {"truncated_topk_kl": (TOP, IDS)}.get(name, (TOP, TOTAL, IDS) if "topk" in name else (TEACHER,))
    grad = jax.jit(jax.grad(lambda z, t: jnp.sum(getattr(losses, name)(z, t, *args[1:])), argnums=(0, 1)))
    student, teacher = grad(STUDENT, args[0])
    assert np.abs(student).max() > 1e-2
    np.testing.assert_array_equal(teacher, 0.0)
