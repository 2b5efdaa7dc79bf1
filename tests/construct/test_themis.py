"""Themis' rows: given trajectories with real tools, drops, parts that training reads."""

import json
from pathlib import Path

import pytest

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.themis import Themis
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import read_record
from jaxpo.errors import ConfigError, DataError

CALL = {"thought": "add", "action": "calculator", "input": "3 + 4"}
PAIR = {
    "prompt": "3 + 4 = ", "chosen": "7", "rejected": "8", "chosen_trajectory": [CALL], "rejected_trajectory": [CALL],
    "chosen_rationale": "it is 7", "rejected_rationale": "it is not 8", "user": "ann",
}  # fmt: skip


def run(data, construction=None, **networks):
    tools = Tools(networks=networks, say=lambda text: None)
    rows = [Row(Path("pairs.jsonl"), i, dict(d)) for i, d in enumerate(data, start=1)]
    return list((construction or Themis()).run(rows, tools)), tools.counts


def test_calls_are_made_and_every_part_has_its_place():
    (made,), counts = run([PAIR | {"chosen_model": "one"}])
    assert counts == {"tool_calls": 2}
    assert made["chosen_model"] == "one"
    assert "chosen_trajectory" not in made
    assert made["user"] == "ann"
    assert made["chosen"] == (
        "7\n[tool] Thought: add\nAction: calculator\nAction Input: 3 + 4\n[observation] 7\n[rationale] it is 7"
    )
    parts = {kind: made["rejected"][a:b] for a, b, kind in made["rejected_parts"]}
    assert parts["answer"] == "8"
    assert parts["observation"] == " 7"
    assert parts["rationale"] == "\n[rationale] it is not 8"
    record = read_record(Row(Path("x"), 1, made), "preference", marks=("part",))
    assert [mark.number for mark in record.sides[0].marks] == [8, 1, 2, 7]


def test_what_is_malformed_failed_or_too_long_is_left_out_and_counted():
    none = {k: v for k, v in PAIR.items() if not k.startswith("chosen_")} | {"chosen_trajectory": []}
    failed = PAIR | {"chosen_trajectory": [CALL | {"input": "1 / 0"}]}
    many = PAIR | {"rejected_trajectory": [CALL] * 4}
    made, counts = run([none, failed, many, PAIR])
    assert len(made) == 1
    assert counts == {
        "dropped_malformed": 1, "dropped_failed_call": 1, "dropped_too_many_calls": 1, "tool_calls": 2,
    }  # fmt: skip
    (kept,), _ = run([failed], Themis(keep_failed=True))
    assert "[observation] division by zero" in kept["chosen"]


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"no tool 'calculater'.*Did you mean calculator"):
        run([PAIR], Themis(tools=("calculater",)))
    with pytest.raises(DataError, match=r"field 'chosen_trajectory': .* is no call"):
        run([PAIR | {"chosen_trajectory": [{"action": "calculator"}]}])
    with pytest.raises(ConfigError, match="--model"):
        run([{k: v for k, v in PAIR.items() if not k.startswith("rejected_")} | {"rejected": "8"}])
    assert "themis" in constructions()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[0, 1]], r"part 0 is \[0, 1\], not \[start, end, kind\]"),
        ([[0, 1, "thought"]], "not .start, end, kind."),
        ([[0, 1, "answer"], [0, 1, "rationale"]], "overlap"),
        ([[i, i + 1, "tool"] for i in range(4)], "more than 3 tool calls"),
    ],
)
def test_parts_that_cannot_be_read_are_named(parts, message):
    row = Row(
        Path("x"), 1, json.loads(json.dumps({**PAIR, "chosen": "abcd", "chosen_parts": parts, "rejected_parts": []}))
    )
    with pytest.raises(DataError, match=message):
        read_record(row, "preference", marks=("part",))
