"""The U-Net: written-down values, fresh models, users, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.filled import as_stored, filled, inputs

from jaxpo.config import LoRA
from jaxpo.errors import ConfigError
from jaxpo.models.family import denoiser, family, limits, param_table, preset
from jaxpo.models.lowrank import adapter_table
from jaxpo.models.spec import init_params, leaves, param_count
from jaxpo.models.unet.config import UNetConfig

TINY = UNetConfig(
    sample_size=8,
    block_out_channels=(16, 32),
    layers_per_block=1,
    cross_attention=(True, False),
    cross_attention_dim=24,
    attention_heads=(2, 2),
    norm_num_groups=4,
    user_channels=6,
)
USER = jnp.asarray(np.sin(0.5 * np.arange(2 * 3 * 6)).reshape(2, 3, 6), jnp.float32)


@pytest.fixture(scope="module")
def run():
    """`(params, x, t, context, **options) -> images` of TINY, compiled once for each set of options."""
    return jax.jit(lambda *given, **options: denoiser(TINY)(*given, config=TINY, **options), static_argnames="dtype")


@pytest.fixture(scope="module")
def params():
    return filled(param_table(TINY))


def test_values_that_are_written_down(run, params):
    table = param_table(dataclasses.replace(TINY, user_channels=0))
    assert (param_count(table), len(list(leaves(table)))) == (201_924, 208)
    out = as_stored(run(params, *inputs(24)))
    np.testing.assert_allclose(out[0, 0, 0, :4], [0.203376, 0.704287, 1.186855, 1.305441], atol=1e-5)
    np.testing.assert_allclose(out[1, 3, 7, 4:], [-0.824075, -0.644836, -0.307931, 0.070205], atol=1e-5)
    np.testing.assert_allclose([out.sum(), np.abs(out).mean()], [60.001510, 0.846138], atol=5e-5)


def test_bfloat16_stays_near(run, params):
    exact, rough = run(params, *inputs(24)), run(params, *inputs(24), dtype=jnp.bfloat16)
    assert rough.dtype == jnp.float32
    assert 0 < jnp.abs(rough - exact).max() < 0.06 * jnp.abs(exact).max()


def test_masks_and_users_reach_the_blocks(run, params):
    """A text cut by the mask is the shorter text; nobody (zeros) adds nothing; each example sees its own user."""
    x, t, context = inputs(24)
    plain = run(params, x, t, context, user=jnp.zeros_like(USER), mask=jnp.ones((2, 5)))
    np.testing.assert_allclose(plain, run(params, x, t, context), atol=2e-5)
    cut = run(params, x, t, context, user=USER.at[1].set(0), mask=jnp.ones((2, 5)).at[1, 3:].set(0))
    assert jnp.abs(cut - plain)[0].max() > 3e-4
    np.testing.assert_allclose(cut[1], run(params, x, t, context[:, :3])[1], atol=2e-5)


@pytest.mark.slow
def test_a_fresh_model_passes_images_on_and_a_gradient_is_the_slope():
    """Of one level, recomputed: the loss rises along the gradient as its length says."""
    config = UNetConfig(
        sample_size=4,
        block_out_channels=(8,),
        layers_per_block=1,
        cross_attention=(False,),
        cross_attention_dim=4,
        attention_heads=(1,),
        norm_num_groups=2,
    )
    fresh = init_params(param_table(config), jax.random.key(0))
    middle, last = fresh["mid_block"]["attentions"]["0"]["proj_out"], fresh["up_blocks"]["0"]["resnets"]["1"]["conv2"]
    assert not any(jnp.any(part["weight"]) for part in (fresh["conv_out"], middle, last))
    x, t, context = inputs(4)

    def loss(p):
        return jnp.mean(jnp.square(denoiser(config)(p, x[:, :4, :4], t, context, config=config, remat=True)))

    params = filled(param_table(config))
    gradient, value = jax.jit(jax.grad(loss))(params), jax.jit(loss)
    assert all(jnp.any(g) for g in jax.tree.leaves(gradient))
    length = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradient)))
    step = 1e-2 / length
    ends = [value(jax.tree.map(lambda p, g, s=sign * step: p + s * g, params, gradient)) for sign in (1, -1)]
    assert float(ends[0] - ends[1]) / 2e-2 == pytest.approx(float(length), rel=1e-2)


def test_released_sizes():
    assert param_count(param_table(preset("stable_diffusion_1_5"))) == 859_520_964
    assert len(list(leaves(param_table(preset("stable_diffusion_1_5"))))) == 686
    assert param_count(param_table(preset("stable_diffusion_2_1"))) == 865_910_724
    # 64 x 64 latents and 77 tokens of text: 0.68 TFLOP is what profilers count of a forward pass.
    work = family(preset("stable_diffusion_1_5")).flops(preset("stable_diffusion_1_5"), 77.0)
    assert 0.67e12 < 2 * work.matrices + work.mixing < 0.82e12
    assert limits(preset("nano_unet")).context == 16


def test_adapters_choose_attention_by_the_names_of_published_files():
    lora = LoRA(rank=2, target_modules=("*/to_?/weight", "*/to_out/0/weight"))
    assert len(dict(leaves(adapter_table(param_table(TINY), lora)))) == 2 * 8 * (1 + 1 + 2)
    paths = dict(leaves(adapter_table(param_table(TINY), LoRA(rank=2))))
    assert not any("conv" in path or "proj_in" in path for path in paths)  # convolutions in files
    linear = dataclasses.replace(TINY, use_linear_projection=True)
    assert any("proj_in" in path for path, _ in leaves(adapter_table(param_table(linear), LoRA(rank=2))))


@pytest.mark.parametrize(("change", "message"), [
    ({"attention_heads": (3, 2)}, "level 0: its width 16 is not divisible by 3 heads"),
    ({"attention_heads": (2, 2, 2)}, "attention_heads has 3 entries, and block_out_channels 2"),
    ({"cross_attention": (True,)}, "cross_attention has 1 entries"),
    ({"norm_num_groups": 5}, "not divisible by 5 groups"),
    ({"sample_size": 9}, "sample_size 9 cannot be halved 1 times"),
    ({"layers_per_block": 0, "user_channels": -1}, r"(?s)layers_per_block must be at least 1.*user_channels"),
])  # fmt: skip
def test_shapes_that_contradict_themselves_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **change)


def test_images_that_do_not_fit_are_refused(params):
    x, t, context = inputs(24)
    for bad in (x[:, :7], x[:, :, :5], x[..., :3]):
        with pytest.raises(ValueError, match="reads 4 channels and sides that are multiples of 2"):
            denoiser(TINY)(params, bad, t, context, config=TINY)
    plain = dataclasses.replace(TINY, user_channels=0)
    with pytest.raises(ValueError, match="no attention to a user"):
        denoiser(plain)(params, x, t, context, user=USER, config=plain)
