"""PPO as a stage: the critic, the KL in the rewards, and a resume in the middle of a generation."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from online.test_recipe import PPO_WIDE, same_models, steps
from online.tiny import online, recipe

from jaxpo.convert.model_io import load_model
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.ppo import PPO
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages import run as running

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_device):
    """The recipe and its folder."""
    folder = tmp_path_factory.mktemp("ppo")
    run = recipe(folder, online(folder, **PPO_WIDE, save_steps=1, save_total_limit=9, eval_rows=2), reward=True)
    assert running.execute(run) == 0
    return run, folder / "runs" / "tiny"


def trainer_lines(folder, generation):
    (path,) = (folder / "stages/online/rollouts" / f"{generation:08d}").glob("trainer-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()][1:]


def test_a_step_says_how_policy_critic_and_kl_stand(finished):
    _, folder = finished
    found = steps(folder)
    assert len(found) == 6
    for record in found:
        assert record["loss"] == pytest.approx(record["loss/policy_avg"] + 0.1 * record["loss/value_avg"], abs=1e-5)
        assert record["objective/kl_coef"] >= 0
        assert record["val/num_eos_tokens"] <= 8
    first, second = found[0], found[4]
    assert abs(first["val/ratio"] - 1) < 1e-4  # before any step the trainer's numbers are those that it wrote down
    assert first["objective/kl_coef"] == pytest.approx(0.05)
    assert abs(first["objective/kl"]) < 1e-3  # the reference is the model that the stage starts from
    assert found[2]["val/ratio_var"] > first["val/ratio_var"]
    # The weight of the second generation follows from the KL of the first.
    (kl,) = [line["kl"] for line in trainer_lines(folder, 0) if "kl" in line]
    expected = 0.05 * (1 + np.clip(kl / 0.01 - 1, -0.2, 0.2) * 16 / 10.0)
    assert second["objective/kl_coef"] == pytest.approx(expected, rel=1e-5)


def test_the_critic_starts_as_the_reward_model_and_leaves_with_the_stage(finished):
    _, folder = finished
    reward, left = (load_model(folder / "stages" / name).params for name in ("reward", "online"))
    assert set(left) == {"model", "critic"}
    moved = jax.tree.map(
        lambda a, b: float(np.max(np.abs(a - b))), left["critic"], {n: reward[n] for n in ("model", "value")}
    )
    assert 0 < max(jax.tree.leaves(moved)) < 0.3


def test_it_goes_on_bit_for_bit_in_the_middle_of_a_generation(finished, tmp_path_factory):
    run, folder = finished
    again = tmp_path_factory.mktemp("again")
    shutil.copytree(folder, again / "tiny")
    shutil.rmtree(again / "tiny/stages/online/model")
    (again / "tiny/finished.json").unlink()
    back = dataclasses.replace(run, output_dir=str(again))
    assert running.execute(back, resume=3) == 0
    same_models(folder, again / "tiny")


@pytest.mark.slow  # a stage compiled for two steps
def test_a_critic_may_be_a_head_on_the_policy(tmp_path):
    stage = online(tmp_path, loss=PPO(critic="head", kl_coef=0.0), max_steps=2, num_generations=1, prompts_per_step=8)
    run = recipe(tmp_path, dataclasses.replace(stage, data=dataclasses.replace(stage.data, eval=())))
    assert running.execute(run) == 0
    found = steps(tmp_path / "runs" / "tiny")
    assert "objective/kl" not in found[0]
    critic = load_model(tmp_path / "runs/tiny/stages/online").params["critic"]
    assert set(critic) == {"value"}
    assert np.any(np.asarray(critic["value"]["weight"]) != 0)
    assert not list((tmp_path / "runs/tiny/stages/online").glob("reference*"))


WRONG = [
    ({"loss": GRPO(), "critic_from": "reward"}, "online.critic_from: 'reward', but the loss has no critic"),
    ({"loss": PPO(), "critic_from": "rewrd"}, "online.critic_from: 'rewrd' is neither an earlier stage (reward)"),
    ({"loss": PPO(), "multi_objective_aggregation": "normalize_then_sum"}, "online.multi_objective_aggregation: ppo"),
    ({"loss": PPO(dual_clip=1.1)}, "online.loss: ppo.dual_clip: 1.1 must be above"),
    ({"loss": PPO(), "num_generations": 1, "dynamic_sampling": 2}, "online.dynamic_sampling: the one answer"),
]  # fmt: skip


def test_a_critic_does_not_start_from_a_model_without_a_head(tmp_path):
    run = recipe(tmp_path, online(tmp_path, loss=PPO(), critic_from="sft"))
    assert "online.critic_from: stage 'sft' leaves no value head; name a reward stage." in list(find_problems(run))


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_mistakes_are_found_before_any_work(changes, message, tmp_path):
    run = recipe(tmp_path, online(tmp_path, **changes), reward=True)
    assert any(problem.startswith(message) for problem in find_problems(run)), list(find_problems(run))
