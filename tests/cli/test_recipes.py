"""`run`, `explain`, and the recipes that come with jaxpo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxpo.config import serialise
from jaxpo.objectives.methods.simpo import SimPO
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.library import source
from jaxpo.recipe.overrides import load_run, resolve_run
from jaxpo.train.profile_range import ProfileRange

Command = Callable[..., tuple[int, str, str]]


def flags(name: str, data: Path) -> list[str]:
    """What the docstrings of the recipes ask for."""
    if name == "moe":
        return []  # it brings a corpus of its own
    teacher = ["--distill.teacher", str(data.parent)] if name == "distill" else []
    return ["--tokenizer.train-on", str(data), f"--{name}.data.train", str(data), *teacher]


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """Calls of `execute`, which does not run here."""
    import jaxpo.stages.run

    calls: list[tuple[Any, dict[str, Any]]] = []

    def execute(run: Any, **options: Any) -> int:
        calls.append((run, options))
        return 143

    monkeypatch.setattr(jaxpo.stages.run, "execute", execute)
    return calls


@pytest.mark.parametrize("name", ["sft", "pretrain", "preference", "reward", "distill", "moe"])
def test_configs_are_sound_and_survive_json(name: str, pairs: Path) -> None:
    run = resolve_run(load_run(name), flags(name, pairs)).run
    check(run)
    assert serialise.from_jsonable(json.loads(serialise.dump(run))) == run
    assert f"jaxpo run {name} " in source(name).read_text()


def test_run_hands_over_the_resolved_run(run: Command, executed: list[Any], pairs: Path) -> None:
    options = [
        "--run",
        "out/mine",
        "--resume",
        "7",
        "--restart",
        "--profile",
        "3:5",
        "--stage.loss",
        "simpo",
        "--stage.loss.beta",
        "3",
    ]
    code, _, err = run("run", "preference", *flags("preference", pairs), *options)
    assert (code, err) == (143, "")
    [(resolved, given)] = executed
    assert given == {"resume": 7, "restart": True, "profile": ProfileRange(3, 5)}
    assert (resolved.output_dir, resolved.name) == ("out", "mine")
    assert resolved.stages[0].loss == SimPO(beta=3.0)


def test_a_run_directory_continues_itself(run: Command, executed: list[Any], pairs: Path, tmp_path: Path) -> None:
    saved = resolve_run(load_run("sft"), flags("sft", pairs)).run
    moved = tmp_path / "elsewhere" / "moved"
    moved.mkdir(parents=True)
    (moved / "config.json").write_text(serialise.dump(saved))
    for spec in (moved, moved / "config.json"):
        assert run("run", spec)[0] == 143
        resolved, given = executed.pop()
        assert (resolved.output_dir, resolved.name) == (str(moved.parent), "moved")
        assert resolved.stages == saved.stages
        assert given == {"resume": "auto", "restart": False, "profile": None}
    assert run("run", moved, "--run", "new")[0] == 143
    assert executed.pop()[0].name == "new"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume", "soon"], "jaxpo: --resume: expected auto, never or a step number, got 'soon'.\n"),
        (["--restart", "now"], "jaxpo: --restart: takes no value, got ['now'].\n"),
        (["--resume"], "jaxpo: --resume: needs one value, got [].\n"),
        (["--stage.loss", "dpoo"], "jaxpo: --stage.loss: unknown loss 'dpoo'; did you mean dpo"),
        (
            ["--stage.loss.bta", "1"],
            "jaxpo: --stage.loss.bta: there is no such option. Did you mean --preference.loss.beta",
        ),
        (
            ["--stage.loss.beta", "-1"],
            "jaxpo: preference.loss: sigmoid_norm: beta is -1.0 but must be a number greater",
        ),
        (["--preset", "nan"], "jaxpo: model: "),
    ],
)
def test_mistakes_exit_with_2(run: Command, executed: list[Any], pairs: Path, options: list[str], message: str) -> None:
    code, out, err = run("run", "preference", *flags("preference", pairs), *options)
    assert (code, out, executed) == (2, "", [])
    assert err.startswith(message), err


def test_an_ambiguous_acronym_is_refused(run: Command, pairs: Path) -> None:
    code, _, err = run("run", "preference", *flags("preference", pairs), "--stage.loss", "tdpo")
    assert code == 2
    assert "'tdpo' is the name of several methods; say which: tdpo1" in err


def test_the_fields_of_another_method_do_not_exist(run: Command, pairs: Path) -> None:
    words = [*flags("preference", pairs), "--stage.loss", "dpo", "--stage.loss.simpo-gamma", "1"]
    code, _, err = run("run", "preference", *words)
    assert code == 2
    assert err.startswith("jaxpo: --stage.loss.simpo-gamma: there is no such option.")


def test_run_without_a_configuration(run: Command) -> None:
    code, _, err = run("run", "--seed", "1")
    assert code == 2
    assert err.startswith("jaxpo: give a configuration first.\n\nusage: jaxpo run CONFIG [options]")


def test_run_config_help_lists_its_flags(run: Command) -> None:
    code, out, _ = run("run", "preference", "--stage.loss", "simpo", "--help")
    assert code == 0
    for expected in (
        "--preference.loss.simpo-gamma",
        "--preference.optimizer.learning-rate",
        "one of float32, bfloat16",
    ):
        assert expected in out


def origins(out: str) -> dict[str, tuple[Any, str]]:
    return {row["field"]: (row["value"], row["origin"]) for row in json.loads(out)}


def test_explain_says_where_every_value_comes_from(run: Command, pairs: Path) -> None:
    options = ["--stage.loss", "dpo", "--stage.loss.beta", "0.2", "--stage.max-steps", "99", "--seed", "0", "--json"]
    code, out, err = run("explain", "preference", *flags("preference", pairs), *options)
    assert (code, err) == (0, "")
    found = origins(out)
    assert found["preference.loss.beta"] == (0.2, "command line")
    assert found["preference.loss.label_smoothing"] == (0.0, "default")
    assert found["preference.optimizer.learning_rate"] == (1e-6, "config file")
    assert found["preference.optimizer.adam_beta2"] == (0.95, "default")
    assert found["preference.max_steps"] == (99, "command line")
    assert found["preference.num_train_epochs"] == (None, "command line (--max-steps)")
    assert found["seed"] == (0, "command line")
    assert found["model"] == ("nano", "default")
    assert found["model.conv_kernel"] == (3, "preset nano")
    assert found["preference.data.train"] == ([str(pairs)], "command line")


def test_explain_changed_leaves_defaults_out(run: Command, pairs: Path) -> None:
    code, out, _ = run("explain", "preference", *flags("preference", pairs), "--changed", "--json")
    assert code == 0
    assert "default" not in {origin for _, origin in origins(out).values()}


def test_explain_as_a_table(run: Command, pairs: Path) -> None:
    code, out, _ = run("explain", "sft", *flags("sft", pairs))
    assert code == 0
    assert any(line.split() == ["sft.rows_per_step", "8", "default"] for line in out.splitlines())
    assert any(line.split() == ["sft.num_train_epochs", "2", "config", "file"] for line in out.splitlines())


def test_explain_shows_problems_and_fails(run: Command) -> None:
    code, out, err = run("explain", "sft", "--sft.data.max-length", "4096")
    assert code == 2
    assert "sft.data.max_length" in out
    assert err.startswith("\nThis run cannot start:\n  - tokenizer: needs")
    assert "  - sft.data.max_length: 4096 is longer than row_length 2048; " in err
