"""PPD's loss, Diffusion-NPO's and Diffusion-KTO's against float64."""

import functools

import jax
import numpy as np
from losses.loss_checks import sig, value_and_grads

from jaxpo import losses

RNG = np.random.default_rng(0)
N = 6
ERRORS = tuple((0.02 + 0.001 * RNG.standard_normal(N)).astype(np.float32) for _ in range(4))
LABEL = np.array([True, False, True, True, False, False])


def test_one_user_is_diffusion_dpo():
    weights = np.abs(RNG.standard_normal(N)).astype(np.float32)
    np.testing.assert_array_equal(losses.ppd(*ERRORS), losses.diffusion_dpo(*ERRORS, beta=2000.0))
    np.testing.assert_array_equal(
        losses.ppd(*ERRORS, weights, beta=900.0), losses.diffusion_dpo(*ERRORS, weights, beta=900.0)
    )
    e_w, e_l, _, _ = ERRORS
    np.testing.assert_array_equal(losses.ppd(e_w, e_l, e_w, e_l), np.float32(np.log(2.0)))


def test_opposed_users_cost_a_blind_model_log_2_and_not_one_that_sees_them():
    e_w, e_l, r_w, r_l = ERRORS
    # The same errors, whoever asks, and once each way round.
    blind = 0.5 * (losses.ppd(e_w, e_l, r_w, r_l) + losses.ppd(e_l, e_w, r_l, r_w))
    assert np.all(blind >= np.log(2.0) - 1e-6)
    low, high = np.full(N, 0.01, np.float32), np.full(N, 0.03, np.float32)
    seeing = 0.5 * (losses.ppd(low, high, r_w, r_l) + losses.ppd(low, high, r_l, r_w))
    assert np.all(seeing < 0.01)


def test_npo_is_dpo_the_other_way_round():
    e_w, e_l, r_w, r_l = ERRORS
    np.testing.assert_array_equal(losses.diffusion_npo(*ERRORS), losses.diffusion_dpo(e_l, e_w, r_l, r_w, beta=1000.0))
    at = (e_w, e_l, e_w, e_l)
    _, npo = value_and_grads(losses.diffusion_npo, at, (0, 1))
    _, dpo = value_and_grads(functools.partial(losses.diffusion_dpo, beta=1000.0), at, (0, 1))
    np.testing.assert_allclose(npo, [-g for g in dpo])


def kto_reference(e, r, label, z, *, scale, good=1.0, bad=1.0):
    u = scale * ((r - e) - z)
    return np.where(label, good * (1 - sig(u)), bad * sig(u))


def test_kto_on_single_images():
    e, r = ERRORS[0].astype(np.float64), ERRORS[2].astype(np.float64)
    z = 4e-4
    loss = functools.partial(losses.diffusion_kto, kl=z, beta=2000.0, desirable_weight=1.3, undesirable_weight=0.8)
    value, (slope,) = value_and_grads(lambda e, r: loss(e, r, LABEL), (ERRORS[0], ERRORS[2]), (0,))
    reference = functools.partial(kto_reference, r=r, label=LABEL, z=z, scale=1000.0, good=1.3, bad=0.8)
    np.testing.assert_allclose(value, reference(e), rtol=1e-4)
    np.testing.assert_allclose(slope, (reference(e + 1e-9) - reference(e - 1e-9)) / 2e-9, rtol=1e-3)
    assert np.all(np.sign(slope) == np.where(LABEL, 1, -1))  # a good image's error falls
    at = losses.diffusion_kto(ERRORS[0], ERRORS[0], LABEL, 0.0)
    np.testing.assert_allclose(at, 0.5)


def test_ktos_reference_point_is_the_mean_improvement_of_the_step_and_never_below_0():
    e, r = ERRORS[0], ERRORS[0] + np.float32([1, 2, 3, 4, 5, 9]) * 1e-3
    np.testing.assert_allclose(losses.diffusion_kto_kl(e, r), 4e-3, rtol=1e-4)
    assert losses.diffusion_kto_kl(r, e) == 0
    where = np.array([True, True, False, False, False, False])
    absent = np.where(where, e, np.nan)
    np.testing.assert_allclose(losses.diffusion_kto_kl(absent, r, where=where), 1.5e-3, rtol=1e-4)
    assert np.all(jax.grad(losses.diffusion_kto_kl)(e, r) == 0)
