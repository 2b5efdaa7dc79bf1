"""LiPO's labels and PRO's rankings."""

import numpy as np
import pytest
from construct.list_rows import Echo, rows, tools

from jaxpo.construct.lipo import LiPO, rank_wins, win_labels, win_probabilities
from jaxpo.construct.pro_ranking import PRO, best_first, keep_end
from jaxpo.errors import ConfigError, DataError

ROW = {"prompt": "p", "responses": ["a", "", "b", "c"], "scores": [0.0, 9.0, 2.0, 1.0]}


def test_win_matrices():
    r = np.array([0.3, -1.0, 2.0, 2.0])
    wins = win_probabilities(r, temperature=0.5)
    for i in range(4):
        for j in range(4):
            np.testing.assert_allclose(wins[i, j], 1 / (1 + np.exp(-(r[i] - r[j]) / 0.5)), rtol=1e-12)
    for matrix in (wins, rank_wins(r)):
        np.testing.assert_array_equal(np.diag(matrix), 0.5)
        np.testing.assert_allclose(matrix + matrix.T, 1.0)
        np.testing.assert_allclose(win_labels(matrix).mean(), 0.5)
    np.testing.assert_array_equal(rank_wins(r), [[0.5, 1, 0, 0], [0, 0.5, 0, 0], [1, 1, 0.5, 0.5], [1, 1, 0.5, 0.5]])
    np.testing.assert_array_equal(win_labels(rank_wins(np.array([3.0, 1.0, 2.0]))), [2.5 / 3, 0.5 / 3, 1.5 / 3])
    assert np.all(np.isfinite(win_probabilities(np.array([1e4, -1e4]))))


def test_lipo_lists_carry_labels_in_the_unit_interval():
    used = tools()
    (row,) = LiPO().run(rows(ROW), used)
    assert row["responses"] == ["a", "b", "c"]
    np.testing.assert_allclose(row["scores"], win_labels(win_probabilities(np.array([0.0, 2.0, 1.0]))))
    (ranked,) = LiPO(labels="ranks").run(rows(ROW), used)
    np.testing.assert_allclose(ranked["scores"], [0.5 / 3, 2.5 / 3, 1.5 / 3])
    assert used.counts == {"dropped_empty_responses": 2}
    assert list(LiPO().run(rows({"prompt": "p", "responses": ["a", ""], "scores": [1, 0]}), used)) == []
    assert used.counts["dropped_fewer_than_2_responses"] == 1
    (drawn,) = LiPO().run(rows({"prompt": "q"}), tools(model=Echo(), reward=Echo(reward=lambda t: int(t[1:]))))
    assert drawn["responses"] == [f"q{k}" for k in range(8)]
    assert drawn["scores"] == sorted(drawn["scores"])
    with pytest.raises(ConfigError, match="--reward-temperature is 0"):
        list(LiPO(reward_temperature=0).run(rows(ROW), tools()))


def test_best_first():
    scores = np.array([0.1, 0.5, 0.1, 0.9, 0.5])
    assert best_first(scores, drop_ties=False) == [3, 1, 4, 0, 2]
    assert best_first(scores, drop_ties=True) == [3, 1, 0]


def test_pro_rankings():
    used = tools()
    data = {"prompt": "one two three", "responses": ["a", "b", "c", "d", "e"], "scores": [0.1, 0.5, 0.1, 0.9, 0.3]}
    assert list(PRO().run(rows(data), used)) == [
        {"prompt": "one two three", "responses": ["d", "b", "e"], "scores": [0.9, 0.5, 0.3]}
    ]
    assert used.counts == {"dropped_tied_responses": 1}
    (row,) = PRO(n=5, ties="keep", keep_prompt=9).run(rows(data), used)
    assert row == {"prompt": "two three", "responses": ["d", "b", "e", "a", "c"], "scores": [0.9, 0.5, 0.3, 0.1, 0.1]}
    assert used.counts["truncated_prompts"] == 1
    flat = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 1]}
    assert list(PRO().run(rows(flat), used)) == []
    assert used.counts["dropped_fewer_than_2_responses"] == 1
    with pytest.raises(ConfigError, match="--n is 1"):
        list(PRO(n=1).run(rows(data), used))
    with pytest.raises(DataError, match="field 'prompt'"):
        list(PRO().run(rows({"responses": ["a"], "scores": [1]}), used))


def test_prompts_lose_their_start():
    assert keep_end("one two three", 100) == "one two three"
    assert keep_end("one two three", 9) == "two three"
    assert keep_end("one two three", 8) == "three"
    assert keep_end("one two three", 6) == " three"
    assert keep_end("unbroken", 3) == "ken"
    talk = [
        {"role": "user", "content": "x" * 10},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": "z"},
    ]
    assert keep_end(talk, 12) == talk
    assert keep_end(talk, 5) == talk[1:]
    assert keep_end(talk, 0) == talk[2:]
