"""Statistical rejection sampling: its limits, its distribution, and the pairs made from it."""

import itertools

import numpy as np
import pytest
from construct.list_rows import Echo, rows, tools
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpo.construct.rso import RSO, first_round_pairs, rso_sample, tournament_pairs
from jaxpo.errors import ConfigError, DataError


def draws(seed, n, total):
    return np.random.default_rng(seed).random((n, total))


def test_by_hand():
    """Round 1 accepts the best (1) and a lucky one (3); round 2 starts over with the maximum of what is left."""
    r = np.array([0.0, 2.0, 1.0, 1.5])
    u = np.array([[0.9, 0.99, 0.9, 0.5], [0.3, 0.0, 0.99, 0.0], [0.0] * 4])
    assert np.exp(-0.5) > 0.5
    assert np.exp(-1.0) > 0.3
    assert rso_sample(r, 3, 1.0, u) == [1, 3, 0]


def test_an_infinite_temperature_accepts_the_first_and_a_small_one_the_best():
    r = np.random.default_rng(0).normal(size=12)
    assert rso_sample(r, 5, np.inf, draws(1, 5, 12)) == [0, 1, 2, 3, 4]
    assert rso_sample(r, 5, 1e-9, draws(2, 5, 12)) == np.argsort(-r, kind="stable")[:5].tolist()


def test_it_stops_at_n_in_the_middle_of_a_round():
    assert rso_sample(np.zeros(6), 2, 0.5, draws(0, 2, 6)) == [0, 1]


@settings(max_examples=50)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=12), st.floats(1e-3, 10), st.integers(0, 99), st.data())
def test_invariances(rewards, beta, seed, data):
    r = np.round(np.array(rewards), 3)
    n = data.draw(st.integers(1, len(r)))
    u = draws(seed, n, len(r))
    accepted = rso_sample(r, n, beta, u)
    assert len(accepted) == len(set(accepted)) == n
    assert rso_sample(r, n, beta, u) == accepted  # a function of the uniforms
    assert sorted(rso_sample(r, len(r), beta, draws(seed, len(r), len(r)))) == list(range(len(r)))


def test_a_constant_added_to_the_rewards_changes_nothing():
    r = np.arange(10) / 8.0
    for seed in range(20):
        u = draws(seed, 4, 10)
        assert rso_sample(r + 3.0, 4, 0.5, u) == rso_sample(r, 4, 0.5, u)


def test_the_first_acceptance_is_distributed_as_the_optimal_policy():
    """Over i.i.d. proposals with a known maximum: exact rejection sampling."""
    rng = np.random.default_rng(3)
    p, r, beta = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 0.3, 0.6, 0.5]), 0.5
    target = p * np.exp(r / beta) / np.sum(p * np.exp(r / beta))
    counts, trials = np.zeros(4), 5000
    for _ in range(trials):
        # The pool holds the best response, as a long one would; with every proposal's own uniform.
        pool = rng.choice(4, size=24, p=p)
        if not np.any(pool == 2):
            continue
        counts[pool[rso_sample(r[pool], 1, beta, rng.random((1, 24)))[0]]] += 1
    assert counts.sum() > 0.98 * trials
    np.testing.assert_allclose(counts / counts.sum(), target, atol=0.03)


def test_the_accepted_mean_reward_falls_with_the_temperature():
    r = np.random.default_rng(4).normal(size=64)
    means = [
        np.mean([r[rso_sample(r, 8, beta, draws(s, 8, 64))].mean() for s in range(50)]) for beta in (0.1, 0.5, 1.0, 5.0)
    ]
    assert means == sorted(means, reverse=True)


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="4 of 3 candidates"):
        rso_sample(np.zeros(3), 4, 0.5, draws(0, 4, 3))
    with pytest.raises(ValueError, match="finite"):
        rso_sample(np.array([0.0, np.nan]), 1, 0.5, draws(0, 1, 2))
    with pytest.raises(ValueError, match="uniforms"):
        rso_sample(np.zeros(3), 2, 0.5, draws(0, 1, 3))


@pytest.mark.parametrize("n", [2, 5, 8])
def test_pairs(n):
    rng = np.random.default_rng(n)
    rewards, accepted, order = rng.normal(size=20), rng.permutation(20)[:n].tolist(), rng.permutation(n)
    first = first_round_pairs(accepted, rewards, order)
    assert len(first) == n // 2
    assert len({x for pair in first for x in pair}) == 2 * (n // 2)
    knock_out = tournament_pairs(accepted, rewards, order)
    assert len(knock_out) == n - 1
    assert {x for pair in knock_out for x in pair} == set(accepted)
    losers = [loser for _, loser in knock_out]
    assert len(set(losers)) == n - 1
    assert set(accepted) - set(losers) == {max(accepted, key=lambda k: rewards[k])}
    assert all(rewards[w] >= rewards[x] for w, x in (*first, *knock_out))
    assert knock_out[: len(first)] == first


LIST = {"prompt": "p", "responses": ["a", "b", "b", "", "c", "d"], "scores": [0.1, 0.9, 0.9, 5.0, 0.5, 0.3]}


def test_rows_become_pairs_and_what_says_nothing_is_counted():
    used = tools()
    out = list(RSO(n=5, beta=1e-6).run(rows(LIST), used))
    value = dict(zip(LIST["responses"], LIST["scores"], strict=True))
    assert all(value[row["chosen"]] > value[row["rejected"]] for row in out)
    assert all(set(row) == {"prompt", "chosen", "rejected"} for row in out)
    assert used.counts["dropped_empty_responses"] == 1
    assert len(out) + used.counts["dropped_tied_pairs"] + used.counts["dropped_equal_texts"] == 4
    many = [
        RSO(n=5, beta=1e-6, pairing=p).run(rows(*[LIST] * 40), tools(seed=s))
        for s in (0, 1)
        for p in ("first_round", "tournament")
    ]
    first = [list(x) for x in many]
    assert first[0] != first[2]
    assert list(RSO(n=5, beta=1e-6).run(rows(*[LIST] * 40), tools(seed=1))) == first[3]
    assert any(row["rejected"] == "b" or row["chosen"] == "b" for row in itertools.chain(*first))


def test_candidates_come_from_the_model_and_rewards_from_the_ranker():
    used = tools(seed=5, model=Echo(), reward=Echo(reward=lambda text: -len(text)))
    out = list(RSO(n=2, candidates=12, pairing="first_round", beta=1e-6).run(rows({"prompt": "q"}), used))
    asked = used.networks["model"].asked[0]
    assert (asked["prompts"], asked["n"], asked["temperature"], asked["top_k"], asked["seed"]) == (
        ["q"],
        12,
        0.7,
        40,
        5,
    )
    assert out == [] or all(len(r["chosen"]) < len(r["rejected"]) for r in out)
    out = list(RSO(n=12, candidates=12, beta=1e-6).run(rows({"prompt": "q"}), used))
    assert out
    assert all(len(r["chosen"]) < len(r["rejected"]) for r in out)
    with pytest.raises(ConfigError, match="give --model"):
        list(RSO().run(rows({"prompt": "q"}), tools()))
    with pytest.raises(ConfigError, match="give --reward"):
        list(RSO(n=2).run(rows({"prompt": "q", "responses": ["a", "b"]}), tools()))


def test_win_probabilities_are_turned_into_rewards():
    row = {"prompt": "p", "responses": ["a", "b"], "scores": [0.9, 0.2]}
    assert list(RSO(n=2, logit=True).run(rows(row), tools())) == [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    with pytest.raises(DataError, match=r"rows.jsonl, row 1, field 'scores'.*no logit"):
        list(RSO(n=2, logit=True).run(rows(row | {"scores": [1.0, 0.2]}), tools()))


def test_bad_rows_and_options_are_named():
    with pytest.raises(DataError, match=r"row 1, field 'responses'.*8 responses are to be accepted, but there are 5"):
        list(RSO().run(rows(LIST), tools()))
    for scores in ([0.1], [0.1, "x"], [0.1, float("nan")], [True, 0.2]):
        with pytest.raises(DataError, match="field 'scores'"):
            list(RSO(n=2).run(rows({"prompt": "p", "responses": ["a", "b"], "scores": scores}), tools()))
    with pytest.raises(DataError, match="no responses"):
        list(RSO(n=2).run(rows({"prompt": "p", "scores": [1.0]}), tools()))
    with pytest.raises(ConfigError, match="--beta is 0 but"):
        list(RSO(beta=0).run(rows(LIST), tools()))
    with pytest.raises(ConfigError, match="--n is 1"):
        list(RSO(n=1).run(rows(LIST), tools()))
