"""What `jaxpo data inspect` says a file can train is what `jaxpo run` then accepts: of every type of rows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from jaxpo.cli.main import main
from jaxpo.config import Data
from jaxpo.data.rows.trainable import Fit
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.data.tokens.inspect import Report, inspect
from jaxpo.data.tokens.shards import ALONE
from jaxpo.data.tokens.texts import texts_of
from jaxpo.errors import ConfigError, DataError
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.overrides import load_run, resolve_run
from jaxpo.recipe.uses import uses
from jaxpo.stages.run_inputs import _stage_data, as_config

FILES = Path(__file__).parents[1] / "data" / "files"
USES = uses()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands for a model: only its tokenizer is read before training."""
    folder = tmp_path_factory.mktemp("a model")
    train_tokenizer(texts_of(sorted(FILES.glob("*.jsonl"))), 512).save(folder)
    return folder


def report_of(path: Path) -> Report:
    return inspect(path, samples=0, uses=USES)


def accepts(words: str, model: Path, cache: Path) -> None:
    """What `jaxpo run` does with these words until training starts; raises what it would say."""
    given = [str(model) if word in ("MODEL", "TEACHER", "TOKENIZER") else word for word in shlex.split(words)]
    assert given[:2] == ["jaxpo", "run"]
    resolved = resolve_run(load_run(given[2]), given[3:]).run
    check(resolved)
    (stage,) = resolved.stages
    _stage_data(
        stage,
        Tokenizer.load(model).with_added(resolved.tokenizer.added),
        as_config(resolved.model),
        cache,
        lambda line: None,
        ALONE,
    )


def tried(fit: Fit, path: Path, method: str) -> str:
    """The command with a method of one's own choice."""
    words = f"jaxpo run {fit.use.recipe} {fit.use.options}".replace("FILE", shlex.quote(str(path)))
    return words if method == fit.own else f"{words} {fit.choice(method)}"


def test_the_commands_read_the_file_as_it_was_looked_at(model: Path, tmp_path: Path) -> None:
    """Else what was shown is not what is trained."""
    path = FILES / "messages.jsonl"
    data = Data(reasoning="strip", rendered="refuse", special_tokens=("<|fim_pre|>", "<|endoftext|>"))
    report = inspect(path, samples=0, uses=USES, data=data)
    line = next(line for line in str(report).splitlines() if line.startswith("  fine-tuning: "))
    words = line.removeprefix("  fine-tuning: ").split("  (")[0]
    assert " --sft.data.reasoning strip" in words
    accepts(words, model, tmp_path)
    assert resolve_run(load_run("sft"), shlex.split(words)[3:]).run.stages[0].data.special_tokens == data.special_tokens


@pytest.mark.parametrize("name", sorted(path.stem for path in FILES.glob("*.jsonl")))
def test_every_command_is_accepted_and_what_is_not_offered_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    path = FILES / f"{name}.jsonl"
    for fit in report_of(path).fits:
        if fit.trained:
            accepts(fit.command(str(path)), model, tmp_path)
        else:
            with pytest.raises((ConfigError, DataError)):
                accepts(tried(fit, path, fit.own), model, tmp_path)


# Read the teacher's whole distribution, which the recipe's records do not hold, or two dropout views; `jaxpo run` says
# what to set.
TOLD = dict.fromkeys(("forward_kl", "generalized_jsd", "reverse_kl"), "--distill.precompute-teacher False") | {
    "secrets_rm": "--stage.pooled-dropout 0.1"
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in FILES.glob("*.jsonl")))
def test_the_whole_table_says_what_is_accepted(name: str, model: Path, tmp_path: Path) -> None:
    """Every method of every kind of training on every type of rows, which takes half a minute."""
    path = FILES / f"{name}.jsonl"
    for fit in report_of(path).fits:
        for method, missing in fit.missing.items():
            words = f"{tried(fit, path, method)} {TOLD.get(method, '')}"
            if missing:
                with pytest.raises((ConfigError, DataError)):
                    accepts(words, model, tmp_path)
            else:
                accepts(words, model, tmp_path)


LISTED = {"prompt": "p", "responses": ["a", "b"]}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{**LISTED, "scores": [1, 9]}], "jaxpo run preference ... --stage.loss exo_rw"),
        ([{**LISTED, "scores": [0.1, 0.9]}], "jaxpo run preference ... --stage.loss lipo"),
        (
            [{"prompt": "p", "completion": "c", "label": True}, {"prompt": "q", "completion": "d", "label": True}],
            "cannot be trained as it is: no row with label false",
        ),
        ([{"prompt": "p", "completion": "c", "label": True}], "cannot be trained as it is: no row with label false"),
        ([{"prompt": "p"}], "cannot be trained as it is: there is nothing to learn beside a prompt; add `completion`"),
        ([{"prompt": "p", "chosen": "c", "rejected": "d"}], "jaxpo run preference ..."),
        ([{"text": "t"}], "jaxpo run pretrain ..."),
        ([{"prompt": "p", "completion": "c"}], "jaxpo run sft ..."),
    ],
)
def test_what_is_said_depends_on_all_rows(
    rows: list[dict[str, Any]], expected: str, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "my rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, *more = str(report_of(path)).splitlines()
    start, _, end = expected.partition(" ... ")
    if start.startswith("jaxpo run "):
        assert first.startswith("can be trained: ")
        assert start.removesuffix(" ...") in first
        command = more[0].partition(": ")[2].partition("  (")[0]
        assert command.startswith(start.removesuffix(" ..."))
        assert command.endswith(end or ".data.train " + shlex.quote(str(path)))
        accepts(command, model, tmp_path / "cache")
    else:
        assert first.startswith(expected)
        for fit in report_of(path).fits:
            for method in ("kto", "dpo", "lipo") if fit.use.recipe == "preference" else (fit.own,):
                with pytest.raises((ConfigError, DataError)):
                    accepts(tried(fit, path, method), model, tmp_path / "cache")


def test_values_that_a_method_refuses_are_said_beside_it(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**LISTED, "scores": [1, 9]}) + "\n")
    (fit,) = [fit for fit in report_of(path).fits if fit.use.recipe == "preference"]
    assert fit.missing["lipo"].startswith("scores lie between 1 and 9, but the gain 2^score needs them in [0, 1]")
    with pytest.raises(DataError, match="scores lie between 1 and 9"):
        accepts(tried(fit, path, "lipo"), model, tmp_path / "cache")


def test_the_command_says_it_first(capsys: pytest.CaptureFixture[str]) -> None:
    path = FILES / "messages.jsonl"
    assert main(["data", "inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    offered = "fine-tuning (jaxpo run sft), distillation (jaxpo run distill), pretraining (jaxpo run pretrain)"
    assert lines[0] == f"can be trained: {offered}"
    assert f"  fine-tuning: jaxpo run sft --model-from MODEL --sft.data.train {path}" in lines[1]
    assert "  MODEL is the folder of the checkpoint or export that training starts from" in lines
    assert "    method next_token (the recipe's own): yes" in lines


def test_every_kind_of_training_is_offered_with_its_methods() -> None:
    from jaxpo.objectives.methods import METHODS

    # Answers of the model itself are no rows: any prompt will do.
    none = ("rollouts", "images", "pairs of images")
    of_rows = {name for name, method in METHODS.items() if method.INFO.family not in none}
    assert {name for use in USES for name in use.methods} == {*of_rows, "next_token"}
