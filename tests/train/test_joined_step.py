"""Pairs and single responses in one step: losses and gradients are those of each alone, added up."""

import jax
import numpy as np
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import CONFIG, SCORER
from data.feeds import Given

from jaxpo.data.packing.joined import Joined
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.base import Objective, Out
from jaxpo.objectives.methods import METHODS
from jaxpo.sharding import batch_sharding, make_mesh, use_mesh
from jaxpo.train.step import added_gradients

PAIRS, SINGLES = (METHODS[name]().build(SCORER) for name in ("simpo", "apo_zero_unpaired"))


def both(first, second):
    """The sum of two objectives of one model, each of which finds its own examples in the batch."""
    members = (first, second)

    def loss(features, batch, carry, counts):
        outs = [m.loss(f, batch, c, n) for m, f, c, n in zip(members, features, carry, counts, strict=True)]
        metrics = {
            f"{m.name}/{name}": x for m, out in zip(members, outs, strict=True) for name, x in out.metrics.items()
        }
        return Out(outs[0].loss + outs[1].loss, metrics, [out.stats for out in outs])

    return Objective(
        "both",
        lambda batch: [m.counts(batch) for m in members],
        lambda params, frozen, batch, rng: ([m.encode(params, frozen, batch, rng)[0] for m in members], {}),
        loss,
        init_carry=lambda: [m.init_carry() for m in members],
    )


def gradients(objective, params, frozen, batch, parts):
    counts, carry = objective.counts(batch), objective.init_carry()
    return added_gradients(objective, params, frozen, batch, carry, counts, jax.random.key(0), parts)


def test_a_joined_step_is_the_sum_of_its_parts():
    """Blocks of two rows and of one, which are put together; two microbatches on eight devices."""
    pairs = packed(make_examples("pair", 24), blocks=16)
    singles = packed(make_examples("completion", 24), blocks=32, block_rows=1)
    params, reference = (init_params(param_table(CONFIG), jax.random.key(i)) for i in range(2))
    params, frozen = {"model": params}, {"reference": reference}

    @jax.jit
    def alone(params):
        return gradients(PAIRS, params, frozen, pairs, 1), gradients(SINGLES, params, frozen, singles, 1)

    (out, grads), (other_out, other_grads) = alone(params)
    batch = Joined([(Given(b), b.rows) for b in (pairs, singles)], divisor=16).open(0, 1).next(None)
    mesh = make_mesh({"fsdp": 8}, jax.devices()[:8])
    with use_mesh(mesh):
        run = jax.jit(lambda params, batch: gradients(both(PAIRS, SINGLES), params, frozen, batch, 2))
        got, got_grads = run(params, jax.device_put(batch, batch_sharding(mesh)))

    assert float(got.loss) == pytest.approx(float(out.loss + other_out.loss), rel=1e-5)
    for objective, wanted in ((PAIRS, out), (SINGLES, other_out)):
        for name, metric in wanted.metrics.items():
            found = got.metrics[f"{objective.name}/{name}"]
            assert float(found.value()) == pytest.approx(float(metric.value()), rel=1e-4, abs=1e-6), name
    for a, *parts in zip(*map(jax.tree.leaves, (got_grads, grads, other_grads)), strict=True):
        np.testing.assert_allclose(a, sum(parts), rtol=1e-4, atol=2e-5 * np.abs(sum(parts)).max())
        assert all(np.abs(part).max() > 0 for part in parts)
