"""What a user is told of a generation that teaches nothing, and of a sampler that differs: once, with figures."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from online.test_parts import groups

from jaxpo.objectives.methods.dler import DLER
from jaxpo.objectives.methods.drpo import DRPO
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.online_pairs import OnlineDPO
from jaxpo.online.batches import Trained
from jaxpo.online.feed import RolloutFeed
from jaxpo.online.generation import Generation
from jaxpo.online.layout import Layout
from jaxpo.online.outcomes import outcomes_of
from jaxpo.online.recording import Recorded
from jaxpo.online.source import RolloutSource


def source(method, lines):
    """As much of a source as `shape` reads."""
    found = SimpleNamespace(method=method, weights=np.ones(1), said=set(), say=lines.append, figures={})
    found.mixer = found.scaler = None
    found.mixed = lambda *about: RolloutSource.mixed(found, *about)
    found._note = lambda *about: RolloutSource._note(found, *about)
    found.maker = SimpleNamespace(size=2, scoring=SimpleNamespace(names=("correct",)))
    found.stage = SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize",
        dynamic_sampling=0,
        max_completion_length=8,
        mask_truncated_completions=False,
    )
    found.once = lambda what, line: RolloutSource.once(found, what, line)
    found._paying = lambda made: RolloutSource._paying(found, made)
    found._warn = lambda *about: RolloutSource._warn(found, *about)
    return found


def generation(rewards, *, finished=True):
    made = groups([["a", "b"], ["c", "d"]])
    for answer in (answer for group in made for answer in group.answers):
        object.__setattr__(answer, "finished", finished)
    return Generation(3, "weights", made, np.asarray(rewards, float)[..., None], np.zeros((2, 2)), 2)


@pytest.mark.parametrize("method", [GRPO(), OnlineDPO()], ids=["grpo", "online_dpo"])
def test_a_step_of_equal_rewards_is_said_once_with_what_helps(method):
    lines = []
    own = source(method, lines)
    for _ in range(2):
        RolloutSource.shape(own, generation([[1, 1], [0, 0]]), Recorded())
    assert len(lines) == 1
    assert lines[0].startswith("generation 3: all answers to each prompt have one reward")
    assert "num_generations" in lines[0]
    if isinstance(method, OnlineDPO):
        assert own.figures[3]["pairs/left_out"] == 1
        assert own.figures[3]["frac_reward_zero_std"] == 1
    RolloutSource.shape(own, generation([[1, 0], [0, 0]]), Recorded())
    assert len(lines) == 1


def test_a_step_whose_answers_are_all_filtered_is_said_once_though_truncation_gave_them_other_rewards():
    lines = []
    own = source(DLER(limit=2), lines)
    own.past = None
    made = generation([[1, 1], [0, 0]])
    own._outcomes = lambda made: dataclasses.replace(outcomes_of(made, [0], 8), lengths=np.asarray([[1, 5], [1, 1]]))
    found, _ = RolloutSource.shape(own, made, Recorded())
    np.testing.assert_array_equal(found.reward, [[1, 0], [0, 0]])
    assert own.figures[3]["dler/filtered"] == 1
    (line,) = lines
    assert line.startswith("generation 3: all answers to each prompt have one reward")


def test_rewards_that_are_neither_right_nor_wrong_are_said_once():
    lines = []
    own = source(DRPO(), lines)
    for _ in range(2):
        RolloutSource.shape(own, generation([[1, 0.5], [0.5, np.nan]]), Recorded())
    assert lines == []
    for _ in range(2):
        RolloutSource.shape(own, generation([[0.9, 0.5], [0.5, np.nan]]), Recorded())
    (line,) = lines
    assert line.startswith("generation 3: no reward is exactly 1 or 0, so that to drpo no answer is right or wrong")


def test_rewards_that_are_scaled_for_training_are_shown_as_they_are():
    own = source(GRPO(), [])
    own.scaler = SimpleNamespace(scaled=lambda number, rewards: rewards / 10)
    found, _ = RolloutSource.shape(own, generation([[1, 0], [3, 7]]), Recorded())
    np.testing.assert_array_equal(found.reward, [[1, 0], [3, 7]])
    np.testing.assert_allclose(found.std, np.std(found.reward, axis=1, ddof=1))


def test_an_end_that_never_comes_is_said_once_with_what_helps():
    lines = []
    own = source(OnlineDPO(), lines)
    for _ in range(2):
        RolloutSource.shape(own, generation([[1, 0], [0, 1]], finished=False), Recorded())
    assert len(lines) == 1
    assert "no answer ended within max_completion_length (8) tokens. Raise it; or fine-tune" in lines[0]
    assert own.figures[3]["completions/clipped_ratio"] == 1


def test_a_sampler_of_another_type_is_warned_of_once_with_the_measured_difference():
    lines, drawn = [], {"sampling_logps": np.float32([-1.0, -2.0])}
    tokens = np.int32([4, 5])
    answers = [Trained(i, np.int32([1]), tokens, True, drawn, {}, own=i == 0) for i in range(2)]
    own = SimpleNamespace(
        stage=SimpleNamespace(engine=SimpleNamespace(dtype="bfloat16", quantize=None)),
        scorer=SimpleNamespace(dtype="float32"),
        layout=Layout(1, 8, 8, 4, 1),
        per_token=(),
        columns=(),
        said=set(),
        method=GRPO(),
        say=lines.append,
        policy=lambda params: params,
        logps=lambda params, batch: np.float32([[0, -1.25, -2.0, 0, 9, 9, 0, 0]]),
    )
    own.once = lambda what, line: RolloutSource.once(own, what, line)
    feed = SimpleNamespace(source=own, _slices=[answers])
    for _ in range(2):
        RolloutFeed._compare_types(feed, SimpleNamespace(params={}))
    (line,) = lines
    assert "answers are written in bfloat16 and trained on in float32" in line
    assert "1.25e-01 on average, 2.50e-01 at most" in line  # of the policy's own answers: not of an opponent's
