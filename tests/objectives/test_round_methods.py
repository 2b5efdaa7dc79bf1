"""The preference methods of iterative papers on features: what they read, divide and measure, against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
from objectives.pair_arrays import as_pair, evaluate, random_pairs
from objectives.test_networks import BATCH, loss_of, networks

from contracts.harness import SCORER
from jaxpo import losses
from jaxpo.errors import ConfigError
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
    with pytest.raises(ConfigError, match="tau is 0.2 but must be at most eta, 0.1"):
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
