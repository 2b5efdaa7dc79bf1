"""The reward stage: its numbers are checked before the run, it learns, and its model can be exported."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
import stages.recipe as recipes
from stages.process import finish, start

from jaxpo.cli import export
from jaxpo.config import Data, Optimizer, Preference, Reward, Run
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.model_io import load_model
from jaxpo.convert.reward_hf import is_reward
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.methods.bradley_terry import BradleyTerry
from jaxpo.objectives.methods.mapl_reward import MAPLReward
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.kinds import method_of
from jaxpo.recipe.overrides import resolve_run
from jaxpo.train.metrics import read_metrics


def with_reward(recipe: Run, **fields) -> Run:
    reward = Reward(data=recipe.stages[0].data, max_steps=3, **fields)
    return dataclasses.replace(recipe, stages=(*recipe.stages, reward))


def test_settings_reach_the_loss():
    stage = Reward(label_smoothing=0.1, center_rewards_coefficient=0.01)
    assert method_of(stage) == BradleyTerry(label_smoothing=0.1, center_rewards_coefficient=0.01)
    assert method_of(Reward()) == BradleyTerry()
    assert method_of(Reward(loss=MAPLReward(inter_weight=0.5))) == MAPLReward(inter_weight=0.5)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"label_smoothing": 0.6},
            "reward.label_smoothing: 0.6 must lie in [0, 0.5]; it is the share of flipped labels.",
        ),
        ({"label_smoothing": -0.1}, "reward.label_smoothing: -0.1 must lie in [0, 0.5]; it is the share of"),
        ({"center_rewards_coefficient": -1.0}, "reward.center_rewards_coefficient: -1.0 must be a number at least 0"),
        (
            {"metric_for_best_model": "eval_accurcy"},
            "reward.metric_for_best_model: a Reward stage has no metric 'ev",
        ),
    ],
)
def test_numbers_out_of_range(recipe, fields, problem):
    (found,) = find_problems(with_reward(recipe, **fields))
    assert found.startswith(problem)


def test_a_model_of_users_needs_several(recipe):
    """But for a stage that fits one more to a finished model."""
    pal = METHODS["pal"](users=("ann",), size=4)
    (found,) = find_problems(with_reward(recipe, loss=pal))
    assert found.startswith(
        "reward.loss: of one user alone (ann) nothing is learnt about who prefers what; name several"
    )
    assert list(find_problems(with_reward(recipe, loss=pal, train=("users/*",)))) == []
    (found,) = find_problems(with_reward(recipe, loss=METHODS["pal"](size=4)))
    assert (
        found == "reward.loss: --reward.loss.users is empty; give the names that the column 'user' of the rows holds."
    )


def test_sound_numbers(recipe):
    sound = with_reward(
        recipe, label_smoothing=0.5, center_rewards_coefficient=0.0, metric_for_best_model="eval_accuracy"
    )
    assert list(find_problems(sound)) == []


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_none(recipe, number):
    for name in ("label_smoothing", "center_rewards_coefficient"):
        assert any(p.startswith(f"reward.{name}: ") for p in find_problems(with_reward(recipe, **{name: number})))


def alone(recipe: Run, stage: Preference | Reward) -> Run:
    return dataclasses.replace(recipe, stages=(dataclasses.replace(stage, data=recipe.stages[0].data, max_steps=3),))


def test_the_flag_chooses_the_loss_and_its_fields(recipe):
    flags = ["--stage.loss", "mapl_reward", "--stage.loss.intra-weight", "0.5"]
    stage = resolve_run(alone(recipe, Reward()), flags).run.stages[0]
    assert stage.loss == MAPLReward(intra_weight=0.5)
    assert method_of(stage).NEEDS == MAPLReward.NEEDS
    best = dataclasses.replace(stage, data=dataclasses.replace(stage.data, eval=stage.data.train))
    best = dataclasses.replace(best, metric_for_best_model="eval_inter/accuracies")
    assert list(find_problems(dataclasses.replace(recipe, stages=(best,)))) == []
    (found,) = find_problems(dataclasses.replace(recipe, stages=(dataclasses.replace(best, loss=None),)))
    assert "has no metric 'eval_inter/accuracies'" in found


@pytest.mark.parametrize(
    ("stage", "problem"),
    [
        (
            Reward(loss=MAPLReward(), center_rewards_coefficient=0.01),
            "reward.center_rewards_coefficient: 0.01 belongs to the Bradley-Terry loss that the stage has by itself, "
            "but its loss is mapl_reward, which does not read it; leave it out.",
        ),
        (
            Reward(loss=BradleyTerry(), label_smoothing=0.1),
            "which does not read it; leave it out; set --reward.loss.label-smoothing instead.",
        ),
        (Reward(loss=METHODS["dpo"]()), "dpo (family 'pairs') belongs to a Preference stage; this one is Reward."),
        (Reward(loss=MAPLReward(inter_weight=-1.0)), "reward.loss: mapl_reward: inter_weight is -1.0 but must be"),
        (Reward(loss="mapl_reward"), "reward.loss: 'mapl_reward' is not a method; use an instance"),
        (
            Preference(loss=MAPLReward()),
            "mapl_reward (family 'reward model') belongs to a Reward stage; this one is Preference.",
        ),
        (Preference(loss=BradleyTerry()), "bradley_terry (family 'reward model') belongs to a Reward stage; this one"),
    ],
)
def test_losses_that_a_stage_cannot_have(recipe, stage, problem):
    (found,) = find_problems(alone(recipe, stage))
    assert problem in found


def test_a_reward_model_learns_which_answers_are_preferred(tmp_path, capsys):
    """'The shorter wins', with margins; then out to a sequence-classification checkpoint and back."""
    recipes.write_data(tmp_path)
    for part in ("train", "eval"):
        rows = [json.loads(line) for line in (tmp_path / f"pref_{part}.jsonl").open()]
        lines = (json.dumps({**row, "margin": 0.5}) + "\n" for row in rows)
        (tmp_path / f"pref_{part}.jsonl").write_text("".join(lines))
    stage = Reward(
        data=Data(
            train=(str(tmp_path / "pref_train.jsonl"),),
            eval=(str(tmp_path / "pref_eval.jsonl"),),
            max_length=96,
            row_length=96,
        ),
        optimizer=Optimizer(learning_rate=3e-3, weight_decay=0.0),
        label_smoothing=0.05,
        center_rewards_coefficient=0.01,
        rows_per_step=8,
        max_steps=30,
    )
    run = dataclasses.replace(recipes.recipe(tmp_path), stages=(stage,), prompts=())
    (tmp_path / "recipe.json").write_text(json.dumps(to_jsonable(run)))
    code, out = finish(start(tmp_path / "recipe.json", "--run", "reward"))
    assert code == 0, out
    home = tmp_path / "runs" / "reward"
    records = read_metrics(home / "metrics.jsonl")
    held_out = [r for r in records if "eval_accuracy" in r][-1]
    trained = [r for r in records if "accuracy" in r]
    assert {"min_reward", "mean_reward", "max_reward", "margin", "loss"} <= set(trained[0])
    assert held_out["eval_accuracy"] >= 0.9
    assert held_out["eval_margin"] > 0.5
    model, again = load_model(home), load_model(home / "export")
    assert again.config == model.config
    for name in ("model", "value"):
        jax.tree.map(np.testing.assert_array_equal, again.params[name], model.params[name])
    assert again.tokenizer is not None
    assert json.loads((home / "export" / "verification.json").read_text())["max_reward_error"] < 1e-3
    assert export.main([str(home), str(tmp_path / "again"), "--dtype", "bfloat16"]) == 0
    assert is_reward(tmp_path / "again")
    assert "trust_remote_code=True" in capsys.readouterr().out
