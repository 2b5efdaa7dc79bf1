"""The orchestrator as an objective: the mean state of the prompt, the adapter, statistics without gradient, weights."""

import jax
import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments, values_of

from jaxpo.errors import ConfigError
from jaxpo.objectives.families.rewards import Reading
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.methods.pro_orchestrator import prompt_means

RATINGS = np.float32([[1.0, 30.0], [2.0, 10.0], [0.0, 20.0], [3.0, 40.0], [0.0, 0.0]])
WIDTH = 4


def method(**kw):
    return METHODS["pro_orchestrator"](objectives=("a", "b"), width=WIDTH, **kw)


def batch_of(whole=(), **kw):
    """Four answers; those listed are prompts by themselves, of which every token but the first is learnt."""
    flat = segments(4, seed=5)
    batch, params, _ = lay_out([(s,) for s in flat] + [None], {"completion": 0}, {"ratings": RATINGS}, **kw)
    learnt = np.array(batch.masks["completion"])
    ids = np.asarray(batch.segment_ids)
    for i in whole:
        here = np.flatnonzero(ids[i] > 0)
        learnt[i, here[1:]] = True
    rng = np.random.default_rng(0)
    own = {
        "hidden": {"weight": rng.normal(size=(3, WIDTH)), "bias": rng.normal(size=WIDTH)},
        "output": {"weight": rng.normal(size=(WIDTH, 2)), "bias": rng.normal(size=2)},
        **method().first_values({"ratings": RATINGS[:4]})["orchestrator"],
    }
    params |= {"orchestrator": jax.tree.map(np.float32, own)}
    return batch.replace(masks={**batch.masks, "completion": learnt}), params, {}


def means(whole=()):
    return np.array(
        [d["hidden"][: None if i in whole else q].mean(0) for i, (q, d) in enumerate(segments(4, seed=5))], float
    )


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logits(params, x):
    own = jax.tree.map(lambda a: np.asarray(a, np.float64), params["orchestrator"])
    inner = x @ own["hidden"]["weight"] + own["hidden"]["bias"]
    gelu = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
    return gelu @ own["output"]["weight"] + own["output"]["bias"]


def targets(tau=1.0):
    r = RATINGS[:4].astype(np.float64)
    return softmax((r - r.mean(0)) / (r.std(0) + 1e-8) / tau)


@pytest.mark.parametrize("whole", [(), (1, 3)])
def test_loss_metrics_and_gradients(whole):
    batch, params, frozen = batch_of(whole)
    out, grads = Runner(method(temperature=0.5).build(ArrayScorer()))(batch, params, frozen)
    z, w = logits(params, means(whole)), targets(0.5)
    np.testing.assert_allclose(out.loss, np.mean(np.sum(w * (np.log(w) - np.log(softmax(z))), -1)), rtol=1e-4)
    np.testing.assert_allclose(
        grads["orchestrator"]["output"]["bias"], np.mean(softmax(z) - w, 0), rtol=1e-4, atol=1e-6
    )
    for name in ("offset", "scale"):
        np.testing.assert_array_equal(grads["orchestrator"][name], 0.0)
    got = values_of(out)
    assert got["argmax_accuracy"] == pytest.approx(np.mean(z.argmax(1) == w.argmax(1)))
    assert got["targets_entropy"] == pytest.approx(np.mean(-np.sum(w * np.log(w), -1)), rel=1e-4)
    assert set(got) == {"argmax_accuracy", "targets_entropy", "weights_entropy"}


def test_an_answer_does_not_move_the_mean_of_its_prompt():
    batch, params, _ = batch_of()
    found = np.asarray(prompt_means(params["model"]["hidden"], batch))[:4, 0]
    np.testing.assert_allclose(found, means(), rtol=1e-5)


def test_statistics_are_those_of_the_training_rows():
    z = method().first_values({"ratings": RATINGS[:4]})["orchestrator"]
    np.testing.assert_allclose(z["offset"], RATINGS[:4].mean(0))
    np.testing.assert_allclose(z["scale"], RATINGS[:4].std(0))
    ends = method(normaliser="min_max").first_values({"ratings": RATINGS[:4]})["orchestrator"]
    np.testing.assert_allclose((ends["offset"], ends["scale"]), ((0.0, 10.0), (3.0, 30.0)))


def test_it_gives_weights_and_no_reward():
    reading = Reading({"logits": np.float32([[0.0, 1.0]])}, np.ones(1))
    np.testing.assert_allclose(method().head_values(reading), softmax(np.array([[0.0, 1.0]])), rtol=1e-6)
    assert method().head_names() == ("a", "b")
    with pytest.raises(ConfigError, match="weights of rewards for a prompt, and no reward"):
        method().reward(reading)


def test_rows_that_do_not_fit_are_named():
    assert "alphabetical" in METHODS["pro_orchestrator"](objectives=("b", "a")).problems()[0]
    assert "the rows hold a, c" in method().check_names({"ratings": ("a", "c")})[0]
    assert "holds 3 reward(s)" in method().check_columns({"ratings": np.ones((2, 3))})[0]
    assert "lacks one of the rewards" in method().check_columns({"ratings": [[1.0, np.nan]]})[0]


def test_a_held_out_row_that_lacks_a_reward_does_not_count():
    batch, params, frozen = batch_of()
    ratings = np.array(RATINGS)
    ratings[2, 1] = np.nan
    out, grads = Runner(method().build(ArrayScorer()))(batch.replace(per_example={"ratings": ratings}), params, frozen)
    z, w = logits(params, means())[[0, 1, 3]], targets()[[0, 1, 3]]
    np.testing.assert_allclose(out.loss, np.mean(np.sum(w * (np.log(w) - np.log(softmax(z))), -1)), rtol=1e-4)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads["orchestrator"]))
