"""Any number of networks beside the trained one: each by its name, online or recorded, of its own architecture."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import CONFIG, SCORER

from jaxpo.config import LoRA
from jaxpo.data.rows.needs import Needs, recorded_column
from jaxpo.errors import ConfigError
from jaxpo.models.heads import value_table
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, scale_of
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer, per_token
from jaxpo.objectives.methods.base import Info
from jaxpo.objectives.methods.features import PairMethod
from jaxpo.objectives.wrappers.lora import with_lora

WIDE = dataclasses.replace(CONFIG, hidden_size=24, num_attention_heads=3)
KINDS = (("reference", "logps"), ("previous", "logps"), ("critic", "values"))


@dataclass(frozen=True)
class Between(PairMethod):
    """Pulled towards two references, each chosen token weighed by a critic's value: reads all kinds of columns."""

    INFO = Info("between", "pairs", "none", "", "a test", function="jaxpo.losses.dpo")
    NEEDS = Needs(roles=("chosen", "rejected"), networks=KINDS)
    TOKENS = True

    def loss(self, pair):
        w, rest = pair.chosen, pair.rejected
        valued = jnp.sum(w.tokens.mask * w.tokens.logps * w.tokens.columns["critic_values"], -1)
        return (w.logps - w.ref_logps) ** 2 + (rest.logps - rest.sums["previous_logps"]) ** 2 + valued


@dataclass(frozen=True)
class Inside(PairMethod):
    """Runs a network inside `encode`."""

    INFO = Info("inside", "pairs", "none", "", "a test", function="jaxpo.losses.dpo")
    NEEDS = Needs(roles=("chosen", "rejected"), networks=(("meta", "network"),))

    def loss(self, pair):
        return pair.chosen.logps


def networks():
    """The trained model and the three beside it; the critic is wider."""
    model = param_table(CONFIG)
    critic = {"model": param_table(WIDE), "value": value_table(WIDE, std=0.5)}
    seeds = {"policy": 1, "reference": 2, "previous": 3}
    found = {name: init_params(model, jax.random.key(seed)) for name, seed in seeds.items()}
    critic = {name: init_params(table, jax.random.key(4)) for name, table in critic.items()}
    return {"model": found.pop("policy")}, found | {"critic": critic}


SCORERS = {"critic": Scorer(WIDE)}
BATCH = packed(make_examples("pair", 6, 0))


def read(frozen):
    """What is read of the networks, computed one after another."""
    run = {name: per_token(SCORERS.get(name, SCORER), kind) for name, kind in KINDS}
    return {recorded_column(name, kind): run[name](frozen[name], BATCH) for name, kind in KINDS}


def loss_of(objective, params, frozen, batch):
    counts = objective.counts(batch)
    return objective.loss(objective.encode(params, frozen, batch, None)[0], batch, {}, counts).loss


def by_hand(logps, columns):
    """The loss in float64 over the packed rows, segment by segment."""
    x = {name: np.float64(value) for name, value in columns.items()} | {"logps": np.float64(logps)}
    terms = []
    for n, (chosen, rejected) in enumerate(zip(BATCH.roles["chosen"], BATCH.roles["rejected"], strict=True)):
        if chosen < 0 or rejected < 0:
            continue
        first = n // (len(BATCH.example_id) // BATCH.blocks) * BATCH.block_rows
        on = {}
        for side, index in (("w", int(chosen)), ("l", int(rejected))):
            row, slot = first + index // BATCH.slots, index % BATCH.slots
            here = (np.asarray(BATCH.segment_ids[row]) == slot + 1) & np.asarray(BATCH.masks["completion"][row])
            on[side] = {name: value[row][here] for name, value in x.items()}
        w, rest = on["w"], on["l"]
        valued = np.sum(w["logps"] * w["critic_values"])
        a, b = np.sum(w["logps"] - w["ref_logps"]), np.sum(rest["logps"] - rest["previous_logps"])
        terms.append(a**2 + b**2 + valued)
    return np.mean(terms)


@pytest.fixture(scope="module")
def online():
    """Parameters, networks, what is read of them, and loss and gradients with all networks run in the step."""
    params, frozen = networks()
    objective = Between().build(SCORER, scorers=SCORERS)
    compute = jax.jit(jax.value_and_grad(lambda p, f: loss_of(objective, p, f, BATCH), argnums=(0, 1)))
    return params, frozen, jax.jit(read)(frozen), compute(params, frozen)


def test_two_references_and_a_critic_of_its_own_shape_are_read_by_name(online):
    params, _, columns, (loss, (gradient, to_networks)) = online
    assert np.any(np.asarray(columns["ref_logps"]) != np.asarray(columns["previous_logps"]))
    np.testing.assert_allclose(loss, by_hand(jax.jit(SCORER.logps)(params["model"], BATCH), columns), rtol=1e-5)
    assert max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(gradient)) > 0.1
    assert not any(np.any(np.asarray(x)) for x in jax.tree.leaves(to_networks))


def test_recorded_equals_online_for_every_name(online):
    params, _, columns, (loss, (gradient, _)) = online
    objective = Between().build(SCORER, recorded=("reference", "previous", "critic"))
    batch = BATCH.replace(per_token=dict(BATCH.per_token) | columns)
    again, same = jax.jit(jax.value_and_grad(lambda p: loss_of(objective, p, {}, batch)))(params)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_with_adapters_the_base_stands_in_for_absent_networks_only(online):
    params, frozen, columns, _ = online
    lora = LoRA(rank=2)
    objective = with_lora(Between().build(SCORER, scorers=SCORERS), scale=scale_of(lora))
    adapter = {"adapter": init_params(adapter_table(param_table(CONFIG), lora), jax.random.key(5))}
    compute = jax.jit(lambda f: loss_of(objective, adapter, f, BATCH))
    named = {"base": params["model"], **frozen}
    logps = jax.jit(SCORER.logps)(params["model"], BATCH)  # B of the adapter is zero
    np.testing.assert_allclose(compute(named), by_hand(logps, columns), rtol=1e-5)
    absent = {name: x for name, x in named.items() if name != "reference"}
    np.testing.assert_allclose(compute(absent), by_hand(logps, columns | {"ref_logps": logps}), rtol=1e-5)


def test_a_network_that_is_run_inside_cannot_be_recorded():
    with pytest.raises(ConfigError, match="inside: 'meta' cannot be recorded, because the method runs it inside"):
        Inside().build(SCORER, recorded=("meta",))


def test_two_networks_of_one_name_are_no_needs():
    with pytest.raises(ValueError, match="two networks of one name: reference, reference"):
        Needs(networks=(("reference", "logps"), ("reference", "vocab")))
