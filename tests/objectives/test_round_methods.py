"""The preference methods of iterative papers on features: what they read, divide and measure, against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
from contracts.harness import SCORER
from objectives.pair_arrays import as_pair, evaluate, random_pairs
from objectives.test_networks import BATCH, loss_of, networks

from jaxpo import losses
from jaxpo.errors import ConfigError
from jaxpo.objectives.families.features import Side, Tokens
from jaxpo.objectives.families.hybrid import PairsAndAnswers
from jaxpo.objectives.families.pairs import Pair
from jaxpo.objectives.families.rollouts import Rollouts
from jaxpo.objectives.methods import METHODS


def of_three(seed: int = 0):
    """A pair with the last iterate's log-probs beside the reference's; and the quantities."""
    q = random_pairs(seed)
    rng = np.random.default_rng(seed + 7)
    before = {s: -rng.gamma(2.0, 4.0, 5) for s in "wl"}
    p = as_pair(q)
    sides = [
        side.replace(sums={"previous_logps": np.append(before[s], np.nan).astype(np.float32)})
        for s, side in zip("wl", (p.chosen, p.rejected), strict=True)
    ]
    return p.replace(chosen=sides[0], rejected=sides[1]), q | {"Q" + s: before[s] for s in "wl"}


def test_inpo_reads_two_networks_beside_the_policy():
    method = METHODS["inpo"](eta=0.5, tau=0.2)
    assert method.NEEDS.networks == (("reference", "logps"), ("previous", "logps"))
    p, q = of_three()
    h = (q["Pw"] - q["Pl"]) - 0.4 * (q["Rw"] - q["Rl"]) - 0.6 * (q["Qw"] - q["Ql"])
    out = evaluate(method.build(SCORER), p)
    np.testing.assert_allclose(out.loss, np.mean((h - 1.0) ** 2), rtol=1e-5)
    margin = out.metrics["rewards/margins"]
    np.testing.assert_allclose(margin.total / margin.count, 0.5 * np.mean(h), rtol=1e-4)
    right = out.metrics["rewards/accuracies"]
    np.testing.assert_allclose(right.total / right.count, np.mean(h > 0))


def test_inpo_on_networks_is_the_loss_of_their_log_probs():
    method = METHODS["inpo"](eta=1.0)
    params, frozen = networks()
    frozen = {name: frozen[name] for name in ("reference", "previous")}
    found = loss_of(method.build(SCORER), params, frozen, BATCH)
    same = loss_of(method.build(SCORER), params, frozen | {"previous": frozen["reference"]}, BATCH)
    ipo = loss_of(METHODS["ipo_sum"](beta=1.0).build(SCORER), params, {"reference": frozen["reference"]}, BATCH)
    np.testing.assert_allclose(same, ipo, rtol=1e-5)  # the first round
    assert abs(float(found) - float(same)) > 1e-3
    alone = loss_of(METHODS["inpo"](eta=1.0, tau=1.0).build(SCORER), params, frozen, BATCH)
    np.testing.assert_allclose(alone, ipo, rtol=1e-5)  # tau = eta


def test_inpo_refuses_a_tie_that_is_stronger_than_its_step():
    with pytest.raises(ConfigError, match=r"tau is 0\.2 but must be at most eta, 0\.1"):
        METHODS["inpo"](eta=0.1, tau=0.2).build(SCORER)


@pytest.mark.parametrize(("form", "sign", "alpha"), [("online", 1, 0.01), ("offline", -1, 0.1)])
def test_vpo_calibrates_by_the_chosen_or_by_what_was_drawn(form, sign, alpha):
    p, q = as_pair(random_pairs()), random_pairs()
    dpo = np.logaddexp(0, -0.3 * ((q["Pw"] - q["Rw"]) - (q["Pl"] - q["Rl"])))
    chosen = METHODS["vpo"](form=form, beta=0.3)
    assert chosen.NEEDS.roles == ("chosen", "rejected")
    out = evaluate(chosen.build(SCORER), p)
    value = sign * alpha * 0.3 * (q["Pw"] - q["Rw"])
    np.testing.assert_allclose(out.loss, np.mean(dpo + value), rtol=1e-5)
    found = out.metrics["loss/value"]
    np.testing.assert_allclose(found.total / found.count, value.mean(), rtol=1e-4)

    drawn = METHODS["vpo"](form=form, beta=0.3, calibration="drawn")
    assert drawn.NEEDS.roles == ("chosen", "rejected", "calibration")
    third = as_pair(random_pairs(3)).chosen
    length = np.where(np.arange(6) == 1, 0.0, third.length)  # one pair lacks it
    terms = drawn.loss(p.replace(others={"calibration": third.replace(length=length)}))
    assert set(terms) == {"pairs", "calibrations"}
    c = random_pairs(3)
    expected = sign * alpha * 0.3 * (c["Pw"] - c["Rw"])
    expected[1] = 0.0
    np.testing.assert_allclose(terms["calibrations"][:5], expected, rtol=1e-5)
    np.testing.assert_allclose(terms["pairs"][:5], dpo, rtol=1e-5)
    assert terms["calibrations"][5] == 0


def test_vpo_without_a_value_is_dpo_and_needs_nothing_more():
    method = METHODS["vpo"](alpha=0.0, calibration="drawn")
    assert method.NEEDS.roles == ("chosen", "rejected")
    p = as_pair(random_pairs())
    np.testing.assert_allclose(method.loss(p)["pairs"], losses.dpo(*p.logps, beta=0.1, where=p.present), rtol=1e-6)
    assert "loss/value" not in evaluate(method.build(SCORER), p).metrics


def test_upo_smooths_each_pair_by_its_own_column():
    method = METHODS["upo"](beta=0.3, nll_weight=0.5)
    assert method.NEEDS.columns == ("smoothing",)
    a = np.array([0.0, 0.1, 0.4, 0.5, 0.2])
    p, q = as_pair(random_pairs(), {"smoothing": np.append(a, 0).astype(np.float32)}), random_pairs()
    h = 0.3 * ((q["Pw"] - q["Rw"]) - (q["Pl"] - q["Rl"]))
    pair = (1 - a) * np.logaddexp(0, -h) + a * np.logaddexp(0, h)
    out = evaluate(method.build(SCORER), p)
    np.testing.assert_allclose(out.loss, np.mean(pair - 0.5 * q["Pw"] / q["nw"]), rtol=1e-5)
    nll = out.metrics["nll_loss"]
    np.testing.assert_allclose(nll.total / nll.count, -q["Pw"].sum() / q["nw"].sum(), rtol=1e-5)


def of_steps(shared: int):
    """Pairs of five whose first `shared` tokens are no part of their steps, and the numbers of each token."""
    rng = np.random.default_rng(2)
    sides, numbers = {}, {}
    for side in "wl":
        p, r = (-rng.gamma(2.0, 1.0, (6, 8)).astype(np.float32) for _ in range(2))
        mask = np.arange(8) < np.array([8, 6, 7, 5, 8, 0])[:, None]
        phrase = np.where(mask & (np.arange(8) >= shared), 1, 0).astype(np.int32)
        rows = Tokens(p, r, mask, np.zeros_like(mask), {"phrase": phrase})
        total = lambda x, m=mask: np.where(m, x, 0).sum(1)  # noqa: E731
        sides[side] = Side(total(p), total(r), mask.sum(1).astype(np.float32), 0 * total(p), 0 * total(p), {}, rows)
        numbers[side] = np.where(phrase > 0, np.float64(p) - r, 0).sum(1)[:5]
    columns = {"smoothing": np.array([0.0, 0.1, 0.4, 0.5, 0.2, 0], np.float32)}
    return (
        Pair(sides["w"], sides["l"], np.arange(6) < 5, columns),
        numbers["w"] - numbers["l"],
        columns["smoothing"][:5],
    )


@pytest.mark.parametrize("shared", [0, 3])
def test_steps_are_learnt_from_the_first_token_at_which_they_differ(shared):
    method = METHODS["mcts_dpo"](beta=0.3)
    assert method.NEEDS.per_token == ("phrase",)
    pair, z, a = of_steps(shared)
    out = evaluate(method.build(SCORER), pair)
    a = np.float64(a)
    np.testing.assert_allclose(
        out.loss, np.mean((1 - a) * np.logaddexp(0, -0.3 * z) + a * np.logaddexp(0, 0.3 * z)), rtol=1e-5
    )
    margin = out.metrics["rewards/margins"]
    np.testing.assert_allclose(margin.total / margin.count, 0.3 * z.mean(), rtol=1e-4)


def both_at_once(lam):
    """Three pairs and three answers of two prompts, as one step has them; and what is known of each."""
    pair = as_pair(random_pairs(4, 6))
    here = np.arange(7)
    pair = pair.replace(present=here < 3)
    rng = np.random.default_rng(5)
    own, ref = (-rng.gamma(2.0, 1.0, (7, 4)).astype(np.float32) for _ in range(2))
    mask = (here[:, None] >= 3) & (here[:, None] < 6) & (np.arange(4) < 3)
    total = lambda x: np.where(mask, x, 0).sum(1)  # noqa: E731
    columns = {"advantages": 0 * own, "sampling_logps": own}
    rows = Tokens(own, ref, mask, np.zeros_like(mask), columns)
    side = Side(total(own), total(ref), mask.sum(1).astype(np.float32), 0 * total(own), 0 * total(own), {}, rows)
    group = np.array([0, 0, 0, 1, 1, 2, 0], np.float32)
    answers = Rollouts(side, own, 0 * own, (here >= 3) & (here < 6), {"group": group})
    ratio = (np.float64(total(own)) - total(ref))[3:6]
    weights = np.array([ratio[0] - ratio[1], ratio[1] - ratio[0], ratio[2]])
    return PairsAndAnswers(pair, answers), lam * weights * total(own)[3:6]


def test_hypo_leaves_out_answers_whose_mask_is_empty():
    x, _ = both_at_once(0.2)
    side = x.answers.answer
    mask = np.where(np.arange(7)[:, None] == 4, False, side.tokens.mask)
    cut = side.replace(rows=side.tokens.replace(mask=mask))
    x = x.replace(answers=x.answers.replace(answer=cut))
    found = np.asarray(METHODS["hypo"](beta=0.3, kl_weight=0.2).terms(x, 4)["answers"])
    alone = 0.2 * (np.float64(side.logps[3]) - side.ref_logps[3]) * side.logps[3]  # the other of its prompt is gone
    np.testing.assert_allclose(found[3], alone, rtol=1e-4)
    assert found[4] == 0
    np.testing.assert_array_equal(np.asarray(x.trained), np.isin(np.arange(7), (3, 5)))


def test_hypo_adds_the_kl_of_its_answers_to_dpo_of_its_pairs():
    method = METHODS["hypo"](beta=0.3, kl_weight=0.2)
    x, kl = both_at_once(0.2)
    terms = method.terms(x, 4)
    q = {name: values[:3] for name, values in random_pairs(4, 6).items()}
    dpo = np.logaddexp(0, -0.3 * ((q["Pw"] - q["Rw"]) - (q["Pl"] - q["Rl"])))
    np.testing.assert_allclose(terms["pairs"][:3], dpo, rtol=1e-5)
    np.testing.assert_allclose(terms["answers"][3:6], kl, rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(terms["pairs"])[3:], 0.0)
    np.testing.assert_array_equal(np.asarray(terms["answers"])[[0, 1, 2, 6]], 0.0)
    counts = {"pairs": np.float32(3), "answers": np.float32(3)}
    np.testing.assert_allclose(method.reduce(x, terms, counts), dpo.mean() + kl.mean(), rtol=1e-5)
