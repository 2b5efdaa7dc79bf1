"""Pairwise objectives on arrays: loss, metrics, gradient, splitting, layout, absent pairs; no network involved."""

import functools

import jax
import numpy as np
import pytest
from objectives.feature_checks import LENGTHS, ArrayScorer, Runner, lay_out, microbatches, segments, sums, values_of

from jaxpo.objectives.methods import METHODS

ROLES = {"chosen": 0, "rejected": 1}


def sp(z):
    return np.logaddexp(z, 0.0)


@functools.cache
def pairs():
    """Five pairs and an empty place."""
    flat = segments(10)
    return (*(tuple(flat[2 * i : 2 * i + 2]) for i in range(5)), None)


COLUMNS = {"annotator": np.array([0, 2, 1, 0, 2, 0], np.int32), "margin": np.arange(6, dtype=np.float32)}


@functools.cache
def runner(name, cached=False, **settings):
    return Runner(METHODS[name](**dict(settings)).build(ArrayScorer(), recorded=("reference",) if cached else ()))


def quantities():
    """Float64 sums of the five pairs."""
    real = pairs()[:5]
    letters = {"P": "logps", "R": "ref_logps", "K": "kl", "H": "entropy", "C": "correct"}
    q = {
        letter + side: np.array([sums(pair, name, k) for pair in real])
        for letter, name in letters.items()
        for side, k in (("w", 0), ("l", 1))
    }
    q["nw"] = np.array([LENGTHS[(2 * i) % 8] for i in range(5)], np.float64)
    q["nl"] = np.array([LENGTHS[(2 * i + 1) % 8] for i in range(5)], np.float64)
    return q


def lddpo_terms(beta, alpha):
    out = []
    for pair in pairs()[:5]:
        (qw, w), (ql, ll) = pair
        a, b = (w["logps"] - w["ref_logps"])[qw:].astype(float), (ll["logps"] - ll["ref_logps"])[ql:].astype(float)
        k = min(len(a), len(b))
        out.append(sp(-beta * (a[:k].sum() + alpha * a[k:].sum() - b[:k].sum() - alpha * b[k:].sum())))
    return np.array(out)


def dove_terms(beta):
    total = lambda s: float(np.sum((s[1]["logps"] - s[1]["ref_logps"])[1:].astype(float)))  # noqa: E731
    return np.array([sp(-beta * (total(w) - total(r))) for w, r in pairs()[:5]])


def expected_loss(name, q):
    """The step's loss, float64, written from the papers' formulas at non-default hyper-parameters (`SETTINGS`)."""
    delta = (q["Pw"] - q["Rw"]) - (q["Pl"] - q["Rl"])
    if name == "dpo":
        return np.mean(0.9 * sp(-0.3 * delta) + 0.1 * sp(0.3 * delta))
    if name == "sigmoid_norm":
        return np.mean(sp(-2.0 * ((q["Pw"] - q["Rw"]) / q["nw"] - (q["Pl"] - q["Rl"]) / q["nl"])))
    if name == "simpo":
        return np.mean(sp(-(2.0 * (q["Pw"] / q["nw"] - q["Pl"] / q["nl"]) - 0.8)))
    if name == "cpo":
        return np.mean(sp(-0.2 * (q["Pw"] - q["Pl"]))) - 0.7 * q["Pw"].sum() / q["nw"].sum()
    if name == "tdpo2":
        return np.mean(sp(-0.3 * (delta - 0.6 * (q["Kl"] - q["Kw"]))))
    if name == "lddpo":
        return np.mean(lddpo_terms(0.3, 0.4))
    if name == "dove":
        return np.mean(dove_terms(0.3))
    if name == "aot":
        return np.mean(sp(-0.3 * (np.sort(q["Pw"] - q["Pl"]) - np.sort(q["Rw"] - q["Rl"]))))
    if name == "aot_unpaired":
        return np.mean(sp(-0.3 * (np.sort(q["Pw"] - q["Rw"]) - np.sort(q["Pl"] - q["Rl"]))))
    assert name == "lcpo"
    s, odds = 0.3 * delta, 0.8 / 0.2
    w = 1 / (1 + np.exp(-s) / odds)
    return np.mean(w * sp(-s) + (1 - w) * sp(s))


SETTINGS = {
    "dpo": {"beta": 0.3, "label_smoothing": 0.1},
    "sigmoid_norm": {"beta": 2.0},
    "simpo": {"beta": 2.0, "simpo_gamma": 0.8},
    "cpo": {"beta": 0.2, "cpo_alpha": 0.7},
    "tdpo2": {"beta": 0.3, "alpha": 0.6},
    "lddpo": {"beta": 0.3, "ld_alpha": 0.4},
    "dove": {"beta": 0.3},
    "aot": {"beta": 0.3},
    "aot_unpaired": {"beta": 0.3},
    "lcpo": {"beta": 0.3, "eta": 0.8, "num_annotators": 3},
}


@functools.cache
def whole(name, **settings):
    return runner(name, **settings)(*lay_out(pairs(), ROLES, COLUMNS))


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_gradient_and_reach(name):
    out, grads = whole(name, **SETTINGS[name])
    np.testing.assert_allclose(out.loss, expected_loss(name, quantities()), rtol=2e-5)
    batch = lay_out(pairs(), ROLES, COLUMNS)[0]
    g = np.asarray(grads["model"]["logps"])
    counted = np.asarray(batch.masks["completion"])
    if name == "dove":
        counted = counted | np.asarray(batch.masks["prompt"])
    np.testing.assert_array_equal(g[~counted], 0.0)
    assert np.all(np.isfinite(g))
    assert np.all(g[counted] != 0)


@pytest.mark.parametrize("name", [n for n in SETTINGS if not n.startswith("aot")])
def test_split_losses_metrics_and_stats_add_up(name):
    run = runner(name, **SETTINGS[name])
    batch, params, frozen = lay_out(pairs(), ROLES, COLUMNS)
    out, _ = whole(name, **SETTINGS[name])
    counts = run.counts(batch)
    parts = [run(*micro, counts=counts)[0] for micro in microbatches(batch, params, frozen)]
    merged = parts[0].merge(parts[1])
    np.testing.assert_allclose(merged.loss, out.loss, rtol=1e-5)
    for metric, value in values_of(out).items():
        np.testing.assert_allclose(values_of(merged)[metric], value, rtol=1e-5, atol=1e-6, err_msg=metric)
    for a, b in zip(jax.tree.leaves(merged.stats), jax.tree.leaves(out.stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("name", ["dpo", "dove", "aot", "lcpo"])
def test_layout_order_and_empty_places_do_not_matter(name):
    run = runner(name, **SETTINGS[name])
    out, _ = whole(name, **SETTINGS[name])
    packed, _ = run(*lay_out(pairs(), ROLES, COLUMNS, per_row=2))
    shuffled, _ = run(*lay_out(pairs(), ROLES, COLUMNS, order=[4, 5, 0, 3, 1, 2]))
    for other in (packed, shuffled):
        np.testing.assert_allclose(other.loss, out.loss, rtol=1e-5)
        for metric, value in values_of(out).items():
            np.testing.assert_allclose(values_of(other)[metric], value, rtol=1e-5, atol=1e-6, err_msg=metric)


@pytest.mark.parametrize("name", ["dpo", "lddpo"])
def test_cached_reference_equals_the_reference_run_online(name):
    batch, params, _ = lay_out(pairs(), ROLES, COLUMNS)
    cached, _ = runner(name, cached=True, **SETTINGS[name])(batch, params, {})
    np.testing.assert_allclose(cached.loss, whole(name, **SETTINGS[name])[0].loss, rtol=1e-6)


def test_an_empty_step_costs_nothing():
    batch, params, frozen = lay_out(pairs(), ROLES, COLUMNS)
    gone = batch.replace(example_id=np.full(6, -1, np.int32))
    out, grads = runner("cpo", **SETTINGS["cpo"])(gone, params, frozen)
    assert out.loss == 0.0
    assert not np.any(np.asarray(grads["model"]["logps"]))
    one_sided = batch.replace(roles=batch.roles | {"rejected": np.full(6, -1, np.int32)})
    assert float(runner("cpo", **SETTINGS["cpo"]).counts(one_sided)["pairs"]) == 0.0


TRL = {
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected",
    "entropy", "mean_token_accuracy",
}  # fmt: skip
EXTRA = {
    "cpo": {"nll_loss"},
    "tdpo2": {"kl/chosen", "kl/rejected"},
    "lcpo": {"posterior", "reliability/mean", "reliability/min"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_metrics_are_trls(name):
    q = quantities()
    got = values_of(whole(name, **SETTINGS[name])[0])
    assert set(got) == TRL | EXTRA.get(name, set())
    beta = SETTINGS[name]["beta"]
    rw, rl = beta * (q["Pw"] - q["Rw"]), beta * (q["Pl"] - q["Rl"])
    if name == "simpo":
        rw, rl = beta * q["Pw"] / q["nw"], beta * q["Pl"] / q["nl"]
    if name == "cpo":
        rw, rl = beta * q["Pw"], beta * q["Pl"]
    tokens = q["nw"].sum() + q["nl"].sum()
    expected = {
        "logps/chosen": q["Pw"].mean(),
        "logps/rejected": q["Pl"].mean(),
        "entropy": (q["Hw"] + q["Hl"]).sum() / tokens,
        "mean_token_accuracy": q["Cw"].sum() / q["nw"].sum(),
    }
    if name != "dove":  # its rewards include the prompts
        expected |= {
            "rewards/chosen": rw.mean(),
            "rewards/rejected": rl.mean(),
            "rewards/margins": (rw - rl).mean(),
            "rewards/accuracies": (rw > rl).mean(),
        }
    if name == "cpo":
        expected["nll_loss"] = -q["Pw"].sum() / q["nw"].sum()
    if name == "tdpo2":
        expected |= {"kl/chosen": q["Kw"].mean(), "kl/rejected": q["Kl"].mean()}
    for metric, value in expected.items():
        np.testing.assert_allclose(got[metric], value, rtol=1e-4, atol=1e-6, err_msg=metric)


def test_dove_rewards_cover_what_it_scores():
    got = values_of(whole("dove", **SETTINGS["dove"])[0])
    total = lambda s: 0.3 * float(np.sum((s[1]["logps"] - s[1]["ref_logps"])[1:].astype(float)))  # noqa: E731
    rw, rl = (np.array([total(p[k]) for p in pairs()[:5]]) for k in (0, 1))
    np.testing.assert_allclose(got["rewards/margins"], (rw - rl).mean(), rtol=1e-4)
    np.testing.assert_allclose(got["rewards/accuracies"], (rw > rl).mean(), rtol=1e-4)


# --- LCPO: carried reliabilities and its other bases ---


def test_lcpo_updates_the_reliability_of_the_annotators_in_the_step():
    objective = METHODS["lcpo"](beta=0.3, eta=0.8, num_annotators=4, eta_momentum=0.25).build(ArrayScorer())
    run = Runner(objective)
    out, _ = run(*lay_out(pairs(), ROLES, COLUMNS))
    q = quantities()
    s = 0.3 * ((q["Pw"] - q["Rw"]) - (q["Pl"] - q["Rl"]))
    w = 1 / (1 + np.exp(-s) / 4.0)
    who = COLUMNS["annotator"][:5]
    expected = [0.75 * 0.8 + 0.25 * w[who == k].mean() if np.any(who == k) else 0.8 for k in range(4)]
    carry = objective.after(objective.init_carry(), out.stats)
    np.testing.assert_allclose(carry["reliability"], expected, rtol=1e-5)
    second, _ = run(*lay_out(pairs(), ROLES, COLUMNS), carry=carry)
    odds = np.asarray(carry["reliability"], float)[who] / (1 - np.asarray(carry["reliability"], float)[who])
    w2 = 1 / (1 + np.exp(-s) / odds)
    np.testing.assert_allclose(values_of(second)["posterior"], w2.mean(), rtol=1e-5)


def test_an_annotator_beyond_the_table_makes_the_loss_nan():
    wrong = COLUMNS | {"annotator": np.array([0, 3, 1, 0, 2, 0], np.int32)}
    out, _ = runner("lcpo", **SETTINGS["lcpo"])(*lay_out(pairs(), ROLES, wrong))
    assert np.isnan(out.loss)


@pytest.mark.parametrize("base", ["ipo", "simpo", "cpo"])
def test_lcpo_bases(base):
    run = runner("lcpo", base=base, beta=0.5, simpo_gamma=0.4)
    out, _ = run(*lay_out(pairs(), ROLES, {}))
    q = quantities()
    delta = (q["Pw"] - q["Rw"]) - (q["Pl"] - q["Rl"])
    d = 0.5 * (q["Pw"] / q["nw"] - q["Pl"] / q["nl"])
    s = {"ipo": 2 * delta / 0.5, "simpo": sp(d + 0.4) - sp(0.4 - d), "cpo": 1.5 * (q["Pw"] - q["Pl"])}[base]
    w = 1 / (1 + np.exp(-s) / 9.0)
    np.testing.assert_allclose(out.loss, np.mean(w * sp(-s) + (1 - w) * sp(s)), rtol=1e-4)
