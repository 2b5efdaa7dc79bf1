"""What a report says of the answers of an online stage."""

from types import SimpleNamespace

import numpy as np

from jaxpo.evaluate.report.rollouts import rollouts, time_split
from jaxpo.judges.ledger import Ledger
from jaxpo.online.answers import Answer


def answer(text, length, finished=True):
    zeros = np.zeros(length, np.float32)
    return Answer(np.zeros(length, np.int32), zeros, zeros, finished, text).record()


def test_a_generation_with_lengths_parts_of_rewards_best_and_worst(tmp_path):
    ledger = Ledger(tmp_path / "stages/rl/rollouts/00000000", "answers", {})
    groups = [
        {"position": 0, "prompt": 0, "text": "what?", "answers": [answer("good", 3), answer("bad<", 5, False)]},
        {"position": 1, "prompt": 1, "text": "why?", "answers": [answer("so", 4), answer("hm", 4)]},
    ]
    rewards = [[[1.0, 0.25], [0.0, -0.5]], [[None, None], [None, None]]]
    ledger.append([*groups, {"done": True, "tried": 2, "positions": [0, 1], "rewards": rewards}])
    records = [{"rewards/right/mean": 0.5, "rewards/short/mean": 0.1, "step": 1}]
    (found,) = rollouts(SimpleNamespace(path=tmp_path, metrics={"sft": [], "rl": records}))
    for words in (
        "Generation 0",
        "Sum of right, short",
        "4 answers to 2 prompts, 4.000 tokens on average, 25% cut off",
    ):
        assert words in found
    assert "bad&lt;" in found
    assert "1.250<small>1.000, 0.2500</small>" in found
    assert "-0.5000<small>0, -0.5000</small>" in found


def test_the_time_of_a_step_is_shared_out():
    step = {"step_time": 4.0, "data_time": 3.0, "rollouts/writing_seconds": 5.0, "rollouts/rewards_seconds": 1.0}
    text = time_split([step, step, {"eval_reward": 1.0}])
    assert "writing 62%, rewards 12%, the trainer&#x27;s networks 0%, training 25%" in text.replace("'", "&#x27;")
    assert time_split([{"step_time": 1.0, "data_time": 0.5}]) == ""
