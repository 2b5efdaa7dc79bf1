"""`jaxpo generate --out` on a one-layer model: the command line, forms, judges, and a process that is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., tuple[int, str, str]]
COMMON = ("--slots", "4", "--max-new-tokens", "12", "--temperature", "1")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    words = ("path", "file", "join", "read", "write", "open", "close", "list")
    path.write_text(
        "".join(json.dumps({"prompt": f"{w} it", "id": i, "answer": i}) + "\n" for i, w in enumerate(words))
    )
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_of_answers(run: Command, model: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    words = ("generate", model, "--file", prompts, "--out", out, *COMMON, "--logps")
    code, said, err = run(*words)
    assert code == 0
    assert all(line.startswith("answers: ") for line in err.splitlines())  # progress, on a slow machine
    assert re.fullmatch(rf"{re.escape(str(out))}: 8 rows \(.*8 answers drawn, [\d,]+ tokens/s\)\n", said)
    rows = rows_of(out)
    assert [(row["prompt"], row["id"]) for row in rows] == [(x["prompt"], x["id"]) for x in rows_of(prompts)]
    for row in rows:
        assert isinstance(row["completion"], str)
        assert row["reason"] in ("stop_id", "length")
        assert len(row["tokens"]) == len(row["logps"]) == len(row["sampling_logps"]) <= 12
        assert max(row["logps"]) <= 0
    before = out.read_bytes()
    assert run(*words)[1] == f"{out} is complete; --restart makes it again.\n"
    # The same answers as on the terminal, for a row's place in the file is a prompt's place on the command line.
    shown = run("generate", model, "--file", prompts, *COMMON, "--json")[1]
    assert [json.loads(line)["tokens"] for line in shown.splitlines()] == [row["tokens"] for row in rows]
    assert run(*words, "--restart")[0] == 0
    assert out.read_bytes() == before
    code, _, err = run(*words, "--seed", "1", "--top-k", "5")
    assert code == 2
    assert "seed: was 0, is 1" in err
    assert "sampler.top_k: was 0, is 5" in err


def test_another_model_is_refused(run: Command, model: Path, other_model: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert run("generate", model, "--file", prompts, "--out", out, *COMMON)[0] == 0
    code, _, err = run("generate", other_model, "--file", prompts, "--out", out, *COMMON)
    assert code == 2
    assert "model.parameters: was '" in err
    assert "tokenizer" not in err  # that is the same


def test_forms(run: Command, model: Path, prompts: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 1}')
    forms: list[tuple[tuple[Any, ...], Callable[[str], object]]] = [
        (("--json-schema", schema), lambda text: json.loads(text) in ([1], [2])),
        (("--regex", "[ab]{2}"), lambda text: re.fullmatch("[ab]{2}", text)),
        (("--choice", "read it", "--choice", "close it"), lambda text: text in ("read it", "close it")),
    ]
    for i, (options, holds) in enumerate(forms):
        out = tmp_path / f"{i}.jsonl"
        words = (*COMMON, "--max-new-tokens", "100", *options)
        assert run("generate", model, "--file", prompts, "--out", out, *words)[0] == 0
        rows = rows_of(out)
        assert all(holds(row["completion"]) for row in rows if row["reason"] == "stop_id")
        assert sum(row["reason"] == "stop_id" for row in rows) >= 6
    said = run("generate", model, "read it", *COMMON, "--choice", "yes", "--choice", "no")[1]
    assert said in ("yes\n", "no\n")


def test_best_of_by_a_function_and_by_a_verifier(run: Command, model: Path, prompts: Path, tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text("def f(prompt, answer, row):\n    return len(answer) if row['id'] else float('nan')\n")
    words = ("generate", model, "--file", prompts, *COMMON)
    assert run(*words, "--n", "3", "--out", tmp_path / "all.jsonl")[0] == 0
    code, said, _ = run(*words, "--best-of", "3", "--judge", f"{judge}:f", "--out", tmp_path / "best.jsonl")
    assert code == 0
    assert "answers without a score: the score is nan" in said
    assert "1 rows without a score" in said
    for every, best in zip(rows_of(tmp_path / "all.jsonl"), rows_of(tmp_path / "best.jsonl"), strict=True):
        if best["id"] == 0:
            assert (best["completion"], best["score"]) == (None, None)
            assert best["unscored"].startswith("3 x the score is nan")
        else:
            assert best["completion"] == max(every["responses"], key=len)
            assert best["score"] == len(best["completion"])
    out = tmp_path / "verified.jsonl"
    assert run(*words, "--best-of", "2", "--judge", "verifier", "--out", out)[0] == 0
    assert {row["score"] for row in rows_of(out)} <= {0.0, 1.0, None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.json"], "--out: the output 'x.json' must be a .jsonl file."),
        (["--out", "gone/x.jsonl"], "--out: there is no folder gone to write x.jsonl to."),
        (["--out", "x.jsonl", "--json"], "generate: --out answers the prompts of --file FILE alone"),
        (["--restart"], "--restart needs --out OUT.jsonl."),
        (["--judge", "verifier"], "--judge needs --out OUT.jsonl."),
        (["--out", "x.jsonl", "--judge", "verifier"], "--judge needs --best-of N."),
        (["--out", "x.jsonl", "--best-of", "2"], "--best-of needs --judge. Give reward"),
        (["--out", "x.jsonl", "--best-of", "1", "--judge", "verifier"], "--best-of is 1; it must be at least 2."),
        (["--out", "x.jsonl", "--best-of", "2", "--n", "2", "--judge", "verifier"], "leave out --n."),
        (
            ["--out", "x.jsonl", "--best-of", "2", "--judge", "reward"],
            "--judge reward and --reward RUN need one another",
        ),
        (["--out", "x.jsonl", "--best-of", "2", "--judge", "rewad"], "--judge rewad: there is no such judge."),
        (["--out", "x.jsonl", "--best-of", "2", "--judge", "gone.py:f"], "gone.py: there is no such Python file."),
        (["--n", "0"], "--n is 0; it must be at least 1."),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0; it must be at least 1."),
        (["--stop", ""], "--stop is an empty string"),
        (["--regex", "a", "--choice", "b"], "--regex and --choice: answers can have one form; give one of them."),
        (["--json-schema", "gone.json"], "--json-schema gone.json: cannot be read (No such file or directory)."),
        (["--out", "x.jsonl", "--context", "999"], "--context is 999; it must lie in 2..128, the model's window."),
        (["--out", "x.jsonl", "--slots", "0"], "--slots is 0; it must be at least 1."),
        (["--out", "x.jsonl", "--regex", "a("], "the regular expression cannot be used"),
        (["--out", "x.jsonl", "--max-new-tokens", "120"], "(a window of 128, less --max-new-tokens 120)"),
        (["--quantize", "int3"], "invalid choice"),
    ],
)
def test_mistakes(
    run: Command,
    model: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("generate", model, "--file", prompts, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "x.jsonl").exists()


def test_out_needs_a_file(run: Command, model: Path, tmp_path: Path) -> None:
    for more in ((), ("read it",)):
        code, _, err = run("generate", model, *more, "--out", tmp_path / "x.jsonl")
        assert (code, "--out answers the prompts of --file FILE alone" in err) == (2, True)


def test_rows_that_cannot_be_answered(run: Command, model: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"prompt": "read it"}\n{"prompt": ""}\n{"prompt": "%s"}\n' % ("read " * 200))
    words = ("generate", model, "--file", path, "--out", out, *COMMON)
    code, _, err = run(*words)
    assert code == 2
    assert f"{path}, row 2, field 'prompt': the prompt is empty." in err
    assert not out.exists()
    code, said, _ = run(*words, "--skip-bad")
    assert code == 0
    assert [line.partition(":")[0] for line in said.splitlines()] == ["left out", "left out", str(out)]
    assert "2 rows left out" in said
    assert len(rows_of(out)) == 1


@pytest.mark.slow
def test_killed_midway_the_same_command_comes_to_the_same_file(model: Path, tmp_path: Path) -> None:
    """A process of its own, killed by SIGKILL when a part of the answers is on disk."""
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"read the file {i} and close it\n" for i in range(300)))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def command(out: Path) -> list[str]:
        words = ["generate", model, "--file", path, "--out", out, *COMMON, "--n", "2", "--max-new-tokens", "60"]
        return [sys.executable, "-m", "jaxpo", *map(str, words)]

    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    subprocess.run(command(whole), check=True, env=environment, capture_output=True)
    killed = subprocess.Popen(command(out), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and killed.poll() is None:
        ledgers = list((tmp_path / "out.parts").glob("answers-*.jsonl"))
        if ledgers and ledgers[0].read_bytes().count(b"\n") > 40:
            break
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    kept = ledgers[0].read_bytes().count(b"\n") - 1
    assert 40 <= kept < 300
    again = subprocess.run(command(out), check=True, env=environment, capture_output=True, text=True)
    assert re.search(r"\d+ of 300 rows have their answers in", again.stdout)
    assert out.read_bytes() == whole.read_bytes()
