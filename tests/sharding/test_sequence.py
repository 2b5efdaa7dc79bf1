"""Rows spread over the mesh axis `sequence`: losses, metrics and gradients are those of one device."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
from contracts.batches import VOCAB, Example, layout, segment

from jaxpo.config import LoRA, Routing
from jaxpo.models.family import family
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, scale_of
from jaxpo.models.spec import init_params, param_shardings
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.wrappers.lora import with_lora
from jaxpo.objectives.wrappers.routing import with_routing
from jaxpo.sharding import make_mesh, put_batch, use_mesh
from jaxpo.train.step import added_gradients, coupled_gradients

pytestmark = pytest.mark.scale

DENSE = LFM2Config(
    vocab_size=VOCAB,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    layer_types=("conv", "full_attention"),
    initializer_range=0.4,
)
MOE = dataclasses.replace(DENSE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, num_dense_layers=1)
LFM3 = dataclasses.replace(
    DENSE,
    model_type="lfm3",
    layer_types=("conv", "sliding_attention", "full_attention"),
    conv_kernel=7,
    sliding_window=6,
    partial_rotary_factor=0.5,
    sandwich_norm=True,
    attention_gate=True,
    tie_word_embeddings=False,
)
LENGTH = 64
MESHES = [{"sequence": 2}, {"sequence": 4}, {"sequence": 2, "fsdp": 2, "tensor": 2}]


def texts(rng):
    """Segments that lie across one border, several, or none."""
    lengths = [60, 40, 21, 20, 13, 12, 9, 7, 5, 4]
    return [Example([segment(rng, rng.integers(3, VOCAB, 1), n - 1)], {"text": 0}) for n in lengths]


def pairs(rng):
    made = []
    for prompt, chosen, rejected in ((9, 30, 20), (3, 50, 2), (5, 11, 14), (2, 8, 9)):
        begin = rng.integers(3, VOCAB, prompt)
        made.append(Example([segment(rng, begin, n) for n in (chosen, rejected)], {"chosen": 0, "rejected": 1}))
    return made


def batch_of(examples):
    batch = layout(examples, blocks=2, block_rows=2, row_length=LENGTH, slots=8)
    return jax.device_get(dataclasses.replace(batch, max_segment=LENGTH))


def gradients(objective, tables, batch, sizes, frozen=None):
    """Loss, metrics and gradients of one step on a mesh of these sizes; all parameters are random."""
    mesh = make_mesh(sizes, jax.devices()[: math.prod(sizes.values())])
    run = coupled_gradients if objective.coupled else added_gradients

    def networks(tables, seed):
        params = {name: init_params(table, jax.random.key(seed)) for name, table in tables.items()}
        params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)
        return jax.device_put(params, {name: param_shardings(table, mesh) for name, table in tables.items()})

    @jax.jit
    def step(params, networks, batch):
        counts = objective.counts(batch)
        out, grads = run(objective, params, networks, batch, {}, counts, jax.random.key(0), 1)
        return out.loss, {name: m.value() for name, m in out.metrics.items()}, grads

    with use_mesh(mesh):
        return jax.device_get(step(networks(tables, 0), networks(frozen or {}, 1), put_batch(batch, mesh)))


def assert_same(found, expected):
    assert np.isfinite(expected[0])
    for (path, b), a in zip(jax.tree_util.tree_flatten_with_path(expected)[0], jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=3e-5 * np.max(np.abs(b)), err_msg=jax.tree_util.keystr(path))


def next_token_of(config, **how):
    objective = next_token(Scorer(config, **how))
    experts = family(config).experts(config)
    balance = Routing(bias_update_rate=0.05, router_aux_loss_coef=0.5, router_z_loss_coef=0.1)
    return objective if experts is None else with_routing(objective, experts, balance)


@functools.cache
def expected_of(config):
    batch = batch_of(texts(np.random.default_rng(0)))
    return gradients(next_token_of(config), {"model": param_table(config)}, batch, {"fsdp": 1})


def cases():
    """Every model on every mesh, of which each stands once in the quick ones."""
    for i, (name, config) in enumerate({"dense": DENSE, "windows": LFM3, "experts": MOE}.items()):
        for j, sizes in enumerate(MESHES):
            yield pytest.param(config, sizes, id=f"{name} {sizes}", marks=[] if i == j else pytest.mark.slow)


@pytest.mark.parametrize(("config", "sizes"), list(cases()))
def test_next_token_is_that_of_one_device(config, sizes):
    batch = batch_of(texts(np.random.default_rng(0)))
    found = gradients(next_token_of(config), {"model": param_table(config)}, batch, sizes)
    assert_same(found, expected_of(config))


# All at once, and what of them a failure comes from.
HOW = [
    {"head_chunk": 5, "remat": "full", "scan": True},
    *(pytest.param(how, marks=pytest.mark.slow) for how in ({"head_chunk": 5}, {"remat": "mixer"})),
]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_chunks_loops_and_recomputation(how):
    config = dataclasses.replace(LFM3, layer_types=LFM3.layer_types * 2) if "scan" in how else LFM3
    batch = batch_of(texts(np.random.default_rng(0)))
    sizes = {"sequence": 4, "fsdp": 2}
    found = gradients(next_token_of(config, **how), {"model": param_table(config)}, batch, sizes)
    assert_same(found, expected_of(config))


def pair_gradients(sizes):
    objective, tables = METHODS["dpo"]().build(Scorer(LFM3)), {"model": param_table(LFM3)}
    batch = batch_of(pairs(np.random.default_rng(1)))
    return gradients(objective, tables, batch, sizes, {"reference": param_table(LFM3)})


@pytest.fixture(scope="module")
def one_device_pairs():
    return pair_gradients({"fsdp": 1})


# With adapters, pairs are spread over sequence 2 x fsdp 4 in `tests/meshes`, among the quick ones.
@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES[1:], ids=str)
def test_pairs_are_those_of_one_device(one_device_pairs, sizes):
    assert_same(pair_gradients(sizes), one_device_pairs)


def test_adapters_are_those_of_one_device():
    lora, batch = LoRA(rank=2, alpha=8.0), batch_of(texts(np.random.default_rng(0)))
    objective, table = with_lora(next_token(Scorer(DENSE)), scale=scale_of(lora)), param_table(DENSE)
    run = functools.partial(gradients, objective, {"adapter": adapter_table(table, lora)}, batch)
    found, expected = (run(sizes, {"base": table}) for sizes in (MESHES[2], {"fsdp": 1}))
    assert_same(found, expected)
