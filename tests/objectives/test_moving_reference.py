"""TR-DPO inside the step: the reference follows on time, lives with the parameters, and resumes with them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from contracts.batches import make_examples, packed, unpacked
from contracts.harness import CONFIG, DESCENT, SCHEDULE, SCORER, assert_same, drive, run, steps, tables

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params, param_shardings
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.wrappers.moving_reference import with_moving_reference
from jaxpo.sharding import make_mesh, use_mesh
from jaxpo.train.init import abstract_state, build_state, init_state
from jaxpo.train.step import make_eval, make_step

ALPHA, EVERY = 0.6, 2


def objective(name="dpo", alpha=ALPHA, every=EVERY):
    return with_moving_reference(METHODS[name]().build(SCORER), alpha=alpha, every=every)


def first_state(objective):
    params = {"model": init_params(param_table(CONFIG), jax.random.key(1))}
    return build_state(params, DESCENT, objective, jax.random.key(3))


@functools.cache
def step_of(alpha, every):
    return jax.jit(make_step(objective(alpha=alpha, every=every), DESCENT, SCHEDULE))


def flat(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def moved(a, b):
    """Largest difference of two trees."""
    return max(np.abs(x - y).max() for x, y in zip(flat(a), flat(b), strict=True))


@functools.cache
def batches(lay=packed):
    return [lay(make_examples("pair", 16, seed)) for seed in (0, 1)]


@functools.cache
def case(name):
    return objective(name), run(objective(name), batches(unpacked)), first_state(objective(name))


def test_it_is_the_fixed_reference_exchanged_by_hand():
    """Five steps, moved at 2 and 4, against the plain objective with `frozen["reference"]` mixed in numpy."""
    moving = objective()
    plain = METHODS["dpo"]().build(SCORER)
    state = first_state(moving)
    step = step_of(ALPHA, EVERY)
    by_hand = build_state(state.params, DESCENT, plain, jax.random.key(3))
    plain_step = jax.jit(make_step(plain, DESCENT, SCHEDULE))
    reference = state.params["model"]
    for n in range(1, 6):
        batch = batches()[n % 2]
        state, metrics = step(state, {}, batch)
        by_hand, expected = plain_step(by_hand, {"reference": reference}, batch)
        assert float(metrics["loss"].value()) == pytest.approx(float(expected["loss"].value()), rel=1e-5)
        if n % EVERY == 0:
            mix = lambda r, p: np.asarray(ALPHA * np.asarray(p) + (1 - ALPHA) * np.asarray(r), np.float32)  # noqa: E731
            reference = jax.tree.map(mix, reference, by_hand.params["model"])
        for x, y in zip(flat(state.carry["reference"]), flat(reference), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    assert moved(reference, state.params["model"]) > 1e-3


def test_a_copy_after_every_step_makes_the_policy_its_own_reference():
    state = first_state(objective(alpha=1.0, every=1))
    for _ in range(3):
        state, metrics = step_of(1.0, 1)(state, {}, batches()[0])
        assert float(metrics["loss"].value()) == pytest.approx(np.log(2), rel=1e-6)
        assert float(metrics["grad_norm"].value()) > 1e-2
        for x, y in zip(flat(state.carry["reference"]), flat(state.params["model"]), strict=True):
            np.testing.assert_array_equal(x, y)


METHODS_OF_BOTH_KINDS = [pytest.param("tdpo2", marks=pytest.mark.slow), "lcpo"]


@pytest.mark.parametrize("name", METHODS_OF_BOTH_KINDS)
def test_packed_in_microbatches_on_two_devices_equals_unpacked_in_one(name):
    """Log-prob and vocabulary references, and a method with a carry of its own; the moved reference is compared too."""
    moving, baseline, start = case(name)
    assert set(baseline[0].carry) == {"method", "reference"}
    assert (
        max(np.abs(a - b).max() for a, b in zip(flat(baseline[0].carry["reference"]), flat(start.params), strict=True))
        > 1e-3
    )
    assert_same(run(moving, batches(), microbatches=4, devices=2), baseline, start)


@pytest.mark.slow  # above in four microbatches, on two devices at once
@pytest.mark.parametrize("layout", [{"microbatches": 8}, {"devices": 8}], ids=str)
@pytest.mark.parametrize("name", METHODS_OF_BOTH_KINDS)
def test_eight_microbatches_and_eight_devices_equal_one(name, layout):
    moving, baseline, start = case(name)
    assert_same(run(moving, batches(), **layout), baseline, start)


def test_the_reference_lives_where_the_parameters_live():
    moving = objective("lcpo")
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    with use_mesh(mesh):
        abstract = abstract_state(tables(moving), DESCENT, moving, mesh)
        state = init_state(abstract, first_state(moving).params, DESCENT, moving, seed=0)
    where = param_shardings(param_table(CONFIG), mesh)
    assert jax.tree.map(lambda a: a.sharding, abstract.carry["reference"]) == where
    assert abstract.carry["method"]["reliability"].sharding.is_fully_replicated
    for a, x in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (x.shape, x.dtype, x.sharding)
    for x, y in zip(flat(state.carry["reference"]), flat(state.params["model"]), strict=True):
        np.testing.assert_array_equal(x, y)
    assert not pointers(state.carry["reference"]) & pointers(state.params)  # both are donated


def pointers(tree):
    return {s.data.unsafe_buffer_pointer() for x in jax.tree.leaves(tree) for s in x.addressable_shards}


def test_it_resumes_bit_for_bit(tmp_path):
    step = step_of(1.0, 1)
    state = first_state(objective(alpha=1.0, every=1))
    whole = drive(step, state, {}, batches())
    halfway, first = steps(step, state, {}, batches(), 0, 2)
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(2, halfway, {})
    shape = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), halfway)
    restored, _ = store.restore(None, shape)
    resumed, rest = steps(step, restored, {}, batches(), 2, 3)
    assert first + rest == whole[1]
    for a, b in zip(flat((resumed.params, resumed.carry)), flat((whole[0].params, whole[0].carry)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_skipped_step_moves_nothing():
    state = first_state(objective(alpha=1.0, every=1))
    norm = state.params["model"]["embedding_norm"]["weight"].at[0].set(np.nan)
    model = {**state.params["model"], "embedding_norm": {"weight": norm}}
    bad = dataclasses.replace(state, params={"model": model})
    after, metrics = step_of(1.0, 1)(bad, {}, batches()[0])
    assert float(metrics["skipped"].value()) == 1.0
    for x, y in zip(flat(after.carry["reference"]), flat(state.carry["reference"]), strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_evaluation_uses_the_moved_reference():
    moving = objective(alpha=1.0, every=1)
    state, _ = step_of(1.0, 1)(first_state(moving), {}, batches()[0])
    batch = batches()[1]
    loss, metrics = jax.jit(make_eval(moving))(state.params, state.carry, {}, batch, moving.counts(batch))
    assert float(loss) == pytest.approx(np.log(2), rel=1e-6)
    assert float(metrics["rewards/margins"].value()) == pytest.approx(0.0, abs=1e-6)
