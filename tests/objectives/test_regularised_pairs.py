"""What is special to RPO, Flex-DPO, robust DPO and DPO with a scaled reference: denominators, needs, columns."""

import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, values_of
from objectives.pair_arrays import as_pair, evaluate, random_pairs

from jaxpo.errors import ConfigError
from jaxpo.objectives.methods import METHODS, resolve

WHO = np.array([0, 1, 1, 0, 1, 0], np.int32)


def sp(z):
    return np.logaddexp(z, 0.0)


def quantities():
    return random_pairs()


def run(name, **settings):
    objective = METHODS[name](**settings).build(ArrayScorer())
    return evaluate(objective, as_pair(quantities(), {"annotator": WHO}))


@pytest.mark.parametrize("name", ["rpo", "rpo_average", "rpo_tokens"])
def test_each_reduction_of_rpo_has_its_own_denominator(name):
    out = run(name, beta=0.3, eta=0.7)
    q = quantities()
    prefer = np.mean(sp(-0.3 * ((q["Pw"] - q["Rw"]) - (q["Pl"] - q["Rl"]))))
    likelihood = {
        "rpo": 0.3 * np.mean(q["Pw"]),
        "rpo_average": np.mean(q["Pw"] / q["nw"]),
        "rpo_tokens": np.sum(q["Pw"]) / np.sum(q["nw"]),
    }[name]
    np.testing.assert_allclose(out.loss, prefer - 0.7 * likelihood, rtol=2e-5)
    np.testing.assert_allclose(values_of(out)["nll_loss"], -np.sum(q["Pw"]) / np.sum(q["nw"]), rtol=1e-5)


def test_rpo_has_the_papers_defaults():
    defaults = {n: (METHODS[n]().beta, METHODS[n]().eta) for n in ("rpo", "rpo_average", "rpo_tokens")}
    assert defaults == {"rpo": (0.01, 0.005), "rpo_average": (0.5, 0.2), "rpo_tokens": (0.1, 1.0)}
    assert resolve("sigmoid_sft") is METHODS["rpo_tokens"]


@pytest.mark.parametrize("reduction", ["sum", "tokens"])
def test_flex_dpo_and_its_margin(reduction):
    out = run("dpo3d", beta_plus=0.3, beta_minus=0.2, sft_weight=0.4, sft_reduction=reduction)
    q = quantities()
    h = 0.3 * (q["Pw"] - q["Rw"]) - 0.2 * (q["Pl"] - q["Rl"])
    likelihood = np.mean(q["Pw"]) if reduction == "sum" else np.sum(q["Pw"]) / np.sum(q["nw"])
    np.testing.assert_allclose(out.loss, np.mean(sp(-h)) - 0.4 * likelihood, rtol=2e-5)
    got = values_of(out)
    np.testing.assert_allclose(got["flex/margins"], np.mean(h), rtol=1e-4)
    np.testing.assert_allclose(got["flex/accuracies"], np.mean(h > 0), rtol=1e-6)
    np.testing.assert_allclose(got["rewards/chosen"], 0.3 * np.mean(q["Pw"] - q["Rw"]), rtol=1e-4)
    assert {"nll_loss", "flex/margins", "flex/accuracies"} == set(METHODS["dpo3d"].METRICS)
    assert resolve("flex_dpo") is METHODS["dpo3d"]


def test_robust_dpo_with_a_rate_for_each_annotator():
    q = quantities()
    h = 0.3 * ((q["Pw"] - q["Rw"]) - (q["Pl"] - q["Rl"]))

    def expected(e):
        return np.mean(((1 - e) * sp(-h) - e * sp(h)) / (1 - 2 * e))

    np.testing.assert_allclose(run("rdpo_robust", beta=0.3, label_smoothing=0.2).loss, expected(0.2), rtol=2e-5)
    out = run("rdpo_robust", beta=0.3, annotator_label_smoothing=(0.1, 0.4))
    np.testing.assert_allclose(out.loss, expected(np.array([0.1, 0.4])[WHO[:5]]), rtol=2e-5)
    missing = run("rdpo_robust", beta=0.3, annotator_label_smoothing=(0.1,))
    assert np.isnan(missing.loss)


def test_robust_dpo_checks_its_rates_and_annotators():
    robust = METHODS["rdpo_robust"]
    assert resolve("robust") is robust
    assert robust().NEEDS.columns == ()
    several = robust(annotator_label_smoothing=(0.1, 0.2))
    assert several.NEEDS.columns == ("annotator",)
    assert several.check_columns({"annotator": np.array([0, 1])}) == []
    (problem,) = several.check_columns({"annotator": np.array([0, 4])})
    assert "runs from 0 to 4, but annotator_label_smoothing has 2 entries" in problem
    for settings in ({"label_smoothing": 0.5}, {"label_smoothing": -0.1}, {"annotator_label_smoothing": (0.1, 0.6)}):
        with pytest.raises(ConfigError, match=r"label_smoothing(\[1\])? is"):
            robust(**settings).build(ArrayScorer())


def test_a_scaled_reference():
    q = quantities()
    h = 0.3 * ((q["Pw"] - q["Pl"]) - 0.5 * (q["Rw"] - q["Rl"]))
    out = run("dpo_gamma", beta=0.3, gamma=0.5)
    np.testing.assert_allclose(out.loss, np.mean(sp(-h)), rtol=2e-5)
    np.testing.assert_allclose(values_of(out)["rewards/margins"], np.mean(h), rtol=1e-4)
    free = METHODS["dpo_gamma"](gamma=0.0)
    assert free.NEEDS.kind("reference") == "none"
    assert METHODS["dpo_gamma"]().NEEDS.kind("reference") == "logps"
    np.testing.assert_allclose(run("dpo_gamma", gamma=0.0).loss, np.mean(sp(-0.1 * (q["Pw"] - q["Pl"]))), rtol=2e-5)


def test_lcpo_reports_the_reliabilities_it_carries():
    method = METHODS["lcpo"](beta=0.3, num_annotators=2)
    objective = method.build(ArrayScorer())
    eta = np.array([0.9, 0.4], np.float32)
    got = evaluate(objective, as_pair(quantities(), {"annotator": WHO}), carry={"reliability": eta})
    q = quantities()
    s = 0.3 * ((q["Pw"] - q["Rw"]) - (q["Pl"] - q["Rl"]))
    odds = np.log(eta / (1 - eta.astype(np.float64)))[WHO[:5]]
    values = values_of(got.merge(got))  # two microbatches of a step see the same carry
    np.testing.assert_allclose(values["posterior"], np.mean(1 / (1 + np.exp(-s - odds))), rtol=1e-5)
    np.testing.assert_allclose(values["reliability/mean"], 0.65, rtol=1e-6)
    np.testing.assert_allclose(values["reliability/min"], 0.4, rtol=1e-6)
