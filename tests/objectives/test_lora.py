"""Any objective with adapters: layouts and devices agree, only adapters and heads move, the base is held once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contracts.batches import make_examples, packed, unpacked
from contracts.harness import CONFIG, DESCENT, SCHEDULE, SCORER, assert_learned, assert_same, drive

from jaxpo.config import LoRA, Optimizer
from jaxpo.models.heads import value_table
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, attach, merge, scale_of
from jaxpo.models.spec import init_params, leaves, param_shardings
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.wrappers.lora import with_lora
from jaxpo.sharding import batch_sharding, make_mesh, replicated, use_mesh
from jaxpo.train.init import abstract_state, build_state, init_state
from jaxpo.train.optimizer import make_optimizer
from jaxpo.train.step import make_step

LORA = LoRA(rank=2, alpha=8.0)
MODEL = param_table(CONFIG)
# One layer, as in CONFIG: through three, these large steps turn a relative change of 1e-6 in the parameters into 1e-3.
# And twice as wide: what is compared grows a change of the first parameters to 30 times its size here (60 in CONFIG),
# and at CONFIG's width to 250 times, so that a rounding of float32, 6e-8, came out as large as the tolerance on some
# processors. Measured in float64, where all layouts agree to 3e-14 at that width.
LFM3 = dataclasses.replace(
    CONFIG,
    model_type="lfm3",
    hidden_size=32,
    intermediate_size=48,
    head_dim=16,
    layer_types=("sliding_attention",),
    sliding_window=4,
    sandwich_norm=True,
    attention_gate=True,
    tie_word_embeddings=False,
)
CONFIGS = {"lfm2": CONFIG, "lfm3": LFM3}
KINDS = {"next_token": "text", "dpo": "pair", "tdpo2": "pair", "aot": "pair", "bradley_terry": "pair"}


def plain(name, config=CONFIG):
    scorer = SCORER if config == CONFIG else Scorer(config)
    if name == "next_token":
        return next_token(scorer)
    return METHODS[name]().build(scorer)


def adapted(name, config=CONFIG):
    return with_lora(plain(name, config), scale=scale_of(LORA))


def lora_tables(objective, config=CONFIG):
    extra = {"value": value_table(config)} if "value" in objective.needs.extra else {}
    return {"adapter": adapter_table(param_table(config), LORA), **extra}


def start(objective, config=CONFIG):
    """A state whose adapter is away from zero, and the frozen base."""
    params = {name: init_params(table, jax.random.key(1)) for name, table in lora_tables(objective, config).items()}
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    frozen = {"base": init_params(param_table(config), jax.random.key(2))}
    return build_state(params, DESCENT, objective, jax.random.key(3)), frozen


def run(objective, batches, config=CONFIG, *, microbatches=1, devices=1):
    state, frozen = start(objective, config)
    step = make_step(objective, DESCENT, SCHEDULE, microbatches=microbatches)
    if devices == 1:
        return drive(jax.jit(step), state, frozen, batches)
    mesh = make_mesh({"fsdp": devices // 2, "tensor": 2}, jax.devices()[:devices])
    with use_mesh(mesh):
        abstract = abstract_state(lora_tables(objective, config), DESCENT, objective, mesh)
        where = jax.tree.map(lambda a: a.sharding, abstract)
        state = jax.device_put(state, where)
        frozen = jax.device_put(frozen, {"base": param_shardings(param_table(config), mesh)})
        placed = [jax.device_put(b, batch_sharding(mesh)) for b in batches]
        return drive(jax.jit(step, out_shardings=(where, replicated(mesh))), state, frozen, placed)


@functools.cache
def case(name, config=CONFIG):
    objective = adapted(name, config)
    examples = [make_examples(KINDS[name], 16, seed) for seed in (0, 1)]
    return objective, examples, run(objective, [unpacked(e) for e in examples], config), start(objective, config)[0]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param("next_token", "lfm2", marks=pytest.mark.slow),
        ("tdpo2", "lfm2"),
        ("aot", "lfm2"),
        pytest.param("bradley_terry", "lfm2", marks=pytest.mark.slow),
        pytest.param("dpo", "lfm3", marks=pytest.mark.slow),
    ],
)
def test_packed_in_microbatches_on_devices_equals_unpacked_in_one(name, config):
    config = CONFIGS[config]
    objective, examples, baseline, first = case(name, config)
    assert_learned(baseline, first)
    assert set(baseline[0].params) == {"adapter"} | set(objective.needs.extra)
    batches = [packed(e) for e in examples]
    assert_same(run(objective, batches, config, microbatches=4, devices=4), baseline, first)


@pytest.mark.slow  # above in four microbatches, on four devices at once
@pytest.mark.parametrize("layout", [{"microbatches": 8}, {"devices": 8}], ids=str)
@pytest.mark.parametrize(
    ("name", "config"),
    [("next_token", "lfm2"), ("tdpo2", "lfm2"), ("aot", "lfm2"), ("bradley_terry", "lfm2"), ("dpo", "lfm3")],
)
def test_eight_microbatches_and_eight_devices_equal_one(name, config, layout):
    config = CONFIGS[config]
    objective, examples, baseline, first = case(name, config)
    assert_same(run(objective, [packed(e) for e in examples], config, **layout), baseline, first)


def value_and_gradient(objective, params, frozen, batch):
    def loss(params):
        features, _ = objective.encode(params, frozen, batch, jax.random.key(0))
        return objective.loss(features, batch, objective.init_carry(), objective.counts(batch)).loss

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("name", ["dpo", "bradley_terry"])
def test_the_loss_is_that_of_the_merged_model_with_the_base_as_reference(name):
    """And the adapter's gradient is the chain rule from the merged model's."""
    objective = adapted(name)
    state, frozen = start(objective)
    batch = packed(make_examples("pair", 16))
    scale = scale_of(LORA)
    extra = {k: v for k, v in state.params.items() if k != "adapter"}
    model = merge(frozen["base"], state.params["adapter"], scale)
    expected, dense = value_and_gradient(plain(name), {"model": model, **extra}, {"reference": frozen["base"]}, batch)
    got, its = value_and_gradient(objective, state.params, frozen, batch)
    assert float(got) == pytest.approx(float(expected), rel=2e-5)
    assert float(expected) != pytest.approx(float(np.log(2.0)), abs=1e-3)
    path = ("layers", "0", "feed_forward", "w1", "weight")
    full, a, b = dense["model"], its["adapter"], state.params["adapter"]
    for key in path:
        full, a, b = full[key], a[key], b[key]
    np.testing.assert_allclose(a["a"], scale * full @ b["b"].T, atol=2e-5 * float(jnp.max(jnp.abs(a["a"]))) * 10)
    np.testing.assert_allclose(a["b"], scale * b["a"].T @ full, atol=2e-5 * float(jnp.max(jnp.abs(a["b"]))) * 10)
    for name_ in extra:
        np.testing.assert_allclose(its[name_]["weight"], dense[name_]["weight"], rtol=1e-4, atol=1e-6)


def test_at_the_start_policy_and_reference_agree_bit_for_bit():
    objective = adapted("dpo")
    params = {name: init_params(table, jax.random.key(1)) for name, table in lora_tables(objective).items()}
    frozen = {"base": init_params(MODEL, jax.random.key(2))}
    batch = packed(make_examples("pair", 16))
    pair, _ = jax.jit(objective.encode)(params, frozen, batch, jax.random.key(0))
    np.testing.assert_array_equal(pair.chosen.logps, pair.chosen.ref_logps)
    np.testing.assert_array_equal(pair.rejected.logps, pair.rejected.ref_logps)
    base = jax.jit(SCORER.logps)(frozen["base"], batch)
    np.testing.assert_array_equal(jax.jit(SCORER.logps)(attach(frozen["base"], params["adapter"], 4.0), batch), base)


def nbytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def test_the_reference_costs_no_memory():
    """The compiled step is given the base once, whether a reference is needed or not."""
    sizes = {}
    for name in ("dpo", "simpo"):
        objective = adapted(name)
        state, frozen = start(objective)
        batch = packed(make_examples("pair", 16))
        step = jax.jit(make_step(objective, DESCENT, SCHEDULE), donate_argnums=0)
        sizes[name] = step.lower(state, frozen, batch).compile().memory_analysis().argument_size_in_bytes
        given = nbytes((state, frozen, batch))
        assert given - nbytes(batch) <= sizes[name] <= given + 4096
    assert sizes["dpo"] - sizes["simpo"] < nbytes(frozen) / 10


def test_training_keeps_one_base_and_never_donates_it():
    objective = adapted("dpo")
    state, frozen = start(objective)
    state = jax.tree.map(lambda x: x.copy(), state)
    held = {id(x) for x in jax.tree.leaves(frozen)}
    before = [np.asarray(x) for x in jax.tree.leaves(frozen)]
    batch = packed(make_examples("pair", 16))
    step = jax.jit(make_step(objective, DESCENT, SCHEDULE), donate_argnums=0)
    shape = frozen["base"]["embed_tokens"]["weight"].shape
    count = lambda: sum(x.shape == shape and not x.is_deleted() for x in jax.live_arrays())  # noqa: E731
    copies = count()
    for _ in range(2):
        state, _ = step(state, frozen, batch)
    assert count() == copies
    assert {id(x) for x in jax.tree.leaves(frozen)} == held
    for x, old in zip(jax.tree.leaves(frozen), before, strict=True):
        np.testing.assert_array_equal(x, old)


def test_the_optimiser_knows_only_the_adapter_and_decays_it():
    settings = Optimizer(learning_rate=1e-2, lr_scheduler_type="constant", weight_decay=0.1)
    objective = adapted("bradley_terry")
    optimizer = make_optimizer(settings, lora_tables(objective), optax.constant_schedule(1e-2))
    state, _ = start(objective)
    moments = optimizer.init(state.params)
    sizes = sum(p.size for t in lora_tables(objective).values() for _, p in leaves(t))
    assert sum(x.size for x in jax.tree.leaves(moments) if x.ndim) == 2 * sizes
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, state.params), moments, state.params)
    for x, u in zip(jax.tree.leaves(state.params["adapter"]), jax.tree.leaves(updates["adapter"]), strict=True):
        np.testing.assert_allclose(u, -1e-2 * 0.1 * x, rtol=1e-5)
    assert not np.any(updates["value"]["weight"])


def test_the_abstract_state_is_the_state():
    objective = adapted("bradley_terry")
    mesh = make_mesh({"fsdp": 2}, jax.devices()[:2])
    with use_mesh(mesh):
        abstract = abstract_state(lora_tables(objective), DESCENT, objective, mesh)
        state = init_state(abstract, start(objective)[0].params, DESCENT, objective, seed=0)
    for a, x in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (x.shape, x.dtype, x.sharding)
