"""Win rates as rewards: who meets whom, oracles that favour a place, the queue as a fold over the ledger."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from online.rollout_numbers import COEF, LENGTHS, LONGEST, REWARDS, generation, recorded

from jaxpo import losses
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError
from jaxpo.judges.asking import Item, Patience, Reply
from jaxpo.judges.base import Judge
from jaxpo.judges.ledger import Ledger
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.ppo import PPO
from jaxpo.online.advantages import shaped
from jaxpo.online.answers import Answer, Group, Prompt
from jaxpo.online.rewards import FunctionReward, Response, WinRateReward
from jaxpo.online.rewards.win_rate import Opponents
from jaxpo.online.scoring import Scoring
from jaxpo.online.token_advantages import made_of

STYLES = "rps"
CIRCLE = np.asarray([[0.5, 0.1, 0.8], [0.9, 0.5, 0.3], [0.2, 0.7, 0.5]])
HERE = Path(__file__)


def circle(completions, opponent, **columns):
    """A probability of winning that goes in a circle."""
    return [float(CIRCLE[STYLES.index(a[0]), STYLES.index(b[0])]) for a, b in zip(completions, opponent, strict=True)]


def first_place(completions, opponent, **columns):
    """Half of what it says is who stands first."""
    return [0.5 * p + 0.5 for p in circle(completions, opponent)]


def certain(completions, **columns):
    return [2.0] * len(completions)


def fails(completions, opponent, **columns):
    """About one style nothing is known."""
    if any("s" in a + b for a, b in zip(completions, opponent, strict=True)):
        raise ValueError("no opinion")
    return circle(completions, opponent)


def rank(completions, **columns):
    return [float(STYLES.index(c[0])) for c in completions]


def group(place, text, prompt="x"):
    def answer(t):
        return Answer(np.int32([1]), np.zeros(1, np.float32), np.zeros(1, np.float32), True, t)

    return Group(place, place, Prompt(place, np.int32([1]), prompt, {"prompt": prompt}), tuple(map(answer, text)))


def scored(tmp_path, reward, groups, earlier=None, said=None):
    scoring = Scoring((reward,), lambda name: None, Patience(2), (said if said is not None else []).append)
    found = scoring.score(groups, lambda name, about: Ledger(tmp_path, name, about), earlier=earlier)
    return *found, scoring


def duel(name="circle", **more):
    return WinRateReward(judge=FunctionReward(function=f"{HERE}:{name}"), **more)


def expected(text):
    codes = [STYLES.index(t) for t in text]
    return [np.mean([2 * CIRCLE[i, j] - 1 for b, j in enumerate(codes) if b != a]) for a, i in enumerate(codes)]


def test_answers_meet_the_others_of_their_group(tmp_path):
    values, failed, scoring = scored(tmp_path, duel(), [group(0, "rrps", "x"), group(1, "spsp", "y")])
    np.testing.assert_allclose(values[..., 0], [expected("rrps"), expected("spsp")])
    np.testing.assert_allclose(values.sum(axis=1), 0, atol=1e-12)
    assert not failed.any()
    assert scoring.figures == {"rewards/win_rate/asymmetry": pytest.approx(0)}
    # The same as of the pure function.
    table = np.asarray([[2 * CIRCLE[STYLES.index(a), STYLES.index(b)] - 1 for b in "rrps"] for a in "rrps"])
    np.testing.assert_allclose(values[0, :, 0], losses.win_rates(table, ~np.eye(4, dtype=bool)))


def test_groups_of_one_prompt_play_as_one(tmp_path):
    values, _, _ = scored(tmp_path, duel(), [group(0, "rp"), group(1, "sr")])
    np.testing.assert_allclose(values[..., 0].reshape(-1), expected("rpsr"))


def test_an_answer_alone_has_nothing_to_win(tmp_path):
    values, failed, _ = scored(tmp_path, duel(), [group(0, "r")])
    assert values.tolist() == [[[0.0]]]
    assert not failed.any()


def test_an_oracle_that_favours_a_place_is_measured_and_said(tmp_path):
    said = []
    values, _, scoring = scored(tmp_path, duel("first_place"), [group(0, "rps")], said=said)
    assert scoring.figures["rewards/win_rate/asymmetry"] == pytest.approx(0.5)
    assert any("is not antisymmetric" in line and "0.50" in line for line in said)
    np.testing.assert_allclose(values[0, :, 0], np.asarray(expected("rps")) / 2)
    np.testing.assert_allclose(values.sum(), 0, atol=1e-12)


def test_scores_and_orders_are_preferences_too(tmp_path):
    judge = FunctionReward(function=f"{HERE}:rank")
    apart = np.asarray([[a - b for b in range(3)] for a in range(3)])
    others = ~np.eye(3, dtype=bool)
    for by, table in (("score", np.tanh(apart / 2)), ("order", np.sign(apart))):
        values, _, scoring = scored(tmp_path / by, WinRateReward(judge=judge, by=by), [group(0, "rps")])
        np.testing.assert_allclose(values[0, :, 0], losses.win_rates(table, others))
        assert not scoring.figures


def test_comparisons_that_fail_are_left_out_and_answers_without_any_are_failures(tmp_path):
    values, failed, _ = scored(tmp_path, duel("fails"), [group(0, "rps")])
    np.testing.assert_allclose(values[0, :, 0], [2 * CIRCLE[0, 1] - 1, 2 * CIRCLE[1, 0] - 1, np.nan])
    assert failed[0].tolist() == [0, 0, 1]


def test_a_queue_holds_the_newest_answers_to_a_prompt():
    queue, row = Opponents(3), Row(HERE, 1, {})
    for i, (prompt, text) in enumerate([("x", "r"), ("y", "p"), ("x", "s"), ("x", "p"), ("x", "r")]):
        queue.push(f"{i}.0", Item(prompt, text, row))
    assert {key: [name for name, _ in q] for key, q in queue.queues.items()} == {
        '"x"': ["2.0", "3.0", "4.0"],
        '"y"': ["1.0"],
    }


def test_the_queue_is_met_before_siblings(tmp_path):
    queue, row = Opponents(2), Row(HERE, 1, {})
    reward = duel(queue=2)
    values, _, _ = scored(tmp_path / "a", reward, [group(1, "rp")], queue.queues)
    np.testing.assert_allclose(values[0, :, 0], expected("rp"))  # nothing there yet: the siblings fill it
    queue.push("0.0", Response("x", "s", row))
    values, _, _ = scored(tmp_path / "b", reward, [group(1, "rp")], queue.queues)
    p = 2 * CIRCLE - 1
    np.testing.assert_allclose(values[0, :, 0], [(p[0, 2] + p[0, 1]) / 2, (p[1, 2] + p[1, 0]) / 2])
    queue.push("0.1", Response("x", "s", row))
    values, _, _ = scored(tmp_path / "c", reward, [group(1, "rp")], queue.queues)
    np.testing.assert_allclose(values[0, :, 0], [p[0, 2], p[1, 2]])


class _Jury(Judge):
    def members(self):
        return (self, self)

    def open(self, networks):
        return lambda items: [Reply(1.0) for _ in items]


@pytest.mark.parametrize(("reward", "message"), [
    (WinRateReward(), "judge is None; give one of"),
    (WinRateReward(judge=_Jury()), "a jury has no single opinion"),
    (duel(by="duels"), "by is 'duels'"),
    (duel(queue=-1), "queue is -1"),
])  # fmt: skip
def test_bad_settings_are_refused(reward, message):
    with pytest.raises(ConfigError, match=message):
        reward.check(())


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(DataError, match="opponent"):
        duel().check([Row(HERE, 1, {"prompt": "x", "opponent": "y"})])
    with pytest.raises(ConfigError, match="which is no probability of winning"):
        scored(tmp_path, duel("certain"), [group(0, "rp")])


def test_a_groups_mean_as_the_baseline_changes_nothing(tmp_path):
    values, _, _ = scored(tmp_path, duel(), [group(0, "rrps", "x"), group(1, "spsp", "y")])
    how = GRPO(loss_type="dr_grpo", scale_rewards="none").advantage
    found = shaped(values, np.ones(1), how, np.ones((2, 4)))
    np.testing.assert_allclose(found.advantage, values[..., 0], atol=1e-12)


def test_ppo_may_split_a_reward_evenly_over_the_tokens():
    method = PPO(spread_reward=True, gamma=1.0, lam=1.0, kl_coef=COEF)
    plain = dataclasses.replace(method, spread_reward=False)
    how = {"aggregation": "sum_then_normalize", "longest": LONGEST}
    _, split = made_of(generation(), recorded(), method, np.ones(1), **how)
    _, last = made_of(generation(), recorded(), plain, np.ones(1), **how)
    lengths, rewards = LENGTHS.reshape(-1), np.nan_to_num(REWARDS.reshape(-1))
    for i, n in enumerate(lengths):
        to_go = rewards[i] * (n - np.arange(n)) / n  # of the reward; what the KL takes is the same in both
        np.testing.assert_allclose(split["returns"][i] - last["returns"][i], to_go - rewards[i], atol=1e-5)
        assert split["returns"][i][0] == pytest.approx(last["returns"][i][0], abs=1e-5)
