"""Length-controlled win rates: the regression by another minimiser, its checks, and the reference's own procedure."""

from __future__ import annotations

import gzip
import json
import warnings
from functools import cache

import numpy as np
import pytest
from scipy.optimize import minimize

from jaxpo.evaluate.alpaca import glm
from jaxpo.evaluate.alpaca.glm import BASELINE, Compared, Fit, fit, fit_logistic, predictions, win_rate


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def oracle(x, y, s, c):
    """argmin |u + v|_1 + C sum s (softplus(xw) - y xw), w = u - v, u, v >= 0, by L-BFGS-B."""
    keep = ~np.isnan(y)
    x, y, s, f = x[keep], y[keep], s[keep], x.shape[1]

    def cost(uv):
        z = x @ (uv[:f] - uv[f:])
        g = c * x.T @ (s * (sigmoid(z) - y))
        return uv.sum() + c * s @ (np.logaddexp(0, z) - y * z), np.concatenate([1 + g, 1 - g])

    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(
        cost, np.full(2 * f, 0.1), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 2 * f, options=options
    )
    return found.x[:f] - found.x[f:]


def world(seed=0, n=300, quality=0.7, verbosity=0.3):
    """One model's rows and the two gamed ones, with soft labels."""
    rng = np.random.default_rng(seed)
    d = rng.normal(size=n)

    def rows(q, v):
        t = glm.relative_length(rng.integers(500, 1500, n), (1000 * np.exp(v + 0.4 * rng.normal(size=n))).astype(int))
        y = np.clip(sigmoid(q + 0.8 * d - 1.2 * t) + 0.1 * rng.normal(size=n), 0, 1)
        return Compared(y, t, d)

    return rows(quality, verbosity), (rows(0.0, 0.6), rows(0.0, -0.8))


def stacked(model, gamed):
    x = np.concatenate([*(g.design(0.0) for g in gamed), model.design(1.0)])
    y = np.concatenate([*(g.label for g in gamed), model.label])
    s = np.concatenate([*(np.full(len(g.label), 0.1) for g in gamed), np.ones(len(model.label))])
    return x, y, s


@cache
def fitted(seed=0):
    model, gamed = world(seed)
    return model, gamed, fit(model, gamed)


def test_the_regression_is_the_specs():
    model, gamed, found = fitted()
    expected = oracle(*stacked(model, gamed), found.strength)
    np.testing.assert_allclose(found.weights, expected, atol=2e-3)
    assert found.weights[0] < 0  # a longer answer has t < 0 and is preferred
    p = sigmoid(found.weights[2] + found.weights[1] * model.difficulty)
    rate = win_rate(predictions(found, model.difficulty, 300))
    assert rate.value == pytest.approx(100 * p.mean())
    assert rate.high - rate.value == pytest.approx(1.959963984540054 * 100 * p.std(ddof=1) / 300**0.5)


def test_the_regulariser_is_what_the_reference_chooses():
    """Its own form: LogisticRegressionCV over doubled rows, folds by group, metadata routing."""
    import sklearn
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    def loss(truth, p, prob, weight):
        p, soft = np.clip(p, 1e-15, 1 - 1e-15), np.where(truth == 1, prob, 1 - prob)
        return -np.mean(weight * (soft * np.log(p) + (1 - soft) * np.log(1 - p)))

    model, gamed, found = fitted()
    x, y, s = stacked(model, gamed)
    n, prob, weight = len(y), np.concatenate([y, 1 - y]), np.concatenate([s, s])
    with sklearn.config_context(enable_metadata_routing=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scorer = make_scorer(loss, response_method="predict_proba", greater_is_better=False)
        scorer = scorer.set_score_request(prob=True, weight=True)
        one = LogisticRegressionCV(
            cv=GroupKFold(5),
            scoring=scorer,
            solver="liblinear",
            l1_ratios=(1.0,),
            fit_intercept=False,
            random_state=123,
        ).set_fit_request(sample_weight=True)
        group = np.tile(np.arange(n), 2)
        label = np.repeat([1, 0], n)
        one.fit(np.concatenate([x, x]), label, sample_weight=prob * weight, groups=group, prob=prob, weight=weight)
    assert np.ravel(one.C_)[0] == pytest.approx(found.strength)
    np.testing.assert_allclose(one.coef_.ravel(), found.weights, rtol=1e-12)


def test_the_models_term_answers_to_its_own_rows_alone():
    """KKT of w_3: sum_i (sigmoid(x_i . w) - y_i) = -sign(w_3) / C, over the model's rows."""
    model, _, found = fitted()
    residual = np.sum(sigmoid(model.design(1.0) @ found.weights) - model.label)
    assert residual == pytest.approx(-np.sign(found.weights[2]) / found.strength, abs=0.05)


def test_gamed_labels_are_two_numbers():
    model, gamed = world(1)
    x, y, s = stacked(model, gamed)
    g = np.concatenate([one.design(0.0)[:, :2] for one in gamed])
    rng = np.random.default_rng(2)
    step = rng.normal(size=len(g))
    step -= g @ np.linalg.lstsq(g, step, rcond=None)[0]
    moved = y.copy()
    moved[: len(g)] = np.clip(0.5 + 0.2 * g[:, 0], 0.2, 0.8)
    other = moved.copy()
    other[: len(g)] += 0.1 * step / np.abs(step).max()
    sums = [glm.gamed_sums([Compared(z[:300], g[:300, 0], g[:300, 1]), Compared(z[300:600], g[300:, 0], g[300:, 1])])
            for z in (moved, other)]  # fmt: skip
    np.testing.assert_allclose(*sums, atol=1e-10)
    first, second = (fit_logistic(x, z, s, 2.78)[0] for z in (moved, other))
    np.testing.assert_allclose(first, second, atol=2e-3)


def test_any_pair_is_symmetric_and_the_baseline_has_one_half():
    model, _, mine = fitted()
    other = Fit(np.asarray([-0.5, 0.4, -0.2]), 1.0)
    d = model.difficulty
    one, two = (predictions(a, d, 300, b).mean() for a, b in ((mine, other), (other, mine)))
    assert one + two == pytest.approx(1)
    assert predictions(mine, d, 300, mine).mean() == pytest.approx(0.5)
    assert win_rate(predictions(BASELINE, d, 300)).value == pytest.approx(50)
    expected = np.mean(sigmoid(mine.weights[2] + 0.2 + (mine.weights[1] - 0.4) * d))
    assert one == pytest.approx(expected)


def test_equal_lengths_leave_the_raw_win_rate():
    t = glm.relative_length([900] * 200, [900] * 200)
    assert not t.any()
    assert not glm.relative_length([5, 7, 9], [4, 6, 8]).any()  # all differ by the same
    y = np.random.default_rng(0).uniform(size=200) ** 2
    found = fit(Compared(y, t))
    controlled = win_rate(predictions(found, None, 200)).value
    # What the penalty takes: sum (p - y) = +-1 / C.
    assert abs(controlled - 100 * y.mean()) <= 100 / (found.strength * 200) + 1e-2


def test_soft_labels_are_weighted_hard_ones():
    model, gamed = world(3, n=80)
    x, y, s = stacked(model, gamed)
    hard = fit_logistic(
        np.concatenate([x, x]), np.repeat([1.0, 0.0], len(y)), np.concatenate([y * s, (1 - y) * s]), 1.0
    )
    np.testing.assert_allclose(hard[0], fit_logistic(x, y, s, 1.0)[0], atol=2e-3)


def test_draws_have_two_codes():
    np.testing.assert_allclose(glm.label_of(np.asarray([0.0, 1.5, 1.0, 2.0, 1.25])), [0.5, 0.5, 0.0, 1.0, 0.25])
    assert np.isnan(glm.label_of(np.asarray([np.nan]))[0])


def test_rows_without_a_label_leave_the_fit_alone():
    model, gamed = world(4, n=120)
    x, y, s = stacked(model, gamed)
    missing = y.copy()
    missing[[250, 300]] = np.nan
    keep = ~np.isnan(missing)
    one, two = fit_logistic(x, missing, s), fit_logistic(x[keep], y[keep], s[keep])
    np.testing.assert_array_equal(one[0], two[0])
    assert len(predictions(Fit(one[0], 1.0), model.difficulty, 120)) == 120


def test_without_gamed_rows_and_without_difficulty():
    model, gamed, found = fitted()
    alone = fit(model)
    np.testing.assert_allclose(alone.weights, oracle(*stacked(model, ()), alone.strength), atol=2e-3)
    short = fit(Compared(model.label, model.length), [Compared(g.label, g.length) for g in gamed])
    assert short.weights[1] == 0
    assert short.weights[2] != found.weights[2]


@pytest.mark.parametrize(("raw", "controlled", "expected"), [
    (20, 9.9, True), (20, 10.1, False), (20, 40.1, True), (20, 39.9, False), (50, 37.4, True), (50, 62.4, False),
])  # fmt: skip
def test_what_is_extreme(raw, controlled, expected):
    assert glm.extreme(raw, controlled) is expected


def test_difficulties_are_fitted_over_models():
    rng = np.random.default_rng(5)
    d = rng.normal(size=40) * 2
    models, places = [], []
    for q in np.linspace(-1, 1, 12):
        t = np.tanh(rng.normal(size=40))
        models.append(Compared(sigmoid(q + d - t), t))
        places.append(np.arange(40))
    known, found = glm.fit_difficulty(models, places)
    assert known.tolist() == list(range(40))
    assert found[0] == 0
    assert np.corrcoef(found, d)[0, 1] > 0.95


def test_real_outputs(shared_data):
    """GPT-4's preferences over 805 instructions: raw win rates are the file's means, and length is what moves them."""
    with gzip.open(shared_data / "alpaca_eval_ranked.jsonl.gz") as file:
        rows = [json.loads(line) for line in file]
    raw, controlled = [], []
    for k in (1, 3):
        sizes = [(len(row["responses"][0]), len(row["responses"][k])) for row in rows]
        model = Compared(np.asarray([row["scores"][k] for row in rows]), glm.relative_length(*zip(*sizes, strict=True)))
        found = fit(model)
        x = model.design(1.0)
        np.testing.assert_allclose(
            found.weights[[0, 2]], oracle(x, model.label, np.ones(len(x)), found.strength), atol=5e-3
        )
        raw.append(100 * model.label.mean())
        controlled.append(win_rate(predictions(found, None, len(rows))).value)
    np.testing.assert_allclose(raw, [51.3, 4.8], atol=0.05)
    # Both write shorter answers than the baseline on more than half of the instructions.
    assert controlled[0] > raw[0]
    assert controlled[1] > raw[1]
