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


@pytest.mark.scale
@pytest.mark.parametrize(
    "kind",
    # A thousand million pairs in every pass: minutes on a CPU.
    ["sliding_attention", pytest.param("full_attention", marks=pytest.mark.slow)],
)
def test_a_segment_of_32k_trains_on_eight_devices_as_on_one(kind):
    """The loss falls; that of the trained parameters is what one device computes, forward."""
    config = dataclasses.replace(CONFIG, layer_types=("conv", kind))
    objective, optimizer = next_token(Scorer(config)), optax.chain(optax.normalize_by_update_norm(), optax.scale(-0.3))
    tables, batch, mesh = {"model": param_table(config)}, whole_row(), make_mesh({"sequence": 8})
    first = jax.device_get({"model": init_params(tables["model"], jax.random.key(0))})
    with use_mesh(mesh):
        abstract = abstract_state(tables, optimizer, objective, mesh)
        state = init_state(abstract, jax.tree.map(jnp.asarray, first), optimizer, objective, seed=0)
        step = jax.jit(make_step(objective, optimizer, optax.constant_schedule(0.3)))
        placed, losses = put_batch(batch, mesh), []
        for _ in range(STEPS):
            before = jax.device_get(state.params)
            state, metrics = step(state, {}, placed)
            losses.append(float(metrics["loss"].value()))
    assert losses[-1] < losses[0]
    counts = jax.device_get(objective.counts(batch))
    alone, _ = jax.jit(make_eval(objective))(before, {}, {}, batch, counts)
    assert float(alone) == pytest.approx(losses[-1], rel=1e-5)
