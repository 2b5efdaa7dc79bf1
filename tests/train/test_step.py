"""The training step beyond the contracts: gating, clipping, compute dtype, remat, compilations, schedules."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import CONFIG, SCORER

from jaxpo.config import Optimizer
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.train.init import build_state
from jaxpo.train.optimizer import make_optimizer, make_schedule
from jaxpo.train.step import make_step

TABLES = {"model": param_table(CONFIG)}
SETTINGS = Optimizer(learning_rate=1e-2, lr_scheduler_type="constant", max_grad_norm=0.1, weight_decay=0.1)


@pytest.fixture(scope="module")
def batch():
    return packed(make_examples("text", 16))


def program(scorer=SCORER, settings=SETTINGS):
    """`(compiled step, first state)`."""
    schedule = make_schedule(settings, 10)
    optimizer = make_optimizer(settings, TABLES, schedule)
    objective = next_token(scorer)
    params = {"model": init_params(TABLES["model"], jax.random.key(0))}
    return jax.jit(make_step(objective, optimizer, schedule)), build_state(
        params, optimizer, objective, jax.random.key(1)
    )


@pytest.fixture(scope="module")
def plain():
    return program()


def leaves(state):
    return [np.asarray(x) for x in jax.tree.leaves((state.params, state.opt_state, state.carry))]


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_non_finite_step_changes_nothing_but_the_position(plain, batch, poison):
    step, state = plain
    norm = state.params["model"]["embedding_norm"]["weight"].at[0].set(poison)
    bad = dataclasses.replace(state, params={"model": state.params["model"] | {"embedding_norm": {"weight": norm}}})
    after, metrics = step(bad, {}, batch)
    assert float(metrics["skipped"].value()) == 1.0
    for a, b in zip(leaves(after), leaves(bad), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(after.step) == 1
    assert int(after.rows_seen) == batch.tokens.shape[0]


def test_a_finite_step_is_not_skipped_and_grad_norm_is_that_before_clipping(plain, batch):
    step, state = plain
    _, metrics = step(state, {}, batch)
    assert float(metrics["skipped"].value()) == 0.0
    free_step, free_state = program(settings=dataclasses.replace(SETTINGS, max_grad_norm=np.inf))
    _, free = free_step(free_state, {}, batch)
    assert float(metrics["grad_norm"].value()) > 5 * SETTINGS.max_grad_norm
    assert float(metrics["grad_norm"].value()) == pytest.approx(float(free["grad_norm"].value()), rel=1e-6)


def test_decay_spares_the_norms(batch):
    table = TABLES["model"]
    schedule = optax.constant_schedule(1e-2)
    optimizer = make_optimizer(SETTINGS, TABLES, schedule)
    params = {"model": init_params(table, jax.random.key(0))}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    moved = {
        jax.tree_util.keystr(path): bool(np.any(np.asarray(u) != 0))
        for path, u in jax.tree_util.tree_flatten_with_path(updates)[0]
    }
    assert any(moved.values())
    for name, changed in moved.items():
        assert changed == ("norm" not in name), name


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_memory_not_numbers(plain, batch, remat):
    _, expected = plain[0](plain[1], {}, batch)
    step, state = program(dataclasses.replace(SCORER, remat=remat))
    _, metrics = step(state, {}, batch)
    for name in ("loss", "grad_norm"):
        assert float(metrics[name].value()) == pytest.approx(float(expected[name].value()), rel=1e-5)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_masters(plain, batch):
    _, expected = plain[0](plain[1], {}, batch)
    scorer = Scorer(CONFIG, dtype="bfloat16")
    step, state = program(scorer)
    assert scorer.hidden(state.params["model"], batch).dtype == jnp.bfloat16
    after, metrics = step(state, {}, batch)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(after.params))
    assert scorer.logps(state.params["model"], batch).dtype == jnp.float32
    loss, reference = float(metrics["loss"].value()), float(expected["loss"].value())
    assert loss != reference
    assert loss == pytest.approx(reference, rel=2e-2)


def test_one_compilation_serves_all_steps(batch, caplog):
    step, state = program()
    other = packed(make_examples("text", 16, seed=5))
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        for i in range(4):
            state, _ = step(state, {}, batch if i % 2 else other)
    compiled = [r for r in caplog.records if "Finished XLA compilation of jit(step)" in r.getMessage()]
    assert step._cache_size() == 1
    assert len(compiled) <= 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.8875, 0.775, 0.6625, 0.55, 0.4375, 0.325, 0.2125]),
        ("wsd", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.775, 0.55, 0.325]),
        ("cosine", [0.5, 1.0, *(0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(8) / 8)))]),
    ],
)
def test_schedules(kind, expected):
    config = Optimizer(
        learning_rate=1.0, final_learning_rate=0.1, lr_scheduler_type=kind, warmup_steps=2, decay_ratio=0.4
    )
    schedule = make_schedule(config, 10)
    np.testing.assert_allclose([float(schedule(i)) for i in range(10)], expected, rtol=1e-5)
    assert float(schedule(10)) == pytest.approx(1.0 if kind == "constant" else 0.1, rel=1e-5)


def test_the_last_step_taken_is_one_before_the_final_rate():
    """As LambdaLR with transformers' schedules: step i has the factor (total - i) / (total - warm-up)."""
    schedule = make_schedule(Optimizer(learning_rate=1.0, lr_scheduler_type="linear"), 10)
    np.testing.assert_allclose([float(schedule(i)) for i in range(11)], (10 - np.arange(11)) / 10, atol=1e-6)
    assert float(schedule(9)) > 0 == float(schedule(10))


def test_a_warm_up_by_ratio_is_one_by_steps_and_a_short_run_has_none():
    by_ratio = make_schedule(Optimizer(warmup_ratio=0.25), 10)
    by_steps = make_schedule(Optimizer(warmup_steps=2), 10)
    np.testing.assert_array_equal([by_ratio(i) for i in range(11)], [by_steps(i) for i in range(11)])
    assert float(make_schedule(Optimizer(warmup_ratio=0.1), 1)(0)) == pytest.approx(Optimizer().learning_rate)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(ConfigError, match=r"warmup_steps=10 leaves nothing of 10 steps"):
        make_schedule(Optimizer(warmup_steps=10), 10)
