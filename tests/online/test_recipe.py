"""Online stages whole, killed and on two devices, and what is refused before they start; the default one is PPO's."""

import dataclasses
import json
import random
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from online.tiny import HERE, online, recipe
from stages import process

from jaxpo.config import Compute, Optimizer, RolloutEngine
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.model_io import load_model
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.ppo import PPO
from jaxpo.online.rewards import FunctionReward, LengthReward
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages import run as running
from jaxpo.train.metrics import TIMING, read_metrics

pytestmark = pytest.mark.usefixtures("one_device")

WIDE = {
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_staleness": 1,
    "dynamic_sampling": 1,
    "max_steps": 9,
    "loss": GRPO(beta=0.05, scale_rewards="batch", loss_type="grpo"),
    "temperature": 0.8,
    "reward_funcs": (FunctionReward(function=f"{HERE}:vowels"), FunctionReward(function=f"{HERE}:short")),
    "reward_weights": (1.0, 0.1),
}
"""Everything at once."""
PPO_WIDE = {
    "loss": PPO(target_kl=0.01, horizon=10.0),
    "critic_from": "reward",
    "init_from": "random",
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_steps": 6,
    "optimizer": Optimizer(learning_rate=3e-3, adam_epsilon=1e-5, lr_factors=(("critic/*", 3.0),)),
}
"""A critic of its own from a reward model, and a weight of the KL that moves."""
KINDS = {"plain": {}, "wide": WIDE, "ppo": PPO_WIDE}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, one_device):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("plain")
    assert running.execute(recipe(folder)) == 0
    return folder / "runs" / "tiny"


def steps(folder):
    return [r for r in read_metrics(folder / "metrics.jsonl") if r["stage"] == "online" and "loss" in r]


@pytest.mark.slow
def test_the_trainer_agrees_with_the_sampler_in_every_step(plain):
    found = steps(plain)
    assert len(found) == 6
    for record in found:
        assert record["sampling/sampling_logp_difference/max"] <= 1e-4
        assert abs(record["sampling/importance_sampling_ratio/min"] - 1) <= 1e-4
        assert abs(record["sampling/importance_sampling_ratio/max"] - 1) <= 1e-4
        assert not record["skipped"]
        assert "recompiles" not in record


@pytest.mark.slow
@pytest.mark.parametrize("engine", [None, "bfloat16"], ids=["both", "sampler"])
def test_in_bfloat16_they_differ_by_its_rounding_and_no_more(engine, tmp_path):
    """Both in bfloat16, of other shapes and another order of sums; and a sampler in bfloat16 of a float32 trainer."""
    stage = online(tmp_path, max_steps=2, engine=RolloutEngine(dtype=engine))
    compute = Compute(dtype="float32" if engine else "bfloat16")
    assert running.execute(recipe(tmp_path, stage, compute=compute)) == 0
    for record in steps(tmp_path / "runs" / "tiny"):
        mean, most = (record[f"sampling/sampling_logp_difference/{name}"] for name in ("mean", "max"))
        assert 1e-5 < mean < 2**-7
        assert 1e-4 < most < 2**-4
        assert abs(record["sampling/importance_sampling_ratio/mean"] - 1) < 2**-8
        assert record["sampling/importance_sampling_ratio/min"] == pytest.approx(1, abs=2**-4)
        assert record["sampling/importance_sampling_ratio/max"] == pytest.approx(1, abs=2**-4)


def same_models(one, two):
    models = (load_model(folder / "stages" / "online").params for folder in (one, two))
    jax.tree.map(np.testing.assert_array_equal, *models)
    kept = [
        [{k: v for k, v in r.items() if k not in TIMING} for r in read_metrics(f / "metrics.jsonl")] for f in (one, two)
    ]
    assert kept[0] == kept[1]


CI, LONG = (pytest.mark.scale,), (pytest.mark.slow,)


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        pytest.param("wide", 3, marks=CI),
        pytest.param("plain", 3, marks=LONG),
        pytest.param("ppo", 3, marks=LONG),
        pytest.param("wide", 20, marks=LONG),
    ],
)
def test_killed_at_any_moment_it_ends_bit_for_bit_the_same(kind, kills, tmp_path):
    """Each time at a random instant after it has begun to write, or to go on."""
    run = recipe(tmp_path, online(tmp_path, **KINDS[kind]), reward=kind == "ppo")
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(run)))
    began = time.monotonic()
    code, out = process.finish(process.start(config, "--run", "whole"))
    assert code == 0, out
    rng, took = random.Random(kills), time.monotonic() - began
    ledgers = tmp_path / "runs" / "killed" / "stages" / "online" / "rollouts"
    for kill in range(kills):
        child = process.start(config, "--run", "killed")
        wait_for(child, ledgers / "00000000")
        # What a start takes before it goes on is a large part of a whole run: the first kill falls into the writing.
        time.sleep(rng.uniform(0, 0.02 if kill == 0 else took))
        process.kill(child)
    code, out = process.finish(process.start(config, "--run", "killed"))
    assert code == 0, out
    same_models(tmp_path / "runs" / "whole", tmp_path / "runs" / "killed")


def wait_for(child, folder):
    """Until a generation's folder is there, or the run has ended."""
    while not folder.is_dir() and child.poll() is None:
        time.sleep(0.002)


@pytest.mark.slow
def test_everything_at_once(tmp_path):
    run = recipe(tmp_path, online(tmp_path, **WIDE))
    assert running.execute(run) == 0
    found = steps(tmp_path / "runs" / "tiny")
    assert len(found) == 9
    for record in found:
        assert np.isfinite(record["loss"])
        assert record["kl"] >= 0
    # The answers of generation 1 were written before its weights were trained.
    late = found[4]
    assert late["sampling/sampling_logp_difference/max"] > 1e-4
    assert found[0]["sampling/sampling_logp_difference/max"] <= 1e-4
    assert found[0]["clip_ratio/region_mean"] == 0


@pytest.mark.slow
def test_rewards_that_are_all_equal_train_nothing(tmp_path):
    rewards = tmp_path / "own.py"
    rewards.write_text("def equal(completions, **columns):\n    return [0.5 for _ in completions]\n")
    changes = {"max_steps": 2, "mask_truncated_completions": True}
    stage = online(tmp_path, reward_funcs=(FunctionReward(function=f"{rewards}:equal"),), **changes)
    assert running.execute(recipe(tmp_path, stage)) == 0
    found = steps(tmp_path / "runs" / "tiny")
    assert all(r["frac_reward_zero_std"] == 1 and r["loss"] == 0 for r in found)
    # Of all that were cut off nothing is trained on: there is no entropy, and no length of one that ended.
    for record in found:
        everything = record["completions/clipped_ratio"] == 1
        assert ("entropy" in record) != everything
        assert ("completions/max_terminated_length" in record) != everything


WRONG = [
    ({"num_generations": 1}, "online.num_generations: a group of 1 has nothing to compare"),
    ({"reward_funcs": ()}, "online.reward_funcs: no reward"),
    ({"reward_funcs": ("length",)}, "online.reward_funcs[0]: 'length' is no reward"),
    ({"reward_funcs": (LengthReward(shape="x"),)}, "online.reward_funcs[0]: shape is 'x'"),
    ({"reward_weights": (1.0, 2.0)}, "online.reward_weights: 2 weights for 1 rewards"),
    ({"reward_weights": (0.0,)}, "online.reward_weights: all are 0"),
    ({"rows_per_step": 2}, "online.rows_per_step: 8 answers of up to 56 tokens with their prompts need 4 rows"),
    ({"max_completion_length": 55}, "online.max_completion_length: 55 leaves 1 of data.max_length 56"),
    ({"temperature": 0.0}, "online.temperature: 0 is greedy"),
    ({"top_p": 0.0}, "online: sampler.top_p is 0.0"),
    ({"max_staleness": -1}, "online.max_staleness: -1 must be at least 0."),
    ({"max_steps": None, "max_tokens": 100}, "online.max_tokens: how many tokens the model writes is not known"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_mistakes_are_found_before_any_work(changes, message, tmp_path):
    run = recipe(tmp_path, online(tmp_path, **changes))
    assert any(problem.startswith(message) for problem in find_problems(run)), list(find_problems(run))


def test_the_recipe_itself_has_none(tmp_path):
    assert list(find_problems(recipe(tmp_path))) == []


def test_a_prompt_that_leaves_no_room_is_named(tmp_path):
    run = recipe(tmp_path)
    file = Path(run.stages[1].data.train[0])
    rows = file.read_text().splitlines()
    rows.insert(2, json.dumps({"prompt": "word " * 60, "completion": "x", "difficulty": 1}))
    long = tmp_path / "long.jsonl"
    long.write_text("\n".join(rows) + "\n")
    data = dataclasses.replace(run.stages[1].data, train=(str(long),))
    changed = dataclasses.replace(run, stages=(run.stages[0], dataclasses.replace(run.stages[1], data=data)))
    with pytest.raises(Exception, match=r"long.jsonl.*row 3.*max_length is 44"):
        running.execute(changed)


@pytest.mark.slow
def test_it_learns(tmp_path):
    """Vowels become more frequent, by far more than the scatter between steps."""
    stage = online(
        tmp_path,
        num_generations=8,
        prompts_per_step=4,
        rows_per_step=16,
        gradient_accumulation_steps=4,
        max_steps=40,
        save_steps=0,
        optimizer=Optimizer(learning_rate=1e-2, lr_scheduler_type="constant", weight_decay=0.0),
    )
    assert running.execute(recipe(tmp_path, stage)) == 0
    rewards = [record["reward"] for record in steps(tmp_path / "runs" / "tiny")]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.3


@pytest.mark.slow
def test_two_devices_write_and_train_alike(tmp_path, plain, monkeypatch):
    process.on_devices(monkeypatch, 2)
    assert running.execute(recipe(tmp_path)) == 0
    for one, two in zip(steps(plain), steps(tmp_path / "runs" / "tiny"), strict=True):
        assert two["sampling/sampling_logp_difference/max"] <= 1e-4
        assert two["reward"] == pytest.approx(one["reward"], abs=1e-6)
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
