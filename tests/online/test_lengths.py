"""Methods that pay right and wrong answers by their length: what they are given, what is refused, a stage whole."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from online.rollout_numbers import COUNT, MASK, NEW, OLD, features, generation, recorded, rows
from online.test_recipe import same_models, steps
from online.tiny import online, recipe

from jaxpo.config import MaxMin
from jaxpo.data.rows.formats import Row
from jaxpo.errors import DataError
from jaxpo.objectives.families.rollouts import answer_metrics
from jaxpo.objectives.methods.dler import DLER
from jaxpo.objectives.methods.drpo import DRPO
from jaxpo.objectives.methods.hapo import HAPO
from jaxpo.objectives.methods.orion import ORION
from jaxpo.objectives.methods.outcomes import Outcomes, Paid
from jaxpo.objectives.methods.rollouts import Advantage
from jaxpo.online.advantages import shaped
from jaxpo.online.outcomes import Past, Paying, outcomes_of
from jaxpo.online.recording import Recorded
from jaxpo.online.rewards import Response, VerifierReward
from jaxpo.online.rewards.base import RewardFunction
from jaxpo.online.schedule import Schedule
from jaxpo.online.source import RolloutSource
from jaxpo.online.token_advantages import made_of
from jaxpo.online.training import trained
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.overrides import load_run
from jaxpo.stages import run as running

pytestmark = pytest.mark.usefixtures("one_device")


def outcomes(correct, lengths, finished=None, prompts=None, rows=None):
    correct = np.asarray(correct, float)
    ended = np.ones(correct.shape, bool) if finished is None else np.asarray(finished, bool)
    tokens = [[np.arange(n) for n in group] for group in lengths]
    numbers = list(range(len(correct))) if prompts is None else prompts
    return Outcomes(correct, np.asarray(lengths), ended, tokens, numbers, rows or [{}] * len(correct), 48)


RIGHT = [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, np.nan, 0, 0]]
LENGTHS = [[10, 30, 5, 48], [20, 20, 20, 20], [4, 4, 4, 4], [12, 3, 6, 48]]
REWARDS = np.nan_to_num(np.asarray(RIGHT, float))
ENDED = [[n < 48 for n in group] for group in LENGTHS]


def test_orion_adds_its_bonus_to_the_stages_own_reward():
    got = ORION(alpha=0.5).paid(3 * REWARDS, outcomes(RIGHT, LENGTHS), {})
    bonus = np.zeros((4, 4))
    bonus[0, 0] = 0.5
    np.testing.assert_allclose(got.reward, 3 * REWARDS + bonus)
    assert got.figures == {"orion/bonus": 0.5 / 7}


def test_dler_truncates_filters_and_knows_the_hard_questions():
    own = outcomes(RIGHT, LENGTHS, ENDED)
    got = DLER(limit=20, filter_groups=False).paid(REWARDS, own, {})
    np.testing.assert_array_equal(got.reward[0], [1, 0, 0, 0])
    np.testing.assert_array_equal(got.reward[1], 1)
    got = DLER(filter_groups=False).paid(REWARDS, own, {})  # the limit is the longest that an answer may be
    np.testing.assert_array_equal(got.reward, REWARDS)
    assert got.figures["dler/truncated"] == 2 / 16
    assert got.kept is None
    # Groups without spread are left out, as they were before truncation, and have their rewards all the same.
    got = DLER(limit=20, truncated_factor=0.1).paid(REWARDS, own, {})
    np.testing.assert_array_equal(got.kept, [[True] * 4, [False] * 4, [False] * 4, [True] * 4])
    assert got.figures["dler/filtered"] == 0.5
    np.testing.assert_allclose(got.reward, [[1, 0.1, 0, 0], [1] * 4, [0] * 4, [1, 0, 0, 0]])
    once = DLER(limit=60).paid(REWARDS, own, {})
    again = DLER(limit=60).paid(once.reward, own, {})
    np.testing.assert_array_equal(again.reward, once.reward)
    np.testing.assert_array_equal(again.kept, once.kept)
    # Half of the first question's answers are right: its limit is the shorter one.
    tiers = DLER(limit=48, tiers=((0.5, 9),), filter_groups=False).paid(REWARDS, own, {})
    np.testing.assert_array_equal(tiers.reward[0], 0)
    np.testing.assert_array_equal(tiers.reward[3], [1, 0, 0, 0])


@pytest.mark.parametrize("whitening", ["tokens", "answers"])
def test_answers_that_dler_filters_are_not_trained_on_and_counted_as_what_they_are(whitening):
    """Two questions: one half right, one all right, of whose answers the longer two are truncated."""
    right = np.asarray([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    made = generation()  # of lengths 4, 1, 6 and 2, 5, 3
    made = dataclasses.replace(made, rewards=right[..., None])
    method = DLER(limit=3, beta=0.0, whitening=whitening)
    paying = Paying(method, outcomes_of(made, [0], 6), {})
    found, columns = made_of(
        made, Recorded(), method, np.ones(1), aggregation="sum_then_normalize", longest=6, paid=paying
    )
    np.testing.assert_array_equal(found.reward, [[0, 0, 0], [1, 0, 1]])
    np.testing.assert_array_equal(found.kept, [[True] * 3, [False] * 3])
    np.testing.assert_allclose(found.std, [0, np.std([1, 0, 1], ddof=1)])
    assert not found.teaches.any(), "the rewards that differ are those of answers that are left out"
    assert not any(np.any(x) for x in columns["advantages"])
    each = trained(made, found, ["correct"], [0], columns, mask_truncated=False, places=range(2))
    assert [one.on for one in each] == [True] * 3 + [False] * 3
    about = {name: jnp.float32([one.columns[name] for one in each]) for name in each[0].columns}
    metrics = {name: float(m.value()) for name, m in answer_metrics(about, jnp.ones(6, bool)).items()}
    assert metrics["rewards/unrewarded"] == 0
    assert metrics["reward"] == pytest.approx(2 / 6)
    assert metrics["reward_std"] == pytest.approx(np.std([1, 0, 1], ddof=1) / 2)
    assert metrics["frac_reward_zero_std"] == 0.5
    assert metrics["correct"] == metrics["rewards/correct/mean"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("how", [Advantage("mean", "group"), Advantage("mean", "batch"), Advantage("mean", "tokens")])
def test_answers_that_are_left_out_enter_no_advantage_of_the_others(how):
    rewards, kept = np.asarray([[1.0, 0.0, 3.0, 2.0], [5.0, 1.0, 7.0, 7.0]]), np.ones((2, 4), bool)
    kept[0, 3], kept[1] = False, False
    lengths = np.asarray([[3, 1, 2, 4], [2, 2, 9, 1]])
    got = shaped(rewards[..., None], np.ones(1), how, lengths, paid=lambda r: Paid(r, {}, kept))
    alone = shaped(np.where(kept, rewards, np.nan)[..., None], np.ones(1), how, lengths)
    np.testing.assert_array_equal(got.advantage, alone.advantage)
    np.testing.assert_array_equal(got.reward, rewards)
    np.testing.assert_array_equal(got.teaches, [True, False])
    assert not got.flat.any()
    boosted = shaped(rewards[..., None], np.ones(1), dataclasses.replace(how, boost=0.5), lengths,
                     paid=lambda r: Paid(r, {}, kept))  # fmt: skip
    np.testing.assert_allclose(boosted.advantage - got.advantage, 0.5 * (kept & (rewards >= 1)))


def test_hapo_compares_with_the_history_and_says_what_it_knows():
    method = HAPO()
    memory = method.remembered({}, outcomes(RIGHT, LENGTHS))
    assert memory == {"row 0": (10.0, 2), "row 1": (20.0, 4), "row 3": (12.0, 1)}  # the third was never solved
    again = method.remembered(memory, outcomes([[1, 0]], [[8, 1]], prompts=[1]))
    assert again["row 1"] == (8.0, 5)
    assert again["row 0"] == memory["row 0"], "other problems change nothing"
    assert memory["row 1"] == (20.0, 4), "what was before stays as it was"
    got = method.paid(REWARDS, outcomes(RIGHT, LENGTHS), memory)
    np.testing.assert_allclose(got.reward[0], [1, 0.3, 0, -1], atol=1e-12)
    np.testing.assert_allclose(got.reward[1], 1, atol=1e-12)
    np.testing.assert_array_equal(got.reward[2], 0)  # a history that lacks the problem asks nothing
    assert got.reward[3, 1] == 0, "nothing is known of this answer"
    assert got.figures == {"hapo/history_share": 0.75, "hapo/problems": 3.0, "hapo/history_mean": 14.0}
    first = method.paid(REWARDS, outcomes(RIGHT, LENGTHS), {})
    np.testing.assert_array_equal(first.reward, REWARDS)
    assert "hapo/history_mean" not in first.figures
    np.testing.assert_array_equal(HAPO(weight=0.0).paid(REWARDS, outcomes(RIGHT, LENGTHS), memory).reward, REWARDS)
    assert HAPO(history="mean").remembered({}, outcomes(RIGHT, LENGTHS))["row 0"] == (20.0, 2)
    same = outcomes([[1, 1]], [[3, 3]])
    same.tokens[0][0][:] = 7
    repeated = HAPO(repetition=0.5, repetition_n=2).paid(np.ones((1, 2)), same, {})
    np.testing.assert_allclose(repeated.reward, [[1 - 0.5 * 2 / 3, 1.0]])


def test_rows_of_one_problem_share_a_history_and_each_must_name_it():
    method = HAPO(problem="story")
    two = [{"story": "a"}, {"story": "a"}]
    assert method.remembered({}, outcomes([[1], [1]], [[9], [4]], rows=two)) == {"a": (4.0, 2)}
    method.check_rows([Row(Path("rows.jsonl"), 1, {"story": "a"})])
    HAPO().check_rows([Row(Path("rows.jsonl"), 1, {})])
    with pytest.raises(DataError, match=r"rows.jsonl.*row 2.*'story' is empty or missing"):
        method.check_rows([Row(Path("rows.jsonl"), 2, {"prompt": "x"})])


def test_the_past_is_folded_once_in_order_from_whatever_start():
    asked = []

    def read(number):
        asked.append(number)
        return outcomes([[1]], [[20 - number]], prompts=[number % 2])

    method = HAPO()
    past = Past(method.remembered, read)
    assert past.before(0) == {}
    assert past.before(2) == {"row 0": (20.0, 1), "row 1": (19.0, 1)}
    assert past.before(3)["row 0"] == (18.0, 2)
    assert asked == [0, 1, 2]
    assert Past(method.remembered, read).before(3) == past.before(3), "a resumed run comes to the same"
    assert past.before(1) == {"row 0": (20.0, 1)}, "a run that goes back has not seen what follows"


def test_outcomes_are_those_of_the_ledgers_answers():
    made = generation()
    found = outcomes_of(made, [0], 6)
    np.testing.assert_array_equal(found.lengths, [[4, 1, 6], [2, 5, 3]])
    np.testing.assert_array_equal(found.correct, [[1, 0, 0], [1, np.nan, 0]])
    np.testing.assert_array_equal(found.known, ~np.isnan(found.correct))
    np.testing.assert_array_equal(found.finished, found.lengths != 6)
    paying = Paying(ORION(alpha=1.0), found, {})
    np.testing.assert_array_equal(paying(np.ones((2, 3))).reward, 1)
    assert paying.figures == {"orion/bonus": 0.0}


def test_one_epoch_is_warned_of_once():
    lines = []
    own = SimpleNamespace(
        method=HAPO(), stage=SimpleNamespace(rows_per_step=4), said=set(), say=lines.append, schedule=Schedule(1, 1, 0)
    )
    own.once = lambda what, line: RolloutSource.once(own, what, line)
    own.maker = SimpleNamespace(prompts=range(30))
    own.epoch_of = lambda rows: rows / 60
    RolloutSource.open(own, 0, 16)
    assert lines == []
    for _ in range(2):
        RolloutSource.open(own, 0, 15)
    (line,) = lines
    assert line.startswith("warning: hapo compares answers with those of earlier epochs")
    assert "30 prompts 1 times" in line
    assert "2 epochs at least" in line


GROUP = np.asarray([0, 1, 0, 1, 0, 1])
REWARD = np.asarray([1.0, 0.0, 0.0, 0.0, 1.0, 0.25])
ANSWERED = np.asarray([4.0, 1, 6, 2, 5, 3])


def drpo_step(new):
    """A step's loss and slope, as the objective makes them."""
    (value, metrics), slope = _drpo_step()(jnp.float32(new))
    return float(value), np.asarray(slope), {name: float(m) for name, m in metrics.items()}


@functools.cache
def _drpo_step():
    method = DRPO()

    def loss(logps):
        x = features({**recorded().columns, "advantages": rows(OLD)}, logps)
        about = {"reward": REWARD, "rewarded": np.ones(COUNT), "group": GROUP, "answer_length": ANSWERED}
        x = x.replace(columns={**x.columns, **{name: jnp.float32(v) for name, v in about.items()}})
        counts = {"questions": jnp.float32(2), "tokens": jnp.sum(x.mask)}
        metrics = {name: metric.value() for name, metric in method.metrics(x).items()}
        return method.reduce(x, method.terms(x, 6), counts), metrics

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_a_step_of_drpo_is_the_mean_over_questions_and_the_trust_region():
    on = MASK & ~np.isnan(np.asarray([[1.0, 0.25, -0.5], [2.0, np.nan, 0.0]])).reshape(-1, 1)
    everywhere = np.asarray(features({"advantages": rows(OLD)}, jnp.float32(OLD)).mask)
    np.testing.assert_array_equal(everywhere, on)
    # The fifth answer has no trained token there, so the right ones are the first alone.
    for new in (NEW, OLD, OLD - 0.2):
        value, slope, metrics = drpo_step(new)
        s = np.array([new[n][on[n]].mean() if on[n].any() else 0.0 for n in range(COUNT)])
        kl = np.sum((OLD - new)[on]) / on.sum()
        assert value == pytest.approx(-(s[0] - s[2]) / 2 + 500 * max(kl - 1e-4, 0) ** 2, rel=1e-4)
        slopes = np.zeros(MASK.shape)
        slopes[0], slopes[2] = -1.0 * on[0] / on[0].sum() / 2, on[2] / on[2].sum() / 2
        slopes -= on * 1e3 * max(kl - 1e-4, 0) / on.sum()
        np.testing.assert_allclose(slope, slopes, rtol=1e-3, atol=1e-5)
        assert metrics["kl"] == pytest.approx(kl, abs=1e-5)
        assert metrics["drpo/neither"] == pytest.approx(1 / 5)


WRONG = [
    ({"loss": ORION()}, "online.reward_funcs: orion tells right answers from wrong ones, and no reward says"),
    ({"loss": DRPO()}, "online.reward_funcs: drpo tells right answers from wrong ones, and no reward says"),
    ({"loss": HAPO(), "reward_funcs": (VerifierReward(),), "multi_objective_aggregation": "normalize_then_sum"},
     "online.multi_objective_aggregation: hapo pays by the sum of the rewards"),
    ({"loss": DLER(tiers=((0.5, 9), (0.2, 8)))}, "online.loss: dler.tiers: the shares [0.5, 0.2] must rise"),
    ({"loss": DLER(limit=10, tiers=((0.5, 20),))}, "online.loss: dler.tiers: the limits [10, 20] must not rise"),
    ({"loss": DLER(dual_clip=1.1)}, "online.loss: dler.dual_clip: 1.1 must be above 1 + epsilon_high (0.28)."),
    ({"loss": DLER(limit=13)}, "online.loss: dler.limit and its tiers: [13] is more than the 12 tokens"),
    ({"loss": DLER(tiers=((0.5, 20),))}, "online.loss: dler.limit and its tiers: [20] is more than the 12 tokens"),
    ({"loss": DLER(), "mask_truncated_completions": True}, "online.mask_truncated_completions: answers that were cut"),
    ({"loss": HAPO(), "dynamic_sampling": 1}, "online.dynamic_sampling: it replaces prompts whose answers are all ri"),
    ({"loss": ORION(), "dynamic_sampling": 1}, "online.dynamic_sampling: it replaces prompts whose answers are all ri"),
    ({"loss": HAPO(), "maxmin": MaxMin()}, "online.maxmin: hapo tells right answers from wrong ones"),
    ({"loss": DRPO(), "maxmin": MaxMin()}, "online.maxmin: drpo tells right answers from wrong ones"),
    ({"loss": DRPO(tau=0.0)}, "online.loss: drpo: tau is 0.0"),
    ({"loss": HAPO(floor=0.5)}, "online.loss: hapo: floor is 0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_mistakes_are_found_before_any_work(changes, message, tmp_path):
    run = recipe(tmp_path, online(tmp_path, **changes))
    assert any(problem.startswith(message) for problem in find_problems(run)), list(find_problems(run))


@pytest.mark.parametrize("name", ["grpo:drpo", "grpo:dler", "grpo:hapo", "grpo:orion", "grpo:lengths", "orion"])
def test_the_recipes_have_no_mistakes(name):
    run = load_run(name)
    assert list(find_problems(run)) == []
    for stage in run.stages:
        if getattr(stage.loss, "REMEMBERS", False):
            assert stage.max_steps * stage.prompts_per_step >= 2 * run.corpus.few, "two epochs at least"


@dataclass(frozen=True)
class EvenReward(RewardFunction):
    """Answers of an even number of letters are right."""

    NAME: ClassVar[str] = "even"
    VERIFIES: ClassVar[bool] = True

    def values(self, answers: Sequence[Response]) -> list[float | None]:
        return [float(len(a.answer) % 2 == 0) for a in answers]


def of_few_prompts(folder, loss, **changes):
    """A recipe that asks its three prompts several times."""
    few = folder / "few.jsonl"
    whole = recipe(folder)
    lines = Path(whole.stages[1].data.train[0]).read_text().splitlines()[:3]
    few.write_text("\n".join(lines) + "\n")
    stage = online(folder, loss=loss, reward_funcs=(EvenReward(),), num_generations=4, **changes)
    data = dataclasses.replace(stage.data, train=(str(few),), eval=())
    return recipe(folder, dataclasses.replace(stage, data=data))


# The stages below are compiled and run whole: slow. What they are made of is tested above.
@pytest.fixture(scope="module")
def hapo(tmp_path_factory, one_device):
    """Six steps of two prompts: each of three is asked four times."""
    folder = tmp_path_factory.mktemp("hapo")
    run = of_few_prompts(folder, HAPO(), save_steps=2)
    assert list(find_problems(run)) == []
    assert running.execute(run) == 0
    return run, folder / "runs" / "tiny"


@pytest.mark.slow
def test_the_history_of_a_run_is_that_of_its_ledger(hapo):
    _, folder = hapo
    shortest: dict[int, float] = {}
    for record in steps(folder):
        (path,) = (folder / "stages/online/rollouts" / f"{record['step'] - 1:08d}").glob("answers-*.jsonl")
        *groups, last = [json.loads(line) for line in path.read_text().splitlines()][1:]
        groups = sorted(groups, key=lambda line: line["place"])
        known = [shortest.get(group["prompt"]) for group in groups]
        here = [h for h in known if h is not None]
        assert record["hapo/history_share"] == len(here) / len(known)
        if here:
            assert record["hapo/history_mean"] == pytest.approx(np.mean(here))
        assert record["correct"] == pytest.approx(np.mean(last["rewards"]))
        for group, rewards in zip(groups, last["rewards"], strict=True):
            lengths = [n for n, (r,) in zip(written(group), rewards, strict=True) if r == 1]
            if lengths:
                shortest[group["prompt"]] = min([*lengths, shortest.get(group["prompt"], np.inf)])
    assert record["hapo/history_share"] == 1


def written(group):
    """Lengths of a ledger's group."""
    from jaxpo.online.answers import Answer

    return [Answer.of(answer).written for answer in group["answers"]]


@pytest.mark.slow
def test_killed_in_the_middle_of_a_round_it_reads_its_history_again(hapo, tmp_path):
    run, folder = hapo
    shutil.copytree(folder, tmp_path / "tiny")
    online_folder = tmp_path / "tiny/stages/online"
    shutil.rmtree(online_folder / "model")
    (tmp_path / "tiny/finished.json").unlink()
    # What a kill leaves that comes while the answers of the last but one step are written: half of that generation,
    # its line cut in the middle, and nothing of the one after it.
    shutil.rmtree(online_folder / "rollouts" / f"{5:08d}")
    (path,) = (online_folder / "rollouts" / f"{4:08d}").glob("answers-*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    assert running.execute(dataclasses.replace(run, output_dir=str(tmp_path)), resume=4) == 0
    same_models(folder, tmp_path / "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("loss", [DRPO(), DLER(limit=9), ORION(alpha=0.5)], ids=lambda loss: loss.INFO.name)
def test_every_kind_trains_on_what_it_wrote(loss, tmp_path):
    run = of_few_prompts(tmp_path, loss, max_steps=3, steps_per_generation=1, num_iterations=3)
    assert list(find_problems(run)) == []
    assert running.execute(run) == 0
    for record in steps(tmp_path / "runs" / "tiny"):
        assert np.isfinite(record["loss"])
        assert "recompiles" not in record
