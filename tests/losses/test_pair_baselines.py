"""The pair baselines against float64 references: values, gradients, absent rows, extremes, bfloat16, vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import (
    EXTREME,
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    quad,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses
from jaxpo.losses.orpo import CEILING
from jaxpo.losses.orpo import log_odds as orpo_log_odds

ALL4 = (0, 1, 2, 3)
N_W = np.array([1, 4, 9, 1, 30, 7], np.float32)
N_L = np.array([7, 3, 1, 12, 8, 1], np.float32)


def f64(*arrays):
    return tuple(np.asarray(a, np.float64) for a in arrays)


def rho(pw, pl, rw, rl):
    pw, pl, rw, rl = f64(pw, pl, rw, rl)
    return pw - rw, pl - rl


def per_side(f):
    """A reference of the two log-ratios."""
    return lambda pw, pl, rw, rl: f(*rho(pw, pl, rw, rl))


def per_token(f):
    """A reference of the two log-ratios per token."""

    def reference(pw, pl, rw, rl):
        a, b = rho(pw, pl, rw, rl)
        return f(a / N_W, b / N_L)

    return reference


def kl_to_label(h, eps):
    q = sig(h)
    return q * np.log(q / (1 - eps)) + (1 - q) * np.log((1 - q) / eps)


def bent(x, alpha):
    return (1 - np.exp(-alpha * x)) / alpha


def log_odds(mean):
    p = np.exp(mean)
    return np.log(p / (1 - p))


BY_LENGTH = {
    name: jitted(getattr(losses, name))
    for name in ("ipo", "rdpo_length", "apo_zero_norm", "apo_down_norm", "hinge_per_token")
}
ONE_ARGUMENT_SET = {
    name: jitted(getattr(losses, name))
    for name in (
        "ipo_sum",
        "hinge",
        "dpop",
        "exo_pair",
        "nca_pair",
        "bco_pair",
        "sppo_hard",
        "apo_zero",
        "apo_down",
        "discopop",
        "fdpo",
    )
}
FREE = {name: jitted(getattr(losses, name)) for name in ("alphapo", "orpo", "slic")}

# name -> (loss of the four log-probs and a mask, float64 reference): hyper-parameters away from their defaults.
REFERENCED = {
    "ipo_sum": ({"beta": 0.3}, per_side(lambda a, b: (a - b - 1 / 0.6) ** 2)),
    "hinge": ({"beta": 0.2}, per_side(lambda a, b: np.maximum(0, 1 - 0.2 * (a - b)))),
    "dpop": ({"beta": 0.2, "lam": 3.0}, per_side(lambda a, b: sp(-0.2 * (a - b - 3 * np.maximum(0, -a))))),
    "exo_pair": ({"beta": 0.2, "label_smoothing": 0.02}, per_side(lambda a, b: kl_to_label(0.2 * (a - b), 0.02))),
    "nca_pair": ({"beta": 0.2}, per_side(lambda a, b: sp(-0.2 * a) + 0.5 * sp(0.2 * a) + 0.5 * sp(0.2 * b))),
    "bco_pair": ({"beta": 0.2}, per_side(lambda a, b: sp(-0.2 * a) + sp(0.2 * b))),
    "sppo_hard": ({"beta": 0.2}, per_side(lambda a, b: (a - 2.5) ** 2 + (b + 2.5) ** 2)),
    "apo_zero": ({"beta": 0.2}, per_side(lambda a, b: 1 - sig(0.2 * a) + sig(0.2 * b))),
    "apo_down": ({"beta": 0.2}, per_side(lambda a, b: sig(0.2 * a) + 1 - sig(0.2 * (a - b)))),
    "discopop": (
        {"beta": 0.2, "tau": 0.5},
        per_side(
            lambda a, b: (1 - sig(0.4 * (a - b))) * sp(-0.2 * (a - b)) + sig(0.4 * (a - b)) * np.exp(-0.2 * (a - b))
        ),
    ),
    "fdpo:forward_kl": (
        {"beta": 0.2, "divergence": "forward_kl"},
        per_side(lambda a, b: sp(-0.2 * (np.exp(-b) - np.exp(-a)))),
    ),
    "fdpo:js_divergence": (
        {"beta": 0.2, "divergence": "js_divergence"},
        per_side(lambda a, b: sp(-0.2 * (np.log(sig(a)) - np.log(sig(b))))),
    ),
    "fdpo:alpha_divergence": (
        {"beta": 0.2, "divergence": "alpha_divergence", "alpha": 0.3},
        per_side(lambda a, b: sp(-0.2 * (bent(a, 0.3) - bent(b, 0.3)))),
    ),
    "fdpo:reverse_kl": ({"beta": 0.2, "divergence": "reverse_kl"}, per_side(lambda a, b: sp(-0.2 * (a - b)))),
    "ipo": ({"beta": 0.3}, per_token(lambda a, b: (a - b - 1 / 0.6) ** 2)),
    "rdpo_length": ({"beta": 0.2, "alpha": 0.1}, per_side(lambda a, b: sp(-(0.2 * (a - b) + 0.1 * (N_W - N_L))))),
    "apo_zero_norm": ({"beta": 2.0}, per_token(lambda a, b: sig(2 * b) - sig(2 * a))),
    "apo_down_norm": ({"beta": 2.0}, per_token(lambda a, b: sig(2 * a) - sig(2 * (a - b)))),
    "hinge_per_token": ({"beta": 2.0}, per_token(lambda a, b: np.maximum(0, 1 - 2 * (a - b)))),
}


def referenced(name, n_w=N_W, n_l=N_L, **more):
    """The compiled loss as a function of the four log-probs."""
    settings, base = REFERENCED[name][0] | more, name.split(":")[0]
    if base in BY_LENGTH:
        return lambda *a, **k: BY_LENGTH[base](*a, n_w[: len(a[0])], n_l[: len(a[0])], **settings, **k)
    return lambda *a, **k: ONE_ARGUMENT_SET[base](*a, **settings, **k)


@pytest.mark.parametrize("name", REFERENCED)
def test_value_and_gradient(name):
    f, args = referenced(name), quad(seed=1)
    check_against(f, REFERENCED[name][1], args, ALL4, rtol=5e-5, atol=5e-6)
    check_bfloat16(f, args, ALL4)
    settings, base = REFERENCED[name][0], name.split(":")[0]
    if base in BY_LENGTH:
        check_vmap(lambda *a: BY_LENGTH[base](*a, **settings), (*args, N_W, N_L))
    else:
        check_vmap(f, args)


@pytest.mark.parametrize("name", REFERENCED)
def test_absent_rows_give_zero_loss_and_gradient_whatever_they_hold(name):
    f = referenced(name)
    args = [a.copy() for a in quad(seed=1)]
    dense = np.asarray(f(*args))
    where = np.array([True, False, True, False, True, True])
    for a in args:
        a[1], a[3] = np.nan, np.inf
    value, grads = value_and_grads(lambda *a: f(*a, where=where), args, ALL4)
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_allclose(value[where], dense[where], rtol=1e-6)
    for g in grads:
        np.testing.assert_array_equal(g[~where], 0.0)
        assert np.all(np.isfinite(g))
    assert any(np.any(g != 0) for g in grads)


@pytest.mark.parametrize("name", REFERENCED)
def test_extreme_log_ratios_are_finite(name):
    ones = np.ones(4, np.float32)
    f = referenced(name, n_w=ones, n_l=ones, beta=1.0)
    check_extreme(f, EXTREME, ALL4)
    check_extreme(f, tuple(a / 200 for a in EXTREME), ALL4)  # 50 nats


AT_REFERENCE = {
    "ipo": 1 / (4 * 0.3**2),
    "ipo_sum": 1 / (4 * 0.3**2),
    "hinge": 1.0,
    "hinge_per_token": 1.0,
    "dpop": np.log(2),
    "nca_pair": 2 * np.log(2),
    "bco_pair": 2 * np.log(2),
    "sppo_hard": 1 / (2 * 0.2**2),
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "apo_zero_norm": 0.0,
    "apo_down_norm": 0.0,
    "discopop": 0.5 * np.log(2) + 0.5,
    "fdpo:forward_kl": np.log(2),
    "fdpo:js_divergence": np.log(2),
    "fdpo:alpha_divergence": np.log(2),
}


@pytest.mark.parametrize("name", AT_REFERENCE)
def test_at_policy_equal_to_reference(name):
    p, q, *_ = quad()
    np.testing.assert_allclose(referenced(name)(p, q, p, q), AT_REFERENCE[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", REFERENCED)
def test_only_absolute_losses_see_a_common_shift_of_both_log_ratios(name):
    """The difference losses depend on rho_w - rho_l alone; NCA, BCO, APO, SPPO, DPOP and f-DPO do not."""
    pw, pl, rw, rl = quad(seed=1)
    n = np.full_like(pw, 4.0)
    f = referenced(name, n_w=n, n_l=n)
    moved = np.abs(np.asarray(f(pw + 2, pl + 2, rw, rl)) - np.asarray(f(pw, pl, rw, rl))).max()
    relative = {"ipo", "ipo_sum", "hinge", "hinge_per_token", "exo_pair", "discopop", "rdpo_length", "fdpo:reverse_kl"}
    assert moved < 2e-5 if name in relative else moved > 1e-3


# --- without a reference ---


def test_orpo_value_and_gradient():
    pw, pl, *_ = quad(seed=1)

    def reference(pw, pl):
        pw, pl = f64(pw, pl)
        return 0.3 * sp(-(log_odds(pw / N_W) - log_odds(pl / N_L))) - pw

    def loss(*a):
        return sum(FREE["orpo"](*a, N_W, N_L, beta=0.3))

    check_against(loss, reference, (pw, pl), (0, 1))
    check_bfloat16(loss, (pw, pl), (0, 1))
    check_vmap(lambda *a: sum(FREE["orpo"](*a)), (pw, pl, N_W, N_L))
    ones = np.ones(4, np.float32)
    check_extreme(lambda *a: sum(FREE["orpo"](*a, ones, ones)), EXTREME[:2], (0, 1))


def test_orpo_limits():
    pw, pl, *_ = quad(seed=1)
    odds, nll = FREE["orpo"](pw, pl, N_W, N_L)
    np.testing.assert_allclose(nll, -pw, rtol=1e-6)
    assert np.all(np.asarray(odds) > 0)
    np.testing.assert_array_equal(FREE["orpo"](pw, pl, N_W, N_L, beta=0.0)[0], 0.0)
    equal, _ = FREE["orpo"](-N_W, -N_L, N_W, N_L, beta=0.7)
    np.testing.assert_allclose(equal, 0.7 * np.log(2), rtol=1e-6)
    far, _ = FREE["orpo"](pw - 40 * N_W, pl - 40 * N_L, N_W, N_L, beta=1.0)
    margin = (pw / N_W - pl / N_L).astype(np.float64)
    np.testing.assert_allclose(far, sp(-margin), rtol=1e-4, atol=1e-5)


def test_log_odds_from_certainty_to_impossibility():
    mean = np.array([-1e-6, -1e-4, -0.1, -0.6931471, -0.6931473, -1.0, -30.0, -1e4], np.float32)
    a = mean.astype(np.float64)
    value, (grad,) = value_and_grads(orpo_log_odds, (mean,), (0,))
    np.testing.assert_allclose(value, a - np.log(-np.expm1(a)), rtol=1e-5, atol=2e-7)
    np.testing.assert_allclose(grad, 1 / -np.expm1(a), rtol=1e-5)  # 1 / (1 - p)
    value, (grad,) = value_and_grads(orpo_log_odds, (np.array([0.0, 1.0], np.float32),), (0,))
    np.testing.assert_allclose(value, -np.log(-CEILING), rtol=1e-4)
    np.testing.assert_array_equal(grad, 0.0)


def test_alphapo_value_and_gradient():
    pw, pl, *_ = quad(seed=1)

    def loss(alpha):
        return lambda *a: FREE["alphapo"](*a, N_W, N_L, alpha=alpha, beta=1.5, gamma=0.4, label_smoothing=0.1)

    for alpha in (0.25, -0.5):

        def reference(pw, pl, alpha=alpha):
            pw, pl = f64(pw, pl)
            h = 1.5 * (bent(pw / N_W, alpha) - bent(pl / N_L, alpha)) - 0.4
            return 0.9 * sp(-h) + 0.1 * sp(h)

        check_against(loss(alpha), reference, (pw, pl), (0, 1), rtol=1e-4)
    check_bfloat16(loss(0.25), (pw, pl), (0, 1))
    check_vmap(FREE["alphapo"], (pw, pl, N_W, N_L))
    ones = np.ones(4, np.float32)
    check_extreme(lambda *a: FREE["alphapo"](*a, ones, ones), EXTREME[:2], (0, 1))


def test_alphapo_tends_to_simpo():
    pw, pl, *_ = quad(seed=1)
    simpo = losses.simpo(pw, pl, N_W, N_L, beta=2.0, gamma=0.3)
    np.testing.assert_allclose(losses.alphapo(pw, pl, N_W, N_L, alpha=0.0, beta=2.0, gamma=0.3), simpo, rtol=1e-6)
    near = losses.alphapo(pw, pl, N_W, N_L, alpha=1e-5, beta=2.0, gamma=0.3)
    np.testing.assert_allclose(near, simpo, rtol=5e-3, atol=1e-4)


def test_slic_value_gradient_and_limits():
    pw, pl, target, _ = quad(seed=1)

    def reference(pw, pl, target):
        pw, pl, target = f64(pw, pl, target)
        return np.maximum(0, 1.5 - pw + pl) - 0.3 * target

    def loss(*a):
        return sum(FREE["slic"](*a, delta=1.5, lam=0.3))

    _, grads = check_against(loss, reference, (pw, pl, target), (0, 1, 2))
    inside = pw - pl < 1.5
    assert inside.any()
    assert not inside.all()
    np.testing.assert_allclose(grads[0], -inside.astype(np.float32))
    np.testing.assert_allclose(grads[2], -0.3, rtol=1e-6)
    check_bfloat16(loss, (pw, pl, target), (0, 1, 2))
    check_vmap(loss, (pw, pl, target))
    check_extreme(loss, EXTREME[:3], (0, 1, 2))
    rank, likelihood = FREE["slic"](pw, pl, target, lam=0.0)
    np.testing.assert_array_equal(likelihood, 0.0)
    zero = np.zeros_like(pw)
    np.testing.assert_allclose(rank, losses.hinge(pw, pl, zero, zero, beta=1.0), rtol=1e-6)


def test_sft_is_the_negative_log_likelihood_of_the_chosen_response():
    pw, *_ = quad()
    value, (grad,) = value_and_grads(losses.sft, (pw,), (0,))
    np.testing.assert_allclose(value, -pw)
    np.testing.assert_array_equal(grad, -1.0)
    np.testing.assert_allclose(value, losses.cpo(pw, pw)[1])
    check_bfloat16(losses.sft, (pw,), (0,))
    check_vmap(losses.sft, (pw,))


REFERENCE_FREE = {
    "orpo": lambda a, w: sum(FREE["orpo"](a[0], a[1], a[3], a[4], where=w)),
    "alphapo": lambda a, w: FREE["alphapo"](a[0], a[1], a[3], a[4], where=w),
    "slic": lambda a, w: sum(FREE["slic"](a[0], a[1], a[2], where=w)),
    "sft": lambda a, w: losses.sft(a[0], where=w),
}


@pytest.mark.parametrize("name", REFERENCE_FREE)
def test_absent_rows_without_a_reference(name):
    f = REFERENCE_FREE[name]
    pw, pl, target, _ = quad(seed=1)
    args = [a.copy() for a in (pw, pl, target, N_W, N_L)]
    dense = np.asarray(f(args, np.ones(6, bool)))
    where = np.array([True, False, True, False, True, True])
    for a in args:
        a[1], a[3] = np.nan, np.inf
    value, grads = value_and_grads(lambda *a: f(a, where), args, (0, 1, 2))
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_allclose(value[where], dense[where], rtol=1e-6)
    for g in grads:
        np.testing.assert_array_equal(g[~where], 0.0)
        assert np.all(np.isfinite(g))


BY_TOKENS = {
    "ipo": lambda p, n: BY_LENGTH["ipo"](p, p, p, p, n, n),
    "apo_zero_norm": lambda p, n: BY_LENGTH["apo_zero_norm"](p, p, p, p, n, n),
    "apo_down_norm": lambda p, n: BY_LENGTH["apo_down_norm"](p, p, p, p, n, n),
    "hinge_per_token": lambda p, n: BY_LENGTH["hinge_per_token"](p, p, p, p, n, n),
    "orpo": lambda p, n: sum(FREE["orpo"](p, p, n, n)),
    "alphapo": lambda p, n: FREE["alphapo"](p, p, n, n),
}


@pytest.mark.parametrize("name", BY_TOKENS)
def test_rows_without_a_token_are_zero(name):
    zero = np.zeros(2, np.float32)
    value, (grad,) = value_and_grads(lambda p: BY_TOKENS[name](p, zero), (zero,), (0,))
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize("name", ["ipo", "apo_zero_norm", "apo_down_norm", "hinge_per_token", "orpo", "alphapo"])
def test_one_side_without_a_token_is_finite(name):
    pl, n, none = np.full(1, -0.1, np.float32), np.full(1, 2.0, np.float32), np.zeros(1, np.float32)
    f = BY_LENGTH.get(name) or FREE[name]
    zero = np.zeros(1, np.float32)
    refs = (zero, zero) if name in BY_LENGTH else ()

    def loss(p, q):
        out = f(p, q, *refs, none, n)
        return sum(out) if isinstance(out, tuple) else out

    value, grads = check_extreme(loss, (zero, pl), (0, 1))
    assert value[0] != 0
    assert grads[1][0] != 0


def test_a_hyper_parameter_may_be_traced():
    """So that a schedule does not recompile."""
    pw, pl, rw, rl = quad()
    scheduled = jax.jit(lambda beta: losses.hinge(pw, pl, rw, rl, beta=beta))
    np.testing.assert_allclose(scheduled(jnp.float32(0.2)), losses.hinge(pw, pl, rw, rl, beta=0.2), rtol=1e-6)
