"""The diffusion transformer: written-down values, fresh models, users, captions, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.filled import as_stored, filled, inputs

from jaxpo.errors import ConfigError
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.dit.config import DiTConfig
from jaxpo.models.dit.forward import positions
from jaxpo.models.family import caption_states, decoder, denoiser, family, output_matrix, param_table, preset
from jaxpo.models.spec import init_params, leaves, param_count

TINY = DiTConfig(
    sample_size=8, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8,
    caption_channels=12,
)  # fmt: skip
MASK = jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture(scope="module")
def run():
    """`(params, x, t, context, **options) -> image` of TINY, compiled once for each set of options."""
    return jax.jit(denoiser(TINY), static_argnames=("config", "dtype", "remat"))


def test_values_that_are_written_down(run):
    table = param_table(TINY)
    assert param_count(table) == 15_872
    out = as_stored(run(filled(table), *inputs(12), mask=MASK, config=TINY))
    np.testing.assert_allclose(out[0, 0, 0, :4], [0.722272, 1.169448, 0.783970, 1.090893], atol=1e-5)
    np.testing.assert_allclose(out[1, 3, 7, 4:], [-0.791290, -0.474124, -0.714329, -0.441498], atol=1e-5)
    np.testing.assert_allclose([out.sum(), np.abs(out).mean()], [14.273719, 0.633938], atol=2e-5)


def test_bfloat16_stays_near(run):
    table, given = filled(param_table(TINY)), inputs(12)
    exact = run(table, *given, mask=MASK, config=TINY)
    rough = run(table, *given, mask=MASK, config=TINY, dtype=jnp.bfloat16)
    assert rough.dtype == jnp.float32
    assert 0 < jnp.abs(rough - exact).max() < 0.02 * jnp.abs(exact).max()
