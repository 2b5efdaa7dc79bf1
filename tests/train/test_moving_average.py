"""The moving average of parameters: its closed form, once per update whatever the layout, and what uses it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contracts.batches import make_examples, packed

from jaxpo.objectives.base import Mean, Objective, Out
from jaxpo.stages.assemble import make_evaluation
from jaxpo.train.init import build_state
from jaxpo.train.step import make_step

DECAY, RATE, STEPS = 0.8, 0.3, 5


def squares():
    """L = sum_t (w - token_t / 10)^2 / number of tokens: an objective without networks."""

    def counts(batch):
        return {"tokens": jnp.sum(batch.segment_ids > 0).astype(jnp.float32)}

    def encode(params, frozen, batch, rng):
        error = (params["model"]["w"] - batch.tokens / 10.0) ** 2
        return jnp.sum(jnp.where(batch.segment_ids > 0, error, 0.0), axis=1), {}

    def loss(features, batch, carry, counts):
        total = jnp.sum(features) / counts["tokens"]
        return Out(total, {"seen": Mean(total, jnp.ones(()))}, {})

    return Objective("squares", counts, encode, loss)


def start():
    params = {"model": {"w": jnp.asarray(2.0)}}
    return build_state(params, optax.sgd(RATE), squares(), jax.random.key(0), average=True)


def program(microbatches=1, decay=DECAY):
    schedule = optax.constant_schedule(RATE)
    return jax.jit(make_step(squares(), optax.sgd(RATE), schedule, microbatches=microbatches, ema_decay=decay))


@pytest.fixture(scope="module")
def batch():
    return packed(make_examples("text", 16))


@pytest.mark.parametrize("microbatches", [1, 4])
def test_the_average_is_the_weighted_sum_of_all_parameters_so_far(batch, microbatches):
    step, state = program(microbatches), start()
    seen = [float(state.params["model"]["w"])]
    for _ in range(STEPS):
        state, _ = step(state, {}, batch)
        seen.append(float(state.params["model"]["w"]))
    weights = [DECAY**STEPS] + [(1 - DECAY) * DECAY ** (STEPS - i) for i in range(1, STEPS + 1)]
    assert sum(weights) == pytest.approx(1.0)
    assert float(state.ema["model"]["w"]) == pytest.approx(np.dot(weights, seen), rel=1e-6)
    assert abs(float(state.ema["model"]["w"]) - seen[-1]) > 0.05


def test_it_is_float32_whatever_the_parameters_are():
    params = {"model": {"w": jnp.asarray(2.0, jnp.bfloat16)}}
    state = build_state(params, optax.sgd(RATE), squares(), jax.random.key(0), average=True)
    assert state.ema["model"]["w"].dtype == jnp.float32


def test_a_skipped_update_leaves_it_alone(batch):
    state = start()
    bad = dataclasses.replace(state, params={"model": {"w": jnp.asarray(np.nan)}})
    after, metrics = program()(bad, {}, batch)
    assert float(metrics["skipped"].value()) == 1.0
    assert float(after.ema["model"]["w"]) == 2.0


def test_without_a_decay_there_is_none(batch):
    state = build_state({"model": {"w": jnp.asarray(2.0)}}, optax.sgd(RATE), squares(), jax.random.key(0))
    assert state.ema is None
    after, _ = program(decay=None)(state, {}, batch)
    assert after.ema is None


def test_evaluation_measures_the_average_when_asked(batch):
    state = start()
    for _ in range(STEPS):
        state, _ = program()(state, {}, batch)
    real = np.asarray(batch.segment_ids) > 0

    def expected(w):
        return float(np.mean((float(w) - np.asarray(batch.tokens)[real] / 10.0) ** 2))

    for use_ema, w in ((True, state.ema["model"]["w"]), (False, state.params["model"]["w"])):
        evaluate = make_evaluation(squares(), [batch], lambda b: b, {}, use_ema=use_ema)
        assert evaluate(state)["loss"] == pytest.approx(expected(w), rel=1e-5)
    assert expected(state.ema["model"]["w"]) != pytest.approx(expected(state.params["model"]["w"]), rel=1e-2)
