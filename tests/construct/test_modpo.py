"""MODPO's margin rewards: from two models, from a reward model, from a length."""

from pathlib import Path

import numpy as np
import pytest

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.modpo import MODPO, implicit_reward, length
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import read_record
from jaxpo.errors import ConfigError, DataError

PAIRS = (
    {"prompt": "p ", "chosen": "a b c", "rejected": "a"},
    {"prompt": "q ", "chosen": "one", "rejected": "three little words", "rewards": {"helpful": [1.0, 0.5]}},
)


class Letters:
    """A network whose log-prob of a text is minus a rate times its number of characters."""

    def __init__(self, rate):
        self.rate = rate

    def logps(self, prompts, completions):
        return np.array([-self.rate * len(c) for c in completions])

    def rewards(self, prompts, completions):
        return np.array([float(len(p) + len(c)) for p, c in zip(prompts, completions, strict=True)])

    def token_counts(self, prompts, completions):
        return np.array([len(c) + 1 for c in completions])


def rows(*data):
    return [Row(Path("pairs.jsonl"), i, dict(d)) for i, d in enumerate(data, start=1)]


def run(option, data=PAIRS, **networks):
    tools = Tools(seed=0, networks=networks)
    return list(option.run(rows(*data), tools))


def test_the_implicit_reward_is_beta_times_the_log_ratio():
    np.testing.assert_allclose(implicit_reward(np.array([-3.0, -5.0]), np.array([-4.0, -2.0]), 0.5), [0.5, -1.5])
    new = run(MODPO(name="safe", beta=0.5), model=Letters(2.0), reference=Letters(1.0))
    assert new[0]["rewards"] == {"safe": [-0.5 * 5, -0.5 * 1]}
    assert new[1]["rewards"] == {"helpful": [1.0, 0.5], "safe": [-0.5 * 3, -0.5 * 18]}
    assert new[1] | {"rewards": None} == PAIRS[1] | {"rewards": None}


def test_lengths_and_reward_models():
    assert run(MODPO(source="length"))[1]["rewards"]["margin"] == [-1.0, -3.0]
    assert run(MODPO(source="length", unit="characters"))[0]["rewards"]["margin"] == [-5.0, -1.0]
    assert run(MODPO(source="length", unit="tokens"), model=Letters(1.0))[0]["rewards"]["margin"] == [-6.0, -2.0]
    assert run(MODPO(source="reward"), reward=Letters(1.0))[0]["rewards"]["margin"] == [7.0, 3.0]
    assert length([{"role": "assistant", "content": "two words"}, {"role": "user", "content": "x"}], "words") == 3


def test_the_new_rows_are_read_with_their_rewards():
    record = read_record(rows(run(MODPO(source="length"))[1])[0], "preference", extras=("rewards",))
    assert record.columns["rewards"] == {"helpful": [1.0, 0.5], "margin": [-1.0, -3.0]}


def test_what_is_missing_or_there_already_is_named():
    with pytest.raises(ConfigError, match="--model"):
        run(MODPO())
    with pytest.raises(ConfigError, match="--reference"):
        run(MODPO(), model=Letters(1.0))
    with pytest.raises(ConfigError, match="--beta is 0"):
        run(MODPO(beta=0.0))
    with pytest.raises(DataError, match=r"row 2.*reward 'helpful' already"):
        run(MODPO(name="helpful", source="length"))
    with pytest.raises(DataError, match="holds no pair"):
        run(MODPO(source="length"), [{"prompt": "p", "completion": "c"}])
    assert constructions()["modpo"] is MODPO
