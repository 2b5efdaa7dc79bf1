"""`jaxpo data construct on_policy` with a model: what it writes, says and keeps, and the same again after a stop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import WORDS

Command = Callable[..., tuple[int, str, str]]
JUDGE = "def f(prompt, answer, row):\n    return len(answer) + ord(answer[0]) / 1000\n"


@pytest.fixture
def asked(model: Path, tmp_path: Path) -> list[object]:
    """Words of a command over four rows, without the output."""
    rows = [{"prompt": f"what does {word} do", "completion": f"{word} file"} for word in WORDS[:4]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text(JUDGE)
    options = [
        "--judge",
        f"{tmp_path}/judge.py:f",
        "--samples",
        "3",
        "--max-new-tokens",
        "8",
        "--keep-unfinished",
        "True",
    ]
    return [tmp_path / "in.jsonl", "--model", model, *options]


def test_the_pairs_are_a_function_of_the_seed(run: Command, asked: list[object], tmp_path: Path) -> None:
    """Neither the number of answers drawn at once nor a stop half-way changes a byte of the file."""

    def made(name: str, *options: object) -> tuple[str, str]:
        code, printed, err = run("data", "construct", "on_policy", asked[0], tmp_path / name, *asked[1:], *options)
        assert (code, err) == (0, "")
        return (tmp_path / name).read_text(), printed

    first, printed = made("a.jsonl")
    assert "samples_drawn 12" in printed
    assert made("b.jsonl", "--max-rows", 6)[0] == first
    assert made("c.jsonl", "--seed", 1)[0] != first
    for row in map(json.loads, first.splitlines()):
        assert row["margin"] == row["scores"][0] - row["scores"][1] > 0
        assert {row["chosen_from"], row["rejected_from"]} <= {"completion", "sample 0", "sample 1", "sample 2"}

    (samples,) = (tmp_path / "a.parts").glob("samples-*.jsonl")
    lines = samples.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 12
    # Seven answers and half a line; they end in the engine's order, not in that of the prompts.
    samples.write_text("".join(lines[:8]) + lines[8][:10])
    drawn = Counter(json.loads(line)["question"] for line in lines[1:8])
    whole = sum(n == 3 for n in drawn.values())
    assert 0 < whole < 4
    (tmp_path / "a.jsonl").unlink()
    again, printed = made("a.jsonl")
    assert again == first
    assert f"samples: {whole} of 4 prompts have theirs in" in printed
    assert f"samples_drawn {3 * (4 - whole)}" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "rewad"], "--judge rewad: there is no such judge. Give reward (with --reward RUN), verifier"),
        (["--judge", "reward"], "this construction needs a reward; give --reward RUN, STAGE or EXPORT."),
        (["--judge", "http://127.0.0.1:9/v1"], "the endpoint http://127.0.0.1:9/v1 needs the name of a model"),
        (["--judge", "verifier"], "IN, row 1, field 'answer': column 'answer' holds no number"),
        (["--samples", "-2"], "samples is -2 but must be at least 0."),
        (["--ties", "coin"], "--ties: expected one of given, sample, shortest, likely, got 'coin'."),
        (["--refine", "nowhere:f"], "the module 'nowhere' cannot be imported"),
    ],
)
def test_mistakes_are_found_before_anything_is_drawn(
    run: Command, asked: list[object], tmp_path: Path, options: list[str], message: str
) -> None:
    before = sorted(tmp_path.iterdir())
    words = list(asked[1:])
    if options[0] == "--judge":
        words[words.index("--judge") : words.index("--judge") + 2] = []
    if options[0] == "--samples":
        words[words.index("--samples") : words.index("--samples") + 2] = []
    code, _, err = run("data", "construct", "on_policy", asked[0], tmp_path / "out.jsonl", *words, *options)
    assert code == 2
    assert message.replace("IN", str(asked[0])) in err
    assert sorted(tmp_path.iterdir()) == before
