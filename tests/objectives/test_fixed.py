"""Any objective of which a part is trained: as the whole run with the other gradients taken away, in any layout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contracts.batches import make_examples, packed, unpacked
from contracts.harness import CONFIG, SCHEDULE, SCORER, assert_learned, assert_same, drive

from jaxpo.config import LoRA, Muon, Routing
from jaxpo.models.family import family, param_table
from jaxpo.models.lowrank import adapter_table, scale_of
from jaxpo.models.paths import cut, joined, matching, split_table
from jaxpo.models.spec import init_params, leaves, param_shardings
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.wrappers.fixed import FIXED, with_fixed
from jaxpo.objectives.wrappers.lora import with_lora
from jaxpo.objectives.wrappers.moving_reference import with_moving_reference
from jaxpo.objectives.wrappers.routing import with_routing
from jaxpo.sharding import batch_sharding, make_mesh, replicated, use_mesh
from jaxpo.train.init import abstract_state, build_state
from jaxpo.train.optimizer import make_optimizer
from jaxpo.train.step import make_step

MODEL, PART = param_table(CONFIG), ("model/layers/0/self_attn/*", "*/embedding_norm/*", "value/*")
LORA = LoRA(rank=2, alpha=8.0)
BATCHES = [packed(make_examples("pair", 16, seed)) for seed in (0, 1)]
DECAY = 0.5
MOE = dataclasses.replace(
    CONFIG,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=8,
    num_dense_layers=0,
)


def plain(name):
    method = METHODS[name]()
    return method.build(SCORER), {"model": MODEL} | method.extra_tables(CONFIG)


def drawn(tables, seed):
    params = init_params(tables, jax.random.key(seed))
    return jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size + seed), x.shape), params)


def only(tables, patterns):
    """Steps along the normalised gradient of the chosen leaves; the others' is taken away first."""
    chosen = {path for pattern in patterns for path in matching([p for p, _ in leaves(tables)], pattern)}

    def erased(updates, _):
        flat, treedef = jax.tree_util.tree_flatten_with_path(updates)
        kept = [x if "/".join(k.key for k in path) in chosen else jnp.zeros_like(x) for path, x in flat]
        return jax.tree.unflatten(treedef, kept)

    return optax.chain(optax.stateless(erased), optax.normalize_by_update_norm(), optax.scale(-0.1))


def start(objective, tables, patterns=None, optimizer=None):
    """`(state, frozen)`: with patterns, of the part alone."""
    params, frozen = drawn(tables, 1), {}
    optimizer = optimizer or only(tables, patterns or ("*",))
    moving = "reference" in objective.start(objective.init_carry(), params)
    if objective.needs.kind("reference") != "none" and not moving:
        frozen["reference"] = drawn(tables, 2)["model"]
    if patterns is not None:
        trained, fixed = split_table(tables, patterns)
        params, frozen = cut(trained, params), frozen | {FIXED: cut(fixed, params)}
    return build_state(params, optimizer, objective, jax.random.key(3), average=True), frozen


def run(objective, tables, batches, patterns, *, part=True, microbatches=1, devices=1):
    optimizer = only(tables, patterns)
    state, frozen = start(objective, tables, patterns if part else None, optimizer)
    step = make_step(objective, optimizer, SCHEDULE, microbatches=microbatches, ema_decay=DECAY)
    if devices == 1:
        return drive(jax.jit(step), state, frozen, batches)
    mesh = make_mesh({"fsdp": devices // 2, "tensor": 2}, jax.devices()[:devices])
    trained, fixed = split_table(tables, patterns)
    with use_mesh(mesh):
        where = jax.tree.map(lambda a: a.sharding, abstract_state(trained, optimizer, objective, mesh, average=True))
        state = jax.device_put(state, where)
        rest = {k: jax.device_put(x, replicated(mesh)) for k, x in frozen.items() if k != FIXED}
        rest[FIXED] = {
            name: jax.device_put(frozen[FIXED][name], param_shardings(table, mesh)) for name, table in fixed.items()
        }
        placed = [jax.device_put(b, batch_sharding(mesh)) for b in batches]
        return drive(jax.jit(step, out_shardings=(where, replicated(mesh))), state, rest, placed)


@functools.cache
def case(name):
    objective, tables = plain(name)
    return with_fixed(objective), tables, run(with_fixed(objective), tables, BATCHES, PART)


@pytest.mark.parametrize("name", ["dpo", pytest.param("bradley_terry", marks=pytest.mark.slow)])
def test_it_is_the_whole_run_with_the_other_gradients_taken_away(name):
    """Three steps with their average; the state holds the part alone."""
    objective, tables, (got, log) = case(name)
    expected, whole = run(plain(name)[0], tables, BATCHES, PART, part=False)
    trained, fixed = split_table(tables, PART)
    first = drawn(tables, 1)
    theirs = dataclasses.replace(expected, params=cut(trained, expected.params))
    metrics = [{**record, "grad_norm": ours["grad_norm"]} for record, ours in zip(whole, log, strict=True)]
    assert_same((got, log), (theirs, metrics), start(objective, tables, PART)[0])
    assert_learned((got, log), start(objective, tables, PART)[0])
    assert all(ours["grad_norm"] < record["grad_norm"] for ours, record in zip(log, whole, strict=True))
    for a, b in zip(jax.tree.leaves(got.ema), jax.tree.leaves(cut(trained, expected.ema)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(cut(fixed, expected.params)), jax.tree.leaves(cut(fixed, first)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_layouts_and_devices_agree():
    objective, tables, baseline = case("dpo")
    first = start(objective, tables, PART)[0]
    loose = [unpacked(make_examples("pair", 16, seed)) for seed in (0, 1)]
    assert_same(run(objective, tables, loose, PART, microbatches=4, devices=4), baseline, first)


@pytest.mark.slow  # above in four microbatches, on four devices at once
def test_layouts_and_devices_agree_one_by_one():
    objective, tables, baseline = case("dpo")
    first = start(objective, tables, PART)[0]
    loose = [unpacked(make_examples("pair", 16, seed)) for seed in (0, 1)]
    assert_same(run(objective, tables, loose, PART, microbatches=8), baseline, first)
    assert_same(run(objective, tables, BATCHES, PART, devices=4), baseline, first)


def test_a_moving_reference_moves_where_the_policy_does():
    inner, tables = plain("dpo")
    moving = with_moving_reference(inner, alpha=0.6, every=2)
    expected, whole = run(moving, tables, BATCHES, PART, part=False)
    got, log = run(with_fixed(moving), tables, BATCHES, PART)
    part = split_table(tables, PART)[0]["model"]
    assert jax.tree.structure(got.carry["reference"]) == jax.tree.structure(cut(part, expected.carry["reference"]))
    for ours, theirs in zip(log, whole, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-5)
    policies = (got.params["model"], cut(part, expected.params["model"]))
    for ours, theirs in ((got.carry["reference"], cut(part, expected.carry["reference"])), policies):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_beside_adapters_one_factor_of_each_can_be_trained():
    inner, heads = plain("bradley_terry")
    tables = {"adapter": adapter_table(MODEL, LORA), "value": heads["value"]}
    patterns = ("adapter/*/b", "value/*")
    objective, base = with_fixed(with_lora(inner, scale=scale_of(LORA))), {"base": drawn({"model": MODEL}, 5)["model"]}
    optimizer = only(tables, patterns)
    state, frozen = start(objective, tables, patterns, optimizer)
    state, log = drive(
        jax.jit(make_step(objective, optimizer, SCHEDULE, ema_decay=DECAY)), state, frozen | base, BATCHES
    )
    lora = with_lora(inner, scale=scale_of(LORA))
    whole, _ = start(lora, tables, None, optimizer)
    expected, theirs = drive(jax.jit(make_step(lora, optimizer, SCHEDULE, ema_decay=DECAY)), whole, base, BATCHES)
    assert {path.rpartition("/")[2] for path, _ in leaves_of(state.params["adapter"])} == {"b"}
    for path, x in leaves_of(state.params):
        np.testing.assert_allclose(x, dict(leaves_of(expected.params))[path], rtol=1e-4, atol=1e-6, err_msg=path)
    assert [r["loss"] for r in log] == pytest.approx([r["loss"] for r in theirs], rel=2e-5)


def leaves_of(tree):
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield "/".join(k.key for k in path), np.asarray(x)


def test_a_routing_bias_that_is_trained_is_moved_beside_a_fixed_model():
    patterns = ("*/gate/*", "*/expert_bias/bias", "*/operator_norm/*")
    scorer = Scorer(MOE)
    plain_objective = METHODS["orpo"]().build(scorer)
    objective = with_fixed(with_routing(plain_objective, family(MOE).experts(MOE), Routing(bias_update_rate=0.01)))
    tables = {"model": param_table(MOE)}
    optimizer = optax.sgd(0.1)
    trained, fixed = split_table(tables, patterns)
    params = init_params(tables, jax.random.key(1))
    state = build_state(cut(trained, params), optimizer, objective, jax.random.key(3))
    state, _ = jax.jit(make_step(objective, optimizer, SCHEDULE))(state, {FIXED: cut(fixed, params)}, BATCHES[0])
    for path, x in leaves_of(state.params):
        moved = np.abs(x - dict(leaves_of(params))[path]).max()
        if path.endswith("expert_bias/bias"):
            assert moved == pytest.approx(0.01, rel=1e-5)
    whole = joined(state.params, cut(fixed, params))
    assert jax.tree.structure(whole) == jax.tree.structure(params)


@pytest.mark.parametrize("patterns", [("value/*",), ("model/layers/0/feed_forward/w1/*", "value/*")])
def test_the_optimiser_knows_the_part_alone(patterns):
    """Muon too, whose halves may be empty then."""
    tables = plain("bradley_terry")[1]
    trained, _ = split_table(tables, patterns)
    config = Muon(lr_factors=(("value/*", 3.0),))
    optimizer = make_optimizer(config, trained, optax.constant_schedule(0.1))
    params = cut(trained, drawn(tables, 1))
    updates, state = optimizer.update(params, optimizer.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    shapes = {p.shape for _, p in leaves(trained)}  # the state also holds Newton and Schulz's coefficients
    kept = sum(x.size for x in jax.tree.leaves(state) if x.shape in shapes)
    sizes = {path: p.size for path, p in leaves(trained)}
    assert kept == sum(n * (1 if "w1" in path else 2) for path, n in sizes.items())
