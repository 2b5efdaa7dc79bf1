"""What users met when they started, stopped and went on with runs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import resource
import shutil
import sys
from pathlib import Path

import pytest

from jaxpo.cli.main import main
from jaxpo.cli.recipe import read_request, renamed, resolve_request
from jaxpo.config.serialise import from_jsonable
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.located import absolute, located
from jaxpo.recipe.resume import compare
from jaxpo.stages.beginning import begin
from jaxpo.train.console import Console


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


CONFIG = """\
from jaxpo.config import SFT, Data, Run, Tokenizer


def config():
    stage = SFT(data=Data(train=("d.jsonl",)), max_steps=3)
    return Run(name="x", stages=(stage,), tokenizer=Tokenizer(path="tokenizer"))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["{began}/runs/x"],
        ["{began}/runs/x", "--sft.data.train", "../began/d.jsonl"],
        ["{began}/config.py", "--run", "../began/runs/x"],
        ["{began}/config.py", "--run", "{moved}/x", "--sft.data.train", "{moved}/d.jsonl"],
    ],
    ids=["by its directory", "with a path rewritten", "with the paths as they were", "moved"],
)
def test_a_run_that_was_begun_with_relative_paths_goes_on_from_elsewhere(given, tmp_path, monkeypatch, words):
    """resume-elsewhere."""
    began, other, moved = (tmp_path / name for name in ("began", "other", "moved"))
    for folder in (began, other):
        folder.mkdir()
    shutil.copytree(given / "tokenizer", began / "tokenizer")
    (began / "config.py").write_text(CONFIG)
    (began / "d.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    monkeypatch.chdir(began)
    assert started(["config.py"]) == ""
    shutil.copytree(began / "runs", moved)
    shutil.copy(began / "d.jsonl", moved)
    monkeypatch.chdir(other)
    said = started([word.format(began=began, moved=moved) for word in words])
    assert said == "" or all("(its content is compared)" in line for line in said.splitlines())


def started(words):
    """What a start says of what has changed; refusals are errors."""
    request = read_request(words, {}, "")
    run = located(renamed(resolve_request(request), request.config).run)
    check(run)
    out = io.StringIO()
    with begin(run, "auto", False, Console(out)) as (home, *_):
        home.metrics.write_text('{"stage": "sft", "step": 1}\n')
    return out.getvalue()


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
    assert error.endswith(": Not a directory\n")
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
    write_jsonl(rows, [{"prompt": "Wie geht’s? 你好", "completion": "gut — ‘sehr’"}])
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert main(["data", "inspect", str(rows), "--tokenizer", str(given / "tokenizer")]) == 0
    sys.stdout.flush()
    shown = raw.getvalue().decode(encoding)
    assert ("⟦" in shown) == (encoding == "utf-8")
    assert "[gut - 'sehr'" in shown or encoding != "ascii"


class Gone(io.TextIOWrapper):
    """A stream whose reader has gone away after so many writes."""

    def __init__(self, good):
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.good = good

    def write(self, text):
        self.good -= 1
        if self.good < 0:
            raise BrokenPipeError
        return super().write(text)


def test_a_run_outlives_its_terminal_and_other_commands_end_with_it(given, monkeypatch):
    """What is printed after the reader went away is dropped; a run ends as if somebody had read it."""
    said = []

    def prints(argv):
        for n in range(5):
            said.append(n)
            print(n, flush=True)
        return 0

    monkeypatch.setattr("jaxpo.cli.run.run", prints)
    monkeypatch.setattr("jaxpo.cli.report.main", prints)
    for command, lines in (("run", 5), ("report", 2)):
        said.clear()
        monkeypatch.setattr(sys, "stdout", Gone(2))
        assert main([command]) == 0
        assert len(said) == lines


def test_a_stream_that_was_closed_before_the_start_is_no_error(monkeypatch):
    """`>&-`: the interpreter then has no stdout at all."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--version"]) == 0
    sys.stdout.close()
