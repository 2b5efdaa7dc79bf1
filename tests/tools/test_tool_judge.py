"""Trajectories by a real engine, and the reward behind them, as a judge of later stages sees it."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from cli.conftest import WORDS, make_model

from jaxpo.convert.model_io import load_model
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Item
from jaxpo.judges.network import Network
from jaxpo.tools import writing
from jaxpo.tools.judge import ToolRewardJudge
from jaxpo.tools.named import toolbox
from jaxpo.tools.trajectory import Call, Invalid, Rationale, parse
from jaxpo.tools.writing import Writing, write_trajectories

kept = Network.engine
HOW = Writing(max_calls=1, max_new_tokens=3)
LONG = " ".join([*WORDS * 2, *WORDS[:6], ""])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    model = load_model(make_model(tmp_path_factory.mktemp("run") / "stages" / "themis", 0))
    head = {"weight": jax.random.normal(jax.random.key(1), (16, 1))}
    longer = replace(model.config, max_position_embeddings=256)
    return replace(Network.of(model, max_length=224), config=longer, params={**model.params, "value": head})


@pytest.fixture
def calls(monkeypatch):
    """Whatever the model writes is a call, and a reason once it is asked for one."""

    def read(text):
        return Rationale("so") if "[rationale]" in text else Call("", "calculator", "7")

    monkeypatch.setattr(writing, "parse", read)


def test_the_engine_goes_on_behind_the_observations_from_what_it_has_read(network, calls, monkeypatch):
    made = []

    def engine(self, requests, slots=64):
        made.append(kept(self, requests, slots))
        return made[-1]

    monkeypatch.setattr(Network, "engine", engine)
    found = write_trajectories(network, [LONG] * 2, ["open", "close"], toolbox(("calculator",)), HOW)
    assert [step.observation for step in found[0].steps] == ["7"]
    assert found[0].rationale == "so"
    assert len(made) == 1
    assert made[0].load.submitted == 4
    assert made[0].load.shared > 0


def test_the_reward_is_that_of_the_answer_with_its_trajectory(network, calls):
    judge = ToolRewardJudge("themis", writing=HOW)
    items = [Item(LONG, answer, Row("x", 1, {})) for answer in ("open", "close")]
    replies = judge.open(lambda name: network)(items)
    trajectories = write_trajectories(network, [LONG] * 2, ["open", "close"], toolbox(("calculator",)), HOW)
    texts = [t.text(a) for t, a in zip(trajectories, ("open", "close"), strict=True)]
    np.testing.assert_allclose([r.value for r in replies], network.rewards([LONG] * 2, texts), rtol=1e-5)
    assert texts[0].count("[observation] 7") == 1
    assert judge.models() == ("themis",)
    assert "tools" in judge.identity(lambda name: network)


def test_what_a_model_without_training_writes_is_malformed(network):
    found = write_trajectories(network, [LONG] * 2, ["open", "close"], toolbox(("calculator",)), HOW)
    assert all(one.malformed for one in found)
    assert isinstance(parse("read read"), Invalid)


def test_settings_are_checked_before_anything_is_written(network):
    with pytest.raises(ConfigError, match="no tool 'calculater'"):
        ToolRewardJudge(tools=("calculater",)).check(())
    with pytest.raises(ConfigError, match="--max-calls is 9"):
        ToolRewardJudge(writing=Writing(max_calls=9)).check(())
    bare = replace(network, params={"model": network.params["model"]})
    with pytest.raises(ConfigError, match="name a stage that themis trained"):
        ToolRewardJudge("sft").open(lambda name: bare)
