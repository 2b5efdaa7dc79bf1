"""`jaxpo data score`: a column of scores for every type of row that has answers; resumed, counted, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judges.reward_networks import CONFIG, network, tokenizer

from jaxpo import sandbox
from jaxpo.cli import score
from jaxpo.convert.model_io import load_model, save_model
from jaxpo.errors import ConfigError, DataError
from jaxpo.judges.network import Network

FUNCTION = """
import pathlib
asked = pathlib.Path(__file__).with_suffix(".asked")

def length(prompt, answer, row):
    asked.write_text((asked.read_text() if asked.exists() else "") + answer + "|")
    return len(answer)

def text(prompt, answer, row):
    return "very good" if "a" in answer else 1.0

def broken(prompt, answer, row):
    raise RuntimeError("no idea")
"""
ROWS = {
    "one": {"prompt": "p ", "completion": "abc", "source": "kept"},
    "chat": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "abcd"}]},
    "rated": {"prompt": "p ", "completion": "ab", "ratings": {"a": 1}},
    "list": {"prompt": "p ", "responses": ["a", "abc"]},
    "pair": {"prompt": "p ", "chosen": "abcd", "rejected": "a"},
}
SCORES = {
    "one": ("score", 3.0),
    "chat": ("score", 4.0),
    "rated": ("score", 2.0),
    "list": ("scores", [1.0, 3.0]),
    "pair": ("scores", [4.0, 1.0]),
}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    (tmp_path / "judge.py").write_text(FUNCTION)

    def run(rows: list[dict[str, Any]], *options: str) -> list[dict[str, Any]]:
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
        assert score.main([str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), *options]) == 0
        return [json.loads(line) for line in (tmp_path / "out.jsonl").open()]

    return run


@pytest.mark.parametrize("kind", ROWS)
def test_a_column_for_every_type_of_rows(run, tmp_path: Path, kind: str) -> None:
    name, expected = SCORES[kind]
    judge = ("--judge", f"{tmp_path}/judge.py:length")
    assert run([ROWS[kind]], *judge) == [{**ROWS[kind], name: expected}]
    assert run([ROWS[kind]], *judge, "--column", "mine") == [{**ROWS[kind], "mine": expected}]


def test_what_was_scored_is_not_asked_again(run, tmp_path: Path) -> None:
    judge = ("--judge", f"{tmp_path}/judge.py:length")
    run([ROWS["one"]], *judge)
    assert len(run([ROWS["one"], {**ROWS["one"], "completion": "x"}], *judge)) == 2
    assert (tmp_path / "judge.asked").read_text() == "abc|x|"


def test_a_judge_that_fails_is_counted_and_its_rows_left_out(run, tmp_path: Path, capsys) -> None:
    found = run([ROWS["one"], {**ROWS["one"], "completion": "x"}], "--judge", f"{tmp_path}/judge.py:text")
    assert [row["completion"] for row in found] == ["x"]
    out = capsys.readouterr().out
    assert "1 answers without a score: the score is no number but 'very good'" in out
    assert "1 rows from 2, 1 left out because the judge failed" in out
    with pytest.raises(DataError, match="no row is left of 1: RuntimeError: no idea"):
        run([ROWS["one"]], "--judge", f"{tmp_path}/judge.py:broken")
    assert not (tmp_path / "out.jsonl").exists()


def test_foreign_code_wants_a_fence_or_leave(run, monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "why_no_fence", lambda: "bubblewrap (bwrap) is not installed")
    rows = [{"prompt": "p ", "completion": f"x = {n}", "checks": ["assert x == 1"]} for n in (1, 2)]
    judge = ("--judge", "unit_tests", "--tests", "checks")
    with pytest.raises(ConfigError, match="give --unsandboxed"):
        run(rows, *judge)
    assert [row["score"] for row in run(rows, *judge, "--unsandboxed")] == [1.0, 0.0]


def test_a_reward_models_scores_are_those_of_its_network(run, tmp_path: Path) -> None:
    own = network("aspects")
    save_model(tmp_path / "stage", own.params, CONFIG, own.about)
    tokenizer().save(tmp_path / "stage" / "tokenizer")
    rows = [ROWS["one"], ROWS["rated"]]
    found = run(rows, "--reward", str(tmp_path / "stage"), "--max-length", "96")
    expected = Network.of(load_model(tmp_path / "stage"), max_length=96).rewards(["p "] * 2, ["abc", "ab"])
    np.testing.assert_allclose([row["score"] for row in found], expected, rtol=1e-6)


def test_what_cannot_be_scored(run, tmp_path: Path) -> None:
    judge = ("--judge", f"{tmp_path}/judge.py:length")
    with pytest.raises(DataError, match=r"row 1, field 'score': there is a column 'score' already"):
        run([{**ROWS["one"], "score": 1}], *judge)
    with pytest.raises(DataError, match=r"row 1, field 'completion': there is no answer to score"):
        run([{"prompt": "p"}], *judge)
    with pytest.raises(DataError, match=r"row 1, field 'responses': the text is empty"):
        run([{"prompt": "p", "responses": ["a", ""]}], *judge)
    with pytest.raises(ConfigError, match="--reward"):
        run([ROWS["one"]])
    with pytest.raises(ConfigError, match="there is no such judge"):
        run([ROWS["one"]], "--judge", "somebody")
    with pytest.raises(ConfigError, match="must be a \\.jsonl file"):
        score.main(["a.jsonl", "b.txt"])
