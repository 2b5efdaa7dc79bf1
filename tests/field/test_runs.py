"""What users met when they started, stopped and went on with runs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import resource
import sys
from pathlib import Path

import pytest

from jaxpo.cli.main import main
from jaxpo.config.places import absolute
from jaxpo.config.serialise import from_jsonable
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.data.tokens.tokenizer import train_tokenizer
from jaxpo.recipe.resume import compare


def test_a_run_of_an_earlier_version_goes_on_and_a_change_of_it_is_named(field):
    """old-run-not-resumable: ten fields that did not exist then stand at their defaults."""
    old = json.loads((field / "old-run-not-resumable" / "config.json").read_text())
    run = absolute(from_jsonable(old), [Path("/began")])
    found = compare(old, run, bases=[Path("/began")])
    assert (found.refused, found.budgets, found.said) == ((), (), ())
    (stage,) = run.stages
    other = dataclasses.replace(run, stages=(dataclasses.replace(stage, train=("layers/0/*",)),))
    assert compare(old, other, bases=[Path("/began")]).refused == ('sft.train.0: "*" -> "layers/0/*"',)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A tokenizer, rows, and a file where a folder is wanted."""
    folder = tmp_path_factory.mktemp("given")
    train_tokenizer(["good bad open close"] * 4, 300).save(folder / "tokenizer")
    write_jsonl(folder / "rows.jsonl", ({"prompt": f"open {n}", "completion": "good " * 9} for n in range(200)))
    (folder / "file").touch()
    run = folder / "run"
    run.mkdir()
    (run / "config.json").write_text('{"name": "run", "stages": []}')
    (run / "metrics.jsonl").write_text('{"stage": "sft", "step": 1, "loss": 1.0}\n')
    return folder


@contextlib.contextmanager
def small_files(size):
    """Files of this process may have so many bytes: every further write fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def commands(given: Path, out: Path) -> dict[str, list[str]]:
    rows, tokenizer = str(given / "rows.jsonl"), str(given / "tokenizer")
    return {
        "tokenise": ["data", "tokenise", rows, "--tokenizer", tokenizer, "--out", str(out)],
        "dedup": ["data", "dedup", rows, str(out / "rows.jsonl")],
        "report": ["report", str(given / "run"), str(given / "run"), "--out", str(out / "report.html")],
    }


@pytest.mark.parametrize("name", ["tokenise", "dedup", "report"])
def test_a_full_disk_is_one_line(given, tmp_path, capsys, name):
    """oserror-traceback: the commands that write; a run and an export stand in tests/stages and tests/convert."""
    with small_files(500):
        assert main(commands(given, tmp_path)[name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxpo: cannot write {tmp_path}")
    assert error.endswith(": File too large\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["tokenise", "report"])
def test_an_output_under_a_file_is_one_line(given, tmp_path, capsys, name):
    assert main(commands(given, given / "file" / "below")[name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxpo: cannot write {given / 'file'}")
    assert error.count("\n") == 1


def test_a_run_under_a_file_is_one_line(given, capsys):
    words = ["--sft.data.train", str(given / "rows.jsonl"), "--tokenizer.path", str(given / "tokenizer")]
    config = str(Path(__file__).resolve().parents[2] / "configs" / "sft.py")
    assert main(["run", config, "--run", str(given / "file" / "x"), "--sft.max-steps", "1", *words]) == 2
    assert capsys.readouterr().err == f"jaxpo: cannot write {given / 'file' / 'x'}: Not a directory\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_no_terminal_is_too_poor_for_the_rows(given, tmp_path, monkeypatch, encoding):
    """ascii-terminal: brackets around what is trained on, and a row in another script."""
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, [{"prompt": "Wie geht’s? 你好 \ud83d\ude00", "completion": "gut — ‘sehr’"}])
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert main(["data", "inspect", str(rows), "--tokenizer", str(given / "tokenizer")]) == 0
    sys.stdout.flush()
    shown = raw.getvalue().decode(encoding)
    assert ("⟦" in shown) == (encoding == "utf-8")
    assert "[gut - 'sehr'" in shown or encoding != "ascii"
