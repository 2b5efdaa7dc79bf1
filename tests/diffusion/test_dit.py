"""The diffusion transformer: written-down values, fresh models, users, captions, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.filled import as_stored, filled, inputs

from jaxpo.config import LoRA
from jaxpo.config.noise import NoiseSchedule
from jaxpo.errors import ConfigError
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.denoising import time_embedding
from jaxpo.models.dit.config import DiTConfig
from jaxpo.models.dit.forward import positions
from jaxpo.models.family import caption_states, decoder, denoiser, family, limits, output_matrix, param_table, preset
from jaxpo.models.lowrank import adapter_table, describe_adapter
from jaxpo.models.spec import init_params, leaves, param_count

TINY = DiTConfig(
    sample_size=8,
    out_channels=4,
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=8,
    caption_channels=12,
    user_channels=6,
)
MASK = jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
USER = jnp.asarray(np.sin(0.5 * np.arange(2 * 3 * 6)).reshape(2, 3, 6), jnp.float32)


@pytest.fixture(scope="module")
def run():
    """`(params, x, t, context, **options) -> images` of TINY, compiled once for each set of options."""
    return jax.jit(denoiser(TINY), static_argnames=("config", "dtype", "remat"))


@pytest.fixture(scope="module")
def params():
    return filled(param_table(TINY))


def test_values_that_are_written_down(run, params):
    assert param_count(param_table(dataclasses.replace(TINY, user_channels=0))) == 15_872
    out = as_stored(run(params, *inputs(12), mask=MASK, config=TINY))
    np.testing.assert_allclose(out[0, 0, 0, :4], [0.722272, 1.169448, 0.783970, 1.090893], atol=1e-5)
    np.testing.assert_allclose(out[1, 3, 7, 4:], [-0.791290, -0.474124, -0.714329, -0.441498], atol=1e-5)
    np.testing.assert_allclose([out.sum(), np.abs(out).mean()], [14.273719, 0.633938], atol=2e-5)


def test_times_and_released_sizes():
    """PixArt-alpha 1024 has 611,349,152 parameters, with two embeddings of a resolution that are not built here."""
    expected = [0.753902, 0.764842, 0.997551, 0.999976, 0.656987, 0.644218, 0.069943, 0.007]
    np.testing.assert_allclose(time_embedding(jnp.asarray([7]), 8)[0], expected, atol=1e-6)
    further = 2 * (256 * 384 + 384 + 384 * 384 + 384)
    assert param_count(param_table(preset("pixart_sigma_1024"))) == 611_349_152 - further
    for name in ("pixart_alpha_512", "pixart_sigma_512", "pixart_sigma_1024"):
        assert preset(name).schedule == NoiseSchedule("linear", beta_start=1e-4, beta_end=0.02)


def test_bfloat16_stays_near(run, params):
    exact = run(params, *inputs(12), mask=MASK, config=TINY)
    rough = run(params, *inputs(12), mask=MASK, config=TINY, dtype=jnp.bfloat16)
    assert rough.dtype == jnp.float32
    assert 0 < jnp.abs(rough - exact).max() < 0.02 * jnp.abs(exact).max()


def test_a_user_adds_attention_of_his_own(run, params):
    """Nobody (zeros) adds nothing, what a user adds is proportional to user_scale at first order, and each sees his."""
    plain = run(params, *inputs(12), mask=MASK, config=TINY)
    nobody = run(params, *inputs(12), mask=MASK, user=jnp.zeros_like(USER), config=TINY)
    np.testing.assert_allclose(nobody, plain, atol=1e-6)
    one = run(params, *inputs(12), mask=MASK, user=USER.at[1].set(0), config=TINY)
    assert jnp.abs(one - plain)[0].max() > 1e-3
    np.testing.assert_allclose(one[1], plain[1], atol=1e-6)
    fresh = init_params(param_table(TINY), jax.random.key(0))
    assert not jnp.any(fresh["transformer_blocks"]["0"]["attn2"]["to_v_user"]["weight"])
    assert jnp.any(fresh["transformer_blocks"]["0"]["attn2"]["to_k_user"]["weight"])


def test_a_fresh_model_predicts_zero_and_learns(run):
    fresh = init_params(param_table(TINY), jax.random.key(0))
    x, t, context = inputs(12)
    assert not jnp.any(run(fresh, x, t, context, mask=MASK, config=TINY))
    fresh["proj_out"]["weight"] += 0.1

    def loss(p, remat):
        return jnp.mean(jnp.square(denoiser(TINY)(p, x, t, context, user=USER, config=TINY, remat=remat) - x))

    kept, again = (jax.jit(jax.grad(loss), static_argnums=1)(fresh, remat) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), kept, again)
    moved = {path for path, g in zip(*_named(kept), strict=True) if jnp.any(g)}
    # What stands behind a gate or a map that is zero learns nothing yet.
    assert {f"transformer_blocks/{i}/attn2/to_out/0/weight" for i in range(2)} <= moved
    assert {"adaln_single/linear/weight", "transformer_blocks/1/scale_shift_table", "pos_embed/proj/weight"} <= moved
    assert not any("to_k_user" in path for path in moved)


def _named(tree):
    return [path for path, _ in leaves(param_table(TINY))], jax.tree.leaves(tree)


def test_positions_end_alike_at_every_size():
    wide, native = positions(2, 8, TINY), positions(4, 4, TINY)
    assert wide.shape == (16, 16)
    np.testing.assert_allclose(wide.reshape(2, 8, 16)[:, ::2, :8], native.reshape(4, 4, 16)[:2, :, :8])
    np.testing.assert_allclose(wide.reshape(2, 8, 16)[1, 0, 8:], native.reshape(4, 4, 16)[2, 0, 8:])
    half = positions(4, 4, dataclasses.replace(TINY, interpolation_scale=2.0)).reshape(4, 4, 16)
    np.testing.assert_allclose(half[::2, ::2, 8:], native.reshape(4, 4, 16)[:2, :2, 8:])


def test_a_text_tower_reads_captions():
    config = preset("nano_dit")
    weights = init_params(param_table(config), jax.random.key(0))
    tokens = jnp.asarray([[3, 4, 5, 0], [0, 0, 0, 0]])
    read = jax.jit(lambda tokens: caption_states(weights, tokens, config, jnp.float32))
    states = read(tokens)
    assert states.shape == (2, 4, config.caption_channels)
    later = read(tokens.at[0, 2].set(6))
    assert jnp.abs(later - states)[0, 0].max() > 1e-4  # it looks both ways
    np.testing.assert_array_equal(later[1], states[1])
    assert (limits(config).context, limits(config).vocabulary) == (16, 64)
    with pytest.raises(ValueError, match="captions of 17 tokens, and the tower has positions for 16"):
        caption_states(weights, jnp.zeros((1, 17), jnp.int32), config, jnp.float32)
    with pytest.raises(ConfigError, match="'dit', has no text tower"):
        caption_states({}, tokens, TINY, jnp.float32)


def test_adapters_choose_attention_by_the_names_of_published_files():
    table = param_table(TINY)
    lora = LoRA(rank=2, target_modules=("*/to_?/weight", "*/to_out/0/weight"))
    adapter = adapter_table(table, lora)
    assert len(dict(leaves(adapter))) == 2 * 2 * 2 * 4
    assert any("transformer_blocks/*/attn1/to_q/weight" in line for line in describe_adapter(table, adapter, lora))
    linear = dict(leaves(adapter_table(table, LoRA(rank=2))))
    assert "adaln_single/linear/weight/a" in linear
    assert not any("pos_embed" in path for path in linear)  # a convolution in files


def test_work_of_one_image():
    """By hand: blocks, projections, time; patches 16, texts of 5."""
    found = family(TINY).flops(TINY, 5.0)
    d, n, length = 16, 16, 5
    block = n * (4 * d * d + 2 * d * d + 8 * d * d) + length * 2 * d * d
    others = n * (16 * d + d * 16) + length * (12 * d + d * d) + 256 * d + d * d + 6 * d * d
    assert found.matrices == 2 * block + others
    assert found.mixing == 4 * d * 2 * n * (n + length)


@pytest.mark.parametrize(("call", "message"), [
    (lambda c: denoiser(preset("nano")), "'lfm2' reads tokens and denoises no images; those that do are dit, unet"),
    (lambda c: family(c).forward({}, None, config=c), "'dit' denoises images and reads no tokens"),
    (lambda c: output_matrix({}, c), "'dit' predicts no tokens"),
    (lambda c: decoder(c), "'dit' cannot generate"),
    (lambda c: DiTConfig(sample_size=9, out_channels=5, attention_head_dim=1, num_attention_heads=3, num_layers=0),
     r"(?s)num_layers.*whole number of patches.*divisible by 4.*neither in_channels 4 nor twice"),
    (lambda c: DiTConfig(caption=CaptionConfig()), "caption_channels 4096 is not the width .* 64"),
    (lambda c: CaptionConfig(hidden_size=6, num_attention_heads=4), "not divisible by 4 heads"),
])  # fmt: skip
def test_what_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call(TINY)


def test_images_that_do_not_fit_are_refused(params):
    x, t, context = inputs(12)
    run = denoiser(TINY)
    for bad in (x[:, :7], x[..., :3]):
        with pytest.raises(ValueError, match="reads 4 channels and sides that are whole numbers of patches of 2"):
            run(params, bad, t, context, config=TINY)
    with pytest.raises(ValueError, match="no attention to a user"):
        run(params, x, t, context, user=USER, config=dataclasses.replace(TINY, user_channels=0))
