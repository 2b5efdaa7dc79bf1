"""Messages as other stacks write them: roles, parts, calls, thoughts and weights, in every type of row."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.messages import ALIASES, ROLES
from jaxpo.data.rows.rows import detect, read_record
from jaxpo.errors import DataError

U = {"role": "user", "content": "q"}
A, B = ({"role": "assistant", "content": c} for c in ("yes", "no"))
CALL = {"name": "f", "arguments": {"x": 1}}


def read(write, row, name="rows.jsonl"):
    found = next(read_rows([write(row, name=name)]))
    return read_record(found, detect(found))


def normal(write, *messages):
    return read(write, {"messages": list(messages)}).sides[0].completion


def test_roles_of_other_stacks(write):
    for written, role in {**{r: r for r in ROLES}, **ALIASES}.items():
        for name in (written, written.upper(), f" {written.capitalize()} "):
            for message in ({"role": name, "content": "x"}, {"from": name, "value": "x"}):
                assert normal(write, message) == [{"role": role, "content": "x"}], name


def typed(message):
    """Every type of row that a message may stand in, in both forms of pairs."""
    return {
        "messages": {"messages": [U, message]},
        "conversations": {"conversations": [U, message]},
        "prompt": {"prompt": [U, message]},
        "completion": {"prompt": [U], "completion": [message, A]},
        "unpaired": {"prompt": [U, message, U], "completion": "x", "label": True},
        "preference": {"prompt": [U, message], "chosen": [A], "rejected": [B]},
        "implicit": {"chosen": [U, message, U, A], "rejected": [U, message, U, B]},
        "two_prompt": {"prompt_chosen": [message], "chosen": "a", "prompt_rejected": "p", "rejected": "b"},
        "triple": {"prompt": [U], "chosen": [A], "rejected": [B], "gold": [message]},
        "list": {"prompt": [U], "responses": [[message], "b"], "scores": [1, 0]},
        "tree": {"prompt": [message], "steps": [["a"], ["b"]], "scores": [1, 0]},
        "items": {"prompt": [message], "items": ["a", "b"], "relevance": [0, 1]},
    }


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"role": "asistant"},
            r"message \d has the role 'asistant'\. Did you mean assistant\?.*Accepted roles: system",
        ),
        ({"content": [{"type": "image", "image": "x.png"}]}, r"a part of type 'image'.*this model reads text"),
        ({"content": [{"type": "input_audio", "input_audio": {}}]}, r"a part of type 'input_audio'.*reads text"),
        ({"weight": 0.5}, r"has weight 0.5; a turn is trained on \(1, true\) or not.*Use 0 or 1"),
        ({"train": True, "weight": 0}, r"says both: train True, weight 0"),
        ({"tool_calls": [{"id": "c1"}]}, r"has a call without a name"),
        ({"tool_calls": [{"name": "f", "args": {"x": 1}}]}, r"calls f with 'args' and without `arguments`"),
        ({"tool_calls": [{"function": {"name": "f", "parameters": {"x": 1}}}]}, r"calls f with 'parameters' and"),
        ({"tool_calls": [{"name": "f", "arguments": '{"x": [NaN]}'}]}, r"calls f with a number that is not finite"),
        ({"tool_calls": [CALL], "function_call": CALL}, r"has both `tool_calls` and `function_call`"),
        ({"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": True}]}, r"has `train_detail`; a turn is"),
        ({"content": 3}, r"has content of type int"),
    ],
)
def test_what_cannot_be_read_is_refused_in_every_type(write, change, match):
    for row in typed({**A, **change}).values():
        with pytest.raises(DataError, match=match) as error:
            read(write, row)
        assert "rows.jsonl, row 1, field" in str(error.value)


def test_an_older_call_beside_an_empty_list_of_calls_is_read(write):
    assert normal(write, U, {**A, "tool_calls": [], "function_call": CALL})[1]["tool_calls"] == [CALL]
    assert normal(write, U, {**A, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]})[1][
        "tool_calls"
    ] == [{"name": "f", "arguments": {}}]


def test_a_tool_with_a_number_that_is_none_is_refused(write):
    with pytest.raises(DataError, match=r"row 1, field 'tools': a number is not finite"):
        read(write, {"messages": [U, A], "tools": [{"name": "f", "parameters": {"most": float("inf")}}]})


def test_nulls_of_a_json_file_stay_whatever_it_was_made_from(write):
    tools = [{"name": "f", "default": None}]
    row = {"messages": [U, A], "tools": tools}
    assert read(write, row, "x.parquet.jsonl").tools == tuple(tools)
    for name in ("x.parquet", "x.Arrow.gz"):
        assert read_record(Row(Path(name), 1, row), "messages").tools == ({"name": "f"},)


def test_the_texts_of_parts_are_joined(write):
    parts = [{"type": "text", "text": "a "}, {"type": "input_text", "text": "b", "image": None}, "c", {"text": "d"}]
    assert normal(write, {**U, "content": parts}, {**A, "content": {"type": "text", "text": "e"}}) == [
        {"role": "user", "content": "a bcd"},
        {"role": "assistant", "content": "e"},
    ]
    thinking = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]
    assert normal(write, {**A, "content": thinking})[0]["reasoning_content"] == "hm"


def test_what_a_tool_returned_is_json(write):
    assert normal(write, {"role": "tool", "content": {"y": "é"}}, A)[0]["content"] == '{"y": "é"}'
    assert normal(write, {"role": "tool", "content": [1, 2]}, A)[0]["content"] == "[1, 2]"
    assert normal(write, {"role": "tool", "content": [{"type": "text", "text": "14:05"}]}, A)[0]["content"] == "14:05"


@pytest.mark.parametrize(
    "written",
    [
        {"tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]},
        {"tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
        {"tool_calls": [{"id": "c1", "name": "f", "arguments": '{"x": 1}', "function": None}]},
        {"function_call": {"name": "f", "arguments": '{"x": 1}'}},
        {"role": "function_call", "content": '{"name": "f", "arguments": {"x": 1}}'},
        {"role": "tool_call", "content": '[{"name": "f", "arguments": "{\\"x\\": 1}"}]'},
    ],
)
def test_calls_have_one_form(write, written):
    message = {"role": "assistant", "content": None, **written}
    assert normal(write, U, message)[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_a_call_in_another_notation_stays_the_text_it_is(write):
    message = {"from": "function_call", "value": "[f(x=1)]"}
    assert normal(write, U, message)[1] == {"role": "assistant", "content": "[f(x=1)]"}
    (call,) = normal(write, U, {**A, "tool_calls": [{"name": "f", "arguments": "not json"}]})[1]["tool_calls"]
    assert call["arguments"] == "not json"


def test_arguments_from_arrow_lose_the_other_calls_keys(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{**A, "tool_calls": [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {"y": 2}}]}]
    pq.write_table(pa.Table.from_pylist([{"messages": [{**U, "tool_calls": []}, *rows]}]), tmp_path / "a.parquet")
    row = next(read_rows([tmp_path / "a.parquet"]))
    message = read_record(row, "messages").sides[0].completion[1]
    assert [call["arguments"] for call in message["tool_calls"]] == [{"x": 1}, {"y": 2}]


def test_thoughts_have_one_name(write):
    for key in ("reasoning_content", "thinking", "reasoning"):
        assert normal(write, U, {**A, key: "hm"})[1] == {**A, "reasoning_content": "hm"}
    with pytest.raises(DataError, match="different thoughts under reasoning_content and thinking"):
        normal(write, U, {**A, "reasoning_content": "a", "thinking": "b"})
    with pytest.raises(DataError, match=r"\(user\) has `reasoning_content`, which is the assistant's"):
        normal(write, {**U, "thinking": "b"}, A)


@pytest.mark.parametrize(
    ("message", "train"),
    [
        ({**A, "weight": 0}, False),
        ({**A, "weight": 0.0}, False),
        ({**A, "train": False}, False),
        ({**A, "loss": False}, False),
        ({**A, "weight": 1, "train": True}, None),
        ({**U, "weight": 1}, None),
        ({**U, "train": True}, True),
        ({**U, "train": False}, False),
    ],
)
def test_weights_say_what_is_trained(write, message, train):
    assert normal(write, message, A)[0].get("train") is train


def test_the_mask_follows(prepared, write):
    def trained(*messages, **options):
        data = prepared(write({"messages": list(messages)}), max_length=128, row_length=128, **options)
        segment = data.store.read([0])[0].segments[0]
        return data.tokenizer.decode(segment.tokens[segment.supervised], skip_special_tokens=False)

    assert trained(U, {**A, "weight": 0}, U, B) == "no<|im_end|>\n"
    assert trained({**U, "train": True}, A) == "q<|im_end|>\nyes<|im_end|>\n"
    with pytest.raises(DataError, match=r"row 1, field 'completion': no token of this row is trained on"):
        trained(U, {**A, "weight": 0})
    with pytest.raises(DataError, match=r"a turn says that it is not trained on, and data.train_on='all'"):
        trained(U, {**A, "weight": 0}, B, train_on="all")


@pytest.mark.parametrize("name", ["assistant_masks", "completion_mask", "loss_weights"])
def test_masks_of_other_tokens_are_refused(write, name):
    with pytest.raises(DataError, match=rf"field '{name}': '{name}' marks tokens of another tokenisation.*remove the"):
        read(write, {"messages": [U, A], name: [0, 1]})


def test_conversations_with_two_answers(write):
    row = {"conversations": [{"from": "human", "value": "q"}], "system": "s"}
    for good, bad in (("yes", "no"), ({"from": "gpt", "value": "yes"}, {"from": "gpt", "value": "no"})):
        record = read(write, {**row, "chosen": good, "rejected": bad})
        assert [(s.prompt, s.completion) for s in record.sides] == [
            ([{"role": "system", "content": "s"}, U], [x]) for x in (A, B)
        ]
    whole = read(write, {"messages": [U, A], "chosen": [U, A], "rejected": [U, B]})
    assert whole.unread == ("unread_column_messages",)


def test_media_beside_text_are_refused(write):
    with pytest.raises(DataError, match=r"field 'images': 'images' holds what is no text: this model reads text"):
        read(write, {"messages": [U, A], "images": ["x.png"]})
    assert read(write, {"messages": [U, A], "images": []}).unread == ()


def test_what_is_not_read_is_counted_and_shown(prepared, write):
    lines: list[str] = []
    path = write(
        {"messages": [{**U, "id": 7}, A], "source": "s", "prompt": "q"}, {"messages": [U, A], "source": "t", "note": ""}
    )
    data = prepared(path, log=lines.append)
    assert data.counts["unread_column_source"] == 2
    assert data.counts["unread_column_prompt"] == data.counts["unread_message_key_id"] == 1
    assert "columns that are not read (rows that have them): prompt 1, source 2" in lines
    assert "warning: keys of messages that are not read (rows that have them): id 1" in lines
    assert "unread" not in lines[-1]
    pairs = write({"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1, "origin": "x"}, name="pairs.jsonl")
    counts = prepared(pairs, "preference", roles=("chosen", "rejected")).counts
    assert [name for name in counts if "unread" in name] == ["unread_column_origin"]


def test_a_prompt_that_is_to_be_trained_on_is_refused(prepared, write):
    """It would be given all the same."""
    path = write({"prompt": [{**U, "train": True}], "completion": [A]})
    with pytest.raises(DataError, match=r"row 1, field 'prompt': a turn of the prompt says that it is trained on"):
        prepared(path)
    segment = prepared(path, train_on="assistant").store.read([0])[0].segments[0]
    assert (
        segment.supervised.sum()
        > prepared(write({"prompt": [U], "completion": [A]})).store.read([0])[0].segments[0].supervised.sum()
    )


def test_messages_written_into_a_string(write):
    written = '[{"role": "user", "content": "q"}]'
    assert read(write, {"messages": written}).sides[0].completion == [U]
    for name in ("prompt", "completion", "chosen"):
        with pytest.raises(DataError, match=rf"field '{name}': the messages are written into a string.*Give the list"):
            read(write, {"prompt": "p", "completion": "c", "rejected": "b", "system": "s", name: written})
    with pytest.raises(DataError, match=r"field 'responses': the messages are written into a string"):
        read(write, {"prompt": "p", "responses": ["a", written], "scores": [1, 0]})
    with pytest.raises(DataError, match="written into a string"):
        read_record(Row(Path("x.csv.jsonl"), 1, {"prompt": written, "completion": "yes"}), "prompt_completion")
    table = Row(Path("x.CSV.gz"), 1, {"prompt": written, "completion": "yes", "system": "s"})
    assert read_record(table, "prompt_completion").sides[0].prompt == [{"role": "system", "content": "s"}, U]
    python = Row(Path("x.csv"), 1, {"prompt": "[{'role': 'user', 'content': 'q'}]", "completion": "yes"})
    with pytest.raises(DataError, match="not in Python's notation"):
        read_record(python, "prompt_completion")


def test_what_a_file_is_says_its_last_suffix(write):
    """`export.csv.jsonl` is JSON, in which strings are strings and nulls are meant."""
    written, tools = '[{"role": "user", "content": "q"}]', [{"name": "f", "default": None}]
    with pytest.raises(DataError, match="the messages are written into a string"):
        read(write, {"prompt": written, "completion": "yes"}, name="export.csv.jsonl")
    assert read(write, {"messages": [U, A], "tools": tools}, name="export.parquet.jsonl").tools == tuple(tools)
