"""Every shape of need, on a mixture of experts: the policy's routers are heard, whatever else the objective runs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import CONFIG
from contracts.needs import configured, kind_of, representatives

from jaxpo.config import Routing
from jaxpo.models.family import family
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import abstract_params, init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.wrappers.routing import MEASURES, with_routing

MOE = dataclasses.replace(CONFIG, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, num_dense_layers=0)
ROUTING = Routing(bias_update_rate=0.1, router_aux_loss_coef=0.1)
QUICK = ("next_token", "dpo")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in QUICK else pytest.mark.slow)
        for n in dict.fromkeys((*QUICK, *representatives()))
    ],
)
def test_routers_are_heard_and_their_statistics_come_out(name):
    """Traced alone: shapes say whether the sums arrive where they belong."""
    method = None if name == "next_token" else configured(name)
    inner = method.build(Scorer(MOE)) if method else next_token(Scorer(MOE))
    objective = with_routing(inner, family(MOE).experts(MOE), ROUTING)
    assert objective.coupled
    tables = {"model": param_table(MOE)} | (method.extra_tables(MOE) if method else {})
    params = {group: abstract_params(table) for group, table in tables.items()}
    frozen = dict.fromkeys(("reference", "teacher"), params["model"])
    batch = packed(make_examples(kind_of(method) if method else "text", 16))

    def whole(params, frozen, batch):
        carry = objective.start(objective.init_carry(), params)
        features, rest = objective.encode(params, objective.networks(frozen, carry), batch, jax.random.key(0))
        assert rest == {}, "the wrapper has taken what the pass left"
        out = objective.loss(features, batch, carry, objective.counts(batch))
        return out, objective.after(carry, out.stats), objective.adjust(params, out.stats)

    out, _, adjusted = jax.eval_shape(whole, params, frozen, batch)
    assert out.stats["load"].shape == (1, 4)
    assert {*MEASURES, "aux_loss", "router_z_loss"} <= set(out.metrics)
    assert jax.tree.structure(adjusted) == jax.tree.structure(params)


def perturbed(objective, direction):
    """The same objective at parameters a step away, as sharpness-aware and meta-learned objectives take it."""

    def encode(params, frozen, batch, rng):
        return objective.encode(jax.tree.map(jnp.add, params, direction), frozen, batch, rng)

    return dataclasses.replace(objective, encode=encode)


def test_an_objective_that_perturbs_its_parameters_is_balanced_where_it_runs():
    """The sums are those of the pass it made, and the balance loss has its gradient there."""
    params = {"model": init_params(param_table(MOE), jax.random.key(1))}
    direction = {"model": jax.tree.map(lambda x: 0.5 * x[::-1], params["model"])}
    batch = packed(make_examples("text", 16))
    experts = family(MOE).experts(MOE)
    plain = next_token(Scorer(MOE))

    @functools.partial(jax.jit, static_argnums=0)
    def run(moved, params):
        objective = with_routing(perturbed(plain, direction) if moved else plain, experts, ROUTING)

        def loss(params):
            features, _ = objective.encode(params, {}, batch, None)
            out = objective.loss(features, batch, {}, objective.counts(batch))
            return out.loss, out

        (value, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, out.stats["load"], grads

    there = run(False, jax.tree.map(jnp.add, params, direction))
    moved = run(True, params)
    assert not np.array_equal(moved[1], run(False, params)[1])
    np.testing.assert_array_equal(moved[1], there[1])
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(there), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert np.abs(moved[2]["model"]["layers"]["0"]["feed_forward"]["gate"]["weight"]).max() > 0


def test_an_objective_that_hands_on_no_sums_is_named():
    silent = dataclasses.replace(next_token(Scorer(MOE)), encode=lambda *a: ({}, {}))
    objective = with_routing(silent, family(MOE).experts(MOE), ROUTING)
    with pytest.raises(ValueError, match="objective 'next_token' hands on no 'router' sums"):
        objective.encode({}, {}, None, None)


def test_one_expert_is_balanced():
    """log 1 = 0: its share of the greatest entropy is 1, as of any even load."""
    assert {name: float(measure(jnp.full((2, 1), 7.0))) for name, measure in MEASURES.items()} == {
        "moe/max_load_violation": 0.0,
        "moe/mean_load_violation": 0.0,
        "moe/load_entropy": 1.0,
        "moe/dead_experts": 0.0,
    }
    assert float(MEASURES["moe/load_entropy"](jnp.asarray([[7.0, 0.0]]))) == 0.0
    assert float(MEASURES["moe/load_entropy"](jnp.asarray([[7.0, 7.0]]))) == pytest.approx(1.0)
