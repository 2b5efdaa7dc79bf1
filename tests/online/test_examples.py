"""From groups of answers to examples: pairs, wins, and rows that hold both of a pair; who wrote what."""

from dataclasses import replace

import numpy as np
import pytest
from online.test_parts import groups

from jaxpo.objectives.families.rollouts import ADVANTAGES, SAMPLING_LOGPS
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.gkd import GKD
from jaxpo.objectives.methods.nash_md import NashMD
from jaxpo.objectives.methods.online_pairs import COLUMNS, XPO, OnlineDPO
from jaxpo.online.advantages import Penalties, shaped
from jaxpo.online.answers import Answer
from jaxpo.online.batches import batch_of, taken_apart
from jaxpo.online.examples import examples, figures, pairs_of, penalties
from jaxpo.online.generation import Generation
from jaxpo.online.layout import Layout
from jaxpo.online.training import trained
from jaxpo.online.writers import PolicyOr, Teacher

NAN = np.nan
RANKED, MATCHED = OnlineDPO().answering, XPO().answering
TEXTS = [["aaaa", "bb", "ccc", "d"], ["ee", "ff", "g", "hhhhh"]]


def generation(rewards, texts=TEXTS):
    rewards = np.asarray(rewards, float)[..., None]
    return Generation(0, "weights", groups(texts), rewards, np.zeros(rewards.shape[:2]), len(rewards))


def made(method, rewards, texts=TEXTS):
    """The examples of a generation."""
    whole = generation(rewards, texts)
    lengths, lost = np.ones(whole.rewards.shape[:2]), penalties(method.answering, whole.groups)
    found = shaped(whole.rewards, np.ones(1), method.advantage, lengths, penalties=lost)
    places = range(len(texts))
    each = trained(whole, found, ["r"], [], {}, mask_truncated=False, places=places, answering=method.answering)
    for answer in each:  # as an engine would have given them
        answer.per_token[SAMPLING_LOGPS] = np.full(len(answer.tokens), -1.0, np.float32)
    return examples(method.answering, each, found, places), found, whole


def test_pairs_are_of_the_best_and_the_worst_or_of_an_answer_and_its_opponents():
    assert pairs_of(np.asarray([1.0, 3.0, 0.0, 3.0]), RANKED) == [(1, 2)]
    assert pairs_of(np.asarray([1.0, NAN, 0.5, NAN]), RANKED) == [(0, 2)]
    assert pairs_of(np.asarray([1.0, 1.0, NAN, 1.0]), RANKED) == []
    assert pairs_of(np.asarray([NAN, NAN, NAN, 1.0]), RANKED) == []
    assert pairs_of(np.asarray([1.0, 3.0, 2.0, 3.0]), MATCHED) == [(2, 0)]
    assert pairs_of(np.asarray([1.0, 3.0, 0.0, NAN]), MATCHED) == [(0, 2)]
    assert (RANKED.per_group(4), MATCHED.per_group(4), Answering().per_group(4)) == (1, 2, 4)


def test_both_of_a_pair_have_its_number_and_columns():
    found, shape, whole = made(XPO(), [[1, 2, 0, 2], [5, 1, 6, 4]])
    assert [len(a.tokens) for a in found] == [4, 3, 1, 2, 5, 2]
    assert [a.number for a in found] == [0, 0, 4, 4, 5, 5]
    scores = [tuple(a.columns[name] for name in COLUMNS) for a in found[::2]]
    assert scores == [(1, 0, 1, 1, 1), (6, 5, 1, 1, 0), (4, 1, 1, 1, 0)]
    assert [a.own for a in found] == [True, False, False, True, False, True]
    said = figures(XPO().answering, whole, shape, ["r"])
    assert said["pairs/left_out"] == pytest.approx(0.25)
    assert said["reward"] == pytest.approx((1 + 2 + 5 + 1) / 4)  # the policy's
    assert said["rewards/r/mean"] == said["reward"]
    assert said["completions/mean_length"] == pytest.approx((4 + 2 + 2 + 2) / 4)


def test_an_answer_without_an_end_loses_the_penalty():
    whole = generation([[1, 0.5, 0, 0]], [["aa", "b", "c", "d"]])
    answers = whole.groups[0].answers
    object.__setattr__(answers[0], "finished", False)
    lost = penalties(OnlineDPO(missing_eos_penalty=0.75).answering, whole.groups)
    np.testing.assert_array_equal(lost.ending, [[0.75, 0, 0, 0]])
    assert penalties(OnlineDPO().answering, whole.groups) == Penalties()
    shape = shaped(whole.rewards, np.ones(1), OnlineDPO().advantage, np.ones((1, 4)), penalties=lost)
    assert pairs_of(shape.reward[0], RANKED) == [(1, 2)]


def test_the_probability_of_winning_is_that_of_bradley_and_terry():
    found, _, _ = made(NashMD(), [[1, 2, 0, 2], [5, NAN, 6, 4]])
    assert len(found) == 4
    gains = [a.per_token[ADVANTAGES][0] + 0.5 for a in found]
    np.testing.assert_allclose(gains, [1 / (1 + np.exp(-1)), 0.5, 1 / (1 + np.exp(1)), 0.5], rtol=1e-6)
    assert [a.on for a in found] == [True, True, True, False]


def test_a_pair_lies_in_one_row_and_roles_point_at_its_answers():
    found, _, _ = made(XPO(), [[1, 2, 0, 3], [5, 1, 6, 4]])
    layout = Layout(4, 16, 8, 6, 2, roles=("chosen", "rejected"))
    batch = batch_of(found, layout, (), COLUMNS)
    ids = batch.example_id[batch.example_id >= 0]
    assert sorted(ids.tolist()) == [0, 1, 4, 5]
    for at in np.flatnonzero(batch.example_id >= 0):
        row = at // layout.slots
        for role, own in zip(
            ("chosen", "rejected"), found[2 * [0, 1, 4, 5].index(batch.example_id[at]) :], strict=False
        ):
            inside = batch.segment_ids[row] == batch.roles[role][at] + 1
            np.testing.assert_array_equal(batch.tokens[row][inside], [1, 2, *own.tokens])
            trained_on = batch.masks["completion"][row][inside]
            np.testing.assert_array_equal(trained_on, [False, False] + [True] * len(own.tokens))
        assert batch.per_example["chosen_score"][at] > batch.per_example["rejected_score"][at]
    back = taken_apart(batch.tokens.astype(np.float32), found, layout)
    for values, answer in zip(back, found, strict=True):
        np.testing.assert_array_equal(values, answer.tokens)


def test_the_student_answers_its_share_whatever_is_asked_together():
    writer = PolicyOr(None, None, 0.3, 7)
    drawn = [writer.drawn(position) for position in range(4000)]
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.03)
    assert [PolicyOr(None, None, 0.3, 7).drawn(p) for p in range(50)] == drawn[:50]
    assert not any(PolicyOr(None, None, 0.0, 7).drawn(p) for p in range(50))
    assert GKD(lmbda=1.0).answering.by == "policy"
    assert [GKD(seq_kd=on).answering.by for on in (False, True)] == ["policy_or_data", "policy_or_teacher"]


def test_what_the_teacher_writes_is_compared_with_no_trainer():
    class Fake:
        used = 0

        def use(self, params, most):
            Fake.used += 1

        def write(self, asked, n, sampler, longest, what):
            for one in asked:
                ids, logps = np.asarray([4, 5], np.int32), np.zeros(2, np.float32)
                yield replace(groups(TEXTS)[one], answers=(Answer(ids, logps, logps, True, what),) * n)

    teacher = Teacher(Fake(), None)
    teacher.use(4)
    teacher.use(4)
    ((answer, _),) = (group.answers for group in teacher.write([0], 2, None, 2, "generation 0"))
    assert Fake.used == 1
    assert answer.text == "generation 0, teacher"
    assert np.isnan(answer.logps).all()
    assert np.isnan(answer.sampling_logps).all()
