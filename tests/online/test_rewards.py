"""Built-in rewards, value by value, and async functions that take too long."""

import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from online.test_parts import ROW, groups, response

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError
from jaxpo.judges.asking import Patience
from jaxpo.judges.ledger import Ledger
from jaxpo.online.rewards import (
    BudgetReward,
    CosineReward,
    FunctionReward,
    JSONReward,
    MathReward,
    Response,
    WinRateReward,
)
from jaxpo.online.rewards.function import check_arguments
from jaxpo.online.scoring import Scoring


def asked(reward, texts, row):
    """Values of answers to one row."""
    items = [Response("q", text, Row(Path("rows.jsonl"), 3, row), list(range(length))) for text, length in texts]
    return reward.values(items)


def test_the_cosine_reward_is_the_papers():
    reward = CosineReward(longest=100)
    got = asked(reward, [("#### 2", 0), ("#### 2", 50), ("#### 3", 0), ("#### 3", 50), ("#### 2", 100)], ROW.data)
    np.testing.assert_allclose(got, [2.0, 1.5, -10.0, -5.0, -10.0], atol=1e-12)
    (quarter,) = asked(reward, [("2", 25)], ROW.data)
    assert quarter == pytest.approx(1 + 0.5 * (1 + math.cos(math.pi / 4)))


def test_budgets_are_those_of_l1():
    row = {**ROW.data, "budget": 40}
    exact = asked(BudgetReward(alpha=0.01), [("2", 40), ("2", 30), ("3", 50)], row)
    np.testing.assert_allclose(exact, [1.0, 0.9, -0.1], atol=1e-12)
    most = asked(BudgetReward(kind="max", alpha=0.01), [("2", 40), ("2", 20), ("2", 200), ("3", 10), ("2", 1)], row)
    np.testing.assert_allclose(most, [0.5, 0.7, 0.0, 0.0, 0.89], atol=1e-12)
    with pytest.raises(DataError, match=r"rows.jsonl.*row 3.*'budget' is None, not the number of tokens"):
        BudgetReward().check([Row(Path("rows.jsonl"), 3, ROW.data)])
    with pytest.raises(ConfigError, match="kind is 'least'"):
        BudgetReward(kind="least").check(())


def test_mathematics_is_compared_by_value():
    said = [r"so \boxed{\frac{1}{2}}", r"\boxed{0.5}", r"it is \boxed{2}", "the answer is 1/2.", "#### 0.5", "nothing"]
    got = asked(MathReward(), [(text, 5) for text in said], {"answer": r"\frac{1}{2}"})
    assert got == [1, 1, 0, 1, 1, 0]
    assert asked(MathReward(), [(r"\boxed{x^2+2x+1}", 5)], {"answer": "(x+1)^2"}) == [1]
    with pytest.raises(DataError, match=r"row 4.*holds nothing that math-verify reads"):
        MathReward().check([Row(Path("rows.jsonl"), 4, {"answer": ""})])


def test_json_of_a_schema():
    pytest.importorskip("jsonschema")
    reward = JSONReward(schema='{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    assert reward.problems() == []
    assert asked(reward, [('{"n": 3}', 1), ('{"n": "3"}', 1), ("{}", 1), ("n", 1)], ROW.data) == [1, 0, 0, 0]
    for broken in ("{", '{"type": "what"}'):
        assert "is no JSON schema" in JSONReward(schema=broken).problems()[0]


def test_a_schema_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    (problem,) = JSONReward(schema="{}").problems()
    assert "pip install 'jaxpo[schema]'" in problem


async def slow(completions, **columns):
    """As long as the answer's number says, in hundredths of a second."""
    import asyncio

    await asyncio.sleep(max(float(c) for c in completions) / 100)
    return [float(c) for c in completions]


def score(folder, reward, texts):
    scoring = Scoring([reward], lambda name: None, Patience(2, 50), lambda line: None)
    return scoring.score(groups(texts), lambda name, about: Ledger(folder, f"reward-{name}", about))


def test_an_async_reward_that_takes_too_long_fails_for_those_answers_alone(tmp_path):
    reward = FunctionReward(function=f"{__file__}:slow", seconds=0.3)
    began = time.monotonic()
    values, failed = score(tmp_path, reward, [["1", "2", "900", "800"]])
    assert time.monotonic() - began < 3
    np.testing.assert_array_equal(values[..., 0], [[1, 2, np.nan, np.nan]])
    np.testing.assert_array_equal(failed, [[0, 0, 1, 1]])
    assert "no value within 0.3 s" in next(tmp_path.glob("*.jsonl")).read_text()


def test_a_time_limit_needs_an_async_function():
    from online.tiny import HERE

    assert FunctionReward(function=f"{__file__}:slow", seconds=1.0).problems() == []
    (problem,) = FunctionReward(function=f"{HERE}:vowels", seconds=1.0).problems()
    assert "is no `async def`, and another call cannot be given up; make it one, or leave seconds out" in problem
    assert "must be more than 0" in FunctionReward(function=f"{__file__}:slow", seconds=0.0).problems()[0]


def needy(completions, truth, answer, *, scale=1.0):
    """Asks for columns by their names."""
    return [scale] * len(completions)


def test_a_function_that_asks_for_what_no_row_has_is_refused_before_anything_is_written():
    rows = [Row(Path("rows.jsonl"), i, data) for i, data in enumerate(({"prompt": "a"}, {"answer": 1, "truths": 2}))]
    reward = FunctionReward(function=f"{__file__}:needy")
    assert reward.problems() == []
    with pytest.raises(ConfigError, match=r"needy asks for 'truth', which is no column .* Did you mean truths\?"):
        reward.check(rows)
    reward.check([*rows, Row(Path("rows.jsonl"), 3, {"truth": 1})])
    # Of a generation none of whose rows has the column.
    assert asked(reward, [("a", 1), ("b", 2)], {"answer": 1}) == [1.0, 1.0]
    with pytest.raises(ConfigError, match="asks for 'completion', which is no column of the rows"):
        check_arguments("f", lambda completion: None, [Row(Path("r"), 1, {"completion": "x"})])
    with pytest.raises(ConfigError, match="asks for 'prompts', which has no name to give it by"):
        check_arguments("f", eval("lambda prompts, /, *more, **columns: None"), rows)


def even(completions, **columns):
    """Says right or wrong in the words of Python."""
    return [None if c == "x" else int(c) % 2 == 0 for c in completions]


def test_true_and_false_are_rewards(tmp_path):
    values, failed = score(tmp_path, FunctionReward(function=f"{__file__}:even"), [["1", "2", "x"]])
    np.testing.assert_array_equal(values[..., 0], [[0, 1, np.nan]])
    assert not failed.any()


def test_a_judge_of_duels_may_ask_for_its_opponent():
    from online.tiny import HERE

    duels = WinRateReward(judge=FunctionReward(function=f"{HERE}:longer"))
    duels.check([Row(Path("rows.jsonl"), 1, {"prompt": "a"})])
    scores = WinRateReward(judge=FunctionReward(function=f"{HERE}:longer"), by="score")
    with pytest.raises(ConfigError, match="asks for 'opponent'"):
        scores.check([Row(Path("rows.jsonl"), 1, {"prompt": "a"})])


def test_nothing_is_asked_when_there_are_no_rewards(tmp_path):
    scoring = Scoring([], lambda name: None, Patience(), lambda line: None)
    values, failed = scoring.score(groups([["a", "b"]]), lambda name, about: None)
    assert values.shape == (1, 2, 0)
    assert failed.shape == (1, 2)
    assert response("a").completion == "a"
