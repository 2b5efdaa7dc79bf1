"""Values and gradients of the models that denoise images against diffusers': random tiny ones, masks, users, sizes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
diffusers = pytest.importorskip("diffusers", reason="parity tests need diffusers (scripts/test --parity)")

from jaxpo.models.dit.config import DiTConfig  # noqa: E402
from jaxpo.models.family import denoiser, family, param_table  # noqa: E402
from jaxpo.models.spec import leaves, map_table  # noqa: E402
from jaxpo.models.unet.config import UNetConfig  # noqa: E402
from jaxpo.models.vae.config import VAEDecoderConfig  # noqa: E402

SMALL_UNET = UNetConfig(
    sample_size=8,
    block_out_channels=(8, 16),
    layers_per_block=1,
    cross_attention=(True, False),
    cross_attention_dim=12,
    attention_heads=(2, 2),
    norm_num_groups=4,
)
SMALL_DIT = DiTConfig(
    sample_size=8, num_layers=2, num_attention_heads=2, attention_head_dim=8, caption_channels=12, out_channels=4
)
UNETS = {
    "as SD 1.5": (SMALL_UNET, (8, 8)),
    "as SD 2, three levels, not square": (
        dataclasses.replace(
            SMALL_UNET,
            block_out_channels=(8, 8, 16),
            layers_per_block=2,
            cross_attention=(False, True, True),
            attention_heads=(1, 2, 4),
            use_linear_projection=True,
        ),
        (8, 12),
    ),
    "attention everywhere, other channels": (
        dataclasses.replace(SMALL_UNET, in_channels=3, cross_attention=(True, True), norm_num_groups=2, norm_eps=1e-4),
        (6, 10),
    ),
}
DITS = {
    "plain": (SMALL_DIT, (8, 8)),
    "variance, not square": (dataclasses.replace(SMALL_DIT, out_channels=8), (4, 12)),
    "interpolated, patches of 4": (
        dataclasses.replace(SMALL_DIT, sample_size=16, patch_size=4, in_channels=3, out_channels=3,
                            interpolation_scale=2.0),
        (16, 16),
    ),
}  # fmt: skip


def their_unet(config):
    torch.manual_seed(0)
    kinds = ["CrossAttnDownBlock2D" if crossed else "DownBlock2D" for crossed in config.cross_attention]
    return diffusers.UNet2DConditionModel(
        sample_size=config.sample_size,
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=kinds,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(kinds)],
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=config.attention_heads,
        norm_num_groups=config.norm_num_groups,
        norm_eps=config.norm_eps,
        use_linear_projection=config.use_linear_projection,
    ).eval()


def their_dit(config):
    torch.manual_seed(0)
    return diffusers.PixArtTransformer2DModel(
        sample_size=config.sample_size,
        patch_size=config.patch_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.attention_head_dim,
        cross_attention_dim=config.width,
        caption_channels=config.caption_channels,
        interpolation_scale=config.interpolation_scale,
        use_additional_conditions=False,
    ).eval()


CASES = [
    *((name, their_unet, *case) for name, case in UNETS.items()),
    *((name, their_dit, *case) for name, case in DITS.items()),
]


def ours(model, table, value=lambda tensor: tensor):
    """Their tensors, or what `value` makes of them, as the tree of a table; every one has its place."""
    stored = {name: value(tensor).detach().numpy() for name, tensor in model.named_parameters()}
    names = [name for _, param in leaves(table) for name in param.tensors]
    assert sorted(names) == sorted(stored)
    return map_table(lambda p: jnp.asarray(p.layout.from_disk(stored[p.hf], p.shape)), table)


def drawn(config, size, masked):
    """x, t, context, mask."""
    rng = np.random.default_rng(1)
    width = config.caption_channels if isinstance(config, DiTConfig) else config.cross_attention_dim
    x = rng.normal(size=(2, config.in_channels, *size)).astype(np.float32)
    context = rng.normal(size=(2, 5, width)).astype(np.float32)
    mask = np.asarray([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]) if masked else None
    return x, np.asarray([3, 981]), context, mask


def channels_last(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("name", "build", "config", "size"), CASES, ids=[case[0] for case in CASES])
def test_values_and_gradients(name, build, config, size):
    model, table = build(config), param_table(config)
    x, t, context, mask = drawn(config, size, masked="not square" not in name)
    given = [torch.from_numpy(each) for each in (x, context)]
    out = model(
        given[0],
        timestep=torch.from_numpy(t),
        encoder_hidden_states=given[1],
        encoder_attention_mask=None if mask is None else torch.from_numpy(mask),
        **({"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}} if build is their_dit else {}),
    ).sample
    out = out[:, : config.in_channels]
    torch.mean(out**2).backward()
    # The half that is a variance is computed and has no gradient.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def run(params):
        found = denoiser(config)(params, channels_last(x), t, jnp.asarray(context), mask=mask, config=config)
        return jnp.mean(jnp.square(found)), found

    (_, found), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(ours(model, table))
    np.testing.assert_allclose(np.asarray(found).transpose(0, 3, 1, 2), out.detach().numpy(), atol=1e-5, rtol=1e-5)
    expected = ours(model, table, lambda tensor: tensor.grad)
    for (path, _), g, e in zip(leaves(table), jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        scale = max(float(jnp.abs(e).max()), 1e-6)
        np.testing.assert_allclose(np.asarray(g) / scale, np.asarray(e) / scale, atol=5e-4, err_msg=path)


def test_a_decoder_of_latents():
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16, 16), "layers_per_block": 2, "norm_num_groups": 4, "latent_channels": 4}
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    theirs, config = diffusers.AutoencoderKL(**sizes, **kinds).eval(), VAEDecoderConfig(**sizes)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    params = map_table(lambda p: jnp.asarray(p.layout.from_disk(state[p.hf], p.shape)), param_table(config))
    z = torch.randn(2, 4, 4, 6, requires_grad=True)
    wanted = theirs.decode(z / 0.18215).sample
    toward = torch.randn(wanted.shape)
    (wanted * toward).sum().backward()
    x = jnp.asarray(z.detach().numpy().transpose(0, 2, 3, 1))
    weights = toward.numpy().transpose(0, 2, 3, 1)
    run = family(config).decode
    np.testing.assert_allclose(run(params, x, config=config), wanted.detach().numpy().transpose(0, 2, 3, 1), atol=1e-5)
    slope = jax.grad(lambda x: jnp.sum(weights * run(params, x, config=config)))(x)
    expected = z.grad.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(slope, expected, atol=5e-4 * np.abs(expected).max())
