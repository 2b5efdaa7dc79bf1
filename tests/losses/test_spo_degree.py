"""SPO's degree loss, keep masks and pooling against float64 references."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, check_bfloat16, check_extreme, check_vmap, jitted, sp, value_and_grads

from jaxpo import losses
from jaxpo.losses.spo_degree import pool_levels

N, K = 5, 4
spo_degree = jitted(losses.spo_degree)
degree_loss = jitted(losses.degree_loss)
keep_masks = jitted(losses.keep_masks)
degree_logits = jax.jit(losses.degree_logits)
HAS = (np.array([True, True, False, True, False]), np.array([True, False, True, True, False]))


def degree_reference(logits, has):
    out = []
    for x, yes in zip(np.asarray(logits, np.float64), has, strict=True):
        total = sum(np.logaddexp.reduce(x[k]) - x[k, k] for k in range(len(x)))
        out.append(total / len(x) if yes else 0.0)
    return np.array(out)


@functools.cache
def args(seed=0):
    rng = np.random.default_rng(seed)
    base = sp(rng.standard_normal(N)).astype(np.float32)
    return (base, *(2 * rng.standard_normal((N, K, K)).astype(np.float32) for _ in range(2)))


def test_value_and_gradient():
    def reference(base, w, v, has_w, has_v):
        return np.asarray(base, np.float64) + 0.35 * (degree_reference(w, has_w) + degree_reference(v, has_v))

    def loss(*a):
        return spo_degree(*a, gamma=0.7)

    _, grads = check_against(loss, reference, (*args(), *HAS), (0, 1, 2))
    # Closed form: gamma / (2 K) (softmax - one-hot) on rows that have a key phrase.
    soft = np.asarray(jax.nn.softmax(args()[1], axis=-1)) - np.eye(K)
    np.testing.assert_allclose(grads[1], 0.35 / K * soft * HAS[0][:, None, None], rtol=1e-4, atol=1e-6)
    check_bfloat16(loss, (*args(), *HAS), (0, 1, 2))
    check_vmap(loss, (*args(), *HAS))


def test_gamma_zero_is_the_base_loss_and_labels_are_not_used():
    base, w, v = args()
    np.testing.assert_array_equal(spo_degree(base, w, v, *HAS, gamma=0.0), base)
    np.testing.assert_allclose(
        spo_degree(base, w, v, *HAS, gamma=0.3), spo_degree(base, v, w, *HAS[::-1], gamma=0.3), rtol=1e-6
    )


def test_a_zero_head_gives_log_k_and_a_perfect_head_zero():
    np.testing.assert_allclose(degree_loss(np.zeros((2, K, K), np.float32)), np.log(K), rtol=1e-6)
    np.testing.assert_allclose(degree_loss(100.0 * np.eye(K, dtype=np.float32)[None]), 0.0, atol=1e-6)
    assert degree_loss(-100.0 * np.eye(K, dtype=np.float32)[None])[0] > 90


def test_absent_rows_hold_anything_and_extremes_stay_finite():
    base, w, v = (np.array(a) for a in args())
    where = np.array([True, True, False, True, True])
    base[2], w[2], v[2] = np.nan, np.inf, np.nan
    w[4], v[4] = np.nan, np.nan  # no phrase on either side
    value, grads = value_and_grads(lambda *a: spo_degree(*a, *HAS, where=where), (base, w, v), (0, 1, 2))
    np.testing.assert_array_equal(value[[2, 4]], [0.0, base[4]])
    assert all(np.all(np.isfinite(g)) and not g[2].any() for g in grads)
    assert not grads[1][4].any()
    big = 1e4 * np.sign(args()[1])
    check_extreme(lambda *a: spo_degree(*a, *HAS), (args()[0], big, -big), (0, 1, 2))


# --- levels ---


def ranked():
    """Ranks and masks; row 0 has three phrases (rank 2 on two tokens), row 1 five, rows 2 and 3 none, 3 is empty."""
    mask = np.ones((4, 7), bool)
    mask[0, 6], mask[3] = False, False
    rank = np.array([[0, 2, 2, 0, 1, 3, 9], [5, 4, 3, 2, 1, 0, 0], [0] * 7, [1] * 7], np.int32)
    return rank, mask


@pytest.mark.parametrize("levels", [2, 4, 5])
def test_keep_masks_are_nested_and_run_from_everything_to_no_key_phrase(levels):
    rank, mask = ranked()
    kept = np.asarray(keep_masks(rank, mask, levels=levels))
    assert kept.shape == (4, levels, 7)
    np.testing.assert_array_equal(kept[:, 0], mask)
    assert np.all(kept[:, 1:] <= kept[:, :-1])
    np.testing.assert_array_equal(kept[:, -1], mask & (rank == 0))
    np.testing.assert_array_equal(kept[2], np.broadcast_to(mask[2], (levels, 7)))
    for row, n in ((0, 3), (1, 5)):
        for k in range(levels):
            removed = int(np.floor(k * n / (levels - 1) + 0.5))
            gone = set(rank[row][mask[row] & ~kept[row, k]])
            assert gone == set(range(1, removed + 1))


def test_pooling_is_the_mean_of_kept_states_and_zero_where_nothing_is_kept():
    rng = np.random.default_rng(0)
    rank, mask = ranked()
    rank[1] = [1, 2, 3, 4, 5, 6, 7]  # every token a key phrase: level 3 keeps nothing
    kept = np.asarray(keep_masks(rank, mask, levels=K))
    hidden = np.where(mask[..., None], rng.standard_normal((4, 7, 3)), np.nan).astype(np.float32)
    pooled = np.asarray(jax.jit(pool_levels)(hidden, kept))
    for i, k in np.ndindex(4, K):
        on = hidden[i].astype(np.float64)[kept[i, k]]
        np.testing.assert_allclose(pooled[i, k], on.mean(0) if len(on) else np.zeros(3), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(pooled[1, -1], 0.0)
    weight, bias = rng.standard_normal((3, K)).astype(np.float32), rng.standard_normal(K).astype(np.float32)
    np.testing.assert_allclose(degree_logits(hidden, kept, weight, bias), pooled @ weight + bias, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda h: degree_loss(degree_logits(h, kept, weight, bias)).sum())(hidden)
    assert np.all(np.isfinite(gradient))
    assert not np.asarray(gradient)[~mask].any()
    assert np.all(np.abs(np.asarray(gradient)[0][mask[0]]).sum(-1) > 0)  # the policy learns through f_k


def test_a_zero_head_passes_no_gradient_to_the_policy_but_learns():
    rank, mask = ranked()
    kept = keep_masks(rank, mask, levels=K)
    hidden = jnp.asarray(np.random.default_rng(0).standard_normal((4, 7, 3)), jnp.float32)
    loss = lambda h, w: degree_loss(degree_logits(h, kept, w, jnp.zeros(K))).sum()  # noqa: E731
    to_policy, to_head = jax.grad(loss, (0, 1))(hidden, jnp.zeros((3, K)))
    assert not np.any(to_policy)
    assert np.any(to_head)


def test_one_token_responses():
    kept = np.asarray(keep_masks(np.array([[1], [0]], np.int32), np.ones((2, 1), bool), levels=K))
    np.testing.assert_array_equal(kept[:, :, 0], [[True, True, False, False], [True] * 4])
