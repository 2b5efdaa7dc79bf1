"""The policy losses on answers: values and gradients against float64 numpy, and the laws that tie them together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.rollout_arrays import (
    LENGTH,
    MASK,
    NEW,
    OLD,
    PER_ANSWER,
    RNG,
    SAME,
    A,
    N,
    T,
    by_token,
    clipped,
    program,
    ratio,
    slopes,
    spoiled,
    surrogate,
)

from jaxpo import losses
from jaxpo.losses import importance


def of(name, **settings):
    return functools.partial(getattr(losses, name), **settings)


def dual(new, old, a, c=1.25):
    """PPO as its paper writes it: the larger of two losses, and at most -c A where A < 0."""
    w = ratio(new, old, "token")

    def term(n, t):
        loss = max(-w[n, t] * a[n, t], -min(max(w[n, t], 0.8), 1.2) * a[n, t])
        return min(loss, -c * a[n, t]) if a[n, t] < 0 else loss

    return by_token(term)


def sapo(new, old, a, level="token"):
    w = ratio(new, old, level)

    def term(n, t):
        tau = 1.0 if a[n, t] > 0 else 1.05
        return -4 / tau / (1 + np.exp(-tau * (w[n, t] - 1))) * a[n, t]

    return by_token(term)


def rloo(new, old, a):
    w = np.exp(np.where(MASK, new - old, 0.0).sum(1))
    return np.array([clipped(w[n], a[n], 0.2, 0.28) if MASK[n].any() else 0.0 for n in range(N)])


def weighted(weight):
    """A plain policy gradient whose weights are those at `NEW`."""
    return lambda new, old, a: by_token(lambda n, t: -weight[n, t] * a[n, t] * new[n, t])


def phi(a, given=1.0):
    """VESPO's weights at `NEW`."""
    w = np.exp(np.where(MASK, NEW - OLD, 0.0).sum(1)) * given
    up, down = np.exp(3.0) * w**2 * np.exp(-3 * w), np.exp(2.0) * w**3 * np.exp(-2 * w)
    return np.where(a >= 0, up[:, None], down[:, None])


def gspo_token(new, old, a):
    own = ratio(NEW, old, "sequence") * np.exp(new - NEW)
    return by_token(lambda n, t: clipped(own[n, t], a[n, t], 3e-4, 4e-4))


TOKEN_W, ANSWER_W = ratio(NEW, OLD, "token"), ratio(NEW, OLD, "sequence")
CASES = {
    "ppo": (of("ppo"), surrogate, A),
    "ppo clip higher": (of("ppo", epsilon=0.1, epsilon_high=0.28),
                        functools.partial(surrogate, low=0.1, high=0.28), A),
    "ppo dual clip": (of("ppo", dual_clip=1.25), dual, A),
    "gspo_token": (of("gspo_token"), gspo_token, A),
    "cispo": (of("cispo", epsilon_high=1.2), weighted(np.minimum(TOKEN_W, 1.2)), A),
    "cispo two bounds": (of("cispo", epsilon_high=1.2, epsilon_low=0.9), weighted(np.clip(TOKEN_W, 0.9, 1.2)), A),
    "cispo sequence": (of("cispo", epsilon_high=1.05, importance_sampling_level="sequence"),
                       weighted(np.minimum(ANSWER_W, 1.05)), A),
    "sapo": (of("sapo"), sapo, A),
    "sapo sequence": (of("sapo", importance_sampling_level="sequence"), functools.partial(sapo, level="sequence"), A),
    "luspo": (of("luspo", epsilon=0.05, epsilon_high=0.1),
              lambda *a: surrogate(*a, low=0.05, high=0.1, level="sequence").sum(1), A),
    "luspo token": (of("luspo", epsilon=0.05, epsilon_high=0.1, delta=1.3, importance_sampling_level="token"),
                    lambda *a: surrogate(*a, low=0.05, high=0.1, delta=1.3).sum(1), A),
    "vespo": (of("vespo"), weighted(phi(A)), A),
    "rloo": (of("rloo", epsilon_high=0.28), rloo, PER_ANSWER),
}  # fmt: skip


@functools.cache
def run(name, by):
    loss, _, a = CASES[name]
    answers = a.ndim == 1
    return program(loss)(spoiled(NEW, by=by), spoiled(OLD, by=-by), a if answers else spoiled(a, by=by), MASK)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("by", [np.nan, np.inf])
def test_value_and_gradient_whatever_lies_outside_the_mask(name, by):
    _, reference, a = CASES[name]
    terms, grad = run(name, by)
    assert terms.dtype == np.float32
    np.testing.assert_allclose(terms, reference(NEW, OLD, a), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(grad, slopes(lambda new: reference(new, OLD, a), NEW), rtol=2e-4, atol=1e-5)
    assert np.all(grad[~MASK] == 0)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("ppo", "rloo", "luspo"))])
def test_the_data_reach_every_branch(name):
    """A clip that never holds would prove nothing: some gradients are 0 and some are not."""
    _, grad = run(name, np.nan)
    assert np.any(grad[MASK] == 0)
    assert np.any(grad[MASK] != 0)


@pytest.mark.parametrize("name", CASES)
def test_at_the_old_policy_the_gradient_is_that_of_the_policy_gradient(name):
    loss, _, a = CASES[name]
    terms, grad = program(loss)(spoiled(OLD), spoiled(OLD), a if a.ndim == 1 else spoiled(a), MASK)
    every = np.where(MASK, a[:, None] if a.ndim == 1 else a, 0.0)
    if name in ("sapo sequence", "luspo"):  # the answer's ratio shares a gradient among its tokens
        every = np.where(MASK, every.sum(1, keepdims=True) / LENGTH[:, None], 0.0)
    np.testing.assert_allclose(grad, -every, rtol=1e-5, atol=1e-6)
    if name.startswith(("ppo", "gspo")):
        np.testing.assert_allclose(terms, np.where(MASK, -a, 0.0), rtol=1e-6)
    if name.startswith("rloo"):
        np.testing.assert_allclose(terms, np.where(MASK.any(1), -a, 0.0), rtol=1e-6)
    if name.startswith("luspo"):
        np.testing.assert_allclose(terms, np.where(MASK, -a, 0.0).sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [50.0, 1e4])
def test_large_log_ratios_give_no_nan(name, size):
    loss, _, a = CASES[name]
    far = OLD + size * np.where((np.arange(T) + np.arange(N)[:, None]) % 2, 1.0, -1.0)
    for new, old in ((far, OLD), (OLD, far), (OLD + size, OLD), (OLD - size, OLD)):
        terms, grad = program(loss)(new, old, a, MASK)
        assert np.all(np.isfinite(terms))
        assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("name", CASES)
def test_absent_answers_cost_nothing(name):
    loss, _, a = CASES[name]
    where = np.array([True, False, True, False, True])
    on = np.broadcast_to(where[:, None], (N, T))

    def some(new, old, a, mask, where):
        return loss(new, old, a, mask, where=where)

    gone = np.where(where, a, np.nan) if a.ndim == 1 else spoiled(a, on)
    terms, grad = program(some)(spoiled(NEW, on), spoiled(OLD, on), gone, MASK, where)
    whole, slope = run(name, np.nan)
    np.testing.assert_allclose(terms[where], whole[where], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(grad[where], slope[where], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(terms[~where], 0.0)
    np.testing.assert_array_equal(grad[~where], 0.0)


@pytest.mark.parametrize("name", CASES)
def test_low_precision_is_computed_in_float32(name):
    loss, _, a = CASES[name]
    half = [jnp.asarray(x, jnp.bfloat16) for x in (NEW, OLD, a)]
    got, wide = jax.jit(lambda *x: (loss(*x, MASK), loss(*(y.astype(jnp.float32) for y in x), MASK)))(*half)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, wide)


def test_old_log_probs_and_advantages_take_no_gradient():
    for loss, _, a in CASES.values():
        total = lambda old, a, loss=loss: jnp.sum(loss(jnp.float32(NEW), old, a, MASK))  # noqa: E731
        for grad in jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.float32(OLD), jnp.float32(a)):
            np.testing.assert_array_equal(grad, 0.0)


def mean_of_answers(terms):
    return float(np.mean(terms.sum(-1)[: N - 1]))


def test_answers_of_one_token_are_the_same_to_all():
    """RLOO, GSPO-token, PPO's terms and LUSPO's, where an answer is a token."""
    one = np.arange(T) == RNG.integers(0, T, N)[:, None]
    clips = {"epsilon": 0.1, "epsilon_high": 0.15}
    found = {
        name: program(of(name, **clips))(spoiled(NEW, one), spoiled(OLD, one), SAME, one)
        for name in ("ppo", "gspo_token", "luspo")
    }
    found["rloo"] = program(of("rloo", **clips))(spoiled(NEW, one), spoiled(OLD, one), PER_ANSWER, one)
    for terms, grad in found.values():
        np.testing.assert_allclose(terms if terms.ndim == 1 else terms.sum(1), found["rloo"][0], rtol=1e-6)
        np.testing.assert_allclose(grad, found["rloo"][1], rtol=1e-5, atol=1e-7)


def test_gspo_token_is_gspo_where_an_answer_has_one_advantage():
    """Value and gradient of the mean over tokens; GSPO is LUSPO's term over the length."""
    clips = {"epsilon": 0.3, "epsilon_high": 0.1}

    def per_answer(terms):
        return jnp.sum(terms, axis=-1) / LENGTH

    token = program(lambda *x: per_answer(losses.gspo_token(*x, **clips)))(NEW, OLD, SAME, MASK)
    whole = program(lambda *x: losses.luspo(*x, **clips) / LENGTH)(NEW, OLD, SAME, MASK)
    for a, b in zip(token, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    free = (ANSWER_W > 0.7) & (ANSWER_W < 1.1) & MASK
    assert free.any()
    expected = -SAME * ANSWER_W / LENGTH[:, None]
    np.testing.assert_allclose(token[1][free], expected[free], rtol=1e-5)


def test_luspo_moves_every_token_alike_whatever_the_length():
    wide = {"epsilon": 0.9, "epsilon_high": 9.0}
    _, grad = program(of("luspo", **wide))(NEW, OLD, SAME, MASK)
    np.testing.assert_allclose(grad, np.where(MASK, -SAME * ANSWER_W, 0.0), rtol=1e-5)


def test_clip_higher_matters_only_where_a_good_token_rises():
    low = program(of("ppo"))(NEW, OLD, A, MASK)
    high = program(of("ppo", epsilon_high=0.4))(NEW, OLD, A, MASK)
    changed = MASK & (A > 0) & (TOKEN_W > 1.2)
    assert changed.any()
    np.testing.assert_array_equal(low[0] != high[0], changed)


def test_two_sided_clip_is_the_dual_clip():
    w = jnp.float32(np.exp(NEW - OLD))
    two = importance.clipped_surrogate(w, jnp.float32(A), epsilon=0.2, delta=1.25)
    np.testing.assert_allclose(np.where(MASK, two, 0), program(of("ppo", dual_clip=1.25))(NEW, OLD, A, MASK)[0],
                               rtol=1e-5, atol=1e-7)  # fmt: skip
    assert np.any((np.asarray(w) > 1.25) & (A < 0) & MASK)


def test_a_dual_clip_inside_the_clip_range_is_refused():
    with pytest.raises(ValueError, match=r"dual_clip 1\.1"):
        losses.ppo(NEW, OLD, A, MASK, dual_clip=1.1)


@pytest.mark.parametrize("name", ["cispo", "sapo", "luspo"])
def test_an_unknown_level_is_refused(name):
    with pytest.raises(ValueError, match="level 'Token'"):
        getattr(losses, name)(NEW, OLD, A, MASK, importance_sampling_level="Token")


def test_vespo_takes_the_samplers_weights_into_its_own():
    given = np.where(MASK, RNG.uniform(0.5, 2.0, (N, T)), 1.0)
    inside = program(lambda new, old, a, given: losses.vespo(new, old, a, MASK, sampler_weights=given))
    terms, _ = inside(NEW, OLD, A, np.where(MASK, given, np.nan))
    expected = weighted(phi(A, given.prod(1)))(NEW, OLD, A)
    np.testing.assert_allclose(terms, expected, rtol=2e-5, atol=2e-6)
    none = inside(NEW, OLD, A, given * 0)  # masked away by the sampler: the weight is the smallest there is
    assert np.all(np.isfinite(none[0]))
    np.testing.assert_allclose(none[0], 0.0, atol=1e-5)


def test_vespos_weight_is_one_at_the_old_policy_and_largest_at_k_over_lambda():
    w = np.linspace(0.05, 4, 400)
    one = np.ones((400, 1), bool)
    for sign, k, lam in ((1.0, 2.0, 3.0), (-1.0, 3.0, 2.0)):
        got = np.asarray(losses.vespo_weights(np.log(w)[:, None], 0.0 * w[:, None], sign * one, one))[:, 0]
        np.testing.assert_allclose(w[np.argmax(got)], k / lam, atol=0.011)
        np.testing.assert_allclose(np.interp(1.0, w, got), 1.0, atol=1e-4)


def test_sapo_has_the_same_slope_for_every_temperature_and_fades():
    one = np.ones((3, 1), bool)
    d = np.log(np.array([[1.0], [3.0], [0.2]]))
    for tau in (0.5, 1.0, 4.0):
        _, grad = program(of("sapo", sapo_temperature_pos=tau))(d, 0 * d, 1.0 * one, one)
        np.testing.assert_allclose(grad[0], -1.0, rtol=1e-6)
        assert np.all(np.abs(grad[1:, 0]) < np.exp(d[1:, 0]))


# --- the critic ---


def value_reference(v, old, aim, c=0.2):
    near = np.clip(v, old - c, old + c)
    return np.where(MASK, 0.5 * np.maximum((v - aim) ** 2, (near - aim) ** 2), 0.0)


def test_the_critics_error():
    v, old, aim = (RNG.standard_normal((N, T)) * size for size in (0.5, 0.5, 1.0))
    terms, grad = program(losses.ppo_value)(spoiled(v), spoiled(old, by=np.inf), spoiled(aim), MASK)
    np.testing.assert_allclose(terms, value_reference(v, old, aim), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(grad, slopes(lambda x: value_reference(x, old, aim), v), rtol=2e-4, atol=1e-5)
    assert np.any(grad[MASK] == 0)  # some moves are clipped
    plain, _ = program(of("ppo_value", cliprange_value=None))(v, old, aim, MASK)
    np.testing.assert_allclose(plain, np.where(MASK, 0.5 * (v - aim) ** 2, 0.0), rtol=2e-5, atol=1e-6)
    same, _ = program(losses.ppo_value)(v, v, aim, MASK)
    np.testing.assert_allclose(same, plain, rtol=1e-6)
