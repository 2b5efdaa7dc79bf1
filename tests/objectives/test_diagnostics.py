"""Ranking accuracy and likelihood probes as metrics of a run on pairs, against numpy."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, values_of
from objectives.pair_arrays import as_pair, evaluate, random_pairs

from jaxpo.objectives.diagnostics import DIAGNOSTICS, NAMES
from jaxpo.objectives.methods import METHODS

BETA = 0.3
VOTES = np.array([[3, 1], [1, 2], [2, 2], [4, 0], [5, 1], [0, 0]], np.float32)


def measured(name, features, **settings):
    got = jax.jit(lambda p: DIAGNOSTICS[name].measure(p, BETA, **settings))(features)
    return {key: (float(m.value()), float(m.count)) for key, m in got.items()}


def expect(got, expected):
    assert set(got) == set(expected)
    for key, (value, where) in expected.items():
        where = np.broadcast_to(where, (5,))
        mean = np.mean(np.asarray(value, float)[where]) if where.any() else 0.0
        np.testing.assert_allclose(got[key][0], mean, rtol=1e-4, atol=1e-6, err_msg=key)
        assert got[key][1] == where.sum(), key


def mixed():
    """Quantities with every combination of reference and policy being right."""
    q = {k: v.copy() for k, v in random_pairs(3).items()}
    q["Rw"], q["Rl"] = np.array([-9.0, -5, -9, -5, -8]), np.array([-5.0, -9, -5, -9, -7])
    q["Pw"], q["Pl"] = np.array([-4.0, -4, -12, -12, -3]), np.array([-5.0, -5, -6, -6, -9])
    return q


def ranking_expected(q):
    right, before = q["Pw"] >= q["Pl"], q["Rw"] >= q["Rl"]
    c = q["Rl"] - q["Rw"]
    per = lambda k: (q[k + "w"] / q["nw"]) >= (q[k + "l"] / q["nl"])  # noqa: E731
    return {
        "ranking_accuracy": (right, True),
        "ranking_accuracy_norm": (per("P"), True),
        "ranking_accuracy/reference": (before, True),
        "ranking_accuracy_norm/reference": (per("R"), True),
        "ranking_accuracy/flipped": (right, ~before),
        "ranking_accuracy/lost": (~right, before),
        "difficulty/mean": (c, True),
        "difficulty/flipped": (c, ~before & right),
        "difficulty/still_wrong": (c, ~before & ~right),
        "difficulty/threshold": (np.logaddexp(0, -BETA * c), True),
    }


@pytest.mark.parametrize("q", [mixed, random_pairs])
def test_ranking_accuracy(q):
    expect(measured("ranking_accuracy", as_pair(q())), ranking_expected(q()))


def test_votes_add_the_idealised_accuracy_and_the_gap_without_ties():
    q = mixed()
    share = VOTES[:5, 0] / VOTES[:5].sum(1)
    decided = share != 0.5
    log_odds = np.log(np.maximum(share, 1e-3)) - np.log(np.maximum(1 - share, 1e-3))
    best = np.sign(share - 0.5) * (q["Rw"] - q["Rl"] + log_odds / BETA) > 0
    now = np.sign(share - 0.5) * (q["Pw"] - q["Pl"]) > 0
    more = {
        "ranking_accuracy/idealised": (best, decided),
        "ranking_accuracy/alignment_gap": (best.astype(float) - now, decided),
    }
    expect(measured("ranking_accuracy", as_pair(q, {"votes": VOTES})), ranking_expected(q) | more)


def test_likelihood():
    q = mixed()
    rho_w, rho_l = q["Pw"] - q["Rw"], q["Pl"] - q["Rl"]
    fade = np.log(BETA) - np.logaddexp(0, BETA * (rho_w - rho_l))
    expected = {
        "likelihood/log_gradient_ratio": (q["Pw"] - q["Pl"], True),
        "likelihood/unseen_mass": (1 - np.exp(q["Pw"]) - np.exp(q["Pl"]), True),
        "likelihood/log_gradient/chosen": (fade - q["Pw"], True),
        "likelihood/log_gradient/rejected": (fade - q["Pl"], True),
        "likelihood/shift/chosen": (rho_w, True),
        "likelihood/shift/rejected": (rho_l, True),
        "likelihood/fell/chosen": (rho_w < 0, True),
        "likelihood/fell/rejected": (rho_l < 0, True),
        "likelihood/fell/both": ((rho_w < 0) & (rho_l < 0), True),
    }
    got = measured("likelihood", as_pair(q))
    expect(got, expected)
    assert 0 < got["likelihood/fell/both"][0] < got["likelihood/fell/rejected"][0]
    difference = got["likelihood/log_gradient/rejected"][0] - got["likelihood/log_gradient/chosen"][0]
    np.testing.assert_allclose(got["likelihood/log_gradient_ratio"][0], difference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_what_needs_a_reference_is_left_out_without_one(name):
    diagnostic = DIAGNOSTICS[name]
    assert set(measured(name, as_pair(mixed(), {"votes": VOTES}), reference=False)) == set(diagnostic.always)
    assert set(measured(name, as_pair(mixed()))) == {*diagnostic.always, *diagnostic.with_reference}
    assert set(measured(name, as_pair(mixed(), {"votes": VOTES}))) == set(NAMES[name])


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_an_empty_step_measures_nothing(name):
    features = as_pair(mixed(), {"votes": VOTES}).replace(present=np.zeros(6, bool))
    assert all(got == (0.0, 0.0) for got in measured(name, features).values())


def test_names_do_not_overlap():
    names = [name for names in NAMES.values() for name in names]
    assert len(set(names)) == len(names)


def test_names_load_without_jax():
    code = (
        "import sys; from jaxpo.objectives.diagnostics import NAMES; assert NAMES['likelihood'];"
        "sys.exit(any(m in sys.modules for m in ('jax', 'numpy', 'flax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_reports_what_is_switched_on_and_parts_of_a_step_add_up():
    def build(*diagnostics):
        return METHODS["dpo"](beta=BETA).build(ArrayScorer(), diagnostics=diagnostics)

    features = as_pair(mixed(), {"votes": VOTES})
    out = evaluate(build(*DIAGNOSTICS), features)
    bare = evaluate(build(), features)
    np.testing.assert_array_equal(out.loss, bare.loss)
    got = values_of(out)
    assert set(got) - set(values_of(bare)) == {name for names in NAMES.values() for name in names}
    here = {name: got[name] for name in ranking_expected(mixed())}
    alone = measured("ranking_accuracy", features)
    np.testing.assert_allclose(list(here.values()), [alone[name][0] for name in here], rtol=1e-6)
    first, rest = (jax.tree.map(lambda x, s=s: x[s], features) for s in (slice(0, 3), slice(3, 6)))
    for name in NAMES:
        measure = jax.jit(lambda p, name=name: DIAGNOSTICS[name].measure(p, BETA))
        parts = [measure(part) for part in (first, rest)]
        for key, mean in parts[0].items():
            np.testing.assert_allclose(mean.merge(parts[1][key]).value(), got[key], rtol=1e-5, atol=1e-6, err_msg=key)
