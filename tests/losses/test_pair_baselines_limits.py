"""What the pair baselines reduce to, their closed-form gradients, and where their optimum lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import jitted, quad, sig, sp, value_and_grads

from jaxpo import losses
from jaxpo.losses.fdpo import LARGEST_EXPONENT, deformed_log
from jaxpo.losses.length_normalized import apo_down_term, apo_zero_term, hinged, squared
from jaxpo.losses.numerics import masked_sum

ALL4 = (0, 1, 2, 3)
N_W = np.array([1, 4, 9, 1, 30, 7], np.float32)
N_L = np.array([7, 3, 1, 12, 8, 1], np.float32)
TEN = np.full(6, 10.0, np.float32)
ONE = np.ones(6, np.float32)

dpo = jitted(losses.dpo)
family = jitted(losses.length_normalized)
lndpo = jitted(losses.lndpo)


def ratios(pw, pl, rw, rl):
    pw, pl, rw, rl = (np.asarray(x, np.float64) for x in (pw, pl, rw, rl))
    return pw - rw, pl - rl


def at_margin(h):
    """Log-probs whose log-ratios differ by h, all of it on the chosen side."""
    h = np.atleast_1d(np.asarray(h, np.float32))
    zero = np.zeros_like(h)
    return h, zero, zero, zero


# --- closed-form gradients in P_w and P_l ---

CLOSED = {
    "hinge": (
        lambda *a: losses.hinge(*a, beta=0.2),
        lambda a, b: (-0.2 * (0.2 * (a - b) < 1), 0.2 * (0.2 * (a - b) < 1)),
    ),
    "ipo_sum": (lambda *a: losses.ipo_sum(*a, beta=0.3), lambda a, b: (2 * (a - b - 1 / 0.6), -2 * (a - b - 1 / 0.6))),
    "dpop": (
        lambda *a: losses.dpop(*a, beta=0.2, lam=3.0),
        lambda a, b: tuple(
            s * 0.2 * sig(-0.2 * (a - b - 3 * np.maximum(0, -a))) for s in (-1 - 3.0 * (a < 0), np.ones_like(a))
        ),
    ),
    "exo_pair": (
        lambda *a: losses.exo_pair(*a, beta=0.2, label_smoothing=0.02),
        lambda a, b: tuple(
            s * 0.2 * sig(0.2 * (a - b)) * sig(-0.2 * (a - b)) * (0.2 * (a - b) - np.log(0.98 / 0.02)) for s in (1, -1)
        ),
    ),
    "nca_pair": (
        lambda *a: losses.nca_pair(*a, beta=0.2),
        lambda a, b: (0.2 * (0.5 * sig(0.2 * a) - sig(-0.2 * a)), 0.1 * sig(0.2 * b)),
    ),
    "bco_pair": (lambda *a: losses.bco_pair(*a, beta=0.2), lambda a, b: (-0.2 * sig(-0.2 * a), 0.2 * sig(0.2 * b))),
    "sppo_hard": (lambda *a: losses.sppo_hard(*a, beta=0.2), lambda a, b: (2 * (a - 2.5), 2 * (b + 2.5))),
    "apo_zero": (
        lambda *a: losses.apo_zero(*a, beta=0.2),
        lambda a, b: (-0.2 * sig(0.2 * a) * sig(-0.2 * a), 0.2 * sig(0.2 * b) * sig(-0.2 * b)),
    ),
    "apo_down": (
        lambda *a: losses.apo_down(*a, beta=0.2),
        lambda a, b: (
            0.2 * (sig(0.2 * a) * sig(-0.2 * a) - sig(0.2 * (a - b)) * sig(-0.2 * (a - b))),
            0.2 * sig(0.2 * (a - b)) * sig(-0.2 * (a - b)),
        ),
    ),
    "rdpo_length": (
        lambda *a: losses.rdpo_length(*a, N_W, N_L, beta=0.2, alpha=0.1),
        lambda a, b: tuple(s * 0.2 * sig(-(0.2 * (a - b) + 0.1 * (N_W - N_L))) for s in (-1, 1)),
    ),
    "fdpo": (
        lambda *a: losses.fdpo(*a, beta=0.2, divergence="alpha_divergence", alpha=0.3),
        lambda a, b: tuple(
            s * 0.2 * np.exp(-0.3 * x) * sig(-0.2 * (np.exp(-0.3 * b) - np.exp(-0.3 * a)) / 0.3)
            for s, x in ((-1, a), (1, b))
        ),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_form_gradient(name):
    f, slopes = CLOSED[name]
    args = quad(seed=3)
    _, grads = value_and_grads(f, args, ALL4)
    for got, expected in zip(grads, slopes(*ratios(*args)), strict=False):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(grads[2], -grads[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(grads[3], -grads[1], rtol=1e-5, atol=1e-7)


# --- reductions to DPO ---


def test_dpop_is_dpo_without_a_fine_and_wherever_the_chosen_response_gained():
    args = quad(seed=3)
    np.testing.assert_allclose(losses.dpop(*args, beta=0.1, lam=0.0), dpo(*args), rtol=1e-6)
    gained = args[0] >= args[2]
    assert gained.any()
    assert not gained.all()
    fined = np.asarray(losses.dpop(*args, beta=0.1))
    np.testing.assert_allclose(fined[gained], np.asarray(dpo(*args))[gained], rtol=1e-6)
    assert np.all(fined[~gained] > np.asarray(dpo(*args))[~gained])


def test_length_regularised_dpo_is_dpo_without_a_price_or_a_difference_in_length():
    args = quad(seed=3)
    np.testing.assert_allclose(losses.rdpo_length(*args, N_W, N_L, alpha=0.0), dpo(*args), rtol=1e-6)
    np.testing.assert_allclose(losses.rdpo_length(*args, TEN, TEN, alpha=0.7), dpo(*args), rtol=1e-6)


def test_a_longer_chosen_response_pulls_less():
    args = quad(seed=3)
    weights = [
        value_and_grads(lambda *a, n=n: losses.rdpo_length(*a, N_W + n, N_L), args, (0,))[1][0] for n in (0.0, 5.0)
    ]
    assert np.all(np.abs(weights[1]) < np.abs(weights[0]))


def test_the_sign_of_the_length_term_is_that_of_the_optimum_it_is_derived_from():
    """The policy that maximises E[r - alpha |y|] - beta KL has a margin equal to the difference of the true rewards."""
    beta, alpha = 0.3, 0.2
    rng = np.random.default_rng(0)
    reward, length = rng.normal(size=5), rng.integers(1, 20, 5).astype(float)
    reference = np.log(rng.dirichlet(np.ones(5)))
    best = reference + (reward - alpha * length) / beta
    best -= np.logaddexp.reduce(best)
    w, l = np.triu_indices(5, 1)  # noqa: E741
    args = [x.astype(np.float32) for x in (best[w], best[l], reference[w], reference[l], length[w], length[l])]
    got = losses.rdpo_length(*args, beta=beta, alpha=alpha)
    np.testing.assert_allclose(got, sp(-(reward[w] - reward[l])), rtol=1e-4)


def test_f_divergences_meet_at_their_ends():
    args = quad(seed=3)
    fdpo = jitted(losses.fdpo)
    near = fdpo(*args, divergence="alpha_divergence", alpha=1e-5)
    np.testing.assert_allclose(near, dpo(*args), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(fdpo(*args, divergence="reverse_kl"), dpo(*args), rtol=1e-6)
    np.testing.assert_allclose(
        fdpo(*args, divergence="alpha_divergence", alpha=1.0), fdpo(*args, divergence="forward_kl"), rtol=1e-6
    )


def test_trls_alpha_is_one_minus_the_papers():
    x, a = np.linspace(-3, 3, 7).astype(np.float32), 0.3
    theirs = (np.exp((a - 1) * x.astype(np.float64)) - 1) / (a - 1)
    np.testing.assert_allclose(deformed_log(x, 1 - a), theirs, rtol=1e-5, atol=1e-6)


def test_the_exponent_of_a_deformed_log_stops_before_it_overflows():
    value, (grad,) = value_and_grads(
        lambda x: deformed_log(x, 1.0), (np.array([-79.0, -81.0, -1e4], np.float32),), (0,)
    )
    assert np.all(np.isfinite(value))
    np.testing.assert_allclose(value[1:], -np.exp(LARGEST_EXPONENT), rtol=1e-4)
    assert grad[0] > 0
    np.testing.assert_array_equal(grad[1:], 0.0)


# --- where the optimum lies ---


@pytest.mark.parametrize("eps", [1e-3, 0.2])
def test_exo_is_zero_at_the_smoothed_labels_log_odds_and_grows_on_either_side(eps):
    best = np.log((1 - eps) / eps)
    value, grads = value_and_grads(
        lambda *a: losses.exo_pair(*a, beta=1.0, label_smoothing=eps), at_margin(best + np.array([-1, 0, 1])), (0,)
    )
    np.testing.assert_allclose(value[1], 0.0, atol=1e-6)
    assert value[0] > 1e-5
    assert value[2] > 1e-5
    assert grads[0][0] < 0 < grads[0][2]
    assert np.all(np.diff(dpo(*at_margin(best + np.array([-1, 0, 1])), beta=1.0)) < 0)  # DPO never turns


def test_ipo_stops_at_its_target_margin():
    tau = 0.25
    value, grads = value_and_grads(
        lambda *a: losses.ipo_sum(*a, beta=tau), at_margin(1 / (2 * tau) + np.array([-1, 0, 1])), (0,)
    )
    np.testing.assert_allclose(value, [1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(grads[0], [-2, 0, 2], atol=1e-6)


def test_nca_stops_raising_the_chosen_response_at_log_2():
    _, grads = value_and_grads(
        lambda *a: losses.nca_pair(*a, beta=1.0), at_margin(np.log(2) + np.array([-1, 0, 1])), (0, 1)
    )
    assert grads[0][0] < 0 < grads[0][2]
    np.testing.assert_allclose(grads[0][1], 0.0, atol=1e-6)
    assert np.all(grads[1] > 0)


def test_hinge_bounds_the_error_and_has_no_gradient_beyond_the_margin():
    h = np.array([-2.0, -1e-3, 0.5, 0.999, 1.001, 7.0])
    value, grads = value_and_grads(lambda *a: losses.hinge(*a, beta=1.0), at_margin(h), (0,))
    assert np.all(value >= (h < 0))
    np.testing.assert_array_equal(grads[0], -(h < 1).astype(np.float32))


def test_sppo_is_zero_where_both_log_ratios_meet_their_targets():
    target, zero = np.full(1, 1 / (2 * 0.1), np.float32), np.zeros(1, np.float32)
    np.testing.assert_allclose(losses.sppo_hard(target, -target, zero, zero, beta=0.1), 0.0, atol=1e-6)


def test_apo_pulls_in_the_directions_its_names_say():
    args = quad(seed=3)
    _, zero = value_and_grads(losses.apo_zero, args, (0, 1))
    assert np.all(zero[0] < 0)
    assert np.all(zero[1] > 0)
    assert np.abs(zero[0]).max() <= 0.1 / 4 + 1e-7
    p, q, *_ = args
    _, down = value_and_grads(losses.apo_down, (p, q, p, q), (0, 1))
    np.testing.assert_allclose(down[0], 0.0, atol=1e-8)
    np.testing.assert_allclose(down[1], 0.1 / 4, rtol=1e-6)
    _, later = value_and_grads(losses.apo_down, at_margin(40.0), (0, 1))
    # Once the pair is well ordered, both are pulled down; descent is along minus the gradient.
    assert later[0][0] > 0
    assert later[1][0] > 0


def test_bco_on_a_pair_costs_more_than_its_dpo():
    args = quad(seed=3)
    a, b = ratios(*args)
    pair = np.asarray(losses.bco_pair(*args, beta=0.2))
    np.testing.assert_allclose(pair, np.log(1 + np.exp(-0.2 * (a - b)) + np.exp(-0.2 * a) + np.exp(0.2 * b)), rtol=1e-5)
    assert np.all(pair > np.asarray(dpo(*args, beta=0.2)))


def test_discopop_is_dpo_far_on_the_wrong_side_and_exponential_on_the_right_one():
    h = np.array([-1e4, -50.0, -3.0, 3.0, 50.0, 1e4])
    value = np.asarray(losses.discopop(*at_margin(h), beta=1.0))
    np.testing.assert_allclose(value[:3], sp(-h[:3]), rtol=1e-6)
    np.testing.assert_allclose(value[3:], np.exp(-h[3:]), rtol=1e-5)


# --- the length-normalised family and LN-DPO ---


def test_members_are_the_family_with_their_settings():
    args = (*quad(seed=3), N_W, N_L)
    pairs = [
        (losses.ipo(*args, beta=0.3), family(*args, beta=0.3, relative=squared, margin=0.5, omega=1 / 0.3**2)),
        (losses.hinge_per_token(*args), family(*args, relative=hinged)),
        (losses.apo_zero_norm(*args), family(*args, relative=None, absolute=apo_zero_term)),
        (losses.apo_down_norm(*args), family(*args, relative=None, absolute=apo_down_term)),
    ]
    for got, expected in pairs:
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    # One formula with the two papers' defaults.
    np.testing.assert_array_equal(losses.lndpo(*args), losses.sigmoid_norm(*args, beta=2.0))
    np.testing.assert_array_equal(losses.lndpo(*args, beta=5.0), losses.sigmoid_norm(*args))


def test_equal_lengths_give_the_plain_losses_at_beta_over_the_length():
    args = quad(seed=3)
    lengths = (TEN, TEN)
    np.testing.assert_allclose(lndpo(*args, *lengths, beta=2.0), dpo(*args, beta=0.2), rtol=1e-5)
    plain = [losses.apo_zero(*args, beta=0.2) - 1, losses.apo_down(*args, beta=0.2) - 1, losses.hinge(*args, beta=0.2)]
    per_token = [
        getattr(losses, name)(*args, *lengths, beta=2.0)
        for name in ("apo_zero_norm", "apo_down_norm", "hinge_per_token")
    ]
    np.testing.assert_allclose(per_token, plain, rtol=1e-5, atol=1e-6)


def test_one_token_responses_need_no_normalisation():
    args = quad(seed=3)
    np.testing.assert_allclose(lndpo(*args, ONE, ONE, beta=0.2), dpo(*args, beta=0.2), rtol=1e-6)
    np.testing.assert_allclose(losses.ipo(*args, ONE, ONE, beta=0.2), losses.ipo_sum(*args, beta=0.2), rtol=1e-5)


def test_repeating_every_token_leaves_the_normalised_losses_and_multiplies_dpos_margin():
    args, k = quad(seed=3), 3
    many = tuple(k * a for a in args)
    for name in ("lndpo", "ipo", "apo_zero_norm", "apo_down_norm", "hinge_per_token"):
        once, again = (getattr(losses, name)(*a, *n) for a, n in ((args, (N_W, N_L)), (many, (k * N_W, k * N_L))))
        np.testing.assert_allclose(again, once, rtol=1e-4, atol=1e-5)
    a, b = ratios(*args)
    np.testing.assert_allclose(dpo(*many, beta=0.05), sp(-k * 0.05 * (a - b)), rtol=1e-5)


def test_without_a_reference_and_with_a_margin_it_is_simpo():
    pw, pl, *_ = quad(seed=3)
    zero = np.zeros_like(pw)
    got = family(pw, pl, zero, zero, N_W, N_L, beta=2.0, margin=0.7)
    np.testing.assert_allclose(got, losses.simpo(pw, pl, N_W, N_L, beta=2.0, gamma=0.7), rtol=1e-6)


def test_scaling_beta_by_a_pairs_length_undoes_the_normalisation():
    args, n = quad(seed=3), np.array([1, 4, 9, 2, 30, 7], np.float32)
    got = jax.jit(lambda beta: losses.lndpo(*args, n, n, beta=beta))(0.2 * n)
    np.testing.assert_allclose(got, dpo(*args, beta=0.2), rtol=1e-5)


def test_the_gradient_of_a_token_is_shared_out_over_its_response():
    """-beta sigmoid(-h) / |y_w| on every chosen token, and its opposite on the rejected ones; padding has none."""
    rng = np.random.default_rng(0)
    lengths = np.array([[3, 5], [1, 6], [4, 4]])
    masks = np.arange(6) < lengths[..., None]
    rho = np.where(masks, rng.normal(size=masks.shape), np.nan).astype(np.float32)
    n_w, n_l = lengths.T.astype(np.float32)
    zero = np.zeros(3, np.float32)

    def loss(chosen, rejected):
        sums = masked_sum(chosen, jnp.asarray(masks[:, 0])), masked_sum(rejected, jnp.asarray(masks[:, 1]))
        return losses.lndpo(*sums, zero, zero, n_w, n_l, beta=2.0)

    _, grads = value_and_grads(loss, (rho[:, 0], rho[:, 1]), (0, 1))
    total = np.nansum(rho.astype(np.float64), axis=-1)
    slope = 2.0 * sig(-2.0 * (total[:, 0] / n_w - total[:, 1] / n_l))
    np.testing.assert_allclose(grads[0], np.where(masks[:, 0], -(slope / n_w)[:, None], 0), rtol=1e-5)
    np.testing.assert_allclose(grads[1], np.where(masks[:, 1], (slope / n_l)[:, None], 0), rtol=1e-5)


def test_a_common_shift_per_token_moves_only_the_absolute_members():
    pw, pl, rw, rl = quad(seed=3)
    moved = (pw + 0.3 * N_W, pl + 0.3 * N_L, rw, rl)
    for name in ("lndpo", "ipo", "hinge_per_token", "apo_zero_norm", "apo_down_norm"):
        f = getattr(losses, name)
        change = np.abs(np.asarray(f(*moved, N_W, N_L) - f(pw, pl, rw, rl, N_W, N_L))).max()
        assert change > 1e-2 if name.startswith("apo") else change < 1e-4


# --- LD-DPO ---


def ragged():
    """Log-ratios of three pairs, left-aligned; the longer side is the chosen one, the rejected one, neither."""
    rng = np.random.default_rng(1)
    lengths = np.array([[6, 2], [3, 5], [4, 4]])
    masks = np.arange(6) < lengths[..., None]
    rho = np.where(masks, rng.normal(size=masks.shape), np.nan).astype(np.float32)
    return rho[:, 0], rho[:, 1], masks[:, 0], masks[:, 1], lengths


def test_lddpo_is_dpo_on_weighted_token_log_ratios():
    """Weight 1 up to the shorter response's length, alpha beyond it, 0 off the response."""
    chosen, rejected, on_w, on_l, lengths = ragged()
    alpha = 0.3
    shared = np.arange(6) < lengths.min(axis=1)[:, None]
    weigh = lambda x, on: np.nansum(np.where(on, np.where(shared, 1.0, alpha) * x, 0.0), axis=1)  # noqa: E731
    zero = np.zeros_like(chosen)
    got = losses.lddpo(chosen, rejected, zero, zero, on_w, on_l, beta=0.5, alpha=alpha)
    none = np.zeros(3, np.float32)
    sums = [weigh(x, on).astype(np.float32) for x, on in ((chosen, on_w), (rejected, on_l))]
    np.testing.assert_allclose(got, dpo(*sums, none, none, beta=0.5), rtol=1e-5)


def test_lddpo_changes_only_the_longer_response():
    chosen, rejected, on_w, on_l, lengths = ragged()
    zero = np.zeros_like(chosen)
    _, grads = value_and_grads(
        lambda *a: losses.lddpo(*a, zero, zero, on_w, on_l, beta=0.5, alpha=0.25), (chosen, rejected), (0, 1)
    )
    for pair, (n_w, n_l) in enumerate(lengths):
        slope = -grads[0][pair, 0]
        for grad, sign, n, other in ((grads[0], -1, n_w, n_l), (grads[1], 1, n_l, n_w)):
            expected = np.where(np.arange(6) < min(n, other), sign * slope, sign * 0.25 * slope)
            np.testing.assert_allclose(grad[pair, :n], expected[:n], rtol=1e-6)
            np.testing.assert_array_equal(grad[pair, n:], 0.0)


def test_the_end_of_the_longer_response_is_tail_and_that_of_the_shorter_one_is_not():
    chosen, rejected, on_w, on_l, lengths = ragged()
    zero = np.zeros_like(chosen)
    _, grads = value_and_grads(
        lambda *a: losses.lddpo(*a, zero, zero, on_w, on_l, alpha=0.25), (chosen, rejected), (0, 1)
    )
    last = np.stack([np.abs(g[np.arange(3), n - 1]) for g, n in zip(grads, lengths.T, strict=True)], axis=1)
    np.testing.assert_allclose(last[0], [0.25 * last[0, 1], last[0, 1]], rtol=1e-6)
    np.testing.assert_allclose(last[1], [last[1, 0], 0.25 * last[1, 0]], rtol=1e-6)
    np.testing.assert_allclose(last[2, 0], last[2, 1], rtol=1e-6)
