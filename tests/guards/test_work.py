"""Products of a step, counted in its jaxpr, are those of the formula and what is known to be computed twice."""

import dataclasses

import jax
import pytest
from contracts.batches import make_examples, unpacked
from guards.programs import DENSE, EXPERTS

from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import abstract_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.train.flops import training_flops_per_token
from jaxpo.train.jaxpr_flops import count_flops

# A row per example: attention sees all of a row.
BATCH = unpacked(make_examples("text", 256, 0))
WIDE = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 256}
DENSE = dataclasses.replace(DENSE, **WIDE)
EXPERTS = dataclasses.replace(EXPERTS, **WIDE | {"moe_intermediate_size": 64})


def per_token(config, remat="none", grad=jax.grad):
    """Counted operations per token of the gradient (or the value) of next-token training."""
    objective = next_token(Scorer(config, remat=remat, experts="ragged_dot" if config.num_experts else None))

    def loss(params):
        features, _ = objective.encode(params, {}, BATCH, jax.random.key(0))
        return objective.loss(features, BATCH, {}, objective.counts(BATCH)).loss

    work = count_flops(grad(loss), {"model": abstract_params(param_table(config))})
    assert not work.unknown
    return work.flops / BATCH.tokens.size


@pytest.mark.parametrize(("config", "more"), [(DENSE, 0.03), (EXPERTS, 0.08)], ids=["dense", "experts"])
def test_a_step_computes_what_the_formula_says(config, more):
    """Attention's gradient forms its scores again, which are few here; experts get whole blocks of rows."""
    analytic = training_flops_per_token(config, BATCH.tokens.shape[1])
    assert 0.99 * analytic < per_token(config) < (1 + more) * analytic


def test_rematerialised_layers_are_computed_once_more_up_to_their_last_product():
    """The head is not, nor the down projections: no gradient needs what they gave."""
    forward = per_token(DENSE, grad=lambda f: f)
    head = 2 * DENSE.vocab_size * DENSE.hidden_size
    down = 2 * DENSE.num_hidden_layers * DENSE.intermediate_size * DENSE.hidden_size
    again = per_token(DENSE, "full") - per_token(DENSE)
    assert again == pytest.approx(forward - head - down, rel=0.02)
    assert per_token(DENSE) <= per_token(DENSE, "dots") < 1.03 * per_token(DENSE)
