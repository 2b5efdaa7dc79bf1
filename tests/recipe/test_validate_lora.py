"""Flags that switch adapters on, and what is refused of adapters and of a moving reference."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest

from jaxpo.config import Curriculum, LoRA, Run, serialise
from jaxpo.config.fields import put
from jaxpo.data.rows.needs import Needs
from jaxpo.errors import ConfigError
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.overrides import resolve_run
from jaxpo.stages.adapter import check_patterns, flops_per_token


@dataclasses.dataclass(frozen=True)
class TwoModels:
    """A method with a term over both models' vocabulary."""

    NEEDS: ClassVar[Needs] = Needs(roles=("chosen", "rejected"), networks=(("reference", "vocab"),))


def loras(run: Run, *argv: str) -> list[LoRA | None]:
    return [getattr(s, "lora", None) for s in resolve_run(run, argv).run.stages]


def problems(run: Run, **values: Any) -> list[str]:
    for path, value in values.items():
        run = put(run, tuple(path.split("__")), value)
    return list(find_problems(run))


def test_any_field_or_the_bare_name_switches_adapters_on(recipe: Run) -> None:
    assert loras(recipe) == [None] * 4
    assert loras(recipe, "--sft.lora") == [None, LoRA(), None, None]
    assert loras(recipe, "--preference.lora.rank", "8") == [None, None, LoRA(rank=8), None]
    given = ("--sft.lora.use-rslora", "--sft.lora.target_modules", "*/w1/weight", "*/q_proj/weight", "--sft.lora")
    assert loras(recipe, *given)[1] == LoRA(use_rslora=True, target_modules=("*/w1/weight", "*/q_proj/weight"))


def test_none_switches_them_off_and_fields_change_what_the_file_says(recipe: Run) -> None:
    run = put(recipe, ("sft", "lora"), LoRA(rank=4, alpha=3.0))
    assert loras(run, "--sft.lora", "None")[1] is None
    assert loras(run, "--sft.lora")[1] == LoRA(rank=4, alpha=3.0)
    assert loras(run, "--sft.lora.rank", "6")[1] == LoRA(rank=6, alpha=3.0)


def test_stage_means_the_only_stage(recipe: Run) -> None:
    single = dataclasses.replace(recipe, stages=recipe.stages[2:3])
    assert loras(single, "--stage.lora.rank", "2") == [LoRA(rank=2)]
    with pytest.raises(ConfigError, match=r"several stages have it; name one: --pretrain\.lora\.rank"):
        resolve_run(recipe, ["--stage.lora.rank", "2"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--sft.lora", "8"), "--sft.lora: takes no value, or None to leave it out; its fields are --sft.lora.rank, "),
        (("--sft.lora.rnk", "8"), "--sft.lora.rnk: there is no such option. Did you mean --sft.lora.rank"),
        (("--sft.lora.rank", "x"), "--sft.lora.rank: expected an integer, got 'x'."),
        (("--sft.lora.init", "orthogonal"), "--sft.lora.init: expected one of kaiming, gaussian, got 'orthogonal'."),
        (("--merge.lora", ""), "--merge.lora: there is no such option."),
    ],
)
def test_mistakes_on_the_command_line(recipe: Run, argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_run(recipe, argv)
    assert caught.value.problems[0].startswith(message)


def test_a_saved_configuration_keeps_them(recipe: Run) -> None:
    run = dataclasses.replace(recipe, stages=(dataclasses.replace(recipe.stages[1], lora=LoRA(rank=4)),))
    assert serialise.from_jsonable(serialise.to_jsonable(run)) == run


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sft__lora": LoRA(rank=0)}, ["sft.lora.rank: 0 must be at least 1."]),
        (
            {"sft__lora": LoRA(alpha=-1.0)},
            ["sft.lora.alpha: -1 must be a number above 0; the update is scaled by alpha / rank."],
        ),
        (
            {"sft__lora": LoRA(target_modules=())},
            [
                "sft.lora.target_modules: nothing would be trained; give patterns, or "
                "--sft.lora.target-modules all-linear."
            ],
        ),
        ({"sft__lora": LoRA(rank=1.5)}, ["sft.lora.rank: expected an integer, got 1.5."]),  # type: ignore[arg-type]
        (
            {"preference__ref_model_mixup_alpha": 0.0},
            [
                "preference.ref_model_mixup_alpha: 0 must lie in (0, 1]; 1 copies the policy, and "
                "--preference.sync-ref-model False keeps the reference still."
            ],
        ),
        (
            {"preference__ref_model_mixup_alpha": 1.2, "preference__ref_model_sync_steps": 0},
            [
                "preference.ref_model_mixup_alpha: 1.2 must lie in (0, 1]; 1 copies the policy, and "
                "--preference.sync-ref-model False keeps the reference still.",
                "preference.ref_model_sync_steps: 0 must be at least 1.",
            ],
        ),
        (
            {"preference__sync_ref_model": True, "preference__precompute_ref_log_probs": True},
            [
                "preference.sync_ref_model: log-probs of a moving reference cannot be computed beforehand; "
                "leave it out, or --preference.precompute-ref-log-probs False, to run it in every step."
            ],
        ),
        ({"preference__sync_ref_model": True}, []),
        ({"preference__sync_ref_model": True, "preference__precompute_ref_log_probs": False}, []),
        (
            {"preference__sync_ref_model": True, "preference__loss": METHODS["simpo"]()},
            [
                "preference.sync_ref_model: SimPO has no reference that could move; leave it out, or choose a loss "
                "with a reference."
            ],
        ),
        (
            {
                "preference__sync_ref_model": True,
                "preference__loss": TwoModels(),
                "preference__precompute_ref_log_probs": False,
            },
            [],
        ),
        (
            {
                "preference__sync_ref_model": True,
                "preference__precompute_ref_log_probs": False,
                "preference__lora": LoRA(),
            },
            [
                "preference.sync_ref_model: with adapters the reference is the frozen base, which cannot move (a mix "
                "of two adapters' factors is not the mix of the two models); train without --preference.lora, or keep "
                "the reference still."
            ],
        ),
        ({"preference__lora": LoRA(), "pretrain__lora": LoRA(init="gaussian")}, []),
    ],
)
def test_problems(recipe: Run, values: dict[str, Any], expected: list[str]) -> None:
    assert problems(recipe, **values) == expected


def test_patterns_of_all_stages_are_checked_together(recipe: Run) -> None:
    check_patterns(recipe)
    good = put(put(recipe, ("sft", "lora"), LoRA()), ("pretrain", "lora"), LoRA(target_modules=("*/w?/weight",)))
    check_patterns(good)
    bad = put(recipe, ("sft", "lora"), LoRA(target_modules=("*/q_prj/weight",)))
    bad = put(bad, ("preference", "lora"), LoRA(target_modules=("*norm/weight",)))
    with pytest.raises(ConfigError) as caught:
        check_patterns(bad)
    first, second = caught.value.problems
    assert first.startswith("sft.lora.target_modules: '*/q_prj/weight' matches no parameter. Did you mean '*/q_proj/")
    assert second.startswith("preference.lora.target_modules: '*norm/weight' matches ")


def test_frozen_matrices_are_not_counted_for_their_gradients(recipe: Run) -> None:
    from jaxpo.models.lfm2.presets import preset

    config = preset("lfm2_350m")
    sft = recipe.stages[1]
    whole = flops_per_token(sft, config, 100.0)
    small = flops_per_token(dataclasses.replace(sft, lora=LoRA(rank=1)), config, 100.0)
    large = flops_per_token(dataclasses.replace(sft, lora=LoRA(rank=64)), config, 100.0)
    assert 0.66 < small / whole < 0.68
    assert small < large < whole


def test_a_part_that_lies_deeper_is_switched_on_likewise(recipe):
    def curricula(*argv):
        return [getattr(getattr(s, "data", None), "curriculum", None) for s in resolve_run(recipe, argv).run.stages]

    assert curricula() == [None] * 4
    assert curricula("--sft.data.curriculum") == [None, Curriculum(), None, None]
    assert curricula("--sft.data.curriculum.phases", "3", "--sft.data.curriculum.mix", "0.2")[1] == Curriculum(
        phases=3, mix=0.2
    )
    assert curricula("--sft.data.curriculum", "None") == [None] * 4
