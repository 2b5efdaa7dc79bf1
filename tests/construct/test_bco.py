"""BCO's prompt weights: the classifier against scipy, the weights, and bad rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.bco import BCO, balanced_accuracy, fit_logistic, prompt_odds, sample_of_each_class, sigmoid
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError


def clouds(seed=0, good=40, bad=15, apart=1.0, d=4):
    """Embeddings `[n, d]` of two overlapping clouds, and which row is of the first."""
    rng = np.random.default_rng(seed)
    up = np.arange(good + bad) < good
    x = rng.normal(size=(good + bad, d)) + 0.7
    x[up, 0] += apart
    return x, up


def by_scipy(x, up, penalty):
    count = np.where(up, len(up) / (2 * up.sum()), len(up) / (2 * (~up).sum()))

    def cost(theta):
        z = (x @ theta[:-1] + theta[-1]) * np.where(up, 1, -1)
        return 0.5 * penalty * np.sum(theta[:-1] ** 2) + np.sum(count * np.logaddexp(0, -z))

    return minimize(cost, np.zeros(x.shape[1] + 1), method="BFGS", options={"gtol": 1e-7}).x


@pytest.mark.parametrize("penalty", [0.1, 1.0, 30.0])
def test_the_classifier_is_the_balanced_penalised_maximum(penalty):
    x, up = clouds()
    w, b = fit_logistic(x, up, penalty=penalty)
    np.testing.assert_allclose(np.append(w, b), by_scipy(x, up, penalty), rtol=1e-4, atol=1e-5)


def test_balance_makes_class_sizes_irrelevant():
    x, up = clouds()
    repeated = np.concatenate([np.flatnonzero(up), np.flatnonzero(up), np.flatnonzero(~up)])
    w, b = fit_logistic(x[repeated], up[repeated], penalty=1.0)
    # Twice the good rows: every class weighs half of all rows, of which there are more; the penalty scales with them.
    again, bias = fit_logistic(x, up, penalty=len(up) / len(repeated))
    np.testing.assert_allclose(np.append(w, b), np.append(again, bias), rtol=1e-6)


def test_separable_far_and_single_rows_are_fitted():
    x = np.array([[-1000.0], [-900.0], [800.0]])
    w, b = fit_logistic(x, np.array([False, False, True]))
    assert np.all(np.isfinite([*w, b]))
    odds = prompt_odds(x, (w, b))
    assert odds[0] < 1e-3 < 1e3 < odds[2] < np.inf
    assert np.all(np.isfinite(prompt_odds(1e9 * x, (w, b))))
    with pytest.raises(ValueError, match="both classes"):
        fit_logistic(x, np.ones(3, bool))


def test_indistinguishable_prompts_weigh_one():
    x, up = np.ones((8, 3)), np.arange(8) < 6
    w, b = fit_logistic(x, up)
    np.testing.assert_allclose(sigmoid(x @ w + b), 0.5, rtol=1e-9)
    np.testing.assert_allclose(prompt_odds(x, (w, b)), 1.0, rtol=1e-9)


def test_weights_bring_the_bad_prompts_to_the_good_ones_mean():
    """Importance weights p_good(x) / p_bad(x) make a mean over bad prompts one over good prompts."""
    rng = np.random.default_rng(1)
    good = rng.normal(0.8, 1.0, size=(4000, 1))
    bad = rng.normal(0.0, 1.0, size=(4000, 1))
    x, up = np.concatenate([good, bad]), np.arange(8000) < 4000
    odds = prompt_odds(bad, fit_logistic(x, up))
    np.testing.assert_allclose(odds, np.exp(0.8 * bad[:, 0] - 0.32), rtol=0.2)
    np.testing.assert_allclose(np.average(bad[:, 0], weights=odds), good.mean(), atol=0.1)
    assert 0.6 < balanced_accuracy(x, up, fit_logistic(x, up)) < 0.7


def test_sampling_is_seeded_and_bounded_per_class():
    up = np.arange(50) < 30
    chosen = sample_of_each_class(up, 12, seed=3)
    assert (up[chosen].sum(), (~up[chosen]).sum()) == (12, 12)
    assert len(set(chosen.tolist())) == 24
    np.testing.assert_array_equal(chosen, sample_of_each_class(up, 12, seed=3))
    assert chosen.tolist() != sample_of_each_class(up, 12, seed=4).tolist()
    np.testing.assert_array_equal(sample_of_each_class(up, 100, seed=0), np.arange(50))


# --- on rows ---


class Lengths:
    """Stands for a network: a prompt's embedding is its length and its number of question marks."""

    def __init__(self):
        self.seen = []

    def embed(self, prompts):
        self.seen += prompts
        texts = [p if isinstance(p, str) else p[-1]["content"] for p in prompts]
        return np.array([[len(t) / 10, t.count("?")] for t in texts], np.float32)


def rows_of(prompts, labels, **columns):
    return [
        Row(Path("r.jsonl"), i + 1, {"prompt": p, "completion": "an answer", "label": label, **columns})
        for i, (p, label) in enumerate(zip(prompts, labels, strict=True))
    ]


PROMPTS = ["how?" * 5, "why?" * 4, "when?" * 6, "do it", "go", "how?" * 5, "stop", "stop", "who?" * 7]
LABELS = [True, True, 1, False, False, False, False, True, True]


def test_bad_rows_get_clipped_odds_and_good_rows_one():
    network, tools = Lengths(), Tools(seed=5)
    tools.networks["model"] = network
    rows = rows_of(PROMPTS, LABELS, note="kept")
    out = list(BCO(penalty=0.01, most=2.0).run(rows, tools))
    assert [{k: v for k, v in new.items() if k != "weight"} for new in out] == [row.data for row in rows]
    assert len(network.seen) == len(set(PROMPTS))
    weight, good = np.array([new["weight"] for new in out]), np.array(LABELS, bool)
    np.testing.assert_array_equal(weight[good], 1.0)
    x = np.array(Lengths().embed(PROMPTS), np.float64)
    odds = prompt_odds(x, fit_logistic(x, good, penalty=0.01))
    np.testing.assert_allclose(weight[~good], np.clip(odds[~good], 0.5, 2.0), rtol=1e-9)
    assert weight[5] == 2.0  # a bad row whose prompt is like the good ones'
    assert weight[4] == 0.5
    assert tools.counts["weights_at_most"] == 1
    assert tools.counts["weights_at_least"] == int(np.sum(odds[~good] < 0.5))
    assert json.dumps(out)


def test_prompts_may_be_conversations():
    chat = [[{"role": "user", "content": p}] for p in PROMPTS]
    answers = [{**row.data, "completion": [{"role": "assistant", "content": "yes"}]} for row in rows_of(chat, LABELS)]
    rows = [Row(Path("r.jsonl"), i, data) for i, data in enumerate(answers)]
    tools = Tools(seed=5)
    tools.networks["model"] = Lengths()
    plain = Tools(seed=5)
    plain.networks["model"] = Lengths()
    expected = [new["weight"] for new in BCO().run(rows_of(PROMPTS, LABELS), plain)]
    assert [new["weight"] for new in BCO().run(rows, tools)] == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of(PROMPTS, [True] * 9), "all 9 rows are labelled good.*label false"),
        (rows_of(PROMPTS, [False] * 9), "all 9 rows are labelled bad.*label true"),
        (rows_of(PROMPTS, LABELS, weight=2.0), "a column `weight` already"),
        (rows_of(PROMPTS, [*LABELS[:8], 0.5]), "is not a label"),
        ([Row(Path("r.jsonl"), 1, {"prompt": "a", "chosen": "b", "rejected": "c"})], "'preference' have no label"),
    ],
)
def test_bad_rows_are_named(rows, message):
    tools = Tools()
    tools.networks["model"] = Lengths()
    with pytest.raises(DataError, match="(?s)" + message):
        list(BCO().run(rows, tools))


def test_options_out_of_range_and_a_missing_network_are_named():
    with pytest.raises(ConfigError, match=r"(?s)--prompts-per-class is 0.*--penalty is 0.0.*--least 2.0"):
        list(BCO(0, 0.0, 2.0).run(rows_of(PROMPTS, LABELS), Tools()))
    with pytest.raises(ConfigError, match="--model"):
        list(BCO().run(rows_of(PROMPTS, LABELS), Tools()))
    assert constructions()["bco"] is BCO
