"""Command-line flags onto a recipe: values, aliases, origins, and the text of every refusal."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from jaxpo.config import Run
from jaxpo.errors import ConfigError
from jaxpo.recipe.overrides import load_run, load_run_with, resolve_run


def problems(run: Run, *argv: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve_run(run, argv)
    return caught.value.problems


def test_values_reach_their_fields(recipe: Run, rows: str) -> None:
    run = resolve_run(
        recipe,
        shlex.split(
            "--seed 1 --compute.dtype=bfloat16 --mesh.tensor 2 --sft.optimizer.learning-rate 1e-4 "
            "--pretrain.max-tokens 2e6 --preference.loss.beta 0.5 --merge.weights 0.5 0.5 "
            "--mesh.rules heads tensor mlp None --model-from x "
            "--sft.data.rendered refuse --sft.data.special-tokens all '<|x|>' "
            f"--sft.data.train {shlex.quote(rows)} b.jsonl"
        ),
    ).run
    pretrain, sft, preference, merge = run.stages
    assert (run.seed, run.compute.dtype, run.mesh.tensor, run.model_from) == (1, "bfloat16", 2, "x")
    assert run.mesh.rules == (("heads", "tensor"), ("mlp", None))
    assert sft.optimizer.learning_rate == 1e-4
    assert sft.data.train == (rows, "b.jsonl")
    assert (sft.data.rendered, sft.data.special_tokens) == ("refuse", ("all", "<|x|>"))
    assert pretrain.max_tokens == 2_000_000
    assert isinstance(pretrain.max_tokens, int)
    assert pretrain.optimizer == recipe.stages[0].optimizer
    assert preference.loss.beta == 0.5
    assert merge.weights == (0.5, 0.5)


def test_both_spellings_and_negative_numbers(recipe: Run) -> None:
    for flag in ("--sft.rows-per-step", "--sft.rows_per_step"):
        assert resolve_run(recipe, [flag, "4"]).run.stages[1].rows_per_step == 4
    assert resolve_run(recipe, ["--mesh.fsdp", "-1"]).run.mesh.fsdp == -1


@pytest.mark.parametrize(
    ("argv", "expected"),
    [(["--export"], True), (["--no-export"], False), (["--export", "false"], False), (["--export=True"], True)],
)
def test_booleans(recipe: Run, argv: list[str], expected: bool) -> None:
    assert resolve_run(dataclasses.replace(recipe, export=not expected), argv).run.export is expected


def test_aliases(recipe: Run) -> None:
    run = resolve_run(recipe, ["--preset", "lfm2_350m", "--run", "other"]).run
    assert (run.model, run.name) == ("lfm2_350m", "other")


def test_stage_means_the_only_stage_that_has_the_field(recipe: Run) -> None:
    assert resolve_run(recipe, ["--stage.loss.beta", "0.3"]).run.stages[2].loss.beta == 0.3
    assert problems(recipe, "--stage.max-steps", "3") == [
        "--stage.max-steps: several stages have it; name one: "
        "--pretrain.max-steps, --sft.max-steps, --preference.max-steps."
    ]
    assert problems(recipe, "--stage.los", "dpo") == [
        "--stage.los: no stage (pretrain, sft, preference, merge) has a field 'los'. Did you mean --stage.loss?"
    ]


def test_stage_of_a_one_stage_recipe(recipe: Run) -> None:
    single = dataclasses.replace(recipe, stages=recipe.stages[1:2])
    assert resolve_run(single, ["--stage.rows-per-step", "2"]).run.stages[0].rows_per_step == 2


def test_hyphenated_stage_names(recipe: Run) -> None:
    stage = dataclasses.replace(recipe.stages[1], name="sft-short")
    run = dataclasses.replace(recipe, stages=(stage,))
    for flag in ("--sft-short.eval-rows", "--sft_short.eval_rows"):
        assert resolve_run(run, [flag, "7"]).run.stages[0].eval_rows == 7


def test_a_model_field_unfolds_the_preset(recipe: Run) -> None:
    resolved = resolve_run(recipe, ["--model.hidden-size", "64"])
    assert resolved.run.model.hidden_size == 64
    assert resolved.run.model.conv_kernel == 3
    assert resolved.origins["model.hidden_size"] == "command line"
    assert resolved.origins["model.conv_kernel"] == "preset nano"
    assert resolve_run(resolved.run, ["--model", "nano"]).run.model == "nano"


def test_a_budget_replaces_the_files_budget(recipe: Run) -> None:
    resolved = resolve_run(recipe, ["--pretrain.max-steps", "5"])
    assert (resolved.run.stages[0].max_steps, resolved.run.stages[0].max_tokens) == (5, None)
    assert resolved.origins["pretrain.max_tokens"] == "command line (--max-steps)"


def test_all_mistakes_are_shown_together(recipe: Run) -> None:
    found = problems(
        recipe,
        *("--learning-rate", "3", "--sft.optimiser.learning-rate", "3", "--sft.max-steps", "x", "--sft.name", "y"),
        *("--mesh.tensr", "2", "--compute.dtype", "fp16", "--seed", "--export", "maybe"),
    )
    assert found == [
        "--learning-rate: there is no such option. Did you mean --pretrain.optimizer.learning-rate or "
        "--sft.optimizer.learning-rate or --preference.optimizer.learning-rate?",
        "--sft.optimiser.learning-rate: there is no such option. Did you mean --sft.optimizer.learning-rate or "
        "--sft.optimizer.final-learning-rate or --pretrain.optimizer.learning-rate?",
        "--sft.max-steps: expected an integer or None, got 'x'.",
        "--sft.name: is set in the configuration file only.",
        "--mesh.tensr: there is no such option. Did you mean --mesh.tensor or --mesh.expert or --mesh.fsdp?",
        "--compute.dtype: expected one of float32, bfloat16 or None, got 'fp16'.",
        "--seed: expected an integer, got 'nothing'.",
        "--export: expected True or False, got 'maybe'.",
    ]


def test_a_word_that_is_no_option(recipe: Run) -> None:
    assert problems(recipe, "seed", "1") == [
        "'seed': expected an option such as --seed 1 or --sft.optimizer.learning-rate 1e-4."
    ]


def test_load_by_function_name_json_and_directory(config_file: Path) -> None:
    from jaxpo.config import serialise

    run = load_run(str(config_file))
    assert load_run(f"{config_file}:longer") == run
    (config_file.parent / "config.json").write_text(serialise.dump(run))
    assert load_run(str(config_file.parent / "config.json")) == run
    assert load_run(str(config_file.parent)) == run


def test_flags_of_a_recipes_function_are_read_by_its_annotations(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from typing import Literal\nfrom jaxpo.config import Run\n\n\n"
        "def config(text='', count: int = 1, rate: float = 0.5, fenced: bool = True, how: Literal['a', 'b'] = 'a'):\n"
        "    return Run(name=repr((text, count, rate, fenced, how)), stages=())\n"
    )
    given = ["--text", "7", "--count", "2", "--rate", "0", "--fenced", "False", "--how", "b", "--seed", "3"]
    run, rest = load_run_with(str(path), given)
    assert (run.name, rest) == ("('7', 2, 0.0, False, 'b')", ["--seed", "3"])
    assert load_run_with(str(path), ["--fenced"])[0].name == "('', 1, 0.5, True, 'a')"
    for words, message in (
        (["--count", "two"], "--count: expected an integer, got 'two'"),
        (["--how", "c"], "--how: expected one of a, b, got 'c'"),
        (["--count", "1", "2"], "--count: needs one value"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_run_with(str(path), words)


def load_error(spec: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run(str(spec))
    return str(caught.value)


def test_broken_configuration_files(config_file: Path) -> None:
    folder = config_file.parent
    wrong = folder / "recip.py"
    assert load_error(wrong) == f"{wrong}: there is no such configuration file. Did you mean {config_file}?"
    assert load_error(f"{config_file}:confg") == (
        f"{config_file}: has no function confg() (it has config, longer). Did you mean config?"
    )
    broken = folder / "broken.py"
    broken.write_text("def config(:\n")
    assert load_error(broken).startswith(f"{broken}, line 1: ")
    broken.write_text("from jaxpo.config import Optimizer\n\ndef config():\n    return Optimizer(learning_rte=1)\n")
    assert load_error(broken) == (
        f"{broken}, line 4: TypeError: Optimizer.__init__() got an unexpected keyword argument 'learning_rte'. "
        "Did you mean learning_rate or final_learning_rate?"
    )
    broken.write_text("def config():\n    return 3\n")
    assert load_error(broken) == f"{broken}: must give a jaxpo.config.Run, got int."
