"""f-SFT as an objective: loss, metrics, the three kinds of V, and the running value carried between steps."""

import functools

import numpy as np
import pytest
from objectives.feature_checks import LENGTHS, ArrayScorer, Runner, lay_out, microbatches, segments, sums, values_of

from jaxpo.objectives.methods import METHODS

W = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


@functools.cache
def singles():
    return (*((s,) for s in segments(5, seed=1)), None)


def laid(**kw):
    batch, params, frozen = lay_out(singles(), {"completion": 0}, {}, **kw)
    params = {"model": params["model"] | {"embed_tokens": {"weight": W}}}
    return batch, params, frozen


@functools.cache
def runner(**settings):
    return Runner(METHODS["implicit_reward"](**settings).build(ArrayScorer()))


def rho():
    return np.array([sums(e, "logps") - sums(e, "ref_logps") for e in singles()[:5]])


def test_loss_and_metrics_per_response():
    run = runner(divergence="chi2", beta=0.2)
    out, grads = run(*laid())
    u = 0.2 * rho() / np.array(LENGTHS[:5])
    np.testing.assert_allclose(out.loss, np.mean(-u + u**2 / 4), rtol=1e-5)
    found = values_of(out)
    assert set(found) == {"entropy", "mean_token_accuracy", "nll", "implicit_reward", "sft_weight"}
    assert set(METHODS["implicit_reward"].METRICS) == set(found) - {"entropy", "mean_token_accuracy"}
    np.testing.assert_allclose(found["implicit_reward"], u.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["sft_weight"], np.mean(1 - u / 2), rtol=1e-5)
    nll = -sum(sums(e, "logps") for e in singles()[:5]) / sum(LENGTHS[:5])
    np.testing.assert_allclose(found["nll"], nll, rtol=1e-5)
    g, mask = np.asarray(grads["model"]["logps"]), np.asarray(laid()[0].masks["completion"])
    np.testing.assert_array_equal(g[~mask], 0.0)
    assert np.all(np.isfinite(g))


def test_packing_order_and_microbatches_do_not_matter():
    run = runner(divergence="chi2", beta=0.2)
    whole = float(run(*laid())[0].loss)
    for kw in ({"order": [5, 3, 0, 4, 2, 1]},):
        np.testing.assert_allclose(run(*laid(**kw))[0].loss, whole, rtol=1e-5)
    batch, params, frozen = laid()
    counts = run.counts(batch)
    rows = {"model": {k: v for k, v in params["model"].items() if k != "embed_tokens"}}
    parts = [run(*part, counts=counts)[0] for part in microbatches(batch, rows, frozen)]
    np.testing.assert_allclose(parts[0].merge(parts[1]).loss, whole, rtol=1e-5)


def test_the_running_value_moves_once_per_step_and_is_the_same_for_all():
    run = runner(divergence="hellinger", beta=0.05, reduction="sum", value="running", momentum=0.6)
    u, mean = 0.05 * rho(), 0.0
    carry = run.objective.init_carry()
    for _ in range(3):
        out, _ = run(*laid(), carry=carry)
        t = -(u - mean)
        np.testing.assert_allclose(
            out.loss, np.mean(np.where(t < 0.9, t / (1 - t), 9 + 100 * (t - 0.9)) - mean), rtol=1e-4
        )
        carry = run.objective.after(carry, out.stats)
        mean = 0.6 * mean + 0.4 * u.mean()
        np.testing.assert_allclose(carry["mean"], mean, rtol=1e-5)
    empty = run.objective.after(carry, {"total": np.float32(0), "count": np.float32(0)})
    assert empty["mean"] == carry["mean"]


def test_the_soft_value_is_read_before_the_first_response_token_and_takes_no_gradient():
    run = runner(divergence="chi2", beta=0.1, reduction="sum", value="logsumexp")
    out, grads = run(*laid())
    value = []
    for ((q, data),) in singles()[:5]:
        z = W.astype(np.float64) @ data["hidden"][q - 1].astype(np.float64)
        value.append(0.1 * np.log(np.exp(z).sum()))
    t = -(0.1 * rho() + value)
    np.testing.assert_allclose(out.loss, np.mean(t + t**2 / 4 + value), rtol=1e-5)
    for name in ("hidden", "embed_tokens"):
        leaf = grads["model"][name] if name == "hidden" else grads["model"][name]["weight"]
        np.testing.assert_array_equal(leaf, 0.0)
    assert METHODS["implicit_reward"]().HIDDEN is False


@pytest.mark.parametrize("divergence", ["tv", "js", "kl"])
def test_total_variation_is_sft_and_the_others_start_as_sft(divergence):
    method = METHODS["implicit_reward"](divergence=divergence, beta=1.0)
    batch, params, _ = laid()
    same = {"reference": {"logps": params["model"]["logps"]}}
    out, grads = Runner(method.build(ArrayScorer()))(batch, params, same)
    np.testing.assert_allclose(out.loss, 0.0, atol=1e-6)
    g, mask = np.asarray(grads["model"]["logps"]), np.asarray(batch.masks["completion"])
    for row, m in zip(g, mask, strict=True):
        if m.any():
            np.testing.assert_allclose(row[m], -1 / (5 * m.sum()), rtol=1e-5)


def test_needs():
    needs = METHODS["implicit_reward"]().NEEDS
    assert needs.roles == ("completion",)
    assert needs.kind("reference") == "logps"
