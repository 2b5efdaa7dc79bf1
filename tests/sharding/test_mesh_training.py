"""The same recipe on 1 device and on fsdp 4 x tensor 2: equal losses, gradient norms, parameters; predicted memory."""

import functools
import math

import jax
import numpy as np
import pytest
from contracts.batches import make_examples, packed

from jaxpo.config import Optimizer
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params, leaves, param_shardings
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.sharding import RULES, batch_sharding, make_mesh, replicated, spec_for, use_mesh
from jaxpo.train.init import abstract_state, init_state
from jaxpo.train.optimizer import make_optimizer, make_schedule
from jaxpo.train.step import make_step

CONFIG = LFM2Config(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    layer_types=("conv", "full_attention"),
    initializer_range=0.2,
)
STEPS = 5
# With a smaller epsilon Adam turns the rounding of near-zero gradients into steps, and each processor rounds otherwise.
OPTIMIZER = Optimizer(learning_rate=1e-3, warmup_steps=2, lr_scheduler_type="cosine", adam_epsilon=1e-5)


def train(sizes, devices, microbatches=1, head_chunk=None):
    tables = {"model": param_table(CONFIG)}
    schedule = make_schedule(OPTIMIZER, STEPS)
    optimizer = make_optimizer(OPTIMIZER, tables, schedule)
    objective = next_token(Scorer(CONFIG, head_chunk=head_chunk))
    mesh = make_mesh(sizes, jax.devices()[:devices])
    batches = [packed(make_examples("text", 32, seed)) for seed in range(STEPS)]
    with use_mesh(mesh):
        abstract = abstract_state(tables, optimizer, objective, mesh)
        params = {"model": init_params(tables["model"], jax.random.key(0))}
        state = init_state(abstract, params, optimizer, objective, seed=0)
        step = jax.jit(
            make_step(objective, optimizer, schedule, microbatches=microbatches),
            donate_argnums=0,
            out_shardings=(jax.tree.map(lambda a: a.sharding, abstract), replicated(mesh)),
        )
        log = []
        for batch in batches:
            state, metrics = step(state, {}, jax.device_put(batch, batch_sharding(mesh)))
            log.append({k: float(v.value()) for k, v in metrics.items()})
    return state, log, abstract


@pytest.fixture(scope="module")
def single():
    return train({"fsdp": 1}, 1)


@functools.cache
def on_four_by_two(microbatches, head_chunk):
    return train({"fsdp": 4, "tensor": 2}, 8, microbatches, head_chunk)


@pytest.mark.scale  # quick: two devices, in microbatches, in tests/contracts/test_objectives.py
@pytest.mark.parametrize(
    "spread",
    [
        pytest.param(lambda: on_four_by_two(1, None), marks=pytest.mark.slow),  # below in microbatches and chunks too
        lambda: on_four_by_two(2, 16),
        lambda: train({"replica": 2, "fsdp": 4}, 8, 1, 16),
    ],
    ids=["fsdp 4 x tensor 2", "fsdp 4 x tensor 2 in microbatches and chunks", "replica 2 x fsdp 4"],
)
def test_eight_devices_train_like_one(single, spread):
    state, log, _ = spread()
    for got, expected in zip(log, single[1], strict=True):
        for name in ("loss", "grad_norm", "entropy", "learning_rate"):
            assert got[name] == pytest.approx(expected[name], rel=1e-5), name
    for (path, b), a in zip(
        jax.tree_util.tree_flatten_with_path(single[0].params)[0], jax.tree.leaves(state.params), strict=True
    ):
        worst = np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(np.asarray(b)))
        assert worst <= 1e-5, jax.tree_util.keystr(path)


@pytest.mark.scale  # quick: where parameters lie, in tests/objectives/test_moving_reference.py
def test_bytes_per_device_are_what_the_rules_predict():
    state, _, _ = on_four_by_two(2, 16)
    sizes = {"fsdp": 4, "tensor": 2, "replica": 1, "expert": 1, "sequence": 1}
    predicted = 0
    for _, param in leaves(param_table(CONFIG)):
        shards = math.prod(
            sizes[name]
            for axis in spec_for(param.axes, RULES)
            for name in ((axis,) if isinstance(axis, str) else axis or ())
        )
        predicted += 4 * param.size // shards
    assert predicted < 4 * sum(p.size for _, p in leaves(param_table(CONFIG))) / 7  # the big ones are cut in 8
    moments = [s for s in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(s, "mu")]
    for tree in (state.params, moments[0].mu, moments[0].nu):
        held = [x.addressable_shards[d].data.nbytes for x in jax.tree.leaves(tree) for d in range(8)]
        assert sum(held) == 8 * predicted


def test_a_mesh_that_does_not_divide_a_dimension_is_named():
    with pytest.raises(ConfigError, match=r"q_proj.*'heads' of size 32 .* \(5 devices\).*set the rule 'heads' to None"):
        param_shardings(param_table(CONFIG), make_mesh({"tensor": 5}, jax.devices()[:5]))


def test_a_mesh_that_does_not_fit_the_devices_is_named():
    with pytest.raises(ConfigError, match="multiple of 3 devices and there are 8"):
        make_mesh({"fsdp": 3})
