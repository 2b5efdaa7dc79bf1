"""The parts of an online source that are plain functions: schedule, advantages, packing, rewards, ledger."""

import asyncio
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from online.tiny import HERE

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError, RunError
from jaxpo.judges.asking import Patience
from jaxpo.judges.ledger import Ledger
from jaxpo.objectives.methods.rollouts import Advantage
from jaxpo.online.advantages import shaped
from jaxpo.online.answers import Answer, Group, Prompt
from jaxpo.online.batches import Trained, batch_of, taken_apart
from jaxpo.online.layout import Layout
from jaxpo.online.ledger import Journal, opened
from jaxpo.online.rewards import (
    FunctionReward,
    JSONReward,
    LengthReward,
    PatternReward,
    RepetitionPenalty,
    Response,
    SoftOverlong,
)
from jaxpo.online.rewards.names import reward_names
from jaxpo.online.schedule import Schedule
from jaxpo.online.scoring import ENVIRONMENT, Scoring, changed

LENGTHS = np.asarray([[3, 1, 2, 5], [4, 4, 1, 1]])
ROW = Row(HERE, 1, {"prompt": "two?", "answer": "2", "level": 3})


def response(text, ids=None, finished=True):
    return Response("two?", text, ROW, ids or list(range(len(text))), finished)


def groups(texts, prompt="two?"):
    """One group per list of texts."""
    about = Prompt(0, np.int32([1, 2]), prompt, ROW.data, HERE, 1)
    empty = np.zeros(0, np.float32)
    return [
        Group(g, g, about, tuple(Answer(np.arange(len(t), dtype=np.int32), empty, empty, True, t) for t in group))
        for g, group in enumerate(texts)
    ]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(0, 40))
def test_every_generation_is_begun_once_before_it_is_needed_by_weights_of_the_right_age(parts, iterations, late, step):
    schedule = Schedule(parts, iterations, late)
    begun = {}
    for at in range(step + 1):
        for generation in schedule.begun_at(at):
            assert generation not in begun
            begun[generation] = at
    needed = schedule.generation(step)
    first = needed * schedule.cycle
    assert begun[needed] == max(needed - late, 0) * schedule.cycle <= first
    assert sorted({schedule.part(first + i) for i in range(schedule.cycle)}) == list(range(parts))


def test_advantages_are_those_of_the_equations():
    rewards = np.asarray([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
    one = np.ones(1)
    mean, std = rewards.mean(1, keepdims=True), rewards.std(1, ddof=1, keepdims=True)
    got = shaped(rewards[..., None], one, Advantage("mean", "group"), LENGTHS)
    np.testing.assert_allclose(got.advantage, (rewards - mean) / (std + 1e-4), atol=1e-12)
    np.testing.assert_array_equal(got.flat, [False, True])
    got = shaped(rewards[..., None], one, Advantage("mean", "batch"), LENGTHS)
    np.testing.assert_allclose(got.advantage, (rewards - mean) / (rewards.std(ddof=1) + 1e-4), atol=1e-12)
    got = shaped(rewards[..., None], one, Advantage("leave_one_out", "none"), LENGTHS)
    others = (rewards.sum(1, keepdims=True) - rewards) / 3
    np.testing.assert_allclose(got.advantage, rewards - others, atol=1e-12)
    np.testing.assert_array_equal(
        shaped(rewards[..., None], one, Advantage("none", "none"), LENGTHS).advantage, rewards
    )


def test_advantages_whitened_over_tokens_are_those_of_the_tokens_one_by_one():
    rewards = np.asarray([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, np.nan, 2.5]])
    tokens = np.repeat(rewards.ravel(), LENGTHS.ravel())
    tokens = tokens[~np.isnan(tokens)]
    got = shaped(rewards[..., None], np.ones(1), Advantage("none", "tokens"), LENGTHS).advantage
    expected = np.nan_to_num((rewards - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8))
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_what_no_reward_speaks_of_enters_no_statistic():
    values = np.asarray([[[1.0, np.nan], [0.0, 2.0], [np.nan, np.nan], [0.5, np.nan]], [[np.nan, np.nan]] * 4])
    got = shaped(values, np.asarray([1.0, 0.5]), Advantage(), LENGTHS)
    np.testing.assert_array_equal(np.isnan(got.reward), [[False, False, True, False], [True] * 4])
    known = np.asarray([1.0, 1.0, 0.5])
    expected = (known - known.mean()) / (known.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(got.advantage[0, [0, 1, 3]], expected)
    assert got.advantage[0, 2] == 0
    assert not got.advantage[1].any()
    assert got.std[1] == 0


def test_a_reward_without_weight_says_nothing_of_an_answer():
    values = np.asarray([[[1.0, 1.0], [0.0, 0.0], [np.nan, 1.0], [np.nan, 0.0]]])
    got = shaped(values, np.asarray([1.0, 0.0]), Advantage(), np.ones((1, 4)))
    np.testing.assert_array_equal(got.reward, [[1.0, 0.0, np.nan, np.nan]])
    np.testing.assert_array_equal(got.advantage[0, 2:], 0.0)
    assert got.advantage[0, 0] > 0 > got.advantage[0, 1]


def test_rewards_normalised_before_they_are_summed():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(3, 4, 2)), np.asarray([1.0, 3.0])
    got = shaped(values, weights, Advantage(), np.ones((3, 4)), aggregation="normalize_then_sum")
    each = (values - values.mean(1, keepdims=True)) / (values.std(1, ddof=1, keepdims=True) + 1e-4)
    both = each @ weights
    np.testing.assert_allclose(got.advantage, (both - both.mean()) / (both.std(ddof=1) + 1e-4))


def answers(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Trained(i, rng.integers(3, 9, 3).astype(np.int32), np.full(n, 10 + i, np.int32), True,
                {"advantages": np.full(n, i, np.float32)}, {"reward": float(i)})
        for i, n in enumerate(lengths)
    ]  # fmt: skip


@given(st.lists(st.integers(1, 13), min_size=1, max_size=30), st.sampled_from([1, 2, 4]))
def test_the_rows_that_a_stage_must_have_hold_its_answers_whatever_their_lengths(lengths, parts):
    length, longest = 40, 16
    rows = -(-len(lengths) // (length // longest))
    rows = -(-rows // parts) * parts
    layout = Layout(rows, length, longest, 8, parts)
    given_answers = answers(lengths)
    batch = batch_of(given_answers, layout, ("advantages",), ("reward",))
    for i, n in enumerate(lengths):
        (at,) = np.flatnonzero(batch.example_id == i)
        row, slot = at // 8, batch.roles["completion"][at]
        own = batch.segment_ids[row] == slot + 1
        np.testing.assert_array_equal(batch.tokens[row][own][3:], [10 + i] * n)
        np.testing.assert_array_equal(batch.per_token["advantages"][row][own], [0] * 3 + [i] * n)
        np.testing.assert_array_equal(batch.masks["completion"][row][own], [False] * 3 + [True] * n)
        assert batch.per_example["reward"][at] == i
    back = taken_apart(batch.tokens, given_answers, layout)
    for i, (n, got) in enumerate(zip(lengths, back, strict=True)):
        np.testing.assert_array_equal(got, [10 + i] * n)
    # Microbatches are filled one after another: none after an empty one holds anything.
    micros = np.swapaxes(batch.example_id.reshape(rows // parts, parts, 8), 0, 1)  # as Batch.split
    here = np.any(micros >= 0, axis=(1, 2))
    assert here.tolist() == sorted(here.tolist(), reverse=True)


def test_rewards_of_forms_and_lengths():
    texts = [response("abc"), response(" #### 4 "), response('{"answer": 3}'), response("a b a b a b")]
    assert PatternReward(pattern=r"#### \d+").values(texts) == [0, 1, 0, 0]
    assert JSONReward(keys=(("answer", "number"),)).values(texts) == [0, 0, 1, 0]
    assert JSONReward().values([response("[1, 2]"), response("[1,")]) == [1, 0]
    assert RepetitionPenalty(n=2).values(texts[-1:]) == pytest.approx([-(1 - 2 / 5)])
    sizes = [response("", [0] * n) for n in (0, 10, 15, 20, 30)]
    assert SoftOverlong(longest=20, buffer=10).values(sizes) == pytest.approx([0, 0, -0.5, -1, -1])
    assert LengthReward(longest=20).values(sizes) == pytest.approx([1, 0.5, 0.25, 0, 0])
    assert LengthReward(shape="cosine", longest=20).values(sizes)[1] == pytest.approx(0.5)
    assert LengthReward(shape="budget", longest=20).values(sizes) == pytest.approx([0, 0.5, 0.75, 1, 0.5])
    for wrong in (PatternReward(pattern="("), JSONReward(keys=(("a", "float"),)), LengthReward(shape="square")):
        assert wrong.problems()


def told(prompts, completions, completion_ids, finished, answer, level):
    assert completions == [p + a for p, a in zip(["", ""], ["2", "3"], strict=True)]
    assert level == [3, 3]
    assert finished == [True, True]
    assert completion_ids == [[0], [0]]
    return [1.0 if c == a else None for c, a in zip(completions, answer, strict=True)]


async def awaited(completions, **columns):
    await asyncio.sleep(0)
    return [float(c == "2") for c in completions]


def picky(completions, **columns):
    if "bad" in completions:
        raise ValueError("no")
    return [1.0] * len(completions)


def uneven(completions, **columns):
    return [1.0]


def unsound(completions, **columns):
    return [float("nan") if c == "nan" else float("inf") if c == "inf" else 0.5 for c in completions]


def asks(name):
    return FunctionReward(function=f"{__file__}:{name}")


def score(tmp_path, reward, texts, **settings):
    said = []
    scoring = Scoring((reward,), lambda name: None, Patience(2, settings.get("in_a_row", 50)), said.append)
    calls = lambda name, about: Ledger(tmp_path, f"reward-{name}", about)  # noqa: E731
    return scoring.score(groups(texts), calls)


def test_a_function_is_called_as_trl_calls_it(tmp_path):
    values, failed = score(tmp_path, asks("told"), [["2", "3"]])
    np.testing.assert_array_equal(values[..., 0], [[1.0, np.nan]])
    assert not failed.any()
    values, _ = score(tmp_path, asks("awaited"), [["2", "3"]])
    np.testing.assert_array_equal(values[..., 0], [[1.0, 0.0]])


def test_one_answer_that_a_reward_fails_on_is_kept_retried_and_left_out(tmp_path):
    texts = [["good"] * 31 + ["bad"]] * 2
    values, failed = score(tmp_path, asks("picky"), texts)
    np.testing.assert_array_equal(np.isnan(values[..., 0]), [[False] * 31 + [True]] * 2)
    np.testing.assert_array_equal(failed, [[0] * 31 + [1]] * 2)
    (path,) = tmp_path.glob("*.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum("ValueError: no" in str(record) for record in records) == 4  # twice for each


def test_values_that_are_no_numbers_fail_and_lists_of_another_length_stop(tmp_path):
    values, failed = score(tmp_path, asks("unsound"), [["nan", "inf", "x"]])
    np.testing.assert_array_equal(values[..., 0], [[np.nan, np.nan, 0.5]])
    np.testing.assert_array_equal(failed, [[1, 1, 0]])
    with pytest.raises(RunError, match="the reward uneven gave 1 values for 3 answers"):
        score(tmp_path, asks("uneven"), [["a", "b", "c"]])
    with pytest.raises(RunError, match="failures in a row"):
        score(tmp_path, asks("picky"), [["bad"] * 8], in_a_row=4)


def test_names_and_changed_rewards(tmp_path):
    assert reward_names([asks("told"), asks("told"), SoftOverlong()]) == ["told", "told_2", "soft_overlong"]
    before = {"told": {"function": "f", "source": "1"}, "json": {"keys": []}}
    changed(before, before, tmp_path)
    with pytest.raises(ConfigError, match=r"'told' is another one .* its source has changed"):
        changed(before, {**before, "told": {"function": "f", "source": "2"}}, tmp_path)
    with pytest.raises(ConfigError, match=r"the environment is another one .* its turns has changed"):
        changed({ENVIRONMENT: {"turns": 3}}, {ENVIRONMENT: {"turns": 4}}, tmp_path)
    with pytest.raises(ConfigError, match="'json'"):
        changed(before, {"told": before["told"]}, tmp_path)


def test_a_ledger_goes_on_after_half_a_line_and_names_a_damaged_one(tmp_path):
    journal = Journal(tmp_path, {"seed": 1})
    ledger = journal.begin(3, "weights", 0)
    numbers = np.asarray([1e-30, -2.5, np.float32(1 / 3)], np.float32)
    answer = Answer(np.int32([5, 6, 7]), numbers, numbers, False, "é")
    ledger.append([{"answer": answer.record()}])
    ledger.append([{"done": True}])
    found, records = journal.finished(3)
    assert found.path == ledger.path
    assert opened(ledger.path).settings["weights"] == "weights"
    back = Answer.of(records[0]["answer"])
    np.testing.assert_array_equal(back.logps.view(np.int32), numbers.view(np.int32))
    assert (back.text, back.finished) == ("é", False)
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[:-5])
    assert len(ledger.read()) == 1  # the half line is cut off
    with pytest.raises(DataError, match="no whole ledger of generation 3"):
        journal.finished(3)
    ledger.path.write_bytes(whole.replace(b'"finished": false', b'"finished": true'))
    with pytest.raises(DataError, match="is not as it was written"):
        ledger.read()
