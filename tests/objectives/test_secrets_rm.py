"""The contrastive reward model and MetaRM on a tiny network: views, inputs, the step at shifted parameters."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import make_examples, packed, unpacked
from contracts.harness import CONFIG, SCORER, initial
from losses.test_secrets_rm import difference64, simcse64, sinkhorn64, softmax_log, unit
from objectives.test_reward_methods import sp

from jaxpo.config import Data, LoRA, Reward
from jaxpo.losses import reward_difference
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.checks.reward import view_problems
from jaxpo.train.step import make_eval


def ends_of(params, examples):
    """Final state at the last token of each example's segments, float64 `[N, M, D]`."""
    batch = unpacked(examples)
    hidden = np.asarray(jax.jit(SCORER.hidden)(params["model"], batch), np.float64)
    widest = batch.block_rows
    return [
        [hidden[i * widest + k, len(ids) - 1] for k, (ids, _) in enumerate(e.segments)] for i, e in enumerate(examples)
    ]


@pytest.mark.parametrize(("contrastive", "inputs"), [("simcse", "pairs"), ("swav", "difference")])
def test_the_contrastive_loss(contrastive, inputs):
    settings = {
        "contrastive": contrastive,
        "inputs": inputs,
        "contrastive_weight": 0.5,
        "prototypes": 4,
        "margin": "ignore",
    }
    method = METHODS["secrets_rm"](**settings)
    objective = method.build(SCORER)
    params, examples = initial(objective, method)[0].params, make_examples("pair", 16, 3)
    batch = packed(examples)
    loss, metrics = jax.jit(make_eval(objective))(params, {}, {}, batch, objective.counts(batch))
    states = np.asarray(ends_of(params, examples))
    w = np.asarray(params["value"]["weight"], np.float64)[:, 0]
    d = (states[:, 0] - states[:, 1]) @ w
    items = states if inputs == "pairs" else np.stack([states[:, 0] - states[:, 1], states[:, 1] - states[:, 0]], 1)
    items = items.reshape(32, -1)
    if contrastive == "simcse":
        term = simcse64(items, items)
    else:
        z = unit(items) @ unit(np.asarray(params["prototypes"]["weight"], np.float64).T).T
        term = -2 * (sinkhorn64(z) * softmax_log(z / 0.1)).sum(1)
    assert float(loss) == pytest.approx(sp(-d).mean() + 0.5 * term.mean(), rel=2e-4)
    assert float(metrics["contrastive_loss"].value()) == pytest.approx(term.mean(), rel=2e-4, abs=1e-6)


def test_two_views_are_two_draws():
    method = METHODS["secrets_rm"]()
    scorer = replace(SCORER, pooled_dropout=0.3)
    objective = method.build(scorer)
    params, batch = initial(objective, method)[0].params, packed(make_examples("pair", 16, 3))
    encode = jax.jit(objective.encode)
    x = encode(params, {}, batch, jax.random.key(0))[0]
    first, second = x.columns["contrast_first"], x.columns["contrast_second"]
    assert np.mean(np.asarray(first) != np.asarray(second)) > 0.2
    again = encode(params, {}, batch, jax.random.key(0))[0]
    np.testing.assert_array_equal(first, again.columns["contrast_first"])


class Lookup(Scorer):
    """The state of a token is its embedding's tanh: a network that compiles at once."""

    def run(self, params, batch, rng=None, tap=None):
        return jnp.tanh(params["embed_tokens"]["weight"][batch.tokens]), {}


def meta(scorer, **settings):
    method = METHODS["meta_rm"](margin="ignore", **settings)
    objective = method.build(scorer)
    return objective, initial(objective, method)[0].params, packed(make_examples("sampled", 16, 3))


def loss_of(objective, batch, params, rng):
    features, _ = objective.encode(params, {}, batch, rng)
    return objective.loss(features, batch, {}, objective.counts(batch)).loss


def test_the_gradient_is_taken_at_the_shifted_parameters_and_applied_to_the_old():
    """And without a rate, or in evaluation, the loss is Bradley-Terry's."""
    scorer = Lookup(CONFIG)
    objective, params, batch = meta(scorer, rate=0.3)
    still, _, _ = meta(scorer, rate=0.0)
    plain = METHODS["bradley_terry"](margin="ignore").build(scorer)
    rng = jax.random.key(0)

    @jax.jit
    def both(params):
        def apart(p):
            x, _ = objective.encode(p, {}, batch, None)  # without rng: no shift
            r = jnp.stack([x.roles[f"sample_{i}"]["score"] for i in range(1, 5)], 1)
            here = jnp.stack([x.roles[f"sample_{i}"].present for i in range(1, 5)], 1)
            some = here.sum(1) > 1
            return jnp.sum(jnp.where(some, reward_difference(r, here), 0.0)) / some.sum()

        before, ascent = jax.value_and_grad(apart)(params)
        moved = jax.tree.map(lambda p, g: p + 0.3 * g, params, ascent)
        expected = jax.grad(lambda p: loss_of(plain, batch, p, None))(moved)
        found = jax.grad(lambda p: loss_of(objective, batch, p, rng))(params)
        alike = [loss_of(*case) for case in ((plain, batch, params, rng), (still, batch, params, rng),
                                             (objective, batch, params, None))]  # fmt: skip
        return found, expected, before, apart(moved), alike

    found, expected, before, after, alike = both(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert any(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(found["model"]))
    assert after > before
    assert alike == [pytest.approx(float(alike[0]))] * 3


def test_the_metric_is_of_prompts_with_samples():
    objective, params, batch = meta(SCORER)
    _, metrics = jax.jit(make_eval(objective))(params, {}, {}, batch, objective.counts(batch))
    examples = make_examples("sampled", 16, 3)
    w = np.asarray(params["value"]["weight"], np.float64)[:, 0]
    values = [float(difference64(np.asarray(s[2:])[None] @ w)[0]) for s in ends_of(params, examples) if len(s) > 3]
    assert 0 < len(values) < 16
    assert float(metrics["difference"].value()) == pytest.approx(np.mean(values), rel=1e-4)


def test_what_a_stage_must_have():
    stage = Reward(data=Data(), loss=METHODS["secrets_rm"]())
    (problem,) = view_problems(stage)
    assert "alike without dropout; set --reward.pooled-dropout 0.1" in problem
    assert not list(view_problems(replace(stage, pooled_dropout=0.1)))
    trained = replace(stage, loss=METHODS["meta_rm"]())
    assert not list(view_problems(trained))
    (problem,) = view_problems(replace(trained, train=("value/*",)))
    assert "moves all parameters" in problem
    assert next(view_problems(replace(trained, lora=LoRA()))).startswith("reward.lora")
    assert METHODS["meta_rm"](samples=9).problems()
    assert METHODS["meta_rm"]().NEEDS.whole_step
