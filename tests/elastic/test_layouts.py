"""The gradient of a step is the same on 1, 2, 4, 8 devices and in 1, 2, 4 microbatches, coupled losses included."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import CONFIG, SCORER

from jaxpo.config import Routing
from jaxpo.models.family import family
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params, param_shardings
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.wrappers.routing import with_routing
from jaxpo.sharding import batch_sharding, make_mesh, use_mesh
from jaxpo.train.step import added_gradients, coupled_gradients

pytestmark = pytest.mark.scale
MOE = dataclasses.replace(CONFIG, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, num_dense_layers=0)
DROPPING = dataclasses.replace(SCORER, embedding_dropout=0.2)
# Examples, configuration, objective: a mean over tokens with dropout; a mean over pairs; an estimate of the KL over
# the whole step; a product of two means over all tokens of the step.
CASES = {
    "next_token": ("text", CONFIG, lambda: next_token(DROPPING)),
    "dpo": ("pair", CONFIG, lambda: METHODS["dpo"]().build(SCORER)),
    "kto": ("completion", CONFIG, lambda: METHODS["kto"]().build(SCORER)),
    "balanced": (
        "text",
        MOE,
        lambda: with_routing(
            next_token(Scorer(MOE)), family(MOE).experts(MOE), Routing(router_aux_loss_coef=0.5, router_z_loss_coef=0.1)
        ),
    ),
}
# Devices and microbatches; tests/contracts has more objectives in fewer layouts.
LAYOUTS = [(4, 2), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((1, 4), (2, 2), (4, 4), (8, 1), (8, 2)))]


@functools.cache
def gradient(name, devices, microbatches):
    """Loss and gradient by float32, as numpy."""
    kind, config, make = CASES[name]
    objective, table = make(), param_table(config)
    batch = packed(make_examples(kind, 40), blocks=16)
    params, reference = (init_params(table, jax.random.key(i)) for i in range(2))
    mesh = make_mesh({"fsdp": devices}, jax.devices()[:devices])
    run = coupled_gradients if objective.coupled else added_gradients

    def step(params, frozen, batch):
        counts, carry = objective.counts(batch), objective.init_carry()
        return run(objective, params, frozen, batch, carry, counts, jax.random.key(7), microbatches)

    with use_mesh(mesh):
        where = param_shardings(table, mesh)
        params, reference = (jax.device_put(x, where) for x in (params, reference))
        frozen = {"reference": reference} if objective.needs.kind("reference") != "none" else {}
        out, grads = jax.jit(step)({"model": params}, frozen, jax.device_put(batch, batch_sharding(mesh)))
        return float(out.loss), jax.device_get(grads)


@pytest.mark.parametrize(("devices", "microbatches"), LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_the_same_in_every_layout(name, devices, microbatches):
    loss, grads = gradient(name, 1, 1)
    got, found = gradient(name, devices, microbatches)
    assert got == pytest.approx(loss, rel=1e-5)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(grads), strict=True):
        where = jax.tree_util.keystr(path)
        # A routing bias moves by the load, not by a gradient.
        assert np.abs(b).max() > 0 or "bias" in where, "equality of zeros would prove nothing"
        assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max(), where
