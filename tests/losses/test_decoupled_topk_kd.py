"""Decoupled top-K distillation: every law of the report, against float64 numpy that shares no code with it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import numeric_gradient
from scipy.special import expit

from jaxpo import losses
from jaxpo.losses.decoupled_topk_kd import teacher_mass as mass_of

N, V, K = 7, 19, 5
bucket_topk_kl, truncated_topk_kl, forward_kl = map(
    jax.jit, (losses.bucket_topk_kl, losses.truncated_topk_kl, losses.forward_kl)
)
topk_record = jax.jit(losses.topk_record, static_argnums=1)
teacher_mass = jax.jit(mass_of)
TAUS = (0.5, 1.0, 2.0, 4.0)
RNG = np.random.default_rng(0)
STUDENT = (2 * RNG.normal(size=(N, V))).astype(np.float32)
TEACHER = (2 * RNG.normal(size=(N, V))).astype(np.float32)


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def top(z, k):
    """Ids, logits and log-normaliser of the K largest, float64."""
    z = np.asarray(z, np.float64)
    ids = np.argsort(-z, axis=-1, kind="stable")[..., :k]
    return ids, np.take_along_axis(z, ids, -1), np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1)) + z.max(-1)


def oracle(z, top_logits, normalizer, ids, tau=1.0, factor=1.0):
    """The report's formula, from probabilities."""
    z, t = np.asarray(z, np.float64), np.asarray(top_logits, np.float64)
    m_t = np.exp(t - np.asarray(normalizer)[..., None]).sum(-1)
    p = softmax(z)
    m_s = np.take_along_axis(p, ids, -1).sum(-1)
    q_t, q_s = softmax(t / tau), softmax(np.take_along_axis(z, ids, -1) / tau)
    tail = (
        np.where(m_t < 1, (1 - m_t) * np.log((1 - m_t) / np.maximum(1 - m_s, 1e-300)), 0.0)
        if z.shape[-1] > t.shape[-1]
        else 0.0
    )
    return m_t * np.log(m_t / m_s) + tail + factor * m_t * (q_t * np.log(q_t / q_s)).sum(-1)


def closed_form(z, top_logits, normalizer, ids, tau, factor=1.0):
    """The report's gradient in the student's logits, float64."""
    z, t = np.asarray(z, np.float64), np.asarray(top_logits, np.float64)
    m_t = np.exp(t - np.asarray(normalizer)[..., None]).sum(-1, keepdims=True)
    p = softmax(z)
    m_s = np.take_along_axis(p, ids, -1).sum(-1, keepdims=True)
    grad = p / (1 - m_s) * (m_t - m_s)
    q_t, q_s = softmax(t / tau), softmax(np.take_along_axis(z, ids, -1) / tau)
    inside = np.take_along_axis(p, ids, -1) / m_s * (m_s - m_t) + factor * m_t / tau * (q_s - q_t)
    np.put_along_axis(grad, ids, inside, -1)
    return grad


@jax.jit
def everything(z, t, normalizer, ids, tau):
    """Value, value with tau^2, and both gradients; one program for all temperatures."""

    def total(z, squared):
        loss = losses.decoupled_topk_kd(z, t, normalizer, ids, tau=tau, tau_squared=squared)
        return jnp.sum(loss), loss

    (_, plain), grad = jax.value_and_grad(total, has_aux=True)(z, False)
    (_, squared), grad_squared = jax.value_and_grad(total, has_aux=True)(z, True)
    return plain, grad, squared, grad_squared


@jax.jit
def with_odds(z, t, ids, odds):
    """Loss and gradient of a record that holds the log-odds of its mass."""

    def total(z):
        loss = losses.decoupled_topk_kd(z, t, jnp.zeros(z.shape[:1]), ids, log_odds=odds)
        return jnp.sum(loss), loss

    (_, loss), grad = jax.value_and_grad(total, has_aux=True)(z)
    return loss, grad


def run(z=STUDENT, teacher=TEACHER, k=K, tau=1.0):
    """What `everything` gives for the teacher's own record."""
    ids, t, normalizer = top(teacher, k)
    return [np.asarray(x) for x in everything(z, jnp.float32(t), jnp.float32(normalizer), ids, tau)]


@pytest.mark.parametrize("tau", TAUS)
def test_value_and_gradient_are_the_report_s(tau):
    ids, t, normalizer = top(TEACHER, K)
    value, grad, squared, grad_squared = run(tau=tau)
    np.testing.assert_allclose(value, oracle(STUDENT, t, normalizer, ids, tau), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(squared, oracle(STUDENT, t, normalizer, ids, tau, tau**2), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(grad, closed_form(STUDENT, t, normalizer, ids, tau), rtol=1e-5, atol=2e-6)
    closed = closed_form(STUDENT, t, normalizer, ids, tau, tau**2)
    np.testing.assert_allclose(grad_squared, closed, rtol=1e-5, atol=4e-6)
    numeric = numeric_gradient(lambda z: oracle(z, t, normalizer, ids, tau), (STUDENT,), 0)
    np.testing.assert_allclose(closed_form(STUDENT, t, normalizer, ids, tau), numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("tau", TAUS)
def test_student_equal_to_teacher_costs_nothing_at_any_temperature(tau):
    value, grad, squared, grad_squared = run(z=TEACHER, tau=tau)
    for x in (value, grad, squared, grad_squared):
        np.testing.assert_allclose(x, 0.0, atol=2e-6)
    # ... where the naive form pays -log M_S^tau and pushes.
    ids, t, _ = top(TEACHER, K)
    naive = np.asarray(truncated_topk_kl(TEACHER, jnp.float32(t), ids, tau=tau))
    mass = np.take_along_axis(softmax(np.float64(TEACHER) / tau), ids, -1).sum(-1)
    np.testing.assert_allclose(naive, -np.log(mass), rtol=1e-5, atol=5e-7)
    assert naive.min() > 1e-4


def test_at_temperature_one_it_is_the_kl_over_buckets_and_at_most_the_full_kl():
    ids, t, normalizer = top(TEACHER, K)
    value = run()[0]
    p, q = softmax(np.float64(TEACHER)), softmax(np.float64(STUDENT))
    bucketed = [np.take_along_axis(x, ids, -1) for x in (p, q)]
    p_k, q_k = (np.append(x, 1 - x.sum(-1, keepdims=True), -1) for x in bucketed)
    np.testing.assert_allclose(value, (p_k * np.log(p_k / q_k)).sum(-1), rtol=2e-5, atol=2e-6)
    got = bucket_topk_kl(STUDENT, jnp.float32(t), jnp.float32(normalizer), ids)
    np.testing.assert_allclose(got, value, rtol=2e-5, atol=2e-6)
    full = (p * np.log(p / q)).sum(-1)
    assert np.all(value < full)
    gaps = [full - run(k=k)[0] for k in (2, 5, 18)]
    assert all(np.all(a >= b - 1e-6) for a, b in itertools.pairwise(gaps)), "more buckets see more"


def test_the_whole_vocabulary_gives_the_full_kl():
    value, grad, _, _ = run(k=V)
    full = np.asarray(forward_kl(STUDENT, TEACHER))
    np.testing.assert_allclose(value, full, rtol=2e-5, atol=2e-6)
    expected = softmax(np.float64(STUDENT)) - softmax(np.float64(TEACHER))
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=2e-6)
    tempered = run(k=V, tau=3.0)[0]
    np.testing.assert_allclose(tempered, np.asarray(forward_kl(STUDENT, TEACHER, tau=3.0)), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("tau", TAUS)
def test_the_order_of_ids_and_shifts_of_logits_do_not_matter(tau):
    ids, t, normalizer = top(TEACHER, K)
    value, grad, _, _ = run(tau=tau)
    mixed = np.random.default_rng(1).permuted(np.tile(np.arange(K), (N, 1)), axis=1)
    other = [np.take_along_axis(x, mixed, -1) for x in (ids, t)]
    shift = np.linspace(-3, 3, N)
    moved = everything(
        STUDENT + 2 * jnp.float32(shift)[:, None],
        jnp.float32(other[1] + shift[:, None]),
        jnp.float32(normalizer + shift),
        other[0],
        tau,
    )
    np.testing.assert_allclose(moved[0], value, rtol=1e-5, atol=3e-6)
    np.testing.assert_allclose(moved[1], grad, rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("tau", TAUS)
def test_the_gradient_sums_to_zero(tau):
    _, grad, _, grad_squared = run(tau=tau)
    assert np.abs(grad).max() > 0.05
    np.testing.assert_allclose(grad.sum(-1), 0.0, atol=2e-6)
    np.testing.assert_allclose(grad_squared.sum(-1), 0.0, atol=1e-5)


@pytest.mark.parametrize("tau", TAUS)
def test_one_id_leaves_only_the_binary_term(tau):
    value = run(k=1, tau=tau)[0]
    p, q = softmax(np.float64(TEACHER)), softmax(np.float64(STUDENT))
    best = TEACHER.argmax(-1)[:, None]
    m_t, m_s = (np.take_along_axis(x, best, -1)[:, 0] for x in (p, q))
    binary = m_t * np.log(m_t / m_s) + (1 - m_t) * np.log((1 - m_t) / (1 - m_s))
    np.testing.assert_allclose(value, binary, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("tau", TAUS)
def test_moving_mass_among_tail_tokens_costs_nothing(tau):
    ids, _, _ = top(TEACHER, K)
    moved = STUDENT.copy()
    for row, kept in zip(moved, ids, strict=True):
        tail = np.setdiff1d(np.arange(V), kept)
        row[tail] = row[np.roll(tail, 3)]  # the same logits, elsewhere in the tail
    assert np.abs(moved - STUDENT).max() > 1
    np.testing.assert_allclose(run(z=moved, tau=tau)[0], run(tau=tau)[0], rtol=1e-5, atol=1e-6)


def test_a_teacher_tail_below_the_threshold_counts_as_none():
    for log_odds, none in ((27.0, False), (28.0, True), (np.inf, True)):  # e^-27 = 1.9e-12, e^-28 = 7e-13
        mass = teacher_mass(jnp.zeros(2), jnp.zeros(()), jnp.float32(log_odds))
        assert bool(mass.outside == -jnp.inf) == none
        assert (float(mass.inside) == 0.0) == none or log_odds == 27.0
    ids, t, _ = top(TEACHER, K)
    value, grad = with_odds(STUDENT, np.float32(t), ids, np.full(N, np.inf, np.float32))
    m_s = np.take_along_axis(softmax(np.float64(STUDENT)), ids, -1).sum(-1)
    q_t, q_s = softmax(t), softmax(np.take_along_axis(np.float64(STUDENT), ids, -1))
    np.testing.assert_allclose(value, -np.log(m_s) + (q_t * np.log(q_t / q_s)).sum(-1), rtol=1e-5)
    assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("gap", [30.0, 1e3, 1e4])
def test_student_mass_near_one_or_zero_keeps_its_precision(gap):
    """log(1 - M_S) from the complement: 1 - M_S itself would be 0 in float32."""
    ids = np.arange(K)[None]
    z = np.zeros((1, V), np.float32)
    t = np.log(np.full((1, K), 0.18))  # M_T = 0.9, evenly
    rest = np.log((V - K) / K)
    for sign in (1.0, -1.0):
        z[:, :K] = sign * gap
        odds = sign * gap - rest
        expected = 0.9 * (np.log(0.9) + np.logaddexp(0, -odds)) + 0.1 * (np.log(0.1) + np.logaddexp(0, odds))
        value, grad, _, _ = everything(z, np.float32(t), np.zeros(1, np.float32), ids, 1.0)
        assert float(value[0]) == pytest.approx(expected, rel=1e-5)
        slope = expit(odds) - 0.9  # dL / d log-odds
        assert float(grad[0, :K].sum()) == pytest.approx(slope, rel=1e-5)
        assert float(grad[0, K:].sum()) == pytest.approx(-slope, rel=1e-5)


def test_the_record_of_a_teacher():
    record = jax.tree.map(np.asarray, topk_record(TEACHER + 40.0, K))
    ids, t, normalizer = top(TEACHER, K)
    np.testing.assert_array_equal(record.ids, ids)
    np.testing.assert_allclose(record.logps, t - normalizer[:, None], rtol=1e-5, atol=5e-6)
    m = softmax(np.float64(TEACHER))
    inside = np.take_along_axis(m, ids, -1).sum(-1)
    np.testing.assert_allclose(record.log_odds, np.log(inside / (1 - inside)), rtol=1e-4, atol=1e-5)
    whole = topk_record(TEACHER, V)
    assert np.all(np.isposinf(whole.log_odds))
    with pytest.raises(ValueError, match="K = 20 exceeds the vocabulary of 19"):
        topk_record(TEACHER, V + 1)
    with pytest.raises(ValueError, match="K = 5 exceeds the vocabulary of 4"):
        losses.decoupled_topk_kd(jnp.zeros((2, 4)), jnp.zeros((2, 5)), jnp.zeros(2), jnp.zeros((2, 5), jnp.int32))


def test_rounded_logits_with_the_mass_beside_them_still_give_zero():
    """bfloat16 logits alone put M_T off by some 1e-3; its log-odds in float32 keep student = teacher at the bottom."""
    sharp = 4 * TEACHER
    record = topk_record(sharp, K)
    half = record.logps.astype(jnp.bfloat16)
    with_mass = with_odds(sharp, half, record.ids, record.log_odds)[1]
    without = everything(sharp, half, np.zeros(N, np.float32), record.ids, 1.0)[1]
    tail = np.ones((N, V), bool)
    np.put_along_axis(tail, np.asarray(record.ids), False, -1)
    push = lambda g: np.abs(np.where(tail, g, 0).sum(-1)).max()  # noqa: E731  |M_T - M_S|
    assert push(with_mass) < 1e-6
    assert push(without) > 1e-4
