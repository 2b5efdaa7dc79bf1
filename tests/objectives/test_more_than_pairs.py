"""MODPO, triple TPO, rationales and MAPL as objectives: what they read beyond the pair, measure and refuse."""

import jax.numpy as jnp
import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments

from jaxpo import losses
from jaxpo.objectives.encode import TokenStats
from jaxpo.objectives.families.features import Scores, Side, Tokens
from jaxpo.objectives.families.pairs import Pair, pair_counts
from jaxpo.objectives.families.unpaired import Unpaired
from jaxpo.objectives.methods import METHODS, resolve
from jaxpo.objectives.methods.mapl import INTER, INTRA

N = 4
PRESENT = np.array([True, True, False, True])


def side(seed, lengths=(3, 1, 5, 2)):
    """Sums over tokens; NaN where nothing may be read would be caught by `present`, so absent rows hold NaN."""
    rng = np.random.default_rng(seed)
    p, r = (np.where(PRESENT, -rng.gamma(4.0, 1.0, N), np.nan).astype(np.float32) for _ in range(2))
    n = np.asarray(lengths, np.float32)
    return Side(logps=jnp.asarray(p), ref_logps=jnp.asarray(r), length=jnp.asarray(n), entropy=n, correct=n)


def absent(rows, s):
    """The side where `rows` have it; 0 elsewhere, as `side` of the features gives."""
    rows = np.asarray(rows, bool)
    return s.replace(**{k: jnp.where(rows, getattr(s, k), 0.0) for k in ("logps", "ref_logps", "length")})


def pair(columns=None, **others):
    columns = {k: jnp.asarray(v) for k, v in (columns or {}).items()}
    return Pair(side(0), side(1, (1, 4, 2, 6)), jnp.asarray(PRESENT), columns, others)


def f64(x):
    return np.asarray(x, np.float64)[PRESENT]


def metrics(method, p):
    found = method.all_metrics(p)
    assert set(method.METRICS) <= set(found)
    return {name: float(m.value()) for name, m in found.items()}


# --- MODPO ---

REWARDS = np.random.default_rng(3).normal(size=(N, 2, 2)).astype(np.float32)


def test_modpo_reads_the_rewards_of_both_sides_and_logs_objective_0():
    method = METHODS["modpo"](beta=0.3, weights=(0.5, 0.2, 0.3))
    p = pair({"rewards": np.where(PRESENT[:, None, None], REWARDS, np.nan)})
    frozen = [REWARDS[PRESENT][:, :, k].astype(np.float64) @ np.array([0.2, 0.3]) for k in (0, 1)]
    reward = [(0.3 * (f64(s.logps) - f64(s.ref_logps)) - m) / 0.5 for s, m in zip((p.chosen, p.rejected), frozen,
                                                                                  strict=True)]  # fmt: skip
    got = np.asarray(method.loss(p))
    np.testing.assert_allclose(got[PRESENT], np.logaddexp(0, reward[1] - reward[0]), rtol=1e-5)
    assert got[2] == 0
    found = metrics(method, p)
    np.testing.assert_allclose(found["rewards/chosen"], reward[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["rewards/margins"], (reward[0] - reward[1]).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["rewards/accuracies"], (reward[0] > reward[1]).mean())
    assert method.NEEDS.columns == ("rewards",)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((0.0, 1.0), "modpo: weights[0] is 0 but must be greater than 0"),
        ((0.5,), "modpo: weights is (0.5,) but must be two or more finite numbers."),
        ((0.5, float("nan")), "modpo: weights is (0.5, nan) but must be two or more finite numbers."),
    ],
)
def test_modpo_refuses_weights_that_mean_nothing(weights, message):
    assert message in " ".join(METHODS["modpo"](weights=weights).problems())


def test_modpo_counts_the_datas_rewards():
    method = METHODS["modpo"](weights=(0.5, 0.25, 0.25))
    assert method.problems() == []
    assert method.check_columns({"rewards": REWARDS}) == []
    assert method.check_columns({}) == []
    (problem,) = METHODS["modpo"]().check_columns({"rewards": REWARDS})
    assert "holds 2 reward(s) per response, but weights has 2 entries; give 3" in problem


# --- TPO ---


@pytest.mark.parametrize("variant", ["tpo", "tpo_l", "hinge", "ipo"])
def test_tpo_divides_its_terms_by_pairs_and_gold_tokens(variant):
    method = METHODS["tpo_triple"](variant=variant, beta=0.4, tpo_alpha=0.7, tpo_l_gamma=0.3)
    p = pair(gold=side(2))
    terms = method.loss(p)
    assert set(terms) == {"pairs", "gold_tokens"}
    np.testing.assert_allclose(np.asarray(terms["gold_tokens"])[PRESENT], -0.7 * f64(p.others["gold"].logps), rtol=1e-6)
    direct, _ = losses.tpo_triple(
        p.chosen.logps, p.rejected.logps, p.others["gold"].logps, *p.lengths, variant=variant, beta=0.4, gamma=0.3,
        where=p.present,
    )  # fmt: skip
    np.testing.assert_allclose(terms["pairs"], direct, rtol=1e-6)
    found = metrics(method, p)
    np.testing.assert_allclose(
        found["nll_loss"], -f64(p.others["gold"].logps).sum() / f64(p.others["gold"].length).sum()
    )
    scale = f64(p.chosen.length) if variant in ("tpo_l", "ipo") else 1.0
    np.testing.assert_allclose(found["rewards/chosen"], 0.4 * (f64(p.chosen.logps) / scale).mean(), rtol=1e-5)


def test_tpo_without_its_gold_term_needs_no_gold():
    method = METHODS["tpo_triple"](tpo_alpha=0.0)
    assert method.NEEDS.roles == ("chosen", "rejected")
    assert METHODS["tpo_triple"]().NEEDS.roles == ("chosen", "rejected", "gold")
    assert set(method.loss(pair())) == {"pairs"}
    assert "nll_loss" not in metrics(method, pair())
    assert METHODS["tpo_triple"].METRICS == ("nll_loss",)


def test_tpo_settings():
    (problem,) = METHODS["tpo_triple"](variant="ipo", label_smoothing=0.1).problems()
    assert problem == "tpo_triple: label_smoothing has no meaning for variant 'ipo'; set it to 0."
    assert resolve("triple_preference_optimization") is METHODS["tpo_triple"]


# --- rationales ---


@pytest.mark.parametrize("base", ["dpo", "orpo", "simpo"])
def test_rationales_are_added_where_there_are_some(base):
    method = METHODS["rationales"](base=base, gamma=0.3, beta=0.5)
    reason = absent([1, 0, 1, 1], side(4))
    with_reason, without = method.loss(pair(rationale=reason)), method.loss(pair())
    extra = np.asarray(with_reason["pairs"] - without["pairs"])
    a = np.asarray(reason.logps, np.float64)
    a = a if base == "dpo" else a / np.maximum(np.asarray(reason.length), 1)
    np.testing.assert_allclose(extra[[0, 3]], -0.3 * a[[0, 3]], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(extra[[1, 2]], 0.0)
    assert set(with_reason) == ({"pairs", "chosen_tokens"} if base == "orpo" else {"pairs"})
    assert method.NEEDS.kind("reference") == ("logps" if base == "dpo" else "none")
    assert method.NEEDS.optional_roles == ("rationale",)


def test_rationale_metrics():
    reason = absent([1, 0, 1, 1], side(4))
    p = pair(rationale=reason)
    found = metrics(METHODS["rationales"](base="orpo"), p)
    nll = -np.asarray(reason.logps, np.float64)[[0, 3]].sum() / np.asarray(reason.length)[[0, 3]].sum()
    np.testing.assert_allclose(found["rationale_nll"], nll, rtol=1e-5)
    mean = [f64(s.logps) / f64(s.length) for s in (p.chosen, p.rejected)]
    odds = [m - np.log1p(-np.exp(m)) for m in mean]
    np.testing.assert_allclose(found["log_odds_chosen"], (odds[0] - odds[1]).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["log_odds_ratio"], -np.logaddexp(0, odds[1] - odds[0]).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["nll_loss"], -f64(p.chosen.logps).sum() / f64(p.chosen.length).sum(), rtol=1e-5)
    none = METHODS["rationales"]().all_metrics(pair())
    assert float(none["rationale_nll"].count) == 0
    assert "nll_loss" not in none


# --- MAPL ---


def mapl_pair():
    here = {role: absent(rows, side(10 + i)) for i, (role, rows) in enumerate({
        "inter_chosen": [1, 1, 1, 0], "inter_rejected": [1, 1, 1, 0],
        "intra_chosen_plus": [1, 0, 1, 1], "intra_chosen_minus": [1, 0, 1, 1],
        "intra_rejected_plus": [1, 0, 0, 0], "intra_rejected_minus": [1, 0, 0, 0],
    }.items())}  # fmt: skip
    return pair({"inter_sign": np.array([1, -1, 0, 0], np.float32)}, **here)


def test_mapl_gathers_its_six_roles():
    method, p = METHODS["mapl"](beta=0.3, intra_weight=0.5, inter_weight=2.0), mapl_pair()
    q = {role: 0.3 * np.nan_to_num(np.asarray(s.logps - s.ref_logps, np.float64)) for role, s in p.others.items()}
    w, r = (0.3 * np.nan_to_num(np.asarray(s.logps - s.ref_logps, np.float64)) for s in (p.chosen, p.rejected))
    sp = lambda z: np.logaddexp(z, 0)  # noqa: E731
    fits = [sp(q[f"intra_{end}_minus"] - q[f"intra_{end}_plus"]) for end in ("chosen", "rejected")]
    moved = sp(-np.array([1, -1, 0, 0]) * ((q["inter_chosen"] - q["inter_rejected"]) - (w - r)))
    expected = sp(r - w)
    expected[0] += 0.5 * (fits[0][0] + fits[1][0]) / 2 + 2.0 * moved[0]
    expected[1] += 2.0 * moved[1]
    expected[3] += 0.5 * fits[0][3]
    got = np.asarray(method.loss(p))
    np.testing.assert_allclose(got[PRESENT], expected[PRESENT], rtol=1e-5)
    assert got[2] == 0
    found = method.all_metrics(p)
    assert float(found["intra/accuracies"].count) == 3
    assert float(found["inter/accuracies"].count) == 2
    right = [q["intra_chosen_plus"][i] > q["intra_chosen_minus"][i] for i in (0, 3)]
    right.append(q["intra_rejected_plus"][0] > q["intra_rejected_minus"][0])
    np.testing.assert_allclose(found["intra/accuracies"].value(), np.mean(right), rtol=1e-6)


def test_mapl_without_its_prompts_is_dpo():
    method, p = METHODS["mapl"](beta=0.3), pair()
    np.testing.assert_allclose(method.loss(p), losses.dpo(*p.logps, beta=0.3, where=p.present), rtol=1e-6)
    assert float(method.all_metrics(p)["intra/accuracies"].count) == 0
    assert method.NEEDS.optional_roles == (*INTER, *INTRA)


@pytest.mark.parametrize(("name", "role"), [("tpo_triple", "gold"), ("rationales", "rationale")])
def test_further_segments_are_counted(name, role):
    from contracts.batches import make_examples, packed

    batch = packed(make_examples("many_roles", 6), blocks=2)
    counts = pair_counts(batch, METHODS[name]().NEEDS)
    where = np.asarray(batch.roles[role]) >= 0
    assert 0 < float(counts[f"{role}s"]) == where.sum()
    assert float(counts[f"{role}_tokens"]) >= float(counts[f"{role}s"])


# --- which tokens receive what ---


def three(count, without=()):
    """Examples of three segments; those in `without` lack the third."""
    flat = segments(3 * count, seed=5)
    return tuple(tuple(flat[3 * i : 3 * i + (2 if i in without else 3)]) for i in range(count))


def token_gradients(name, examples, role, **settings):
    """Gradient in the policy's log-probs, rows of the third segments; and their masks of supervised tokens."""
    objective = METHODS[name](**settings).build(ArrayScorer())
    batch, params, frozen = lay_out(examples, {"chosen": 0, "rejected": 1, role: 2}, {})
    _, grads = Runner(objective)(batch, params, frozen)
    every_third = np.arange(len(examples)) * 3 + 2
    return np.asarray(grads["model"]["logps"]), np.asarray(batch.masks["completion"]), every_third


def test_every_gold_token_of_the_step_has_the_same_pull_and_no_other_token_of_its_row():
    grads, mask, gold = token_gradients("tpo_triple", three(3), "gold", tpo_alpha=0.7)
    expected = np.where(mask[gold], -0.7 / mask[gold].sum(), 0.0)
    np.testing.assert_allclose(grads[gold], expected, rtol=1e-5)
    assert np.all(grads[gold - 2][mask[gold - 2]] < 0)
    assert np.all(grads[gold - 1][mask[gold - 1]] > 0)


def test_only_the_tokens_of_a_rationale_are_learnt_and_not_the_prompt_that_holds_both_responses():
    examples = three(3, without=(1,))
    grads, mask, reason = token_gradients("rationales", examples, "rationale", gamma=0.3)
    np.testing.assert_allclose(grads[reason], np.where(mask[reason], -0.3 / 3, 0.0), rtol=1e-5)
    np.testing.assert_array_equal(mask[reason].any(1), [True, False, True])


def test_what_a_method_did_not_ask_for_is_named():
    plain, p = pair(), side(0)
    scores = Scores(TokenStats(*(np.zeros((1, 2)) for _ in range(3))), np.zeros((1, 2)))
    unpaired = Unpaired(p, PRESENT, PRESENT, {})
    rows = Tokens(*(np.zeros((1, 2)) for _ in range(4)))
    with_rows = Pair(p.replace(rows=rows), p.replace(rows=rows), PRESENT, {})
    for read, match in (
        (lambda: plain.kls, r'KL sums exist only for methods with Needs\(reference="vocab"\)'),
        (lambda: plain.tokens, "does not set TOKENS = True"),
        (lambda: plain.token_masks, "does not set TOKENS = True"),
        (lambda: with_rows.token_kls, r'KLs exist only for methods with Needs\(reference="vocab"\)'),
        (
            lambda: with_rows.token_columns("step"),
            r'no column "step": the method does not name it in Needs\(per_token=',
        ),
        (lambda: scores.hidden, "does not set HIDDEN = True"),
        (lambda: unpaired.kl, 'the reference point needs the role "kl"'),
    ):
        with pytest.raises(ValueError, match=match):
            read()
