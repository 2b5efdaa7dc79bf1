"""SparsePO's loss, its mask network and MaPO's masks against float64 references."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import (
    check_against,
    check_bfloat16,
    check_vmap,
    numeric_gradient,
    sig,
    sp,
)

from jaxpo import losses
from jaxpo.losses.sparsepo import dropout
from jaxpo.models.heads import mask_table
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.spec import init_params

N, T = 5, 8
LENGTHS = ((1, 4), (6, 2), (3, 3), (8, 1), (5, 0))

HERE = np.ones(N, bool)


@jax.jit
def evaluate(args, beta, l1_reward, l1_kl, where):
    """Loss per pair and the gradients of its sum in REAL, one program for every setting."""

    def total(real):
        full = list(args)
        for i, x in zip(REAL, real, strict=True):
            full[i] = x
        loss = losses.sparsepo(*full, beta=beta, l1_reward=l1_reward, l1_kl=l1_kl, where=where)
        return jnp.sum(loss), loss

    grads, loss = jax.grad(total, has_aux=True)([jnp.asarray(args[i]) for i in REAL])
    return loss, dict(zip(REAL, grads, strict=True))


def sparsepo(*args, beta=0.1, l1_reward=1e-3, l1_kl=1e-3, where=HERE):
    loss, grads = evaluate(args, beta, l1_reward, l1_kl, where)
    return np.asarray(loss), {i: np.asarray(g) for i, g in grads.items()}


mapo_map = jax.jit(losses.mapo_map)
REAL = (0, 1, 2, 3, 4, 5, 8, 9, 10, 11)  # everything but the two response masks


@functools.cache
def pair(seed=0):
    """The twelve arguments: log-probs, KLs, response masks, reward and KL weights; NaN off the responses."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, N, T), bool)
    for i, lengths in enumerate(LENGTHS):
        for side, length in enumerate(lengths):
            start = rng.integers(0, T - length + 1)
            masks[side, i, start : start + length] = True
    draw = lambda k, x: np.where(masks[k % 2], x, np.nan).astype(np.float32)  # noqa: E731
    logps = [draw(k, -2.0 + rng.standard_normal((N, T))) for k in range(4)]
    kls = [draw(k, rng.gamma(1.0, 0.5, (N, T))) for k in range(2)]
    weights = [draw(k, rng.gamma(1.0, 0.8, (N, T))) for k in range(4)]
    return (*logps, *kls, *masks, *weights)


def rows(x, mask):
    return [np.asarray(a, np.float64)[m] for a, m in zip(x, mask, strict=True)]


def reference(beta, l1_reward, l1_kl):
    """Row by row over the valid tokens only, float64."""

    def loss(pw, pl, rw, rl, kw, kl, mw, ml, uw, ul, dw, dl):
        w = [rows(x, mw) for x in (pw, rw, kw, uw, dw)]
        v = [rows(x, ml) for x in (pl, rl, kl, ul, dl)]
        out = []
        for i in range(len(mw)):
            p, r, k, u, d = (x[i] for x in w)
            q, s, j, a, b = (x[i] for x in v)
            margin = np.sum(u * (p - r)) - np.sum(a * (q - s)) - (np.sum(b * j) - np.sum(d * k))
            norms = l1_reward * (np.abs(u).sum() + np.abs(a).sum()) + l1_kl * (np.abs(d).sum() + np.abs(b).sum())
            out.append(sp(-beta * margin) + norms)
        return np.array(out)

    return loss


def tdpo1(pw, pl, rw, rl, kw, kl, mw, ml):
    total = lambda x, m: np.array([r.sum() for r in rows(x, m)])  # noqa: E731
    delta = total(pw, mw) - total(rw, mw) - total(pl, ml) + total(rl, ml)
    return sp(-0.1 * (delta - (total(kl, ml) - total(kw, mw))))


def ones(args):
    return tuple(np.where(args[6 + k % 2], 1.0, np.nan).astype(np.float32) for k in range(4))


def test_value_and_gradient_with_a_path_through_both_kls():
    def loss(*a):
        return losses.sparsepo(*a, beta=0.7, l1_reward=0.05, l1_kl=0.02)

    args = pair()
    _, grads = check_against(loss, reference(0.7, 0.05, 0.02), args, REAL)
    # Closed form: g = -beta sigmoid(-beta (u - d)); dL/dP_w = g m^u, dL/dK_w = g m^d, dL/dm^u_w = g rho + l_u.
    free = reference(0.7, 0.0, 0.0)(*args)
    g = -0.7 * (1 - np.exp(-free))[:, None]
    mw = args[6]
    np.testing.assert_allclose(grads[0][mw], (g * args[8])[mw], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads[4][mw], (g * args[10])[mw], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads[6][mw], (g * (args[0] - args[2]) + 0.05)[mw], rtol=1e-4, atol=1e-6)
    for i, grad in zip(REAL, grads, strict=True):
        np.testing.assert_array_equal(grad[~args[6 + i % 2]], 0.0)
    check_bfloat16(loss, args, REAL)
    check_vmap(loss, args)


def test_all_masks_one_is_tdpo1_and_reward_masks_alone_are_dpo():
    args = pair()
    every = ones(args)
    value, grads = sparsepo(*args[:8], *every, l1_reward=0.0, l1_kl=0.0)
    np.testing.assert_allclose(value, tdpo1(*args[:8]), rtol=1e-5)
    for i in (0, 1, 4, 5):
        np.testing.assert_allclose(grads[i], numeric_gradient(tdpo1, args[:8], i), rtol=1e-4, atol=1e-6)
    none = tuple(0.0 * x for x in every[2:])
    p_w, p_l, r_w, r_l = (np.array([r.sum() for r in rows(args[k], args[6 + k % 2])]) for k in range(4))
    h = 0.5 * (p_w - r_w - p_l + r_l)
    value, grads = sparsepo(*args[:8], *every[:2], *none, beta=0.5, l1_reward=0.0, l1_kl=0.0)
    np.testing.assert_allclose(value, sp(-h), rtol=1e-5)
    slope = np.broadcast_to((-0.5 * sig(-h))[:, None], (N, T))
    np.testing.assert_allclose(grads[0][args[6]], slope[args[6]], rtol=1e-4)


def test_zero_masks_give_log_2_and_no_gradient_in_the_policy():
    args = pair()
    zero = tuple(0.0 * x for x in ones(args))
    value, grads = sparsepo(*args[:8], *zero)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert all(not grads[i].any() for i in (0, 1, 4, 5))


def test_a_common_mask_halves_both_l1_weights():
    args = pair()
    run = jax.jit(lambda a, l1_reward, l1_kl: losses.sparsepo(*a, beta=0.3, l1_reward=l1_reward, l1_kl=l1_kl))
    common = run(args[:10], 0.04, 0.04)
    independent, _ = sparsepo(*args[:10], args[8], args[9], beta=0.3, l1_reward=0.04, l1_kl=0.0)
    np.testing.assert_allclose(common, independent, rtol=1e-6)
    np.testing.assert_allclose(run(args[:10], 0.08, 0.0), common, rtol=1e-6)
    with pytest.raises(ValueError, match="both sides"):
        losses.sparsepo(*args[:10], args[8])


def test_absent_and_empty_rows_are_zero_whatever_they_hold():
    args = [np.array(a) for a in pair(1)]
    args[6][2], args[7][2] = False, False
    where = np.array([True, False, True, True, False])
    for i in REAL:
        args[i][1], args[i][4] = np.nan, np.inf
    value, grads = sparsepo(*args, where=where)
    np.testing.assert_array_equal(value[[1, 2, 4]], 0.0)
    for grad in grads.values():
        np.testing.assert_array_equal(grad[[1, 2, 4]], 0.0)
        assert np.all(np.isfinite(grad))
    kept = [np.asarray(a)[[0, 3]] for a in args]
    np.testing.assert_allclose(value[[0, 3]], reference(0.1, 1e-3, 1e-3)(*kept), rtol=1e-5)


def test_finite_at_extremes():
    args = [np.where(np.isnan(a), 0.0, a).astype(a.dtype) for a in pair()]
    args[0], args[1] = args[0] * 0 + 1e4, args[1] * 0 - 1e4
    args[4], args[5] = args[4] * 0 + 1e4, args[5] * 0 + 1e4
    values = []
    for order in (range(12), (1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)):
        value, grads = sparsepo(*(args[i] for i in order), beta=1.0)
        assert np.all(np.isfinite(value))
        assert all(np.all(np.isfinite(g)) for g in grads.values())
        values.append(value)
    assert values[1].max() > 1e4 > values[0].max()


# --- mask network ---

CONFIG = LFM2Config(
    vocab_size=8,
    hidden_size=4,
    intermediate_size=4,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=4,
    layer_types=("conv", "conv", "conv"),
)


def network(heads="all_layers"):
    drawn = init_params(mask_table(CONFIG, heads=heads), jax.random.key(0))["reward"]
    # Random norms and mixer too: at their initial values a test could not tell them apart from nothing.
    leaves, treedef = jax.tree.flatten(drawn)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    p = jax.tree.unflatten(treedef, noisy)
    return p | {"mixer": {"weight": jnp.array([0.9, -1.1, 0.4])}} if "mixer" in p else p


@jax.jit
def mask_and_gradient(p, hidden):
    """The mask, and the gradient of its sum in the parameters and in the hidden states."""

    def total(p, hidden):
        mask = losses.mask_network(p, hidden)
        return mask.sum(), mask

    grads, mask = jax.grad(total, (0, 1), has_aux=True)(p, hidden)
    return mask, grads


def network_reference(p, hidden):
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
    z = []
    for i, h in enumerate(np.asarray(hidden, np.float64)):
        if "norm" in p:
            h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
            h = h * p["norm"]["weight"] + p["norm"]["bias"]
        head = p["layers"][str(i)]
        if "hidden" in head:
            h = h @ head["hidden"]["weight"] + head["hidden"]["bias"]
        z.append(np.maximum(h @ head["weight"][:, 0] + head["bias"][0], 0))
    if "mixer" not in p:
        return z[0]
    return np.maximum(sum(c * x for c, x in zip(p["mixer"]["weight"], z, strict=True)), 0)


@pytest.mark.parametrize("heads", ["all_layers", "last_layer", "two_layer"])
def test_mask_network(heads):
    p = network(heads)
    hidden = np.random.default_rng(3).standard_normal((1 if heads == "last_layer" else 3, 2, 6, 4)).astype(np.float32)
    mask, (grad, to_reference) = mask_and_gradient(p, hidden)
    expected = network_reference(p, hidden)
    np.testing.assert_allclose(mask, expected, rtol=1e-5, atol=1e-6)
    assert 0 < np.mean(np.asarray(mask) == 0) < 1
    assert not np.any(to_reference)  # the frozen reference gets no gradient
    leaf = grad["layers"]["0"]["weight"]
    for i in (0, 3):
        up, down = (jax.tree.map(np.array, p) for _ in range(2))
        up["layers"]["0"]["weight"][i, 0] += 1e-3
        down["layers"]["0"]["weight"][i, 0] -= 1e-3
        slope = (network_reference(up, hidden).sum() - network_reference(down, hidden).sum()) / 2e-3
        np.testing.assert_allclose(leaf[i, 0], slope, rtol=2e-2, atol=2e-3)


def test_very_negative_heads_give_an_exactly_zero_mask_and_a_dead_gradient():
    p = network()
    for layer in p["layers"].values():
        layer["bias"] = layer["bias"] - 50.0
    hidden = np.random.default_rng(0).standard_normal((3, 2, 6, 4)).astype(np.float32)
    mask, grads = mask_and_gradient(p, hidden)
    np.testing.assert_array_equal(mask, 0.0)
    assert all(not np.any(g) for g in jax.tree.leaves(grads))


def test_dropout_keeps_the_mean_and_gives_exact_zeros():
    u = (np.arange(1000) + 0.5).astype(np.float32) / 1000
    dropped = np.asarray(dropout(jnp.ones(1000), u, 0.25))
    assert (dropped == 0).mean() == 0.25
    np.testing.assert_allclose(dropped.mean(), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(dropout(u, u, 0.0), u)


# --- MaPO ---


def activations(seed=0):
    rng = np.random.default_rng(seed)
    mask = np.zeros((4, T), bool)
    for i, (start, length) in enumerate([(0, 8), (2, 4), (5, 1), (0, 0)]):
        mask[i, start : start + length] = True
    return np.where(mask, rng.standard_normal((4, T)), np.nan).astype(np.float32), mask


def test_mapo_map_is_min_max_over_the_response_as_after_z_normalisation():
    x, mask = activations()
    got = np.asarray(mapo_map(x, mask))
    for row, m, value in zip(got, mask, x.astype(np.float64), strict=True):
        np.testing.assert_array_equal(row[~m], 0.0)
        on = value[m]
        if len(on) > 1:
            z = (on - on.mean()) / on.std(ddof=1)
            np.testing.assert_allclose(row[m], (z - z.min()) / (z.max() - z.min()), atol=1e-5)
            np.testing.assert_allclose((row[m].min(), row[m].max()), (0.0, 1.0), atol=1e-6)
    np.testing.assert_allclose(mapo_map(3.0 * x + 7.0, mask), got, atol=1e-5)  # positive affine changes


def test_mapo_of_constant_one_token_and_empty_responses():
    x, mask = activations()
    assert np.asarray(mapo_map(x, mask))[2, 5] == 1.0
    flat = np.asarray(mapo_map(np.where(mask, 2.5, np.nan), mask))
    np.testing.assert_array_equal(flat, mask.astype(np.float32))
    extreme = mapo_map(np.where(mask, 1e4 * x, np.nan), mask)
    assert np.all(np.isfinite(extreme))
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda a: mapo_map(a, mask).sum()))(x), 0.0)


def test_mapo_mask_averages_in_and_over_families():
    maps, mask = zip(*(activations(seed) for seed in range(3)), strict=True)
    got = jax.jit(losses.mapo_mask)({"mixer": maps[:2], "residual": maps[2:]}, mask[0])
    one = [np.asarray(mapo_map(x, mask[0])) for x in maps]
    np.testing.assert_allclose(got, ((one[0] + one[1]) / 2 + one[2]) / 2, rtol=1e-5, atol=1e-7)
    assert np.all((np.asarray(got) >= 0) & (np.asarray(got) <= 1))
