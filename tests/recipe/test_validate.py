"""Every mistake of a configuration: its message, and that all of them come together."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from jaxpo.config import SFT, Curriculum, Merge, Run, Stage
from jaxpo.config.fields import put
from jaxpo.data.rows.needs import Needs
from jaxpo.errors import ConfigError
from jaxpo.objectives.methods.dpo import DPO
from jaxpo.objectives.next_token import NextToken
from jaxpo.recipe.checks.run import check, find_problems
from jaxpo.recipe.kinds import KINDS


@dataclasses.dataclass(frozen=True)
class TwoModels:
    """A method with a term over both models' vocabulary."""

    NEEDS: ClassVar[Needs] = Needs(roles=("chosen", "rejected"), networks=(("reference", "vocab"),))


def with_values(run: Run, **values: Any) -> Run:
    """`sft__data__max_length=3` sets that field."""
    for path, value in values.items():
        run = put(run, tuple(path.split("__")), value)
    return run


def test_a_sound_recipe_has_no_problem(recipe: Run) -> None:
    assert list(find_problems(recipe)) == []
    check(recipe)


CASES: list[tuple[dict[str, Any], str]] = [
    ({"model": "nanoo"}, "model: "),
    ({"name": "a/b"}, "name: 'a/b' must be one folder name; the folder above it is --output-dir."),
    ({"seed": -1}, "seed: -1 must lie in 0 .. 2^32 - 1."),
    ({"seed": "1"}, "seed: expected an integer, got '1'."),
    ({"seed": True}, "seed: expected an integer, got True."),
    ({"compute__dtype": "float16"}, "compute.dtype: expected one of float32, bfloat16 or None, got 'float16'."),
    ({"compute__head_chunk": 0}, "compute.head_chunk: 0 must be at least 1."),
    ({"sft__data__train": ["a"]}, "sft.data.train: expected any number of values, each text, got ['a']."),
    ({"sft__optimizer__learning_rate": float("nan")}, "sft.optimizer.learning_rate: expected a number, got nan."),
    ({"model_from": "gone"}, "model_from: there is no folder gone."),
    ({"corpus": 3}, "corpus: int has no build(directory)."),
    ({"probes": (3,)}, "probes[0]: int has no measure(context)."),
    (
        {"tokenizer__train_on": ()},
        "tokenizer: needs --tokenizer.path FILE (a tokenizer.json) or --tokenizer.train-on FILES to train one on.",
    ),
    ({"tokenizer__path": "gone"}, "tokenizer.path: there is no file or folder gone."),
    ({"sft__data__train": ()}, "sft.data.train: no training files; give --sft.data.train FILES."),
    ({"sft__data__eval": ("gone.jsonl",)}, "sft.data.eval: there is no file or folder gone.jsonl."),
    (
        {"sft__data__train": ("corpus:sft.jsonl",)},
        "sft.data.train: 'corpus:sft.jsonl' names a file of the run's corpus, but the run has no corpus.",
    ),
    (
        {"sft__data__max_length": 512},
        "sft.data.max_length: 512 is longer than row_length 256; "
        "raise --sft.data.row-length or lower --sft.data.max-length.",
    ),
    (
        {"sft__data__max_length": 8192, "sft__data__row_length": 8192},
        "sft.data.max_length: 8192 exceeds the model's context of 4096; "
        "lower --sft.data.max-length or raise --model.max-position-embeddings.",
    ),
    (
        {"tokenizer__vocab_size": 5000},
        "tokenizer.vocab_size: 5000 exceeds the model's vocabulary of 4096; "
        "lower --tokenizer.vocab-size or raise --model.vocab-size.",
    ),
    ({"sft__data__max_length": 1}, "sft.data.max_length: 1 leaves nothing to predict; it must be at least 2."),
    ({"sft__data__block_rows": 0}, "sft.data.block_rows: 0 must be at least 1."),
    ({"sft__data__block_rows": 3}, "sft.data.block_rows: a microbatch of 8 rows is not whole blocks of 3 rows."),
    (
        {"sft__num_train_epochs": None},
        "sft: has no budget; give one of --sft.max-steps, --sft.max-tokens, --sft.num-train-epochs.",
    ),
    (
        {"sft__max_steps": 3},
        "sft: has several budgets (max_steps, num_train_epochs); "
        "give exactly one of --sft.max-steps, --sft.max-tokens, --sft.num-train-epochs.",
    ),
    ({"sft__num_train_epochs": 0}, "sft.num_train_epochs: 0 must be above 0."),
    (
        {"sft__gradient_accumulation_steps": 3},
        "sft.rows_per_step: 8 rows do not divide into 3 microbatches (gradient_accumulation_steps); use 6 or 9 rows.",
    ),
    ({"sft__rows_per_step": 0}, "sft.rows_per_step: 0 must be at least 1."),
    ({"sft__gradient_accumulation_steps": 0}, "sft.gradient_accumulation_steps: 0 must be at least 1."),
    ({"sft__optimizer__learning_rate": 0}, "sft.optimizer.learning_rate: 0 must be above 0."),
    (
        {"sft__optimizer__final_learning_rate": 1.0},
        "sft.optimizer.final_learning_rate: 1 must lie in 0 .. learning_rate 0.0003.",
    ),
    ({"sft__optimizer__adam_beta2": 1.0}, "sft.optimizer.adam_beta2: 1 must lie in [0, 1)."),
    ({"sft__optimizer__decay_ratio": 0.0}, "sft.optimizer.decay_ratio: 0 must lie in (0, 1]; "),
    ({"sft__optimizer__adam_epsilon": 0.0}, "sft.optimizer.adam_epsilon: 0 must be above 0."),
    ({"sft__optimizer__max_grad_norm": 0.0}, "sft.optimizer.max_grad_norm: 0 must be above 0; inf does not clip."),
    ({"sft__optimizer__weight_decay": -0.1}, "sft.optimizer.weight_decay: -0.1 must not be negative."),
    ({"sft__optimizer__warmup_steps": -1}, "sft.optimizer.warmup_steps: -1 must not be negative."),
    (
        {"sft__optimizer__warmup_ratio": 1.0},
        "sft.optimizer.warmup_ratio: 1 must lie in [0, 1); it is a share of the steps.",
    ),
    (
        {"sft__optimizer__warmup_ratio": 0.1, "sft__optimizer__warmup_steps": 2},
        "sft.optimizer.warmup_ratio: 0.1 and warmup_steps 2 exclude each other; set one to 0.",
    ),
    (
        {"preference__optimizer__warmup_steps": 4},
        "preference.optimizer.warmup_steps: 4 exceeds the stage's max_steps 3.",
    ),
    ({"sft__save_total_limit": 0}, "sft.save_total_limit: 0 must be at least 1."),
    ({"sft__eval_steps": -2}, "sft.eval_steps: -2 must not be negative."),
    ({"sft__snapshot_steps": -1}, "sft.snapshot_steps: -1 must not be negative."),
    ({"sft__data__curriculum": Curriculum(phases=0)}, "sft.data.curriculum.phases: 0 must be at least 1."),
    (
        {"sft__data__curriculum": Curriculum(mix=1.5)},
        "sft.data.curriculum.mix: 1.5 must lie in [0, 1]; it is the share of rows spread over all phases.",
    ),
    (
        {"sft__data__balance_groups": True},
        "sft.data.balance_groups: it is spread_groups that orders by group; switch that on too.",
    ),
    (
        {"sft__data__spread_groups": True, "sft__data__shuffle": False},
        "sft.data.spread_groups: shuffle is off, which keeps the order of the file; leave one of the two out.",
    ),
    (
        {"sft__data__curriculum": Curriculum(column="")},
        "sft.data.curriculum.column: names no column of the training rows.",
    ),
    (
        {"sft__eval_steps": 5, "sft__data__eval": ()},
        "sft.eval_steps: needs held-out files; give --sft.data.eval FILES.",
    ),
    (
        {"sft__metric_for_best_model": "eval_loss", "sft__data__eval": ()},
        "sft.metric_for_best_model: needs held-out files; give --sft.data.eval FILES.",
    ),
    (
        {"preference__metric_for_best_model": "eval_reward/accuracies"},
        "preference.metric_for_best_model: a Preference stage has no metric 'eval_reward/accuracies'. "
        "Did you mean eval_rewards/accuracies",
    ),
    (
        {"sft__metric_for_best_model": "rewards/margins"},
        "sft.metric_for_best_model: a SFT stage has no metric 'rewards/margins'. Known: eval_loss, ",
    ),
    (
        {"sft__init_from": "pretran"},
        "sft.init_from: 'pretran' is neither 'previous' nor 'random', nor an earlier stage (pretrain), nor a folder. "
        "Did you mean pretrain?",
    ),
    ({"sft__init_from": "preference"}, "sft.init_from: the stage 'preference' does not come before 'sft'."),
    (
        {"merge__models": ("sft", "prefrence")},
        "merge.models: 'prefrence' is not an earlier stage (pretrain, sft, preference). Did you mean preference?",
    ),
    ({"merge__weights": (0.5, 0.25)}, "merge.weights: (0.5, 0.25) sum to 0.75, not 1."),
    ({"merge__weights": (1.0,)}, "merge.weights: 1 weights for 2 models (sft, preference); give one weight per model."),
    (
        {"merge__models": ()},
        "merge.weights: 2 weights for 3 models (pretrain, sft, preference); give one weight per model.",
    ),
    (
        {"preference__loss": None},
        "preference.loss: no method chosen; give --preference.loss NAME (`jaxpo losses` lists them).",
    ),
    (
        {"preference__loss": "dpo"},
        "preference.loss: 'dpo' is not a method; use an instance of a dataclass of jaxpo.objectives.methods.",
    ),
    ({"preference__loss": TwoModels}, "preference.loss: TwoModels is not a method; use an instance of a dataclass"),
    ({"preference__loss": DPO(beta=-1.0)}, "preference.loss: dpo: beta is -1.0 but must be a number greater than 0."),
    (
        {"preference__loss": TwoModels(), "preference__precompute_ref_log_probs": True},
        "preference.precompute_ref_log_probs: TwoModels has a term over the vocabulary of both models, which log-probs "
        "of single tokens cannot give; the reference must run in every step: "
        "leave it out, or --preference.precompute-ref-log-probs False.",
    ),
    ({"mesh__tensor": 0}, "mesh.tensor: 0 must be at least 1, or -1 for all remaining devices."),
    (
        {"mesh__tensor": -1},
        "mesh: only one axis can take all remaining devices (-1), not mesh.fsdp and mesh.tensor.",
    ),
    (
        {"mesh__rules": (("heads", "tensr"),)},
        "mesh.rules: heads -> tensr: the mesh axes are replica, fsdp, expert, sequence, tensor. Did you mean tensor?",
    ),
]


@pytest.mark.parametrize(("values", "message"), CASES, ids=[m[:50] for _, m in CASES])
def test_message(recipe: Run, values: dict[str, Any], message: str) -> None:
    found = list(find_problems(with_values(recipe, **values)))
    assert len(found) == 1, found
    assert found[0].startswith(message), found[0]


def rename(recipe: Run, name: str) -> Run:
    return dataclasses.replace(recipe, stages=(dataclasses.replace(recipe.stages[0], name=name), *recipe.stages[1:]))


STAGES: list[tuple[Callable[[Run], Run], str]] = [
    (
        lambda r: dataclasses.replace(r, stages=()),
        "stages: a run needs a tuple of at least one stage (Pretrain, MaskedLM, SFT, Distill, Preference, Reward, ",
    ),
    (
        lambda r: dataclasses.replace(r, stages=(Stage(),)),
        "stages[0]: is a Stage, not one of Pretrain, MaskedLM, SFT, Distill, Preference, Reward, Retrieval, Online, ",
    ),
    (lambda r: dataclasses.replace(r, stages=(Merge(),)), "merge: a merge needs stages before it."),
    (lambda r: rename(r, "sft"), "stages[1].name: 'sft' is already the name of stages[0]; names must be unique."),
    (lambda r: rename(r, "a b"), "stages[0].name: 'a b' must be a word of letters, digits, '-' and '_'; "),
    (lambda r: rename(r, "seed"), "stages[0].name: 'seed' is reserved; name the stage differently."),
    (lambda r: dataclasses.replace(r, probes=None), "probes: is a NoneType, not a tuple of probes."),
    (lambda r: dataclasses.replace(r, alerts=None), "alerts: is a NoneType, not a tuple of alerts."),
    (lambda r: dataclasses.replace(r, on_alert="mail"), "on_alert: is a str, not a tuple of receivers."),
]


@pytest.mark.parametrize(("change", "message"), STAGES, ids=[m[:40] for _, m in STAGES])
def test_stages(recipe: Run, change: Callable[[Run], Run], message: str) -> None:
    found = list(find_problems(change(recipe)))
    assert len(found) == 1, found
    assert found[0].startswith(message), found[0]


def test_an_empty_folder_and_a_near_miss(recipe: Run, rows: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    [found] = find_problems(with_values(recipe, sft__data__train=(str(empty),)))
    assert found == f"sft.data.train: the folder {empty} is empty."
    [found] = find_problems(with_values(recipe, sft__data__train=(rows.replace("rows", "row"),)))
    assert found.endswith(f"row.jsonl. Did you mean {rows}?")


def test_a_tracker_that_is_not_installed(recipe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a))
    [found] = find_problems(dataclasses.replace(recipe, report_to=("wandb",)))
    assert found == "report_to: wandb is not installed; pip install 'jaxpo[trackers]', or leave it out."


def test_all_problems_come_together(recipe: Run) -> None:
    run = with_values(recipe, seed=-1, sft__max_steps=3, merge__weights=(0.5, 0.25), mesh__tensor=0)
    with pytest.raises(ConfigError, match=r"^4 problems:\n  - seed: ") as caught:
        check(run)
    assert [p.split(":")[0] for p in caught.value.problems] == ["seed", "mesh.tensor", "sft", "merge.weights"]


def test_a_method_that_must_see_a_whole_step_has_one_microbatch(recipe: Run) -> None:
    class Bank(DPO):
        NEEDS: ClassVar[Needs] = dataclasses.replace(DPO.NEEDS, whole_step=True)

    halved = {"preference__rows_per_step": 8, "preference__gradient_accumulation_steps": 2}
    [found] = find_problems(with_values(recipe, preference__loss=Bank(), **halved))
    assert found.startswith("preference.gradient_accumulation_steps: Bank must see a whole step at once; set --pref")
    assert not list(find_problems(with_values(recipe, preference__loss=Bank())))
    assert not list(find_problems(with_values(recipe, preference__loss=DPO(), **halved)))


def test_a_kind_s_own_method_may_ask_for_whole_steps_too(recipe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bank(NextToken):
        NEEDS: ClassVar[Needs] = dataclasses.replace(NextToken.NEEDS, whole_step=True)

    monkeypatch.setitem(KINDS, SFT, dataclasses.replace(KINDS[SFT], default=lambda stage: Bank()))
    [found] = find_problems(with_values(recipe, sft__rows_per_step=8, sft__gradient_accumulation_steps=2))
    assert found.startswith("sft.gradient_accumulation_steps: Bank must see a whole step at once; set --sft.gradient")
