"""Recipes by name: found from anywhere, listed in one line each, never taken for something else of that name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxpo.config import serialise
from jaxpo.errors import ConfigError
from jaxpo.recipe.library import FOLDER, locate, names, source, summary
from jaxpo.recipe.overrides import load_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(spec: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run(spec)
    return str(caught.value)


def test_every_recipe_is_found_by_its_name_and_said_in_one_line() -> None:
    known = {"sft", "preference", "pretrain", "reward", "distill", "quickstart", "moe", "lfm2_recipe", "grpo"}
    known |= {"hybrid_prefs", "worldpm", "secrets_rm", "meta_rm", "plural", "online_preference", "colbert"}
    known |= {"diffusion", "hypo", "inpo", "mcts_dpo", "pugc", "upo", "vpo"}
    assert known | {"apo_accel", "fspo", "orion", "pro_orchestrator", "rps", "themis"} == set(names())
    for name in names():
        assert load_run(name).stages
        assert summary(name).endswith(".")
        assert len(summary(name)) < 110
        assert f"jaxpo run {name}" in source(name).read_text(), "the command that runs it stands in its docstring"


def test_another_function_of_a_recipe() -> None:
    assert load_run("sft:report").stages[0].num_train_epochs == 3
    assert "has no function reprot()" in refusal("sft:reprot")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_folder_of_a_checkout_is_that_of_the_package() -> None:
    assert (ROOT / "configs").resolve() == FOLDER.resolve()
    assert load_run(str(ROOT / "configs" / "sft.py")) == load_run("sft")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sfft", "neither a configuration file nor a recipe of that name. Did you mean sft? `jaxpo recipes` lists"),
        ("zzz", "zzz: there is neither a configuration file nor a recipe of that name. `jaxpo recipes` lists"),
        ("configs/sft.py", "there is no such file; the recipe of that name is inside the package: `jaxpo run sft`."),
        ("sft.py", "there is no such file; the recipe of that name is inside the package: `jaxpo run sft`."),
        ("kto", "kto: this is a method, not a recipe: `jaxpo run preference --stage.loss kto`."),
        ("implicit_reward", "`jaxpo run sft --stage.loss implicit_reward`."),
        ("decoupled_topk_kd", "`jaxpo run distill --stage.loss decoupled_topk_kd`."),
        ("bradley_terry", "`jaxpo run reward --stage.loss bradley_terry`."),
        ("folder", "folder: this folder has no config.json: it is no run directory."),
        ("my_recip.py", "my_recip.py: there is no such configuration file. Did you mean my_recipe.py?"),
    ],
)
def test_a_name_that_is_neither_file_nor_recipe(elsewhere: Path, spec: str, message: str) -> None:
    (elsewhere / "folder").mkdir()
    (elsewhere / "my_recipe.py").write_text("")
    assert message in refusal(spec)


def test_a_run_directory_or_file_of_a_recipes_name_is_never_taken_for_it(elsewhere: Path) -> None:
    (elsewhere / "sft").mkdir()
    assert locate("sft") == source("sft"), "a folder of something else is no run"
    (elsewhere / "sft" / "config.json").write_text(serialise.dump(load_run("reward")))
    assert "there is a run directory of that name here: say ./sft for the one here" in refusal("sft")
    assert load_run("./sft") == load_run("reward")
    (elsewhere / "moe").write_text("notes")
    assert "there is a file of that name here" in refusal("moe")


def test_run_directories_and_files_are_found_as_before(elsewhere: Path) -> None:
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine" / "config.json").write_text(json.dumps({}))
    (elsewhere / "mine.py").write_text("")
    assert locate("mine") == Path("mine/config.json")
    assert locate("mine.py") == Path("mine.py")
