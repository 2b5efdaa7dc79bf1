"""The packed forward: segments, padding, recomputation, taps, types."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny import CONFIG, CONFIGS, LFM3, assert_trees_close, hidden_and_gradient, params, random_tokens

from jaxpo.models.lfm2.blocks import rotations
from jaxpo.models.lfm2.config import LAYER_TYPES
from jaxpo.models.lfm2.forward import embed, forward
from jaxpo.models.lfm2.mixers import MIXERS, Packed
from jaxpo.models.lfm2.mixers.conv import conv_mixer
from jaxpo.ops.rope import rope_table

WIDTH = 24


@pytest.fixture(params=list(CONFIGS))
def config(request):
    return CONFIGS[request.param]


def _place(lengths, starts):
    """Segments and positions of one row `[1, WIDTH]`."""
    segments, positions = np.zeros((1, WIDTH), np.int32), np.zeros((1, WIDTH), np.int32)
    for i, (n, s) in enumerate(zip(lengths, starts, strict=True)):
        segments[0, s : s + n], positions[0, s : s + n] = i + 1, np.arange(n)
    return segments, positions


def _weight(seed=1):
    return np.random.default_rng(seed).standard_normal((1, WIDTH, CONFIG.hidden_size)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "causal", "max_segment"),
    [
        *(("lfm2", causal, max_segment) for causal in (True, False) for max_segment in (None, 9)),
        ("lfm3", True, None),
        ("lfm3", True, 9),
        pytest.param("lfm3", False, 9, marks=pytest.mark.slow),
    ],
)
def test_packed_equals_separate_in_value_and_gradient(name, causal, max_segment):
    config = CONFIGS[name]
    lengths, starts = (1, 9, 2, 7), (0, 1, 11, 15)  # with two columns of padding inside and two at the end
    tokens, weight = random_tokens(1, WIDTH), _weight()
    segments, positions = _place(lengths, starts)
    weight *= segments[..., None] > 0
    hidden, gradient = hidden_and_gradient(
        params(config), tokens, segments, positions, weight, config=config, causal=causal, max_segment=max_segment
    )
    total = jax.tree.map(jnp.zeros_like, params(config))
    for n, s in zip(lengths, starts, strict=True):
        alone_tokens, alone_weight = np.zeros_like(tokens), np.zeros_like(weight)
        alone_tokens[0, :n], alone_weight[0, :n] = tokens[0, s : s + n], weight[0, s : s + n]
        alone, part = hidden_and_gradient(
            params(config), alone_tokens, *_place((n,), (0,)), alone_weight, config=config, causal=causal
        )
        np.testing.assert_allclose(hidden[0, s : s + n], alone[0, :n], atol=2e-5)
        total = jax.tree.map(jnp.add, total, part)
    assert_trees_close(gradient, total, 1e-4)


@pytest.mark.parametrize("start", [0, 3, WIDTH - 5])
def test_left_and_right_padding_change_nothing(config, start):
    """Whatever tokens stand in the padding, out-of-vocabulary ids included."""
    tokens, weight = random_tokens(1, WIDTH), np.zeros((1, WIDTH, CONFIG.hidden_size), np.float32)
    padded = np.full_like(tokens, -100)
    padded[0, start : start + 5] = tokens[0, :5]
    weight[0, start : start + 5] = _weight()[0, :5]
    hidden, gradient = hidden_and_gradient(params(config), padded, *_place((5,), (start,)), weight, config=config)
    bare = np.ones((1, 5), np.int32), np.arange(5)[None]
    alone, expected = hidden_and_gradient(params(config), tokens[:, :5], *bare, _weight()[:, :5], config=config)
    np.testing.assert_allclose(hidden[0, start : start + 5], alone[0], atol=1e-5)
    assert_trees_close(gradient, expected, 1e-4)
    assert np.isfinite(hidden).all()


@pytest.mark.parametrize(
    ("name", "remat"), [("lfm2", "full"), ("lfm2", "dots"), pytest.param("lfm3", "full", marks=pytest.mark.slow)]
)
def test_recomputation_changes_no_gradient(name, remat):
    config = CONFIGS[name]
    args = params(config), random_tokens(1, WIDTH), *_place((20,), (0,)), _weight()
    again = hidden_and_gradient(*args, config=config, remat=remat)
    assert_trees_close(again, hidden_and_gradient(*args, config=config), 1e-5)


def test_a_sliding_layer_sees_its_window_and_no_more():
    """One such layer: a token reaches the window - 1 positions after it."""
    config = dataclasses.replace(LFM3, layer_types=("sliding_attention",))
    tokens = random_tokens(1, WIDTH)
    changed = tokens.copy()
    changed[0, 10] = (tokens[0, 10] + 1) % config.vocab_size
    run = jax.jit(lambda t: forward(params(config), t, *_place((WIDTH,), (0,)), config=config)[0])
    moved = np.abs(run(tokens) - run(changed)).max(axis=(0, 2)) > 0
    assert np.flatnonzero(moved).tolist() == [10, 11, 12, 13]


def test_pairs_beyond_the_rotated_share_do_not_turn():
    positions = jnp.arange(WIDTH)[None]
    turning = rotations(LFM3, positions)["full_attention"].sin[0, 1:] != 0
    assert turning.all(axis=0).tolist() == [True, True, False, False]
    whole = rope_table(positions, LFM3.head_dim, LFM3.rope_theta)
    np.testing.assert_array_equal(rotations(LFM3, positions)["full_attention"].sin[..., :2], whole.sin[..., :2])
    assert set(rotations(CONFIG, positions)) == {"full_attention"}


def test_gates_scale_heads_and_sandwich_norms_bound_what_is_added():
    """Seen by a tap: head j of the output is its attention times gate j; an addition has the norm's size."""
    seen = {}
    forward(
        params(LFM3), random_tokens(1, WIDTH), *_place((WIDTH,), (0,)), config=LFM3,
        tap=lambda name, x: seen.update({name: x}),
    )  # fmt: skip
    assert seen["layers/2/mixer/gate"].shape == (1, WIDTH, LFM3.num_attention_heads)
    assert ((seen["layers/2/mixer/gate"] > 0) & (seen["layers/2/mixer/gate"] < 1)).all()
    for i, part in itertools.product(range(3), ("mixer", "feed_forward")):
        norm = params(LFM3)["layers"][str(i)]["post_operator_norm" if part == "mixer" else "post_ffn_norm"]["weight"]
        size = np.mean(np.square(seen[f"layers/{i}/{part}"] / norm), axis=-1)
        np.testing.assert_allclose(size, 1, atol=0.02)


@pytest.mark.parametrize(("name", "causal"), [("lfm2", True), ("lfm2", False), ("lfm3", True)])
def test_causal_hides_the_future_and_bidirectional_does_not(name, causal):
    tokens = random_tokens(1, WIDTH)
    changed = tokens.copy()
    changed[0, 10] = (tokens[0, 10] + 1) % CONFIG.vocab_size
    place = _place((WIDTH,), (0,))
    a, b = (
        hidden_and_gradient(params(CONFIGS[name]), t, *place, _weight(), config=CONFIGS[name], causal=causal)[0]
        for t in (tokens, changed)
    )
    before = np.abs(a - b)[0, :10].max()
    assert before == 0 if causal else before > 1e-3
    assert np.abs(a - b)[0, 10:].min(axis=0).max() > 1e-6


def test_conv_mixer_with_open_gates_is_the_kernel_reversed_in_time():
    """B = C = 1: an impulse in x comes out as newest tap first, and nothing before it."""
    d = CONFIG.hidden_size
    p = {
        "in_proj": {"weight": jnp.zeros((d, 3, d)).at[1, :2].set(1.0).at[0, 2, 0].set(1.0)},
        "conv": {"weight": jnp.zeros((3, d)).at[:, 0].set(jnp.array([1.0, 10.0, 100.0]))},
        "out_proj": {"weight": jnp.eye(d)},
    }
    x = jnp.zeros((1, 6, d)).at[:, :, 1].set(1.0).at[0, 2, 0].set(1.0)  # channel 1 opens the gates everywhere
    positions = jnp.arange(6)[None]
    where = Packed(jnp.ones((1, 6), jnp.int32), rope_table(positions, 8, 1e4))
    y, _ = conv_mixer(p, x, where, CONFIG, None)
    np.testing.assert_array_equal(y[0, :, 0], [0, 0, 100, 10, 1, 0])


def test_taps_see_every_layer_and_keep_what_they_return():
    tokens = random_tokens(1, WIDTH)
    place = _place((WIDTH,), (0,))

    def tap(name, x):
        return jnp.mean(jnp.square(x), axis=(1, 2)) if name.endswith(("/mixer", "embedding_norm")) else None

    plain, aux = forward(params(), tokens, *place, config=CONFIG)
    assert aux == {"taps": {}}
    run = jax.jit(lambda p: forward(p, tokens, *place, config=CONFIG, tap=tap, remat="full"))
    hidden, aux = run(params())
    assert set(aux["taps"]) == {"layers/0/mixer", "layers/1/mixer", "layers/2/mixer", "embedding_norm"}
    np.testing.assert_allclose(aux["taps"]["embedding_norm"], jnp.mean(plain**2, axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(hidden, plain, atol=1e-5)
    shapes = {}
    forward(params(), tokens, *place, config=CONFIG, tap=lambda name, x: shapes.update({name: x.shape}))
    stream = {name for name in shapes if name.count("/") < 2 or name.endswith(("/mixer", "/feed_forward"))}
    assert len(stream) == 3 * CONFIG.num_hidden_layers + 1
    assert {shapes[name] for name in stream} == {(1, WIDTH, CONFIG.hidden_size)}
    inside = {name.removeprefix("layers/") for name in set(shapes) - stream}
    conv = {f"{i}/mixer/{part}" for i in (0, 2) for part in ("b", "c", "x", "out")}
    attention = {f"1/mixer/{part}" for part in ("q", "k", "v", "rotated_q", "rotated_k", "out")}
    assert inside == conv | attention | {f"{i}/feed_forward/hidden" for i in range(3)}
    assert shapes["layers/1/mixer/q"] == (1, WIDTH, CONFIG.num_attention_heads, CONFIG.head_dim)


def test_bfloat16_compute_keeps_float32_gradients():
    args = params(), random_tokens(1, WIDTH), *_place((WIDTH,), (0,)), _weight()
    hidden, gradient = hidden_and_gradient(*args, dtype=jnp.bfloat16)
    exact, _ = hidden_and_gradient(*args)
    assert hidden.dtype == jnp.bfloat16
    assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    assert np.abs(hidden.astype(jnp.float32) - exact).mean() < 0.03 * np.abs(exact).mean()


def test_the_embedding_is_not_scaled():
    tokens = random_tokens(1, 4)
    np.testing.assert_array_equal(embed(params(), tokens), params()["embed_tokens"]["weight"][tokens])


def test_every_layer_type_has_a_mixer():
    assert set(MIXERS) == set(LAYER_TYPES)
