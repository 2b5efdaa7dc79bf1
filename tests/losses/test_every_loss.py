"""What every pure loss of the catalogue must bear, in one table: absent rows, extremes, low precision, vmap.

Values and gradients against float64 references are in the file of each loss; a method without a line here fails.
"""

import functools
import typing
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import logps

from jaxpo import losses
from jaxpo.objectives.methods import METHODS

N, K, T = 4, 3, 5
RNG = np.random.default_rng(0)
N_W, N_L = np.float32([1, 4, 2, 7]), np.float32([1, 1, 5, 3])  # the first pair has one token on either side
GOOD = np.array([True, False, False, True])
TOKENS_W = np.arange(T) < np.array([1, 5, 3, 2])[:, None]
TOKENS_L = np.arange(T) < np.array([1, 2, 3, 4])[:, None]
PHRASES = np.tile(np.int32([1, 0, 2, 1, 0]), (N, 1))
PARTS_W, PARTS_L = np.tile(np.float32([2, 1, 0, 0, 0, 0, 3, 4]), (N, 1)), np.tile(np.float32([1, 0] * 4), (N, 1))
V, TOP = 7, np.tile(np.int32([4, 0, 2]), (N, 1))
LISTED = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1]], bool)


class Case(NamedTuple):
    """`loss(where, *args)` with a mask over the N rows; the first `free` of the arrays are differentiated."""

    loss: Callable
    args: tuple
    free: int


def total(terms):
    """One array per row of what may be several terms."""
    return sum(terms) if isinstance(terms, tuple) else terms


def rows(name, *args, free, **settings):
    """A loss that takes its arrays in order and the mask as `where`."""
    function = functools.partial(getattr(losses, name), **settings)
    return Case(lambda where, *a: total(function(*a, where=where)), args, free)


def lists(name, *args, free, last=()):
    """A loss over the responses of a list, whose mask stands after its arrays."""
    function = getattr(losses, name)
    return Case(lambda where, *a: total(function(*a, LISTED & where[:, None], *last)), args, free)


def referenced(name, *more, **settings):
    return rows(name, *(logps(RNG, N) for _ in range(4)), *more, free=4, **settings)


def reference_free(name, *more, **settings):
    return rows(name, *(logps(RNG, N) for _ in range(2)), *more, free=2, **settings)


def tokens(name, *more, extra=0, **settings):
    """Four per-token log-probs, further differentiable arrays, then masks and labels."""
    values = [logps(RNG, (N, T), scale=1.0, mean=-2.0) for _ in range(4)]
    values += [np.abs(logps(RNG, (N, T), scale=1.0, mean=0.5)) for _ in range(extra)]
    return rows(name, *values, *more, free=4 + extra, **settings)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def errors(count):
    """Squared errors of images, means over dimensions."""
    return [1e-3 * np.abs(normal(N)) for _ in range(count)]


DIRECTION = np.float32([0.6, 0.8, 0, 0, 0, 0, 0, 0])
CASES = {
    "denoising": rows("denoising", *errors(1), np.float32([0.9, 0.5, 0.1, 0.01]), free=1, snr_limit=5.0),
    **{
        name: rows(name, *errors(4), free=2)
        for name in ("diffusion_dpo", "diffusion_npo", "inpo_ddim", "ppd")
    },
    "smpo_diffusion": rows("smpo_diffusion", *errors(4), np.abs(normal(N)), np.abs(normal(N)), free=2),
    "diffusion_kto": Case(
        lambda where, e, r, label: losses.diffusion_kto(e, r, label, 1e-4, where=where), (*errors(2), GOOD), 1
    ),
    "self_npo": rows("self_npo", normal(N, T), normal(N, T), free=1),
    "denscore": rows("denscore", normal(N), normal(N), free=2),
    "longalign": Case(
        lambda where, g, t: losses.longalign(g, t, DIRECTION, where=where), (normal(N, 8), normal(N, 8)), 1
    ),
    **{
        name: referenced(name)
        for name in ("dpo", "ipo_sum", "hinge", "dpop", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero",
                     "apo_down", "discopop", "fdpo", "rdpo_robust", "dpo3d", "dpo_gamma", "rso", "aot", "aot_unpaired")
    },
    **{
        name: referenced(name, N_W, N_L)
        for name in ("ipo", "rdpo_length", "lndpo", "sigmoid_norm", "apo_zero_norm", "apo_down_norm",
                     "hinge_per_token", "length_normalized")
    },
    **{name: reference_free(name, N_W, N_L) for name in ("simpo", "alphapo", "orpo")},
    "cpo": reference_free("cpo"),
    "sft": rows("sft", logps(RNG, N), free=1),
    "slic": rows("slic", *(logps(RNG, N) for _ in range(3)), free=3),
    "rpo": referenced("rpo", N_W),
    "tdpo1": referenced("tdpo1", np.abs(normal(N)), np.abs(normal(N))),
    "tdpo2": referenced("tdpo2", np.abs(normal(N)), np.abs(normal(N))),
    "fspo": referenced("fspo"),
    "modpo": referenced("modpo", normal(N, 1), normal(N, 1)),
    "themis": rows("themis", normal(N), normal(N), -np.abs(normal(N, 8)), -np.abs(normal(N, 8)), PARTS_W, PARTS_L,
                   free=4),
    "pro_orchestrator": rows("pro_orchestrator", normal(N, K), np.tile(np.float32([0.2, 0, 0.8]), (N, 1)), free=1),
    "rationales": referenced("rationales", N_W, N_L, logps(RNG, N), N_L),
    "tpo_triple": rows("tpo_triple", *(logps(RNG, N) for _ in range(3)), N_W, N_L, free=3),
    "mapl": rows("mapl", normal(N), normal(N), normal(N, 2), normal(N, 2), normal(N), normal(N),
                 np.float32([1, -1, 1, -1]), free=6),
    "lcpo": Case(lambda where, s, eta: losses.lcpo(s, eta, where=where)[0],
                 (normal(N), np.float32([0.9, 0.6, 0.3, 0.8])), 1),
    "bradley_terry": rows("bradley_terry", normal(N), normal(N), normal(N), free=3),
    **{name: rows(name, normal(N), normal(N), GOOD, free=2) for name in ("rao_kupper", "davidson")},
    "simcse": rows("simcse", normal(N, T), normal(N, T), free=2),
    "reward_difference": lists("reward_difference", normal(N, K), free=1),
    "outcome_reward": rows("outcome_reward", normal(N), GOOD.astype(np.float32), free=1),
    "process_reward": lists("process_reward", normal(N, K), np.tile(np.float32([1, 0, 0.3]), (N, 1)), free=1),
    "token_classification": Case(
        lambda where, z: losses.token_classification(z, np.arange(N * K).reshape(N, K) % 3,
                                                     where[:, None] & np.ones((N, K), bool)),
        (normal(N, K, 3),), 1),
    "rating": lists("rating", normal(N, K), RNG.random((N, K)).astype(np.float32), free=1),
    "gpm": rows("gpm", normal(N, 4), normal(N, 4), free=2, temperature=1.0),
    "gpo": rows("gpo", logps(RNG, N), logps(RNG, N), normal(N), free=1, beta=0.05),
    "pal": rows("pal", normal(N, T), normal(N, T), np.full((N, T), 1.0 / T, np.float32), free=2),
    "micro": rows("micro", normal(N, K), normal(N, K), normal(N, K), free=3),
    "micro_distil": rows("micro_distil", normal(N, K), np.full((N, K), 1.0 / K, np.float32), free=1),
    "maxmin_rlhf": Case(
        lambda where, c, r: losses.maxmin_rlhf(c, r, np.full((N, K), 1.0 / K, np.float32), where=where).sum(-1),
        (normal(N, K), normal(N, K)), 2),
    "info_nce": lists("info_nce", normal(N, K), free=1),
    **{name: lists(name, normal(N, K), RNG.random((N, K)).astype(np.float32), free=1)
       for name in ("margin_mse", "cosent")},
    "colbert_distillation": Case(
        lambda where, s, t: losses.colbert_distillation(s, t, LISTED & where[:, None], normalize=False),
        (normal(N, K), RNG.random((N, K)).astype(np.float32)), 1),
    "list_mle": lists("list_mle", normal(N, K), RNG.random((N, K)).astype(np.float32), free=1),
    "lddpo": tokens("lddpo", TOKENS_W, TOKENS_L),
    "dove": tokens("dove", TOKENS_W, TOKENS_L, ~TOKENS_W, ~TOKENS_L),
    "rrpo": tokens("rrpo", TOKENS_W, TOKENS_L, PHRASES, PHRASES, extra=1),
    "sparsepo": Case(
        lambda where, *a: losses.sparsepo(*a[:6], TOKENS_W, TOKENS_L, *a[6:], where=where),
        (*(logps(RNG, (N, T), scale=1.0, mean=-2.0) for _ in range(4)), *(np.abs(normal(N, T)) for _ in range(6))), 10,
    ),
    "spo_degree": rows("spo_degree", np.abs(normal(N)), normal(N, K, K), normal(N, K, K), GOOD, ~GOOD, free=3),
    "kto": Case(lambda where, p, r: losses.kto(p, r, GOOD, 0.7, where=where), (logps(RNG, N), logps(RNG, N)), 2),
    "apo_zero_unpaired": rows("apo_zero_unpaired", logps(RNG, N), logps(RNG, N), GOOD, free=2),
    "bco": Case(lambda where, p, r, w: losses.bco(p, r, GOOD, 0.3, weight=w, where=where),
                (logps(RNG, N), logps(RNG, N), np.float32([1, 0.5, 9, 1])), 2),
    "sppo_soft": rows("sppo_soft", logps(RNG, N), logps(RNG, N), np.float32([1, 0, 0.5, 0.2]), free=2, beta=0.05),
    "implicit_reward": rows("implicit_reward", logps(RNG, N), logps(RNG, N), N_W, normal(N), free=2),
    **{
        name: lists(name, logps(RNG, (N, K)), logps(RNG, (N, K)), RNG.random((N, K)).astype(np.float32), free=2)
        for name in ("infonca", "nca", "exo_rw", "lipo")
    },
    "irpo_ranking": lists("irpo_ranking", logps(RNG, (N, K)), logps(RNG, (N, K)), np.tile(N_W[:K], (N, 1)),
                          np.tile(np.float32([2, 0, 1]), (N, 1)), np.tile(np.int32([1, 3, 2]), (N, 1)), free=2),
    "pro_ranking": lists("pro_ranking", logps(RNG, (N, K)), np.tile(N_W[:K], (N, 1)),
                         np.tile(np.float32([2, 1.5, 0]), (N, 1)), free=1),
    "tpo_tree": lists("tpo_tree", normal(N, K, 2), np.ones((N, K, 2), np.float32), np.abs(normal(N, K, 2)),
                      RNG.random((N, K)).astype(np.float32), free=1),
    **{name: rows(name, normal(N, V), normal(N, V), free=2)
       for name in ("forward_kl", "reverse_kl", "generalized_jsd")},
    **{name: rows(name, normal(N, V), normal(N, K), 1 + np.abs(normal(N)), TOP, free=3)
       for name in ("decoupled_topk_kd", "bucket_topk_kl")},
    "ppo": Case(lambda where, p, o, a, mask: losses.ppo(p, o, a, mask, where=where).sum(-1),
                (*(logps(RNG, (N, T), scale=1.0, mean=-2.0) for _ in range(2)), normal(N, T), TOKENS_W), 1),
    "dler": Case(lambda where, p, o, r, a, mask: losses.dler(p, o, r, a, mask, where=where).sum(-1),
                 (*(logps(RNG, (N, T), scale=1.0, mean=-2.0) for _ in range(3)), normal(N, T), TOKENS_W), 1),
    "drpo": rows("drpo", logps(RNG, N), np.float32([1, 0, 1, 0]), N_W, np.int32([0, 1, 0, 0]), free=1),
    "hapo_rewards": rows("hapo_rewards", N_L, GOOD, np.float32([3, 2, 4, 9]), free=1),
    "orion_rewards": Case(
        lambda where, n, right: losses.orion_rewards(n, right, where=where[:, None] & LISTED).sum(-1),
        (np.abs(normal(N, K)), LISTED), 1),
    "rloo": rows("rloo", logps(RNG, (N, T), scale=0.1, mean=-2.0), logps(RNG, (N, T), scale=0.1, mean=-2.0),
                 -np.abs(normal(N)), TOKENS_W, free=1),
    "grpo": Case(lambda where, p, o, a, mask: losses.grpo(p, o, a, mask, where=where).sum(-1),
                 (*(logps(RNG, (N, T), scale=1.0, mean=-2.0) for _ in range(2)), normal(N, T), TOKENS_W), 1),
    "truncated_topk_kl": rows("truncated_topk_kl", normal(N, V), normal(N, K), TOP, free=2),
    **{name: rows(name, *(logps(RNG, N) for _ in range(4)), GOOD, free=2) for name in ("online_dpo", "xpo")},
    "inpo": rows("inpo", *(logps(RNG, N) for _ in range(6)), free=6, eta=0.5),
    "hypo": rows("hypo", logps(RNG, N), normal(N), free=1),
    "upo": referenced("upo", np.float32([0.1, 0.0, 0.5, 0.3]), N_W),
    "mcts_dpo": tokens("mcts_dpo", TOKENS_W, TOKENS_L, np.float32([0.1, 0.0, 0.5, 0.3]), length_power=0.5),
    "vpo": rows("vpo", *(logps(RNG, N) for _ in range(6)), free=6),
    "nash_md": rows("nash_md", *(logps(RNG, (N, T), scale=1.0, mean=-2.0) for _ in range(2)),
                    np.float32([0.2, 0.5, 0.9, 0.7]), TOKENS_W, free=1),
    "minillm_advantages": Case(
        lambda where, p, t, mask: losses.minillm_advantages(p, t, mask & where[:, None]).sum(-1),
        (*(logps(RNG, (N, T), scale=1.0, mean=-2.0) for _ in range(2)), TOKENS_W), 2),
}  # fmt: skip

# Settings that name a variant; every other string must be refused, not taken for one of them.
NAMED = [
    ("denoising", "parameterisation"), ("fdpo", "divergence"), ("gpm", "form"), ("grpo", "importance_sampling_level"),
    ("implicit_reward", "divergence"), ("implicit_reward", "reduction"),
    ("fspo", "form"), ("hapo_rewards", "form"), ("irpo_ranking", "weighting"), ("mcts_dpo", "form"),
    ("modpo", "form"), ("online_dpo", "loss_type"), ("pal", "form"),
    ("rating", "form"), ("xpo", "loss_type"),
    ("rationales", "base"),
    ("rationales", "form"),
    ("rpo", "variant"), ("self_npo", "form"), ("themis", "normalisation"),
    ("tpo_tree", "pooling"), ("tpo_triple", "variant"),
    ("vpo", "form"),
]  # fmt: skip

EVERYONE, NOBODY, SOME = np.ones(N, bool), np.zeros(N, bool), np.array([True, False, True, True])
BY_RANK = ("aot", "aot_unpaired")


class Answer(NamedTuple):
    value: np.ndarray
    grads: list
    half: np.ndarray
    rounded: np.ndarray
    mapped: np.ndarray


@functools.cache
def program(name):
    """Everything that is asked of a loss, as one compiled function of the mask and its arrays."""
    case = CASES[name]

    def run(where, *args):
        free, fixed = args[: case.free], args[case.free :]

        def summed(*a):
            value = case.loss(where, *a, *fixed)
            return jnp.sum(value), value

        grads, value = jax.grad(summed, argnums=tuple(range(case.free)), has_aux=True)(*free)
        half = [x.astype(jnp.bfloat16) for x in free]
        stacked = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), free)
        return Answer(
            value,
            list(grads),
            case.loss(where, *half, *fixed),
            case.loss(where, *(x.astype(jnp.float32) for x in half), *fixed),
            jax.vmap(lambda *a: case.loss(where, *a, *fixed))(*stacked),
        )

    compiled = jax.jit(run)
    return lambda where, args: jax.device_get(compiled(where, *(jnp.asarray(a) for a in args)))


@functools.cache
def plain(name):
    return program(name)(EVERYONE, CASES[name].args)


def spoiled(args, where):
    """Absent rows hold NaN and infinity in every array of numbers."""
    out = []
    for i, a in enumerate(args):
        a = a.copy()
        if a.dtype == np.float32:
            a[~where] = np.inf if i % 2 else np.nan
        out.append(a)
    return out


def test_every_method_of_the_catalogue_has_a_line():
    functions = {m.INFO.function.rpartition(".")[2] for m in METHODS.values()}
    assert functions == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_one_finite_float32_per_row_and_a_gradient(name):
    got = plain(name)
    assert got.value.dtype == np.float32
    assert got.value.shape == (N,)
    assert np.all(np.isfinite(got.value))
    assert np.any(got.value != 0)
    assert all(np.all(np.isfinite(g)) for g in got.grads)
    assert np.any(got.grads[0] != 0)


@pytest.mark.parametrize("name", CASES)
def test_absent_rows_cost_nothing_and_change_nothing(name):
    got = program(name)(SOME, spoiled(CASES[name].args, SOME))
    if name not in (*BY_RANK, "simcse"):  # whose rows are not alone: `test_coupled.py`, `test_secrets_rm.py`
        np.testing.assert_array_equal(got.value[~SOME], 0.0)
        np.testing.assert_allclose(got.value[SOME], plain(name).value[SOME], rtol=1e-6, atol=1e-7)
        for g, whole in zip(got.grads, plain(name).grads, strict=True):
            np.testing.assert_allclose(g[SOME], whole[SOME], rtol=1e-5, atol=1e-7)
    for g in got.grads:
        assert np.all(np.isfinite(g))
        np.testing.assert_array_equal(g[~SOME], 0.0)


@pytest.mark.parametrize("name", CASES)
def test_no_row_at_all_is_zero(name):
    got = program(name)(NOBODY, spoiled(CASES[name].args, NOBODY))
    np.testing.assert_array_equal(got.value, 0.0)
    np.testing.assert_array_equal(got.mapped, 0.0)
    for g in got.grads:
        np.testing.assert_array_equal(g, 0.0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [50.0, 1e4])
def test_large_log_ratios_on_either_side_are_finite(name, size):
    case = CASES[name]
    signs = np.where(np.arange(N) % 2, -1.0, 1.0)
    for side in range(min(2, case.free)):
        args = [np.zeros_like(a) if i < case.free else a for i, a in enumerate(case.args)]
        args[side] = np.broadcast_to((size * signs).reshape(-1, *[1] * (args[side].ndim - 1)), args[side].shape).astype(
            np.float32
        )
        got = program(name)(EVERYONE, args)
        assert np.all(np.isfinite(got.value))
        assert all(np.all(np.isfinite(g)) for g in got.grads)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_is_computed_in_float32(name):
    got = plain(name)
    assert got.half.dtype == np.float32
    np.testing.assert_allclose(got.half, got.rounded, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_vmap_is_a_loop(name):
    case, got = CASES[name], plain(name)
    np.testing.assert_allclose(got.mapped[0], got.value, rtol=1e-6, atol=1e-6)
    halved = [0.5 * a if i < case.free else a for i, a in enumerate(case.args)]
    np.testing.assert_allclose(got.mapped[1], program(name)(EVERYONE, halved).value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "setting"), NAMED)
def test_an_unknown_variant_is_refused(name, setting):
    function, args = getattr(losses, name), CASES[name].args
    more = (LISTED,) if name in ("irpo_ranking", "rating", "tpo_tree") else ()
    with pytest.raises(ValueError, match=f"{setting} 'none of them': expected one of '"):
        jax.eval_shape(lambda *a: function(*a, *more, **{setting: "none of them"}), *args)


def test_the_variants_are_all_that_the_signatures_name():
    """Parameters annotated with `Literal`, or an alias of one, are those of the list above."""
    found = []
    for name in CASES:
        hints = typing.get_type_hints(getattr(losses, name))
        found += [(name, k) for k, hint in hints.items() if typing.get_origin(hint) is typing.Literal]
    assert sorted(found) == sorted(NAMED)


def test_an_unknown_way_to_score_a_solution_is_refused():
    with pytest.raises(ValueError, match="how 'median': expected one of 'min', 'product', 'last', 'mean'"):
        losses.solution_score(np.ones((1, 2), np.float32), np.ones((1, 2), bool), how="median")


def test_unknown_step_weights_are_refused():
    one = np.ones((1, 2, 3), np.float32)
    with pytest.raises(ValueError, match="mode 'cos': expected one of 'one_plus_cos'"):
        losses.step_weights(one[..., None], one, one[..., 0], np.ones((1, 2), bool), mode="cos")
