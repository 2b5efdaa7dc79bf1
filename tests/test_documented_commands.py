"""Every command in README.md and docs/ is one that exists, with flags that exist; `jaxpo run` would start it."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxpo.cli import dry_run
from jaxpo.cli.main import COMMANDS, main
from jaxpo.cli.recipe import read_request, resolve_request
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.overrides import load_run, resolve_run

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FROM_TRL = (ROOT / "docs" / "from_trl.md").read_text(encoding="utf-8")
OWN_FLAGS = {
    "run": {"resume": True, "restart": False, "profile": True},
    "explain": {"json": False, "changed": False, "platform": True},
    "dry-run": dry_run.OWN,
}


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `jaxpo` command in a code block; `...` among them stands for the reader's own options."""
    parts = text.split("\n```")
    fenced = (part.partition("\n") for part in parts[1::2])
    shell = [block for language, _, block in fenced if language in ("", "sh")]
    indented = ["\n".join(re.findall(r"^ {4}((?:.*\\\n)*.*)", part, re.MULTILINE)) for part in parts[0::2]]
    for block in shell + indented:
        for line in block.replace("\\\n", " ").splitlines():
            with contextlib.suppress(ValueError):  # an equation's quotes, not a command's
                words = shlex.split(line, comments=True)
                if words[:1] and re.fullmatch(r"(\.venv(-\w+)?/bin/|env/bin/)?jaxpo", words[0]):
                    yield words[1:]


DOCUMENTED = [
    pytest.param(words, id=f"{document.name}: {' '.join(words)[:70]}")
    for document in DOCUMENTS
    for words in commands(document.read_text(encoding="utf-8"))
]


def stand_ins(words: list[str], folder: Path) -> None:
    """Files for what the words call files, folders with a tokenizer for what they call models and data."""
    for word in words:
        path = folder / word
        if re.fullmatch(r"[\w./-]+\.(jsonl|txt|parquet)", word):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}\n")
        elif function := re.fullmatch(r"([\w./-]+\.py):(\w+)", word):
            (folder / function[1]).write_text(f"def {function[2]}(completions, **columns): ...\n")
        elif re.fullmatch(r"runs/[\w./-]+|LFM2-[\w.]+|my-\w+|texts/|[A-Z]{4,}", word):
            path.mkdir(parents=True, exist_ok=True)
            (path / "tokenizer.json").write_text("{}")


def help_of(words: list[str]) -> str:
    """What the command of these words says of its options."""
    named = list(words[: 3 if words[:2] == ["data", "construct"] else 2 if words[0] == "data" else 1])
    if "--method" in words:
        named += words[words.index("--method") :][:2]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*named, "--help"])
    return out.getvalue()


@pytest.mark.parametrize("words", DOCUMENTED)
def test_a_command_of_the_documents_is_one(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] in COMMANDS
    monkeypatch.chdir(tmp_path)
    whole, words = "..." not in words, [word for word in words if word != "..."]
    if words[0] in OWN_FLAGS:
        stand_ins(words, tmp_path)
        request = read_request(words[1:], OWN_FLAGS[words[0]], "")
        assert request is not None
        run = resolve_request(request).run
        if words[0] == "run" and whole and any(word.startswith("--") for word in words):
            check(run)
        return
    text = help_of(words)
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", text), flag


def test_every_flag_that_is_named_beside_trls_is_one() -> None:
    """Each is parsed by the recipe of its stage, so that a misspelt value is an error too."""
    quoted = [shlex.split(code) for code in re.findall(r"`(--[^`]+)`", FROM_TRL)]
    of_run = [words for words in quoted if "." in words[0] or words[0] in ("--run", "--seed", "--report-to")]
    assert len(of_run) > 90
    recipes = {"preference": "preference", "reward": "reward", "stage": "preference"}
    for words in of_run:
        recipe = recipes.get(words[0].removeprefix("--").partition(".")[0], "sft")
        if "implicit_reward" in words:
            recipe = "sft"  # the one method of the table that is not for preferences
        assert resolve_run(load_run(recipe), words).origins, words


def test_every_loss_type_of_trl_is_named() -> None:
    named = set(re.findall(r"--stage\.loss (\w+)", FROM_TRL))
    of_trl = {"sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"}
    of_trl |= {"aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm", "kto", "apo_zero_unpaired"}
    assert of_trl <= named
