"""Experts spread over devices: training with every balance term equals training on one device, one microbatch."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contracts.batches import VOCAB, make_examples, packed

from jaxpo.config import Routing
from jaxpo.errors import ConfigError
from jaxpo.models.family import family
from jaxpo.models.lfm2 import experts
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.experts import mixture
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params, param_shardings
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.wrappers.routing import MEASURES, with_routing
from jaxpo.ops.grouped import group_rows
from jaxpo.sharding import batch_sharding, make_mesh, replicated, use_mesh
from jaxpo.train.init import abstract_state, init_state
from jaxpo.train.step import make_step

CONFIG = LFM2Config(
    vocab_size=VOCAB,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=8,
    layer_types=("conv", "full_attention"),
    num_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=12,
    num_dense_layers=1,
    initializer_range=0.4,
)
EXPERTS = family(CONFIG).experts(CONFIG)
ROUTING = Routing(bias_update_rate=0.05, router_aux_loss_coef=0.5, router_z_loss_coef=0.1)
OBJECTIVE = with_routing(next_token(Scorer(CONFIG)), EXPERTS, ROUTING)
OPTIMIZER = optax.chain(optax.normalize_by_update_norm(), optax.scale(-0.1))
TABLES = {"model": param_table(CONFIG)}
STEPS = 3


def train(sizes, devices, microbatches, objective=OBJECTIVE, steps=STEPS):
    mesh = make_mesh(sizes, jax.devices()[:devices])
    with use_mesh(mesh):
        abstract = abstract_state(TABLES, OPTIMIZER, objective, mesh)
        params = {"model": init_params(TABLES["model"], jax.random.key(0))}
        state = init_state(abstract, params, OPTIMIZER, objective, seed=0)
        step = jax.jit(
            make_step(objective, OPTIMIZER, optax.constant_schedule(0.1), microbatches=microbatches),
            donate_argnums=0,
            out_shardings=(jax.tree.map(lambda a: a.sharding, abstract), replicated(mesh)),
        )
        log = []
        for seed in range(steps):
            batch = jax.device_put(packed(make_examples("text", 32, seed)), batch_sharding(mesh))
            state, metrics = step(state, {}, batch)
            log.append({k: float(v.value()) for k, v in metrics.items()})
    return jax.device_get(state.params["model"]), log


@pytest.fixture(scope="module")
def single():
    return train({"fsdp": 1}, 1, 1)


@pytest.mark.scale  # quick: two devices, below
@pytest.mark.parametrize(
    ("sizes", "devices", "microbatches"),
    [
        pytest.param({"fsdp": 1}, 1, 4, marks=pytest.mark.slow),
        pytest.param({"fsdp": 2, "expert": 4}, 8, 1, marks=pytest.mark.slow),
        ({"fsdp": 2, "expert": 2, "tensor": 2}, 8, 2),
    ],
)
def test_losses_gradients_bias_and_metrics_are_those_of_one_device(single, sizes, devices, microbatches):
    """Each step is as long as its gradient says, so parameters after three steps are a test of the gradients."""
    assert_same_training(train(sizes, devices, microbatches), single)


def assert_same_training(found, expected):
    for got, wanted in zip(found[1], expected[1], strict=True):
        for name in ("loss", "grad_norm", "entropy", "aux_loss", "router_z_loss", *MEASURES):
            assert got[name] == pytest.approx(wanted[name], rel=2e-5), name
    pairs = zip(jax.tree_util.tree_flatten_with_path(found[0])[0], jax.tree.leaves(expected[0]), strict=True)
    for (path, a), b in pairs:
        assert np.max(np.abs(a - b)) <= 2e-5 * max(np.max(np.abs(b)), 0.05), jax.tree_util.keystr(path)


@pytest.mark.parametrize(("sizes", "microbatches"), [({"expert": 2}, 2)])
def test_bias_and_z_loss_without_a_coupled_term(sizes, microbatches):
    """The default way: loads and z are sums over microbatches, and the networks run once."""
    objective = with_routing(
        next_token(Scorer(CONFIG)), EXPERTS, dataclasses.replace(ROUTING, router_aux_loss_coef=0.0)
    )
    assert not objective.coupled
    found, expected = train(sizes, 2, microbatches, objective, 2), train({"fsdp": 1}, 1, 1, objective, 2)
    assert_same_training(found, expected)
    bias = found[0]["layers"]["1"]["feed_forward"]["expert_bias"]["bias"]
    assert np.abs(bias).max() > 0
    np.testing.assert_array_equal(bias, expected[0]["layers"]["1"]["feed_forward"]["expert_bias"]["bias"])


@pytest.mark.slow
def test_the_bias_has_moved_by_whole_steps_and_the_balance_terms_count(single):
    params, log = single
    bias = params["layers"]["1"]["feed_forward"]["expert_bias"]["bias"]
    assert np.abs(bias).max() > 0
    np.testing.assert_allclose(np.round(bias / 0.05) * 0.05, bias, atol=1e-6)
    plain = with_routing(next_token(Scorer(CONFIG)), EXPERTS, Routing())
    assert not plain.coupled
    still, other = train({"fsdp": 1}, 1, 1, plain)
    np.testing.assert_array_equal(still["layers"]["1"]["feed_forward"]["expert_bias"]["bias"], 0)
    extra = 0.5 * log[0]["aux_loss"] + 0.1 * log[0]["router_z_loss"]
    assert log[0]["loss"] == pytest.approx(other[0]["loss"] + extra, rel=1e-5)
    assert log[0]["aux_loss"] > 1.0


@pytest.mark.parametrize("rows", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_rows_that_the_devices_do_not_divide(rows):
    """Three rows on every device (generation): value and gradient as without a mesh."""
    rng = np.random.default_rng(0)
    table = TABLES["model"]["layers"]["1"]["feed_forward"]
    params = init_params(table, jax.random.key(3))
    x = jnp.asarray(rng.standard_normal((rows, 5, 16)), jnp.float32)
    real = jnp.asarray(rng.random((rows, 5)) < 0.8)
    cotangent = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)

    def f(params, x):
        y, sums = mixture(params, x, real, CONFIG)
        return jnp.sum(y * cotangent) + jnp.sum(sums.share[:, :3]) + jnp.sum(sums.z), (y, sums)

    run = jax.value_and_grad(f, argnums=(0, 1), has_aux=True)
    expected = jax.jit(run)(params, x)
    mesh = make_mesh({"expert": 4, "tensor": 2})
    with use_mesh(mesh):
        placed = jax.tree.map(jax.device_put, params, param_shardings(table, mesh))
        found = jax.jit(run)(placed, x)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, np.max(np.abs(b))))


def test_an_expert_axis_that_does_not_divide_the_experts_is_named():
    table = param_table(dataclasses.replace(CONFIG, num_experts=6))
    with pytest.raises(ConfigError, match=r"experts/w1/weight: dimension 'expert' of size 6 .* expert \(4 devices\)"):
        param_shardings(table, make_mesh({"expert": 4, "fsdp": 2}))


@pytest.mark.parametrize(
    ("sizes", "rules", "message"),
    [
        ({"fsdp": 2}, {"expert_mlp": "fsdp", "expert_embed": None}, "expert_mlp -> fsdp: .* the rows of a batch"),
        ({"sequence": 2}, {"expert_mlp": "sequence"}, "expert_mlp -> sequence: .* the positions of a batch"),
        ({"sequence": 2}, {"expert": "sequence"}, "expert -> sequence: .* the positions of a batch"),
        ({"expert": 2, "tensor": 2}, {"expert": ("expert", "tensor"), "expert_mlp": None}, "some of these axes"),
        ({"tensor": 2}, {"expert": "tensor"}, "expert and expert_mlp -> tensor: one axis cannot spread both"),
    ],
)
def test_rules_that_would_add_up_results_for_different_tokens_are_refused(sizes, rules, message):
    table = TABLES["model"]["layers"]["1"]["feed_forward"]
    params = init_params(table, jax.random.key(3))
    x, real = jnp.ones((4, 6, 16)), jnp.ones((4, 6), bool)
    mesh = make_mesh(sizes, jax.devices()[: math.prod(sizes.values())])
    with use_mesh(mesh, rules), pytest.raises(ConfigError, match=f"mesh.rules: .*{message}"):
        jax.eval_shape(lambda: mixture(params, x, real, CONFIG))


@pytest.mark.parametrize("rules", [{"expert": "tensor", "expert_mlp": None}, {"expert_mlp": "replica"}])
def test_axes_of_one_device_and_axes_without_tokens_are_computed(rules):
    """Experts over `tensor`, whose devices hold the same tokens; a width over an axis of one device."""
    rng = np.random.default_rng(1)
    table = TABLES["model"]["layers"]["1"]["feed_forward"]
    params = init_params(table, jax.random.key(3))
    x, real = jnp.asarray(rng.standard_normal((4, 6, 16)), jnp.float32), jnp.ones((4, 6), bool)
    run = jax.jit(lambda params, x: mixture(params, x, real, CONFIG)[0])
    expected = run(params, x)
    mesh = make_mesh({"fsdp": 2, "tensor": 2}, jax.devices()[:4])
    with use_mesh(mesh, rules):
        placed = jax.tree.map(jax.device_put, params, param_shardings(table, mesh, rules))
        np.testing.assert_allclose(jax.jit(lambda p, x: mixture(p, x, real, CONFIG)[0])(placed, x), expected, atol=2e-5)


def test_devices_add_up_in_float32():
    """In bfloat16 too a token's experts, on several devices, are rounded once: when their sum is complete."""
    rng = np.random.default_rng(2)
    table = TABLES["model"]["layers"]["1"]["feed_forward"]
    params = init_params(table, jax.random.key(3))
    x, real = jnp.asarray(rng.standard_normal((8, 16, 16)), jnp.bfloat16), jnp.ones((8, 16), bool)
    config = dataclasses.replace(CONFIG, num_experts_per_tok=4)
    run = jax.jit(lambda params, x: mixture(params, x, real, config)[0])
    expected = run(params, x)
    mesh = make_mesh({"fsdp": 2, "expert": 4})
    with use_mesh(mesh):
        placed = jax.tree.map(jax.device_put, params, param_shardings(table, mesh))
        found = jax.jit(lambda params, x: mixture(params, x, real, config)[0])(placed, x)
    assert found.dtype == expected.dtype == jnp.bfloat16
    # Another order of the sum may turn a rounding now and then; rounded parts would turn a third of them.
    assert np.mean(np.asarray(found) != np.asarray(expected)) < 0.01
    np.testing.assert_allclose(*(np.asarray(y, np.float32) for y in (found, expected)), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("sizes", [{"expert": 4}, {"expert": 2, "tensor": 2}])
def test_blocks_are_those_of_the_mean_load_however_many_devices_share(sizes, monkeypatch):
    seen = []

    def spied(chosen, groups, *, block):
        seen.append(block)
        return group_rows(chosen, groups, block=block)

    monkeypatch.setattr(experts, "group_rows", spied)
    params = init_params(TABLES["model"]["layers"]["1"]["feed_forward"], jax.random.key(3))
    x, real = jnp.ones((8, 128, 16)), jnp.ones((8, 128), bool)
    jax.eval_shape(lambda: mixture(params, x, real, CONFIG))
    with use_mesh(make_mesh(sizes, jax.devices()[:4])):
        jax.eval_shape(lambda: mixture(params, x, real, CONFIG))
    assert seen == [32, 32]
