"""Training on one segment of 32,768 tokens, spread over eight devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpo.data.packing.batch import Batch
from jaxpo.models.family import preset
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.sharding import make_mesh, put_batch, use_mesh
from jaxpo.train.init import abstract_state, init_state
from jaxpo.train.step import make_eval, make_step

LENGTH = 32768
CONFIG = dataclasses.replace(
    preset("nano"),
    model_type="lfm3",
    sliding_window=256,
    vocab_size=32,
    hidden_size=16,
    intermediate_size=16,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=8,
    initializer_range=0.3,
)
STEPS = 2


def whole_row():
    """One document as long as the row: what comes next was there 1,000 tokens before."""
    first = np.random.default_rng(0).integers(3, CONFIG.vocab_size, 1000)
    grid = np.arange(LENGTH)[None]
    return Batch(
        tokens=first[grid % 1000].astype(np.int32),
        segment_ids=np.ones_like(grid, np.int32),
        positions=grid.astype(np.int32),
        masks={"completion": grid > 0, "prompt": np.zeros_like(grid, bool)},
        per_token={},
        per_segment={},
        per_example={},
        roles={"text": np.zeros(1, np.int32)},
        example_id=np.zeros(1, np.int32),
        block_rows=1,
        slots=1,
        max_segment=LENGTH,
    )


def trained(config, devices, steps):
    """Losses and gradient norms of some steps on so many devices, and parameters before and after the last."""
    objective, optimizer = next_token(Scorer(config)), optax.chain(optax.normalize_by_update_norm(), optax.scale(-0.3))
    tables, mesh = {"model": param_table(config)}, make_mesh({"sequence": devices}, jax.devices()[:devices])
    first = jax.device_get({"model": init_params(tables["model"], jax.random.key(0))})
    with use_mesh(mesh):
        abstract = abstract_state(tables, optimizer, objective, mesh)
        state = init_state(abstract, jax.tree.map(jnp.asarray, first), optimizer, objective, seed=0)
        step = jax.jit(make_step(objective, optimizer, optax.constant_schedule(0.3)))
        placed, found = put_batch(whole_row(), mesh), []
        for _ in range(steps):
            before = jax.device_get(state.params)
            state, metrics = step(state, {}, placed)
            found.append([float(metrics[name].value()) for name in ("loss", "grad_norm")])
    return np.array(found), before, jax.device_get(state.params)


@pytest.mark.scale
def test_a_segment_of_32k_trains_on_eight_devices_as_on_one():
    """The loss falls; that of the trained parameters is what one device computes, forward."""
    config, batch = dataclasses.replace(CONFIG, layer_types=("conv", "sliding_attention")), whole_row()
    found, before, _ = trained(config, 8, STEPS)
    assert found[-1, 0] < found[0, 0]
    objective = next_token(Scorer(config))
    counts = jax.device_get(objective.counts(batch))
    alone, _ = jax.jit(make_eval(objective))(before, {}, {}, batch, counts)
    assert float(alone) == pytest.approx(found[-1, 0], rel=1e-5)


@pytest.mark.scale
@pytest.mark.slow  # a thousand million pairs in every pass: a minute and more on a CPU
def test_attention_over_the_whole_of_32k_trains_on_eight_devices_as_on_one():
    """Loss, norm of the gradient, and what a step along the gradient makes of every parameter."""
    config = dataclasses.replace(CONFIG, layer_types=("conv", "full_attention"))
    (found, before, after), (expected, _, alone) = (trained(config, devices, 1) for devices in (8, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for (path, x), y, old in zip(
        jax.tree_util.tree_flatten_with_path(after)[0], jax.tree.leaves(alone), jax.tree.leaves(before), strict=True
    ):
        moved = y - old
        assert np.max(np.abs(moved)) > 0
        tolerance = 1e-4 * np.max(np.abs(moved))
        np.testing.assert_allclose(x - old, moved, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))
