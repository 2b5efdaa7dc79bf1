"""WPO's weights on the terms of pairwise objectives: which losses can have them, and what they multiply."""

import functools

import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments, sums
from objectives.pair_arrays import as_pair, random_pairs

from jaxpo import losses
from jaxpo.errors import ConfigError
from jaxpo.objectives.families.pairs import weighted
from jaxpo.objectives.methods import METHODS

ROLES = {"chosen": 0, "rejected": 1}


@functools.cache
def pairs():
    """Four pairs and an empty place."""
    flat = segments(8, seed=3)
    return (*(tuple(flat[2 * i : 2 * i + 2]) for i in range(4)), None)


def weights():
    """Float64 `min(1, w_w w_l)` of the four pairs, from their tokens."""
    logs = [
        sum((sums(p, "logps", k) - sums(p, "collision", k)) / len(p[k][1]["logps"][p[k][0] :]) for k in (0, 1))
        for p in pairs()[:4]
    ]
    return np.minimum(1.0, np.exp(logs))


@functools.cache
def run(name, use_weighting):
    method = METHODS[name]()
    objective = method.build(ArrayScorer(), use_weighting=use_weighting)
    return Runner(objective)(*lay_out(pairs(), ROLES, {}))


@pytest.mark.parametrize("name", ["dpo", "cpo"])
def test_every_term_of_a_pair_is_multiplied_and_the_weight_takes_no_gradient(name):
    w = weights()
    assert w.min() < 0.9
    assert len(set(np.round(w, 3))) > 1
    got, grads = run(name, True)
    _, plain = run(name, False)
    by_row = np.repeat(np.append(w, 0.0), 2)[:, None]  # two rows a pair
    expected = by_row * np.asarray(plain["model"]["logps"])
    np.testing.assert_allclose(grads["model"]["logps"], expected, rtol=1e-4, atol=1e-7)
    P, L, R, Q = ([sums(p, n, k) for p in pairs()[:4]] for n in ("logps", "ref_logps") for k in (0, 1))
    if name == "dpo":
        terms = losses.dpo(*(np.float32(x) for x in (P, L, R, Q)))
        np.testing.assert_allclose(got.loss, np.mean(w * np.asarray(terms)), rtol=1e-5)
    else:
        prefer, nll = losses.cpo(np.float32(P), np.float32(L))
        tokens = sum(len(p[0][1]["logps"]) - p[0][0] for p in pairs()[:4])
        np.testing.assert_allclose(got.loss, np.mean(w * prefer) + np.sum(w * nll) / tokens, rtol=1e-5)


def test_an_absent_pair_stays_at_zero_whatever_it_holds():
    pair = as_pair(random_pairs())
    sides = [s.replace(sums={"collision": 1.1 * s.logps}) for s in (pair.chosen, pair.rejected)]
    pair = pair.replace(chosen=sides[0], rejected=sides[1])
    got = np.asarray(weighted(pair, METHODS["dpo"]().loss(pair)))
    assert got[-1] == 0.0
    assert np.all(got[:-1] > 0)


@pytest.mark.parametrize(
    "name", ["aot", "aot_unpaired", "lcpo", "lipo", "kto", "bco", "bradley_terry", "implicit_reward"]
)
def test_losses_without_a_term_per_pair_refuse_them(name):
    """AOT's terms belong to ranks of the batch: weighing them by pair would pair any rank with any weight."""
    with pytest.raises(ConfigError, match=f"{name}: use_weighting .* set use_weighting to False"):
        METHODS[name]().build(ArrayScorer(), use_weighting=True)
