"""Rewards of groups of users as one: the worst-off group's, each answer's least, and weights that follow the groups."""

import json

import numpy as np
import pytest
from online.test_ppo_stage import unfinished
from online.test_recipe import same_models, steps
from online.tiny import HERE, online, recipe

from jaxpo import losses
from jaxpo.config import Data, MaxMin
from jaxpo.online.mixing import Mixer, utilities
from jaxpo.online.rewards import FunctionReward, WinRateReward
from jaxpo.stages import run as running

RNG = np.random.default_rng(4)
GENERATIONS = [RNG.normal(size=(3, 4, 2)) * [1, 10] + [0, 5] for _ in range(4)]
ALIKE = {"standardise": False}


def mixer(groups=(0, 1), **how):
    return Mixer(MaxMin(**how), list(groups), GENERATIONS.__getitem__)


def test_the_worst_off_groups_rewards_are_paid():
    for number, rewards in enumerate(GENERATIONS):
        values, weights = mixer(**ALIKE).mixed(number, rewards)
        worst = rewards.mean((0, 1)).argmin()
        np.testing.assert_array_equal(weights, np.eye(2)[worst])
        paid = (values @ weights).reshape(-1)
        assert paid.mean() == pytest.approx(rewards.mean((0, 1)).min())
        np.testing.assert_allclose(paid, losses.maxmin_rewards(rewards.reshape(-1, 2)), rtol=1e-5)


def test_the_code_pays_each_answers_least():
    values, weights = mixer(mode="sample", **ALIKE).mixed(0, GENERATIONS[0])
    np.testing.assert_allclose(values @ weights, GENERATIONS[0].min(-1))
    assert (values @ weights).mean() <= GENERATIONS[0].mean((0, 1)).min()


def test_one_group_is_its_reward_however_it_is_asked_for():
    for mode in ("group", "sample", "smooth"):
        values, weights = mixer((1,), mode=mode, **ALIKE).mixed(0, GENERATIONS[0])
        np.testing.assert_allclose(values @ weights, GENERATIONS[0][..., 1])


def test_groups_are_compared_as_z_scores_over_the_first_generation():
    first = GENERATIONS[0]
    mean, deviation = first.mean((0, 1)), first.std((0, 1))
    values, _ = mixer().mixed(2, GENERATIONS[2])
    np.testing.assert_allclose(values, (GENERATIONS[2] - mean) / deviation, rtol=1e-6)
    own = mixer()
    assert own.worst(first) == pytest.approx(0, abs=1e-6)
    assert own.worst(first - [0, 10]) == pytest.approx(-10 / deviation[1])


def test_smooth_weights_are_a_fold_over_the_generations():
    how = {"mode": "smooth", "learning_rate": 0.3}
    one, weights = mixer(**how), np.full(2, 0.5)
    found = [one.mixed(number, rewards)[1] for number, rewards in enumerate(GENERATIONS)]
    mean, deviation = GENERATIONS[0].mean((0, 1)), GENERATIONS[0].std((0, 1))
    for rewards, got in zip(GENERATIONS, found, strict=True):
        weights = weights * np.exp(-0.3 * ((rewards - mean) / deviation).mean((0, 1)))
        weights = weights / weights.sum()
        np.testing.assert_allclose(got, weights, rtol=1e-6)
        np.testing.assert_allclose(got.sum(), 1)
    again = mixer(**how)  # as after a kill: nothing is remembered, all is read
    np.testing.assert_array_equal(again.mixed(3, GENERATIONS[3])[1], found[3])
    np.testing.assert_array_equal(one.mixed(1, GENERATIONS[1])[1], found[1])  # back to an earlier checkpoint
    rewards = np.concatenate([GENERATIONS[0][..., :1] * 0 + 3, GENERATIONS[0][..., 1:]], -1)
    flat = Mixer(MaxMin("smooth"), [0, 1], lambda number: rewards)
    np.testing.assert_allclose(flat.comparable(GENERATIONS[1], 1)[..., 0], GENERATIONS[1][..., 0] - 3)
    moved = losses.maxmin_weights(found[0], utilities((GENERATIONS[1] - mean) / deviation), learning_rate=0.3)
    np.testing.assert_allclose(moved, found[1], rtol=1e-4)


def test_answers_without_a_groups_reward_do_not_count_for_it():
    rewards = GENERATIONS[0].copy()
    rewards[0, :2, 0] = np.nan
    np.testing.assert_allclose(utilities(rewards), np.nanmean(rewards, (0, 1)))
    rewards[..., 0] = np.nan
    assert mixer(**ALIKE).mixed(0, rewards)[1].tolist() == [0, 1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_device):
    """Six generations on three prompts whose groups are smoothly weighed; win rates with a queue are only measured."""
    folder = tmp_path_factory.mktemp("maxmin")
    vowels, short, longer = (FunctionReward(function=f"{HERE}:{name}") for name in ("vowels", "short", "longer"))
    rewards = (vowels, short, WinRateReward(judge=longer, queue=6))
    prompts = [{"prompt": [{"role": "user", "content": text}]} for text in ("a man", "the dog", "a cat")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    data = Data(train=(str(folder / "prompts.jsonl"),), max_length=56, row_length=112)
    changes = {"reward_funcs": rewards, "reward_weights": (1.0, 1.0, 0.0), "save_steps": 3, "data": data}
    run = recipe(folder, online(folder, maxmin=MaxMin("smooth", 0.5), **changes))
    assert running.execute(run) == 0
    return run, folder / "runs" / "tiny"


def answers_of(folder, number):
    (path,) = (folder / "stages/online/rollouts" / f"{number:08d}").glob("answers-*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()][1:]
    groups = sorted((line for line in lines if "place" in line), key=lambda line: line["place"])
    return [(line["prompt"], [answer["text"] for answer in line["answers"]]) for line in groups], lines[-1]


@pytest.mark.slow  # a stage is compiled, and again
@pytest.mark.usefixtures("one_device")
def test_a_stage_weighs_its_groups_and_goes_on(finished, tmp_path_factory):
    run, folder = finished
    found = steps(folder)
    for record in found:
        assert record["maxmin/vowels/weight"] + record["maxmin/short/weight"] == pytest.approx(1)
        assert "maxmin/win_rate/weight" not in record
        assert record["rewards/win_rate/asymmetry"] == pytest.approx(0, abs=1e-9)
    assert len({record["maxmin/vowels/weight"] for record in found}) > 1
    again = tmp_path_factory.mktemp("again")
    assert running.execute(unfinished(run, folder, again), resume=3) == 0
    same_models(folder, again / "tiny")


@pytest.mark.slow
def test_the_queue_of_a_stage_is_what_its_ledger_says(finished):
    """Every win rate again, from the texts alone: the last six answers to the prompt, then the others of the group."""
    _, folder = finished
    before = {}
    for number in range(6):
        groups, last = answers_of(folder, number)
        for place, (prompt, texts) in enumerate(groups):
            for i, text in enumerate(texts):
                others = [*before.get(prompt, []), *(t for j, t in enumerate(texts) if j != i)][:6]
                wins = [2 / (1 + 2.0 ** (len(o) - len(text))) - 1 for o in others]
                assert last["rewards"][place][i][2] == pytest.approx(np.mean(wins), abs=1e-9)
        for prompt, texts in groups:
            before[prompt] = [*before.get(prompt, []), *texts][-6:]
    assert all(len(queue) == 6 for queue in before.values())
