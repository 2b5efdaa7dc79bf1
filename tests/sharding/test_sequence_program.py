"""The program of a step with rows spread over `sequence`: what moves between devices, and what one of them holds."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.config import Compute, Data, Pretrain
from jaxpo.data.packing.batch import read_at
from jaxpo.models.family import preset
from jaxpo.sharding import batch_sharding, make_mesh, use_mesh
from jaxpo.sharding.collectives import collectives
from jaxpo.stages.abstract_step import abstract_step, text_batch
from jaxpo.stages.assemble import make_scorer
from jaxpo.stages.remat import estimates, load_of

pytestmark = pytest.mark.scale

LENGTH = 4096
STAGE = Pretrain(rows_per_step=1, data=Data(train=("rows.jsonl",), row_length=LENGTH), max_steps=10)
# Keys and values are a quarter of the hidden states.
CONFIG = dataclasses.replace(
    preset("nano"),
    layer_types=("conv", "full_attention") * 2,
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=16,
)
COMPUTE = Compute(remat="full", head_chunk=256)
CHUNK = 64  # queries that are attended at once on a CPU


def compiled(devices, compute):
    mesh = make_mesh({"sequence": devices}, jax.devices()[:devices])
    with use_mesh(mesh):
        step = abstract_step(STAGE, CONFIG, compute, mesh, {}, text_batch(STAGE, slots=1))
        program = step.lower().compile()
    return program, estimates(make_scorer(CONFIG, compute), load_of(STAGE, step.assembly, {}, mesh), mesh)


def values_gathered(text):
    """Values of every array that an all-gather makes."""
    found = (one for one in collectives(text, {"sequence": 4}) if one.kind == "all-gather")
    return [math.prod(sizes) for one in found for _, sizes in one.shapes]


@pytest.fixture(scope="module")
def four():
    return compiled(4, COMPUTE)


def test_keys_and_values_are_all_that_is_gathered(four):
    gathered = values_gathered(four[0].as_text())
    width = CONFIG.num_key_value_heads * CONFIG.head_dim
    assert LENGTH * width in gathered
    assert max(gathered) == LENGTH * width
    assert LENGTH * CONFIG.hidden_size > max(gathered)


def test_memory_of_a_device_is_a_share_of_the_row_and_the_keys_of_the_whole(four):
    """Temporary bytes on four devices and on one: the estimate, and three times the scores of the queries at hand."""
    scores = 3 * 4 * CHUNK * LENGTH * CONFIG.num_attention_heads
    held = []
    for program, found in (four, compiled(1, COMPUTE)):
        held.append(program.memory_analysis().temp_size_in_bytes)
        assert held[-1] == pytest.approx(found["full"].temporary + scores, rel=0.15)
    assert held[0] - scores < (held[1] - scores) / 3


def test_states_at_the_ends_of_segments_are_added_up_not_gathered():
    """Of reward models: what the devices exchange is `[R, M, D]`, forward; backward nothing."""
    mesh = make_mesh({"sequence": 4}, jax.devices()[:4])
    where = batch_sharding(mesh, positions=True)
    states = jax.ShapeDtypeStruct((2, 256, 64), jnp.float32, sharding=where)
    with use_mesh(mesh):
        squares = jax.value_and_grad(lambda x, ends: jnp.sum(jnp.square(read_at(x, ends))))
        program = jax.jit(squares, out_shardings=(None, where)).lower(states, np.zeros((2, 4), np.int32)).compile()
    assert [one.kind for one in collectives(program.as_text(), mesh.shape)] == ["all-reduce"]
