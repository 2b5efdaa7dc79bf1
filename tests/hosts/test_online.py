"""An online stage by several processes: what one process learns, killed or not."""

import functools
import json
import signal
import time

import jax
import numpy as np
import pytest
from online.tiny import HERE, online, recipe
from stages.process import finish, finish_all, kill, places, start

from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.model_io import load_model
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.online.rewards import FunctionReward
from jaxpo.train.metrics import TIMING, read_metrics

WIDE = {
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_staleness": 1,
    "dynamic_sampling": 1,
    "max_steps": 9,
    "loss": GRPO(beta=0.05),
    "reward_funcs": (FunctionReward(function=f"{HERE}:vowels"), FunctionReward(function=f"{HERE}:short")),
    "reward_weights": (1.0, 0.1),
    "gradient_accumulation_steps": 1,
}
"""Two steps on a generation, twice, by weights of before; prompts are replaced, and the reference is read."""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("online")
    file = folder / "recipe.json"
    file.write_text(json.dumps(to_jsonable(recipe(folder, online(folder, **WIDE)))))
    return file


@pytest.fixture(scope="module")
def alone(config):
    code, out = finish(start(config, "--run", "one", devices=2))
    assert code == 0, out
    return config.parent / "runs" / "one"


def together(config, name):
    return [start(config, "--run", name, environ=place) for place in places(2)]


def lines(run):
    return [
        {k: v for k, v in r.items() if k not in TIMING and not k.startswith("rollouts/")}
        for r in read_metrics(run / "metrics.jsonl")
        if r["stage"] == "online"
    ]


def answers(run):
    """Texts and rewards of every generation."""
    found = []
    for path in sorted(run.glob("stages/online/rollouts/*/answers-*.jsonl")):
        *groups, last = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        found.append(({g["position"]: [a["text"] for a in g["answers"]] for g in groups}, last["rewards"]))
    return found


def weights(run):
    return load_model(run / "stages" / "online").params


@pytest.mark.scale
def test_two_processes_write_and_learn_what_one_does(config, alone):
    codes, outputs = finish_all(together(config, "two"))
    assert codes == [0, 0], outputs
    two = config.parent / "runs" / "two"
    assert answers(two) == answers(alone)
    assert len(answers(two)) == 3
    for one, other in zip(lines(alone), lines(two), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, float):
                assert other[name] == pytest.approx(value, rel=1e-3, abs=2e-4), name
    one, other = weights(alone), weights(two)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-5), one, other)


@pytest.mark.scale
@pytest.mark.slow  # two starts of two processes beside the ones of the test above
@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_is_killed_amid_a_generation_and_the_same_command_end_bit_for_bit(config, who):
    whole = config.parent / "runs" / "whole"
    if not whole.exists():
        assert finish_all(together(config, "whole"))[0] == [0, 0]
    name = f"killed{who}"
    running = together(config, name)
    folder = config.parent / "runs" / name / "stages/online/rollouts/00000001"
    while not folder.is_dir():
        assert all(process.poll() is None for process in running)
        time.sleep(0.002)
    running[who].send_signal(signal.SIGKILL)
    code, out = finish(running[1 - who])
    assert code == 75, out
    kill(running[who])
    codes, outputs = finish_all(together(config, name))
    assert codes == [0, 0], outputs
    killed = config.parent / "runs" / name
    jax.tree.map(np.testing.assert_array_equal, weights(whole), weights(killed))
    assert lines(whole) == lines(killed)
