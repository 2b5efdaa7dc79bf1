"""Stages on pairs, against opponents and under teachers, whole: run, measured, resumed, killed."""

import dataclasses
import json
import time

import numpy as np
import pytest
from online.test_recipe import same_models, steps, wait_for
from online.tiny import online, recipe
from stages import process

from jaxpo.config import Beside, Data
from jaxpo.config.serialise import to_jsonable
from jaxpo.objectives.methods.gkd import GKD
from jaxpo.objectives.methods.minillm import MiniLLM
from jaxpo.objectives.methods.nash_md import NashMD
from jaxpo.objectives.methods.online_pairs import XPO, OnlineDPO
from jaxpo.online.answers import Answer
from jaxpo.online.rewards import FunctionReward
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages import run as running

pytestmark = pytest.mark.usefixtures("one_device")

TEACHER = (("teacher", Beside("sft")),)
KINDS = {
    "online_dpo": {"loss": OnlineDPO(missing_eos_penalty=1.0)},
    "xpo": {"loss": XPO(alpha=1e-3, loss_type="ipo")},
    "nash_md": {"loss": NashMD()},
    "gkd": {
        "loss": GKD(),
        "init_from": "random",  # the teacher itself would have nothing to learn
        "reward_funcs": (),
        "num_generations": 1,
        "prompts_per_step": 4,
        "beside": TEACHER,
        "max_completion_length": 20,
    },
    "gkd_of_sequences": {
        "loss": GKD(seq_kd=True, lmbda=0.5, beta=0.0),
        "reward_funcs": (),
        "num_generations": 2,
        "beside": TEACHER,
    },
    "minillm": {
        "loss": MiniLLM(teacher_mixed=0.2, gamma=0.5),
        "reward_funcs": (),
        "beside": TEACHER,
        "num_generations": 2,
    },
}


def stage(folder, kind, **changes):
    return online(folder, **{"max_steps": 3, "save_steps": 1} | KINDS[kind] | changes)


@pytest.mark.parametrize("kind", ["xpo", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "xpo")])
def test_every_kind_trains_on_what_it_wrote(kind, tmp_path):
    run = recipe(tmp_path, stage(tmp_path, kind))
    assert list(find_problems(run)) == []
    assert running.execute(run) == 0
    found = steps(tmp_path / "runs" / "tiny")
    assert len(found) == 3
    for record in found:
        assert np.isfinite(record["loss"])
        assert record["grad_norm"] > 0
        assert 0 <= record["completions/clipped_ratio"] <= 1
        assert "recompiles" not in record
    first = found[0]
    if kind in ("online_dpo", "xpo"):
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)  # the policy is the reference
        assert first["objective/kl"] == pytest.approx(0, abs=1e-4)
        assert first["objective/scores_margin"] > 0
        assert 0 <= first["pairs/left_out"] < 1
    if kind == "nash_md":
        assert 0 < first["rewards/probabilities"] < 1
        assert first["objective/kl"] == pytest.approx(0, abs=1e-4)
        assert first["sampling/sampling_logp_difference/max"] <= 1e-4  # of the policy's answers alone
    if kind in ("gkd", "gkd_of_sequences"):
        assert first["kd_loss"] > 0 or first["kd_loss"] == pytest.approx(0, abs=1e-5)
    if kind == "gkd_of_sequences":
        by_teacher = []
        for path in (tmp_path / "runs/tiny/stages/online/rollouts").glob("*/answers-*.jsonl"):
            *groups, _ = [json.loads(line) for line in path.read_text().splitlines()][1:]
            for group in groups:
                own = [Answer.of(answer) for answer in group["answers"]]
                nobody = [bool(np.isnan(answer.sampling_logps).all()) for answer in own]
                assert len({tuple(answer.tokens) for answer in own}) == len(own), "two draws of one prompt"
                assert nobody[0] == nobody[1] == bool(np.isnan(own[0].logps).any()), "a prompt has one writer"
                by_teacher.append(nobody[0])
        assert len(by_teacher) == 3 * 2
        assert {True, False} == set(by_teacher)
        assert found[-1]["kd_loss"] > 0, "the policy has left the teacher that it began as"
    if kind == "minillm":
        assert first["reverse_kl"] >= -1e-5
        assert record["reverse_kl"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xpo", "gkd_of_sequences"])
def test_killed_and_resumed_it_ends_bit_for_bit_the_same(kind, tmp_path):
    run = recipe(tmp_path, stage(tmp_path, kind))
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(run)))
    code, out = process.finish(process.start(config, "--run", "whole"))
    assert code == 0, out
    ledgers = tmp_path / "runs" / "killed" / "stages" / "online" / "rollouts"
    for generation in (0, 2):
        child = process.start(config, "--run", "killed")
        wait_for(child, ledgers / f"{generation:08d}")
        time.sleep(0.02 * generation)
        process.kill(child)
    code, out = process.finish(process.start(config, "--run", "killed"))
    assert code == 0, out
    same_models(tmp_path / "runs" / "whole", tmp_path / "runs" / "killed")


@pytest.mark.slow
def test_accumulation_changes_nothing(tmp_path):
    found = []
    for parts in (1, 2, 4):
        folder = tmp_path / str(parts)
        folder.mkdir()
        one = stage(folder, "online_dpo", gradient_accumulation_steps=parts, prompts_per_step=4, max_steps=2)
        assert running.execute(recipe(folder, one)) == 0
        found.append(steps(folder / "runs" / "tiny"))
    for record, *others in zip(*found, strict=True):
        for other in others:
            for name in ("loss", "grad_norm", "objective/scores", "rewards/margins"):
                assert other[name] == pytest.approx(record[name], rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_a_step_of_equal_rewards_trains_on_nothing_and_says_so_once(tmp_path, capsys):
    rewards = tmp_path / "own.py"
    rewards.write_text("def same(completions, **columns):\n    return [0.5 for _ in completions]\n")
    one = stage(tmp_path, "online_dpo", loss=OnlineDPO(), reward_funcs=(FunctionReward(function=f"{rewards}:same"),))
    assert running.execute(recipe(tmp_path, one)) == 0
    for record in steps(tmp_path / "runs" / "tiny"):
        assert record["pairs/left_out"] == 1
        assert record["loss"] == 0
        assert record["frac_reward_zero_std"] == 1
    assert capsys.readouterr().out.count("all answers to each prompt have one reward") == 1


WRONG = [
    ("xpo", {"num_generations": 3}, "online.num_generations: 3 is odd, and half of every group is an opponent's"),
    ("online_dpo", {"num_generations": 1}, "online.num_generations: a group of 1 has nothing to compare"),
    ("online_dpo", {"data.row_length": 100}, "online.data.row_length: 100 holds one answer of up to 56 tokens"),
    ("online_dpo", {"rows_per_step": 2, "prompts_per_step": 3}, "online.rows_per_step: 3 pairs of answers of up to 56"),
    ("online_dpo", {"mask_truncated_completions": True}, "online.mask_truncated_completions: of a pair both answers"),
    ("online_dpo", {"reward_funcs": ()}, "online.reward_funcs: no reward"),
    ("xpo", {"multi_objective_aggregation": "normalize_then_sum"}, "online.multi_objective_aggregation: xpo orders"),
    ("xpo", {"sync_ref_model": True}, "online.sync_ref_model: answers are written with the reference as it is"),
    ("gkd", {"num_generations": 2}, "online.num_generations: 2, but a row has one completion"),
    ("gkd", {"beside": ()}, "online.beside: there is no teacher"),
    ("gkd", {"loss": GKD(seq_kd=True, lmbda=1.0)}, "online.loss: gkd.seq_kd: at lmbda 1 the student writes all"),
    ("gkd", {"dynamic_sampling": 1}, "online.dynamic_sampling: without rewards no group is better"),
    ("minillm", {"loss": MiniLLM(rkl_advantage=False, single_step_decomposition=False)}, "minillm: rkl_advantage and"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "message"), WRONG)
def test_mistakes_are_found_before_any_work(kind, changes, message, tmp_path):
    length = changes.pop("data.row_length", None) if "data.row_length" in changes else None
    one = stage(tmp_path, kind, **changes)
    if length:
        one = dataclasses.replace(one, data=dataclasses.replace(one.data, row_length=length))
    assert isinstance(one.data, Data)
    problems = list(find_problems(recipe(tmp_path, one)))
    assert any(message in problem for problem in problems), problems
