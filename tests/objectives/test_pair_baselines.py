"""The pair baselines' dataclasses: their settings reach the formula, their needs, targets and own metrics."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments, sums

from jaxpo import losses
from jaxpo.errors import ConfigError
from jaxpo.objectives.families.features import Side
from jaxpo.objectives.families.pairs import Pair
from jaxpo.objectives.methods import METHODS, resolve

N = 5
HERE = np.array([True, True, False, True, True])


def sp(z):
    return np.logaddexp(z, 0.0)


def sig(z):
    return np.exp(-sp(-z))


def side(seed, length):
    rng = np.random.default_rng(seed)
    p, r = (-20 + 3 * rng.standard_normal(N) for _ in range(2))
    length = np.asarray(length, np.float32)
    p, r = (np.where(length > 0, x, 0.0).astype(np.float32) for x in (p, r))
    zero = jnp.zeros(N)
    return Side(jnp.asarray(p), jnp.asarray(r), jnp.asarray(length), zero, zero)


def pair(**others):
    return Pair(side(0, [3, 9, 5, 12, 4]), side(1, [7, 2, 5, 6, 8]), jnp.asarray(HERE), {}, others)


def quantities(p):
    """Float64 rho_w, rho_l, P_w, P_l, |y_w|, |y_l|."""
    get = lambda x: np.asarray(x, np.float64)  # noqa: E731
    c, r = p.chosen, p.rejected
    return (
        get(c.logps) - get(c.ref_logps),
        get(r.logps) - get(r.ref_logps),
        *(get(x) for x in (c.logps, r.logps, c.length, r.length)),
    )


def odds(mean):
    return np.log(np.exp(mean) / (1 - np.exp(mean)))


def squash(x, alpha):
    return (1 - np.exp(-alpha * x)) / alpha


def exo(h, e):
    return sig(h) * np.log(sig(h) / (1 - e)) + sig(-h) * np.log(sig(-h) / e)


def disco(h, tau):
    return (1 - sig(h / tau)) * sp(-h) + sig(h / tau) * np.exp(-h)


# name -> (settings away from the defaults, float64 terms by count)
EXPECTED = {
    "cdpo": (
        {"beta": 0.3, "label_smoothing": 0.2},
        lambda a, b, *_: {"pairs": 0.8 * sp(-0.3 * (a - b)) + 0.2 * sp(0.3 * (a - b))},
    ),
    "ipo": ({"beta": 0.3}, lambda a, b, p, q, n, m: {"pairs": (a / n - b / m - 1 / 0.6) ** 2}),
    "ipo_sum": ({"beta": 0.3}, lambda a, b, *_: {"pairs": (a - b - 1 / 0.6) ** 2}),
    "hinge": ({"beta": 0.3}, lambda a, b, *_: {"pairs": np.maximum(0, 1 - 0.3 * (a - b))}),
    "rdpo_length": (
        {"beta": 0.3, "alpha": 0.2},
        lambda a, b, p, q, n, m: {"pairs": sp(-(0.3 * (a - b) + 0.2 * (n - m)))},
    ),
    "dpop": (
        {"beta": 0.2, "dpop_lambda": 3.0},
        lambda a, b, *_: {"pairs": sp(-0.2 * (a - b - 3 * np.maximum(0, -a)))},
    ),
    "exo_pair": ({"beta": 0.3, "label_smoothing": 0.1}, lambda a, b, *_: {"pairs": exo(0.3 * (a - b), 0.1)}),
    "nca_pair": (
        {"beta": 0.3},
        lambda a, b, *_: {"pairs": sp(-0.3 * a) + 0.5 * sp(0.3 * a) + 0.5 * sp(0.3 * b)},
    ),
    "bco_pair": ({"beta": 0.3}, lambda a, b, *_: {"pairs": sp(-0.3 * a) + sp(0.3 * b)}),
    "sppo_hard": ({"beta": 0.3}, lambda a, b, *_: {"pairs": (a - 1 / 0.6) ** 2 + (b + 1 / 0.6) ** 2}),
    "apo_zero": ({"beta": 0.3}, lambda a, b, *_: {"pairs": sig(-0.3 * a) + sig(0.3 * b)}),
    "apo_down": ({"beta": 0.3}, lambda a, b, *_: {"pairs": sig(0.3 * a) + sig(-0.3 * (a - b))}),
    "discopop": ({"beta": 0.3, "discopop_tau": 0.5}, lambda a, b, *_: {"pairs": disco(0.3 * (a - b), 0.5)}),
    "fdpo": (
        {"beta": 0.3, "f_divergence_type": "alpha_divergence", "alpha": 0.4},
        lambda a, b, *_: {"pairs": sp(-0.3 * (squash(a, 0.4) - squash(b, 0.4)))},
    ),
    "alphapo": (
        {"alpha": 0.5, "beta": 1.5, "simpo_gamma": 0.3, "label_smoothing": 0.1},
        lambda a, b, p, q, n, m: {
            "pairs": 0.9 * sp(-(1.5 * (squash(p / n, 0.5) - squash(q / m, 0.5)) - 0.3))
            + 0.1 * sp(1.5 * (squash(p / n, 0.5) - squash(q / m, 0.5)) - 0.3)
        },
    ),
    "orpo": (
        {"beta": 0.3},
        lambda a, b, p, q, n, m: {"pairs": 0.3 * sp(-(odds(p / n) - odds(q / m))), "chosen_tokens": -p},
    ),
    "sft": ({}, lambda a, b, p, *_: {"chosen_tokens": -p}),
    "slic": (
        {"delta": 2.0, "slic_lambda": 0.3},
        lambda a, b, p, q, *_: {"pairs": np.maximum(0, 2 - p + q) - 0.3 * p},
    ),
    "lndpo": ({"beta": 1.5}, lambda a, b, p, q, n, m: {"pairs": sp(-1.5 * (a / n - b / m))}),
    "apo_zero_norm": ({"beta": 1.5}, lambda a, b, p, q, n, m: {"pairs": sig(1.5 * b / m) - sig(1.5 * a / n)}),
    "apo_down_norm": (
        {"beta": 1.5},
        lambda a, b, p, q, n, m: {"pairs": sig(1.5 * a / n) - sig(1.5 * (a / n - b / m))},
    ),
    "hinge_per_token": (
        {"beta": 1.5},
        lambda a, b, p, q, n, m: {"pairs": np.maximum(0, 1 - 1.5 * (a / n - b / m))},
    ),
    "length_normalized": (
        {"beta": 1.5, "relative": "squared", "margin": 0.4, "omega": 0.7, "absolute": "apo_zero", "lam": 0.6},
        lambda a, b, p, q, n, m: {
            "pairs": 0.7 * (1.5 * (a / n - b / m) - 0.4) ** 2 + 0.6 * (sig(1.5 * b / m) - sig(1.5 * a / n))
        },
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_settings_reach_the_formula(name):
    settings, reference = EXPECTED[name]
    method = METHODS[name](**settings)
    assert all(getattr(METHODS[name](), k) != v for k, v in settings.items()), "a default tests nothing"
    assert method.problems() == []
    p = pair()
    terms = method.loss(p)
    terms = terms if isinstance(terms, dict) else {"pairs": terms}
    expected = reference(*quantities(p))
    assert set(terms) == set(expected)
    for count, value in terms.items():
        np.testing.assert_allclose(value, np.where(HERE, expected[count], 0.0), rtol=1e-4, atol=1e-5)
    assert set(method.metrics(p)) == set(method.METRICS)


@pytest.mark.parametrize(
    ("given", "name"),
    [("cdpo", "cdpo"), ("conservative-dpo", "cdpo"), ("ipo", "ipo"), ("hinge", "hinge"), ("slic_norm", "hinge"),
     ("SLiC-HF", "slic"), ("smaug", "dpop"), ("exo_pref", "exo_pair"), ("f-DPO", "fdpo"), ("LN-DPO", "lndpo"),
     ("lrml", "discopop"), ("AlphaPO", "alphapo"), ("sft", "sft"), ("length-regularized-dpo", "rdpo_length")],
)  # fmt: skip
def test_names(given, name):
    assert resolve(given) is METHODS[name]


def test_cdpo_is_dpos_function_with_its_own_default():
    assert METHODS["cdpo"].INFO.function == METHODS["dpo"].INFO.function
    assert METHODS["cdpo"]().label_smoothing == 0.1
    assert METHODS["dpo"]().label_smoothing == 0.0
    smooth = METHODS["dpo"](label_smoothing=0.1).loss(pair())
    np.testing.assert_array_equal(METHODS["cdpo"]().loss(pair()), smooth)


def test_lndpo_and_sigmoid_norm_are_one_function_with_two_betas():
    lndpo, norm = METHODS["lndpo"], METHODS["sigmoid_norm"]
    assert inspect.signature(losses.lndpo).parameters["beta"].default == lndpo().beta == 2.0
    assert inspect.signature(losses.sigmoid_norm).parameters["beta"].default == norm().beta == 5.0
    assert lndpo().beta != norm().beta
    np.testing.assert_array_equal(lndpo(beta=5.0).loss(pair()), norm(beta=5.0).loss(pair()))


@pytest.mark.parametrize("relative", ["logistic", "hinge", "squared", "none"])
@pytest.mark.parametrize("absolute", ["none", "apo_zero", "apo_down"])
def test_every_member_of_the_length_normalised_family_can_be_named(relative, absolute):
    method = METHODS["length_normalized"](relative=relative, absolute=absolute)
    if relative == absolute == "none":
        (problem,) = method.problems()
        assert problem == ("length_normalized: relative and absolute are both none, which leaves no loss; choose one.")
        with pytest.raises(ConfigError, match="leaves no loss"):
            method.build(None)
        return
    assert method.problems() == []
    assert np.any(np.asarray(method.loss(pair())) != 0)
    same = {("logistic", "none"): "sigmoid_norm", ("hinge", "none"): "hinge_per_token",
            ("none", "apo_zero"): "apo_zero_norm", ("none", "apo_down"): "apo_down_norm"}  # fmt: skip
    if (relative, absolute) in same:
        named = METHODS[same[relative, absolute]]().loss(pair())
        np.testing.assert_array_equal(method.loss(pair()), named)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("exo_pair", {"label_smoothing": 0.0}, "label_smoothing is 0.0 but must be a number greater than 0"),
        ("discopop", {"discopop_tau": 1.5}, "discopop_tau is 1.5 but must be a number greater than 0 and at most 1"),
        ("fdpo", {"alpha": 0.0}, "alpha is 0.0 but must be a number greater than 0 and at most 1"),
        ("dpop", {"dpop_lambda": -1.0}, "dpop_lambda is -1.0 but must be a number at least 0"),
        ("cdpo", {"label_smoothing": 0.6}, "label_smoothing is 0.6 but must be a number at least 0 and at most 0.5"),
        ("sppo_hard", {"beta": 0.0}, "beta is 0.0 but must be a number greater than 0"),
    ],
)
def test_hyper_parameters_out_of_range(name, settings, message):
    assert message in " ".join(METHODS[name](**settings).problems())


def test_needs():
    free = {name for name in EXPECTED if METHODS[name]().NEEDS.kind("reference") == "none"}
    assert free == {"alphapo", "orpo", "sft", "slic"}


# --- SLiC's target ---


def gold():
    return side(2, [4, 0, 3, 6, 0])


def test_slic_target_decides_the_needs():
    slic = METHODS["slic"]
    assert slic().NEEDS.roles == ("chosen", "rejected")
    assert slic(target="gold").NEEDS.roles == ("chosen", "rejected", "gold")
    assert slic(target="gold_or_chosen").NEEDS.roles == ("chosen", "rejected")
    assert slic(target="gold_or_chosen").NEEDS.optional_roles == ("gold",)
    assert slic.NEEDS.roles == ("chosen", "rejected")


@pytest.mark.parametrize("target", ["chosen", "gold", "gold_or_chosen"])
def test_slic_keeps_up_the_likelihood_of_its_target(target):
    method, p = METHODS["slic"](target=target, slic_lambda=0.5), pair(gold=gold())
    _, _, p_w, p_l, *_ = quantities(p)
    g, has = np.asarray(gold().logps, np.float64), np.asarray(gold().length) > 0
    kept = {"chosen": p_w, "gold": g, "gold_or_chosen": np.where(has, g, p_w)}[target]
    expected = np.maximum(0, 1 - p_w + p_l) - 0.5 * kept
    np.testing.assert_allclose(method.loss(p), np.where(HERE, expected, 0), rtol=1e-5)
    lengths = {"chosen": [3, 9, 0, 12, 4], "gold": [4, 0, 0, 6, 0], "gold_or_chosen": [4, 9, 0, 6, 4]}[target]
    metrics = {k: float(m.value()) for k, m in method.metrics(p).items()}
    np.testing.assert_allclose(metrics["nll_loss"], -kept[HERE].sum() / np.sum(lengths), rtol=1e-5)
    np.testing.assert_allclose(metrics["calibration_loss"], np.maximum(0, 1 - p_w + p_l)[HERE].mean(), rtol=1e-5)


def test_slic_takes_the_chosen_response_where_no_row_has_a_gold_answer():
    method = METHODS["slic"](target="gold_or_chosen")
    np.testing.assert_array_equal(method.loss(pair()), METHODS["slic"]().loss(pair()))


# --- metrics and rewards ---


def test_orpo_metrics_and_reward():
    p, method = pair(), METHODS["orpo"](beta=0.3)
    _, _, p_w, p_l, n, m = quantities(p)
    ratio = (odds(p_w / n) - odds(p_l / m))[HERE]
    got = {k: float(x.value()) for k, x in method.metrics(p).items()}
    np.testing.assert_allclose(got["log_odds_chosen"], ratio.mean(), rtol=1e-5)
    np.testing.assert_allclose(got["log_odds_ratio"], -sp(-ratio).mean(), rtol=1e-5)
    np.testing.assert_allclose(got["nll_loss"], -p_w[HERE].sum() / n[HERE].sum(), rtol=1e-5)
    np.testing.assert_allclose(method.reward(p.chosen), 0.3 * p_w / n, rtol=1e-5)


def test_dpop_reports_the_share_of_penalised_pairs():
    p = pair()
    a, *_ = quantities(p)
    got = float(METHODS["dpop"]().metrics(p)["penalised"].value())
    np.testing.assert_allclose(got, (a[HERE] < 0).mean())
    assert 0 < got < 1


def test_alphapo_reward_is_the_bent_mean():
    p = pair()
    _, _, p_w, _, n, _ = quantities(p)
    np.testing.assert_allclose(METHODS["alphapo"]().reward(p.chosen), 2.5 * squash(p_w / n, 0.25), rtol=1e-5)
    np.testing.assert_allclose(METHODS["alphapo"](alpha=0.0).reward(p.chosen), 2.5 * p_w / n, rtol=1e-5)


def test_slic_with_gold_answers_from_packed_rows():
    """Through encode: gold segments of some examples only, in packed rows, with an empty place."""
    flat = segments(9)
    examples = (tuple(flat[0:3]), tuple(flat[3:5]), tuple(flat[5:8]), None)
    batch, params, frozen = lay_out(examples, {"chosen": 0, "rejected": 1, "gold": 2}, {}, per_row=3)
    objective = METHODS["slic"](target="gold_or_chosen", slic_lambda=0.5).build(ArrayScorer())
    out, grads = Runner(objective)(batch, params, frozen)
    terms = []
    for example in examples[:3]:
        p_w, p_l = (sums(example, "logps", k) for k in (0, 1))
        kept = sums(example, "logps", 2) if len(example) == 3 else p_w
        terms.append(max(0.0, 1 - p_w + p_l) - 0.5 * kept)
    np.testing.assert_allclose(out.loss, np.mean(terms), rtol=1e-5)
    assert all(np.all(np.isfinite(g)) for g in grads["model"].values())
