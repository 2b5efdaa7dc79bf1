"""An online stage whole, with all that PPO has: compared with the sampler and the ledger, measured, and resumed."""

import dataclasses
import inspect
import json
import shutil

import jax
import numpy as np
import pytest
from curves.kl import to_first_model
from curves.main import main
from curves.picture import smoothed
from curves.stages import online_stages
from online.test_recipe import PPO_WIDE, same_models, steps
from online.tiny import online, recipe, vowels

from jaxpo.convert.model_io import load_model
from jaxpo.errors import ConfigError
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.ppo import PPO
from jaxpo.online.rewards import FunctionReward
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages import run as running
from jaxpo.train.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_device):
    """The recipe and its folder; the reward is in a file of its own, checkpoints are of steps 3 and 6."""
    folder = tmp_path_factory.mktemp("ppo")
    file = folder / "own.py"
    file.write_text(inspect.getsource(vowels))
    rewards = (FunctionReward(function=f"{file}:vowels"),)
    run = recipe(folder, online(folder, **PPO_WIDE, save_steps=3, reward_funcs=rewards), reward=True)
    assert running.execute(run) == 0
    return run, folder / "runs" / "tiny"


def unfinished(run, folder, into):
    """A copy of the run without its end."""
    shutil.copytree(folder, into / "tiny")
    shutil.rmtree(into / "tiny/stages/online/model")
    (into / "tiny/finished.json").unlink()
    return dataclasses.replace(run, output_dir=str(into))


def test_the_trainer_agrees_with_the_sampler_before_it_trains_on_a_generation(finished):
    _, folder = finished
    found = steps(folder)
    for first in (found[0], found[4]):
        assert first["sampling/sampling_logp_difference/max"] <= 1e-4
        assert abs(first["sampling/importance_sampling_ratio/min"] - 1) <= 1e-4
        assert abs(first["sampling/importance_sampling_ratio/max"] - 1) <= 1e-4


def test_metrics_are_those_of_the_ledger(finished):
    _, folder = finished
    for record in steps(folder):
        generation, at = divmod(record["step"] - 1, 4)
        (path,) = (folder / "stages/online/rollouts" / f"{generation:08d}").glob("answers-*.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        own = slice(at % 2 * 2, at % 2 * 2 + 2)  # a step's two of the four prompts of its generation
        rewards = np.asarray(lines[-1]["rewards"], float)[own, :, 0]
        assert rewards.shape == (2, 4)
        assert record["reward"] == pytest.approx(rewards.mean(), rel=1e-5)
        assert record["reward_std"] == pytest.approx(rewards.std(1, ddof=1).mean(), rel=1e-5)
        assert record["rewards/vowels/std"] == pytest.approx(rewards.std(ddof=1), rel=1e-3)
        groups = sorted(lines[1:-1], key=lambda line: line["place"])[own]
        ended = [answer["finished"] for group in groups for answer in group["answers"]]
        assert record["completions/clipped_ratio"] == pytest.approx(1 - np.mean(ended))
        assert not record["skipped"]
        assert "recompiles" not in record


def test_its_curves_are_drawn_from_the_run(finished, tmp_path, monkeypatch):
    _, folder = finished
    (stage,) = online_stages(folder)
    assert stage.curve("reward")[0] == [1, 2, 3, 4, 5, 6]
    # It began with random weights, which nobody kept: it is compared with what it left.
    stage = dataclasses.replace(stage, first=stage.folder)
    steps, kl = to_first_model(stage, 2)
    assert steps == [1, 5]
    assert np.isfinite(kl).all()
    assert 0 not in kl
    monkeypatch.setattr("curves.main.online_stages", lambda run: [stage])
    assert main([str(folder), "--out", str(tmp_path / "curves.png"), "--points", "2"]) == 0
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert smoothed([1, 2, 3, 4, 5, 6], [0, 5, 0, 5, 0, 5])[1].tolist() == [2, 3]


def test_held_out_prompts_are_answered_and_rewarded(finished):
    _, folder = finished
    (record,) = (r for r in read_metrics(folder / "metrics.jsonl") if "eval_reward" in r)
    assert 0 <= record["eval_reward"] <= 1
    assert record["eval_completions/mean_length"] > 0


def test_a_changed_reward_is_refused_by_name(finished, tmp_path):
    run, folder = finished
    file = folder.parents[1] / "own.py"
    before = file.read_text()
    again = unfinished(run, folder, tmp_path)
    file.write_text(before.replace("aeiou", "aeiouy"))
    try:
        with pytest.raises(ConfigError, match=r"'vowels' is another one .* its source has changed"):
            running.execute(again)
    finally:
        file.write_text(before)


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
    back = unfinished(run, folder, again)
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


@dataclasses.dataclass(frozen=True)
class PairedPPO(PPO):
    """On the best and the worst answer, which no critic judges."""

    @property
    def answering(self):
        return Answering(examples="ranked")


WRONG = [
    ({"loss": GRPO(), "critic_from": "reward"}, "online.critic_from: 'reward', but the loss has no critic"),
    ({"loss": PPO(), "critic_from": "rewrd"}, "online.critic_from: 'rewrd' is neither an earlier stage (reward)"),
    ({"loss": PPO(), "multi_objective_aggregation": "normalize_then_sum"}, "online.multi_objective_aggregation: ppo"),
    ({"loss": PPO(dual_clip=1.1)}, "online.loss: ppo.dual_clip: 1.1 must be above"),
    ({"loss": PairedPPO()}, "online.loss: ppo has a critic, which says what the tokens of single answers are worth"),
    ({"loss": PPO(), "num_generations": 1, "dynamic_sampling": 2}, "online.dynamic_sampling: the one answer"),
]  # fmt: skip


def test_a_critic_does_not_start_from_a_model_without_a_head(tmp_path):
    run = recipe(tmp_path, online(tmp_path, loss=PPO(), critic_from="sft"))
    assert "online.critic_from: stage 'sft' leaves no value head; name a reward stage." in list(find_problems(run))


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_mistakes_are_found_before_any_work(changes, message, tmp_path):
    run = recipe(tmp_path, online(tmp_path, **changes), reward=True)
    assert any(problem.startswith(message) for problem in find_problems(run)), list(find_problems(run))
