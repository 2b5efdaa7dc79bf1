"""Stages of pairs and answers: what a step holds, what is learnt of either, killed in the middle, refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from online.test_recipe import same_models, steps, wait_for
from online.tiny import online, recipe
from stages import process
from stages.recipe import MODEL

from jaxpo.config import Data, Hybrid, Optimizer, Preference
from jaxpo.config.online import MaxMin
from jaxpo.config.serialise import to_jsonable
from jaxpo.errors import DataError
from jaxpo.objectives.methods.dpo import DPO
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.hypo import HyPO
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages import run as running
from jaxpo.stages import training

pytestmark = pytest.mark.usefixtures("one_device")


def hybrid(folder: Path, **changes: Any) -> Hybrid:
    """A stage of a few steps on the pairs of the tiny recipe."""
    settings: dict[str, Any] = {
        "name": "online",
        "data": Data(
            train=(str(folder / "pref_train.jsonl"),), eval=(str(folder / "pref_eval.jsonl"),), max_length=56,
            row_length=112,
        ),
        "loss": HyPO(beta=0.2, kl_weight=0.05), "num_generations": 3, "prompts_per_step": 2, "pair_rows": 4,
        "rows_per_step": 8, "max_completion_length": 12, "gradient_accumulation_steps": 2, "max_steps": 3,
        "save_steps": 1, "eval_rows": 8, "eval_steps": 2,
        "optimizer": Optimizer(learning_rate=3e-3, adam_epsilon=1e-5),
    }  # fmt: skip
    return Hybrid(**settings | changes)


def test_a_step_holds_pairs_and_answers_to_their_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    kept = training.assemble_fitted

    def spy(stage: Any, source: Any, *args: Any, **how: Any) -> Any:
        seen.append(source)
        return kept(stage, source, *args, **how)

    monkeypatch.setattr(training, "assemble_fitted", spy)
    run = recipe(tmp_path, hybrid(tmp_path))
    assert list(find_problems(run)) == []
    assert running.execute(run) == 0
    found = steps(tmp_path / "runs" / "tiny")
    assert len(found) == 3
    for record in found:
        assert np.isfinite(record["loss"])
        assert record["grad_norm"] > 0
        assert "recompiles" not in record
    assert found[0]["loss/dpo"] == pytest.approx(np.log(2), abs=1e-4)  # the policy is the reference
    assert found[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert found[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)
    records = [json.loads(line) for line in (tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()]
    held = [r for r in records if r.get("stage") == "online" and "eval_loss" in r]
    assert held
    assert all(np.isfinite(r["eval_rewards/accuracies"]) for r in held)

    joined = seen[-1]
    empty = joined.empty()
    assert set(empty.roles) == {"chosen", "rejected", "completion"}
    (pairs, pair_rows), (answers, answer_rows) = joined.parts
    assert (pair_rows, answer_rows) == (4, 4)
    prompts = answers.maker.prompts
    assert len(prompts) == len(pairs.dataset)
    from jaxpo.sampling.text import encode_prompt

    for number in range(3):
        prompt = prompts.at(number)
        assert prompt.ids.tolist() == encode_prompt(prompts.dataset.tokenizer, prompt.text)


@pytest.mark.slow
def test_without_a_weight_it_is_dpo_on_the_same_pairs(tmp_path: Path) -> None:
    plain = Preference(
        name="online",
        loss=DPO(beta=0.2),
        data=hybrid(tmp_path).data,
        rows_per_step=4,
        gradient_accumulation_steps=2,
        max_steps=3,
        optimizer=Optimizer(learning_rate=3e-3, adam_epsilon=1e-5),
        precompute_ref_log_probs=False,
    )
    found = {}
    # No more ids than the tokenizer has: an online stage's distributions are over these, a preference stage's over all.
    model = dataclasses.replace(MODEL, vocab_size=344)
    for name, stage in (("both", hybrid(tmp_path, loss=HyPO(beta=0.2, kl_weight=0.0))), ("pairs", plain)):
        (tmp_path / name).mkdir()
        run = recipe(tmp_path, stage, output_dir=str(tmp_path / name), model=model)
        run = dataclasses.replace(run, tokenizer=dataclasses.replace(run.tokenizer, vocab_size=model.vocab_size))
        assert running.execute(run) == 0
        found[name] = [
            r for r in map(json.loads, (tmp_path / name / "tiny" / "metrics.jsonl").read_text().splitlines())
            if r["stage"] == "online" and "loss" in r
        ]  # fmt: skip
    for a, b in zip(found["both"], found["pairs"], strict=True):
        for metric in ("loss", "grad_norm", "rewards/margins"):
            assert a[metric] == pytest.approx(b[metric], rel=1e-3, abs=1e-4), metric


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(recipe(tmp_path, hybrid(tmp_path)))))
    code, out = process.finish(process.start(config, "--run", "whole"))
    assert code == 0, out
    child = process.start(config, "--run", "killed")
    wait_for(child, tmp_path / "runs" / "killed" / "stages" / "online" / "rollouts" / f"{1:08d}")
    process.kill(child)
    code, out = process.finish(process.start(config, "--run", "killed"))
    assert code == 0, out
    same_models(tmp_path / "runs" / "whole", tmp_path / "runs" / "killed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pair_rows": 0}, "online.pair_rows: 0 of the 8 rows of a step; both pairs and answers need some."),
        ({"pair_rows": 8}, "online.pair_rows: 8 of the 8 rows of a step; both pairs and answers need some."),
        ({"loss": GRPO()}, "online.loss: grpo reads no pairs beside its answers; give HyPO, or an Online stage."),
        (
            {"eval_temperature": 0.5},
            "online.eval_temperature: held-out pairs are compared, not answered; leave it out.",
        ),
        ({"num_generations_eval": 2}, "online.num_generations_eval: held-out pairs are compared, not answered"),
        ({"maxmin": MaxMin()}, "online.maxmin: nobody rewards the answers; leave it out."),
        (
            {"prompts_per_step": 9},
            "online.rows_per_step: 27 answers of up to 56 tokens with their prompts need 14 rows",
        ),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    problems = list(find_problems(recipe(tmp_path, hybrid(tmp_path, **changes))))
    assert any(problem.startswith(message) for problem in problems), problems


def test_an_online_stage_has_no_pairs_for_it(tmp_path: Path) -> None:
    (problem,) = find_problems(recipe(tmp_path, online(tmp_path, loss=HyPO(), reward_funcs=())))
    assert problem == (
        "online.loss: hypo reads chosen, rejected, completion; give a Hybrid stage, whose rows are pairs."
    )


def test_a_prompt_that_leaves_no_room_is_named() -> None:
    from jaxpo.online.hybrid import joined

    prompts = [SimpleNamespace(ids=np.zeros(n), file="pairs.jsonl", row=n) for n in (3, 9)]

    class Listed:
        def __len__(self) -> int:
            return len(prompts)

        def at(self, number: int) -> Any:
            return prompts[number]

    answers: Any = SimpleNamespace(maker=SimpleNamespace(prompts=Listed()))
    materials = SimpleNamespace(stage=SimpleNamespace(longest_prompt=5), rows=None)
    with pytest.raises(DataError, match="row 9, field 'prompt': the prompt has 9 tokens, and beside an answer it may"):
        joined(materials, answers)


def test_the_rows_of_both_add_up() -> None:
    stage = Hybrid(rows_per_step=24, pair_rows=16)
    assert stage.answering_part.rows_per_step == 8
    assert dataclasses.replace(stage.answering_part, rows_per_step=24) == stage
