"""Columns that stand before a row's own turns: `system`, `history` and `tools`, beside every form of prompt."""

from __future__ import annotations

import pytest

from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.rows import canonical, detect, read_record
from jaxpo.data.tokens.inspect import inspect
from jaxpo.errors import DataError

S, U = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}
A, B = ({"role": "assistant", "content": c} for c in ("yes", "no"))
EARLIER = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
CONTEXT = {"system": "Be brief.", "history": [["hi", "hello"]]}
BEFORE = [S, *EARLIER]


def read(write, row):
    found = next(read_rows([write(row)]))
    again = canonical(canonical(found))
    assert again.data == canonical(found).data, "reading it twice changes nothing"
    return read_record(found, detect(found))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "q", "completion": "a"}, [*BEFORE, U]),
        ({"prompt": [U], "completion": [A]}, [*BEFORE, U]),
        ({"prompt": [S, U], "completion": [A]}, [*BEFORE, U]),
        ({"instruction": "q", "output": "a"}, [*BEFORE, U]),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, [*BEFORE, U]),
        ({"chosen": [U, A], "rejected": [U, B]}, [*BEFORE, U]),
        ({"prompt": "q", "chosen": [U, A], "rejected": [U, B]}, [*BEFORE, U]),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "gold": "c"}, [*BEFORE, U]),
        ({"prompt_chosen": "q", "chosen": "a", "prompt_rejected": "q", "rejected": "b"}, [*BEFORE, U]),
        ({"prompt": "q", "completion": "a", "label": True}, [*BEFORE, U]),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1, 0]}, [*BEFORE, U]),
        ({"prompt": "q", "steps": [["a"], ["b"]], "scores": [1, 0]}, [*BEFORE, U]),
        ({"prompt": "q", "items": ["a", "b"], "relevance": [0, 1]}, [*BEFORE, U]),
        ({"prompt": "q"}, [*BEFORE, U]),
    ],
)
def test_they_become_turns_beside_every_prompt(write, row, prompt):
    record = read(write, {**row, **CONTEXT})
    assert all(side.prompt == prompt for side in record.sides)
    assert all(isinstance(side.completion, list) for side in record.sides)
    assert not record.unread


def test_they_stand_before_conversations(write):
    for name in ("messages", "conversations"):
        assert read(write, {name: [U, A], **CONTEXT}).sides[0].completion == [*BEFORE, U, A]
        assert read(write, {name: [S, U, A], **CONTEXT}).sides[0].completion == [*BEFORE, U, A]
    assert read(write, {"messages": [S, U, A], "history": EARLIER}).sides[0].completion == [*BEFORE, U, A]
    tools = '[{"name": "f"}]'
    assert read(write, {"messages": [U, A], "tools": tools}).tools == ({"name": "f"},)


def test_an_empty_one_makes_a_conversation_without_that_turn(write):
    for context in ({"system": ""}, {"history": []}, {"tools": [{"name": "f"}]}):
        assert read(write, {"prompt": "q", "completion": "a", **context}).sides[0].prompt == [U]
    for context in ({"tools": []}, {"tools": "[]"}, {}):
        assert read(write, {"prompt": "q", "completion": "a", **context}).sides[0].prompt == "q"


BAD = {
    "two systems": (
        {"messages": [{**S, "content": "x"}, U, A], "system": "y"},
        r"`system` differs from the system turn",
    ),
    "no prompt": ({"chosen": "a b", "rejected": "a c", "system": "y"}, r"`system` has no prompt to stand before"),
    "history": (
        {"prompt": "q", "completion": "a", "history": ["hi"]},
        r"'hi' is no earlier turn.*\[\[question, answer\]",
    ),
    "history text": ({"prompt": "q", "completion": "a", "history": "hi"}, r"field 'history': 'hi' is no earlier turn"),
    "system list": (
        {"prompt": "q", "completion": "a", "system": ["x"]},
        r"field 'system': expected a string, found list",
    ),
    "rendered": (
        {"prompt": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", "completion": "a", "system": "x"},
        r"field 'prompt': prompt is already rendered with the chat template, without the system turn",
    ),
    "unrepeated": (
        {"prompt": "other", "chosen": [U, A], "rejected": [U, B]},
        r"prompt is a string that chosen and rej",
    ),
    "only answers": (
        {"prompt": "q", "chosen": [A], "rejected": [B], "system": "x"},
        r"field 'prompt': prompt is a str",
    ),
    "prefix": ({"chosen": "Hi there you", "rejected": "Hi there"}, r"all of rejected is the start of chosen"),
    "prefix of longer": ({"chosen": "Hi there", "rejected": "Hi there you"}, r"all of chosen is the start of rejected"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_contradicts_is_named(write, name):
    row, match = BAD[name]
    with pytest.raises(DataError, match=match) as error:
        read(write, row)
    assert "rows.jsonl, row 1, field" in str(error.value)


def test_a_rendered_prompt_keeps_its_own_system_turn(write):
    prompt = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert read(write, {"prompt": prompt, "completion": "a", "system": "Be brief."}).sides[0].prompt == prompt


def test_run_and_inspection_say_what_became_turns(prepared, write):
    path = write({"system": "x", "prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a"})
    lines: list[str] = []
    data = prepared(path, log=lines.append)
    told = [line for line in lines if "conversations" in line and "examples" not in line]
    assert told[0].startswith("1 rows are conversations because of `system`")
    assert told[1].startswith("warning: 1 rows are conversations and 1 plain strings")
    assert tuple(told) == inspect(path).notes
    assert data.counts["prompts_made_turns"] == data.counts["plain_strings"] == 1
    pairs = write({"system": "x", "prompt": "q", "chosen": "a", "rejected": "b"}, name="pairs.jsonl")
    apart = prepared(pairs, "preference", roles=("completion",), columns=("label",), log=lines.append)
    assert (apart.type, apart.counts["prompts_made_turns"]) == ("unpaired", 1)


def test_a_text_has_no_turns_to_stand_before(prepared, write):
    counts = prepared(write({"text": "abc", "system": "x"}), "language").counts
    assert counts["unread_column_system"] == 1
