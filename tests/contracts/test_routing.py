"""Every shape of need, on a mixture of experts: the policy's routers are heard, whatever else the objective runs."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import CONFIG
from contracts.needs import configured, kind_of, representatives

from jaxpo.config import Routing
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import abstract_params
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
    objective = with_routing(inner, MOE, ROUTING)
    assert objective.coupled
    tables = {"model": param_table(MOE)} | (method.extra_tables(MOE) if method else {})
    params = {group: abstract_params(table) for group, table in tables.items()}
    frozen = dict.fromkeys(("reference", "teacher"), params["model"])
    batch = packed(make_examples(kind_of(method) if method else "text", 16))

    def whole(params, frozen, batch):
        carry = objective.start(objective.init_carry(), params)
        features = objective.encode(params, objective.networks(frozen, carry), batch, jax.random.key(0))
        out = objective.loss(features, batch, carry, objective.counts(batch))
        return out, objective.after(carry, out.stats), objective.adjust(params, out.stats)

    out, _, adjusted = jax.eval_shape(whole, params, frozen, batch)
    assert out.stats["load"].shape == (1, 4)
    assert {*MEASURES, "aux_loss", "router_z_loss"} <= set(out.metrics)
    assert jax.tree.structure(adjusted) == jax.tree.structure(params)


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
