"""Choosing an optimiser and a moving average: flags, refusals, the saved configuration, and a run that uses both."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import stages.recipe as recipes
from stages import process
from stages.process import finish

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.cli.explain import field_help, table
from jaxpo.config import Adafactor, LoRA, Muon, Optimizer, Run
from jaxpo.config.serialise import from_jsonable, to_jsonable
from jaxpo.convert.kept import has_model
from jaxpo.convert.model_io import load_model
from jaxpo.errors import ConfigError
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.overrides import load_run, resolve_run
from jaxpo.stages.adapter import load_adapter


def with_sft(run: Run, **values: Any) -> Run:
    pretrain, sft, *others = run.stages
    return dataclasses.replace(run, stages=(pretrain, dataclasses.replace(sft, **values), *others))


def test_a_name_chooses_the_optimizer_and_keeps_the_fields_they_share(recipe: Run) -> None:
    run = resolve_run(
        with_sft(recipe, optimizer=Optimizer(learning_rate=3e-5, warmup_steps=7, adam_beta2=0.99)),
        ["--sft.optimizer", "muon", "--sft.optimizer.muon-beta", "0.9", "--preference.optimizer", "Adafactor"],
    ).run
    pretrain, sft, preference, _ = run.stages
    assert sft.optimizer == Muon(learning_rate=3e-5, warmup_steps=7, adam_beta2=0.99, muon_beta=0.9)
    assert preference.optimizer == Adafactor()
    assert pretrain.optimizer == Optimizer(learning_rate=2e-3)
    for stage in (sft, preference):
        assert from_jsonable(json.loads(json.dumps(to_jsonable(stage.optimizer)))) == stage.optimizer


def test_the_reports_settings_are_a_function_of_the_fine_tuning_recipe(rows: str) -> None:
    run = load_run("sft:report")
    run = resolve_run(run, ["--sft.data.train", rows, "--tokenizer.train-on", rows, "--preset", "lfm2_350m"]).run
    [sft] = run.stages
    expected = Optimizer(learning_rate=3e-5, final_learning_rate=1e-7, warmup_steps=500, weight_decay=0.1)
    assert sft.optimizer == expected
    assert (sft.optimizer.adam_beta1, sft.optimizer.adam_beta2) == (0.9, 0.95)
    assert sft.optimizer.lr_scheduler_type == "cosine"
    assert (sft.embedding_dropout, sft.num_train_epochs, sft.data.row_length) == (0.1, 3, 32768)
    assert list(find_problems(run)) == []


def test_explain_and_help_name_the_optimizer_and_say_where_its_fields_come_from(recipe: Run, capsys) -> None:
    run = with_sft(recipe, optimizer=Optimizer(learning_rate=3e-5))
    resolved = resolve_run(run, ["--sft.optimizer", "muon", "--sft.optimizer.muon-beta", "0.9"])
    found = {row.field: (row.value, row.origin) for row in table(resolved, "cpu")}
    assert found["sft.optimizer"] == ("muon", "command line")
    assert found["sft.optimizer.learning_rate"] == (3e-5, "config file")
    assert found["sft.optimizer.muon_beta"] == (0.9, "command line")
    assert found["sft.optimizer.adam_beta1"] == (0.9, "default")
    assert found["preference.optimizer"] == ("adamw", "default")
    field_help(resolved.run)
    shown = capsys.readouterr().out
    assert re.search(r"--sft\.optimizer +muon +one of adamw, muon, adafactor", shown)
    assert "--sft.optimizer.ns-steps" in shown


def test_the_old_flags_mean_adamw(recipe: Run) -> None:
    run = resolve_run(recipe, ["--sft.optimizer.learning-rate", "1e-4", "--sft.optimizer.adam-beta1", "0.8"]).run
    assert run.stages[1].optimizer == Optimizer(learning_rate=1e-4, adam_beta1=0.8)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--sft.optimizer", "moun"],
            "--sft.optimizer: there is no optimiser 'moun'; there are adamw, muon, adafactor. Did you mean muon?",
        ),
        (["--sft.optimizer"], "--sft.optimizer: there is no optimiser 'nothing'; there are adamw, muon, adafactor."),
        (["--sft.optimizer.muon-beta", "0.9"], "--sft.optimizer.muon-beta: there is no such option."),
    ],
)
def test_refused_flags(recipe: Run, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_run(recipe, argv)
    assert caught.value.problems[0].startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "muon"}, "sft.optimizer: expected Optimizer or Muon or Adafactor, got 'muon'."),
        ({"optimizer": Muon(muon_beta=1.0)}, "sft.optimizer.muon_beta: 1 must lie in [0, 1)."),
        ({"optimizer": Muon(adam_beta1=1.5)}, "sft.optimizer.adam_beta1: 1.5 must lie in [0, 1)."),
        ({"optimizer": Muon(ns_steps=0)}, "sft.optimizer.ns_steps: 0 must lie in 1 .. 20; 5 iterations are usual."),
        ({"optimizer": Muon(consistent_rms=0.0)}, "sft.optimizer.consistent_rms: 0 must be above 0."),
        ({"optimizer": Adafactor(decay_rate=0.0)}, "sft.optimizer.decay_rate: 0 must lie in (0, 1]; the past weighs"),
        ({"optimizer": Adafactor(momentum=1.0)}, "sft.optimizer.momentum: 1 must lie in [0, 1)."),
        ({"optimizer": Adafactor(clipping_threshold=-1.0)}, "sft.optimizer.clipping_threshold: -1 must be above 0."),
        ({"optimizer": Adafactor(min_dim_size_to_factor=0)}, "sft.optimizer.min_dim_size_to_factor: 0 must be at"),
        ({"optimizer": Adafactor(learning_rate=0.0)}, "sft.optimizer.learning_rate: 0 must be above 0."),
        ({"ema_decay": 1.0}, "sft.ema_decay: 1 must lie in (0, 1); None keeps no average."),
        ({"embedding_dropout": 1.0}, "sft.embedding_dropout: 1 must lie in [0, 1)."),
        ({"use_ema": True}, "sft.use_ema: there is no average to use; give --sft.ema-decay 0.999."),
    ],
)
def test_message(recipe: Run, values: dict[str, Any], message: str) -> None:
    [found] = find_problems(with_sft(recipe, **values))
    assert found.startswith(message), found


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.slow
def test_a_run_with_muon_and_averages_hands_on_what_was_asked_for_and_keeps_the_other(tmp_path: Path) -> None:
    recipes.write_data(tmp_path)
    run = recipes.recipe(tmp_path, prompts=())
    short = {"max_steps": 4, "save_steps": 2, "eval_steps": 0}
    sft = dataclasses.replace(run.stages[1], optimizer=Muon(learning_rate=3e-3), ema_decay=0.7, use_ema=True, **short)
    adapted = dataclasses.replace(
        sft, name="adapted", optimizer=Adafactor(learning_rate=0.1), lora=LoRA(rank=2), use_ema=False, **short
    )
    (tmp_path / "recipe.json").write_text(json.dumps(to_jsonable(dataclasses.replace(run, stages=(sft, adapted)))))
    code, out = finish(process.start(tmp_path / "recipe.json", "--run", "whole"))
    assert code == 0, out
    stages = tmp_path / "runs" / "whole" / "stages"
    handed_on, last = load_model(stages / "sft"), load_model(stages / "sft" / "last")
    assert not same(handed_on.params, last.params)
    assert last.about["stage"] == "sft/last"
    assert last.tokenizer is not None
    assert not has_model(stages / "sft" / "ema")
    # The adapter began at the average: what it was trained beside is what was handed on.
    adapter = load_adapter(stages / "adapted")
    assert same(adapter.base.params["model"], handed_on.params["model"])
    average = load_model(stages / "adapted" / "ema")
    assert not same(average.params, adapter.result.params)
    assert CheckpointStore(stages / "sft" / "checkpoints", keep=None).latest() == 4
