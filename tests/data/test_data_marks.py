"""Marked text to marked tokens: which tokens belong to a phrase, a step, an item; and what is refused."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.data.rows.marks import Mark, consecutive
from jaxpo.data.tokens.marked import marked_tokens
from jaxpo.errors import DataError

PAIR = {"prompt": "Say: ", "chosen": "one two three", "rejected": "four five"}
ROLES = ("chosen", "rejected")


def marked(dataset, example, role, name, k=None):
    """{number: text of the tokens that carry it} of one segment."""
    found = dataset.store.read([example])[0]
    segment = found.segments[found.roles[role] if k is None else found.roles[role][k]]
    numbers = segment.per_token.get(name, np.zeros(len(segment.tokens), int))
    assert not numbers[~segment.supervised].any()
    return {
        int(n): b"".join(dataset.tokenizer.token_bytes(segment.tokens[numbers == n])).decode()
        for n in np.unique(numbers[numbers > 0])
    }


@given(
    text=st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_a_token_is_marked_when_it_holds_a_byte_of_a_marked_character(tokenizer, text, cuts):
    """Against a walk over single bytes, with characters of one to four bytes split between tokens."""
    edges = sorted({min(c, len(text)) for c in cuts})
    marks = [Mark("x", k, a, b) for k, (a, b) in enumerate(itertools.pairwise(edges), 1) if k != 2]
    tokens = np.asarray([tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id], np.int32)
    found = marked_tokens(tokens, 1, text, marks, tokenizer).get("x", np.zeros(len(tokens), int))
    of_byte = [c for c, character in enumerate(text) for _ in character.encode()]
    expected, at = [0], 0
    for piece in tokenizer.token_bytes(tokens[1:-1]):
        characters = set(of_byte[at : at + len(piece)])
        numbers = [m.number for m in marks if characters & set(range(m.start, m.end))]
        expected.append(min(numbers, default=0))
        at += len(piece)
    assert at == len(text.encode())
    assert found.tolist() == [*expected, 0]


def test_consecutive_marks_are_the_parts():
    parts = ["ab", "c", "défg"]
    joined = ", ".join(parts)
    marks = consecutive("item", parts, ", ")
    assert [joined[m.start : m.end] for m in marks] == parts
    assert [m.number for m in marks] == [1, 2, 3]


def test_phrases_of_both_responses(prepared, files):
    data = prepared(files / "spans.jsonl", "preference", roles=ROLES, per_token=("phrase",))
    assert list(data.per_token) == ["phrase"]
    chosen, rejected = (marked(data, 1, role, "phrase") for role in ROLES)
    assert {k: v.strip() for k, v in chosen.items()} == {1: "eight", 2: "six"}
    assert {k: v.strip() for k, v in rejected.items()} == {1: "six", 2: "eight"}
    assert "Grüße" in marked(data, 2, "chosen", "phrase")[1]
    assert "東京" in marked(data, 2, "chosen", "phrase")[2]
    assert marked(data, 2, "rejected", "phrase") == {}


def test_keywords_are_ranked_in_the_order_of_the_column(prepared, files):
    data = prepared(files / "keywords.jsonl", "preference", roles=ROLES, per_token=("keyword",))
    found = {k: v.strip() for k, v in marked(data, 0, "chosen", "keyword").items()}
    assert found == {1: "deep neural networks", 2: "Deep learning", 3: "learning"}


def test_marks_are_stored_only_for_who_asks(prepared, files):
    plain = prepared(files / "spans.jsonl", "preference", roles=ROLES)
    assert plain.per_token == {}
    assert all(not s.per_token for e in plain.store.read(range(3)) for s in e.segments)
    tree = prepared(files / "tree.jsonl", "preference", roles=("candidate",), columns=("scores",))
    assert all(not s.per_token for e in tree.store.read(range(3)) for s in e.segments)


def test_phrases_in_conversations_and_implicit_prompts(prepared, write):
    """Characters count in the string column as given, prompt included, or in the answer's message."""
    user = {"role": "user", "content": "Q"}
    spans = {"chosen_spans": [[2, 3]], "rejected_spans": [[4, 7]]}
    answers = {"chosen": "a B", "rejected": "the end"}
    chat = {role: [user, {"role": "assistant", "content": text}] for role, text in answers.items()}
    given = {"prompt": [user], **answers}
    implicit = {
        "chosen": "Q: it is a B",
        "rejected": "Q: it is the end",
        "chosen_spans": [[11, 12]],
        "rejected_spans": [[13, 16]],
    }
    for row in ({**chat, **spans}, {**given, **spans}, implicit):
        data = prepared(write(row), "preference", roles=ROLES, per_token=("phrase",))
        assert marked(data, 0, "chosen", "phrase")[1].strip() == "B"
        assert marked(data, 0, "rejected", "phrase")[1].strip() == "end"
    shifted = {**implicit, "chosen_spans": [[0, 2]]}
    with pytest.raises(DataError, match=r"field 'chosen_spans': span 0, \[0, 2\], reaches beyond .*8 to 12"):
        prepared(write(shifted), "preference", roles=ROLES, per_token=("phrase",))
    two = [*chat["chosen"], user, {"role": "assistant", "content": "more"}]
    with pytest.raises(DataError, match=r"field 'chosen_spans': chosen has 3 messages; spans can be marked in a sing"):
        prepared(write({**chat, **spans, "chosen": two}), "preference", roles=ROLES, per_token=("phrase",))


BAD = {
    "not a list": (3, r"expected a list of spans, found int"),
    "no pair": ([[0, 1, 2]], r"span 0 is \[0, 1, 2\], not \[start, end\]"),
    "fractions": ([[0.0, 1.0]], r"span 0 is \[0\.0, 1\.0\], not"),
    "booleans": ([[False, True]], r"span 0 is \[False, True\], not"),
    "empty": ([[0, 3], [5, 5]], r"span 1, \[5, 5\], is empty"),
    "backwards": ([[5, 3]], r"span 0, \[5, 3\], is empty"),
    "negative": ([[-3, -1]], r"span 0, \[-3, -1\], reaches beyond the response \(characters 0 to 13\)"),
    "beyond": ([[8, 14]], r"span 0, \[8, 14\], reaches beyond the response \(characters 0 to 13\)"),
    "overlap": ([[4, 7], [8, 13], [0, 5]], r"spans 0 and 2 overlap.*none of them overlapping"),
}


@pytest.mark.parametrize("label", ["phrase", "keyword"])
@pytest.mark.parametrize("name", BAD)
def test_bad_spans_name_row_and_field(prepared, write, name, label):
    value, match = BAD[name]
    suffix = {"phrase": "spans", "keyword": "keywords"}[label]
    good = {**PAIR, f"chosen_{suffix}": [[0, 3]], f"rejected_{suffix}": [[0, 4], [5, 9]]}
    path = write(good, {**good, f"chosen_{suffix}": value})
    with pytest.raises(DataError, match=rf"row 2, field 'chosen_{suffix}': {match}"):
        prepared(path, "preference", roles=ROLES, per_token=(label,))
    assert len(prepared(path, "preference", roles=ROLES)) == 2, "who reads no spans is not stopped by them"


@pytest.mark.parametrize(
    ("file", "roles", "marks", "match"),
    [
        ("preference", ROLES, ("phrase",), r"field 'chosen_spans': column 'chosen_spans' is missing .*type 'prefere"),
        ("spans", ROLES, ("keyword",), r"field 'chosen_keywords': column 'chosen_keywords' is missing"),
        ("list", ("candidate",), ("step",), r"field 'steps': column 'steps' is missing .*step that each token"),
        ("preference", ("candidate",), ("step",), r"field 'steps': column 'steps' is missing"),
        ("tree", ("items",), ("item",), r"field 'items': column 'items' is missing"),
    ],
)
def test_missing_marks_are_named_before_tokenising(prepared, files, file, roles, marks, match):
    lines: list[str] = []
    with pytest.raises(DataError, match=match):
        prepared(files / f"{file}.jsonl", "preference", roles=roles, per_token=marks, log=lines.append)
    assert not lines


def test_steps_of_a_tree(prepared, files):
    rows = [json.loads(line) for line in (files / "tree.jsonl").open()]
    data = prepared(
        files / "tree.jsonl",
        "preference",
        roles=("candidate",),
        columns=("scores",),
        per_token=("step",),
        max_length=128,
    )
    assert data.type == "tree"
    assert data.roles == {"candidate": 3}
    examples = data.store.read(range(3))
    assert [e.roles["candidate"] for e in examples] == [[0, 1, 2], [0, 1], [0, -1, 1]]
    for n, row in enumerate(rows):
        for k, steps in enumerate(row["steps"]):
            if steps:
                found = marked(data, n, "candidate", "step", k)
                assert list(found) == list(range(1, len(steps) + 1))
                # A token may reach over a border; it then belongs to the earlier step.
                assert "".join(found.values()) == "".join(steps)
    assert data.counts["merged_steps"] == (3 + 3 + 2 - 3 * 2) + 0 + (2 + 1 - 2 * 1)
    assert data.counts["empty_responses"] == 1


def test_items_are_marked_and_separators_are_not(prepared, files):
    rows = [json.loads(line) for line in (files / "items.jsonl").open()]
    data = prepared(files / "items.jsonl", "preference", roles=("items",), columns=("relevance",), per_token=("item",))
    assert data.roles == {"items": 0}
    assert data.columns["relevance"].shape == (4,)
    for n, row in enumerate(rows):
        found = {k: v.strip() for k, v in marked(data, n, "items", "item").items()}
        assert found == dict(enumerate(row["items"], 1))
        segment = data.store.read([n])[0].segments[0]
        text = data.tokenizer.decode(segment.tokens[segment.supervised], skip_special_tokens=False)
        assert text == row.get("separator", "\n").join(row["items"]) + "<|im_end|>"
        assert segment.per_token["item"][-1] == 0, "the end is no item's"
    newline = np.isin(
        data.store.read([0])[0].segments[0].tokens, [i for i in range(512) if data.tokenizer.decode([i]) == "\n"]
    )
    assert newline.sum() == 3
    assert not data.store.read([0])[0].segments[0].per_token["item"][newline].any()


def test_relevance_is_padded_with_minus_one(prepared, files):
    from jaxpo.config import Data
    from jaxpo.data.packing.loader import Loader

    data = prepared(files / "items.jsonl", "preference", roles=("items",), columns=("relevance",), per_token=("item",))
    batch = next(
        iter(Loader(data, Data(max_length=64, row_length=64), seed=0, rows_per_step=4, shuffle=False).one_pass())
    )
    found = {int(i): x.tolist() for i, x in zip(batch.example_id, batch.per_example["relevance"], strict=True)}
    assert found[1] == [2, 0, 1, -1]
    assert found[2] == [0, 1, -1, -1]
    assert all(x == [-1] * 4 for i, x in found.items() if i < 0)


@pytest.mark.parametrize("truncation", ["response_right", "prompt_left"])
def test_marks_follow_their_tokens_through_truncation(prepared, write, tokenizer, truncation):
    prompt = "one two three four five six seven eight nine ten " * 2
    row = {"prompt": prompt, "items": ["alpha beta", "gamma delta", "epsilon zeta eta theta"], "relevance": [0, 1, 2]}
    ask = {"roles": ("items",), "columns": ("relevance",), "per_token": ("item",)}
    whole = prepared(write(row), "preference", max_length=256, **ask).store.read([0])[0].segments[0]
    length = len(whole.tokens) - 4
    data = prepared(write(row), "preference", max_length=length, truncation=truncation, **ask)
    cut = data.store.read([0])[0].segments[0]
    assert len(cut.tokens) == length
    if truncation == "response_right":
        assert np.array_equal(cut.per_token["item"], whole.per_token["item"][:length])
        assert data.counts["truncated_labels"] == 1
    else:
        assert np.array_equal(cut.per_token["item"][1:], whole.per_token["item"][5:])
        assert np.array_equal(cut.tokens[1:], whole.tokens[5:])
        assert data.counts["truncated_labels"] == 0


def test_a_tree_serves_list_methods(prepared, files):
    from jaxpo.data.rows.formats import read_rows
    from jaxpo.data.rows.needs import Needs
    from jaxpo.data.rows.requirements import check_needs

    row = next(read_rows([files / "tree.jsonl"]))
    reading = check_needs(row, "preference", Needs(roles=("candidate",), columns=("scores",)))
    assert (reading.kind, reading.columns, reading.marks) == ("tree", ("scores",), ())
