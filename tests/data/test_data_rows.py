"""Types from columns, both forms of every type, and the message for every value that cannot be used."""

from __future__ import annotations

import pytest

from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.rows import detect, read_record
from jaxpo.errors import ConfigError, DataError

U = {"role": "user", "content": "hi"}
A, B = ({"role": "assistant", "content": c} for c in ("yes", "no"))
TYPES = {
    "text": "text",
    "messages": "messages",
    "sharegpt": "messages",
    "alpaca": "prompt_completion",
    "prompt": "prompt",
    "prompt_completion": "prompt_completion",
    "prompt_completion_chat": "prompt_completion",
    "preference": "preference",
    "preference_chat": "preference",
    "preference_implicit": "preference",
    "unpaired": "unpaired",
    "rated": "rated",
    "rated_prompts": "rated",
    "weights_of_heads": "rated",
    "steps": "steps",
    "groups": "preference",
    "list": "list",
    "triple": "triple",
    "two_prompt": "two_prompt",
    "rewards": "preference",
    "mean_scores": "preference",
    "responsibilities": "preference",
    **dict.fromkeys(("calibration", "smoothing", "step_pairs"), "preference"),
    "parts": "preference",
    "samples": "preference",
    "annotators": "preference",
    "rationale": "preference",
    "spans": "preference",
    "keywords": "preference",
    "mapl": "preference",
    "weights": "unpaired",
    "tree": "tree",
    "items": "items",
    "tokens": "tokens",
    "query_positive": "query_positive",
    "tagged": "tagged",
    "tagged_text": "tagged_text",
    "query_documents": "query_documents",
}


def one(write, row):
    return next(read_rows([write(row)]))


def sides(write, row):
    found = one(write, row)
    return [(s.role, s.prompt, s.completion) for s in read_record(found, detect(found)).sides]


def test_every_example_file_is_recognised(files):
    assert sorted(TYPES) == sorted(path.stem for path in files.glob("*.jsonl"))
    for name, kind in TYPES.items():
        rows = list(read_rows([files / f"{name}.jsonl"]))
        assert {detect(row) for row in rows} == {kind}, name
        for row in rows:
            read_record(row, kind)


def test_sharegpt_and_alpaca_become_the_contract(write):
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    assert sides(write, row)[0][2] == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert sides(write, {"instruction": "i", "input": "x", "output": "o"}) == [("completion", "i\n\nx\n\n", "o")]
    assert sides(write, {"instruction": "i", "output": "o"}) == [("completion", "i\n\n", "o")]


def test_implicit_prompt(write):
    assert sides(write, {"chosen": [U, A], "rejected": [U, B]}) == [("chosen", [U], [A]), ("rejected", [U], [B])]
    assert sides(write, {"chosen": "The sky is blue.", "rejected": "The sky is brown."}) == [
        ("chosen", "The sky is", " blue."),
        ("rejected", "The sky is", " brown."),
    ]
    assert sides(write, {"chosen": "Q: x\nA: yes", "rejected": "Q: x\nA: no"})[0] == ("chosen", "Q: x\nA:", " yes")


def test_string_prompt_beside_whole_conversations(write):
    """UltraFeedback's layout: the prompt column repeats the first turn."""
    row = {"prompt": "hi", "chosen": [U, A], "rejected": [U, B]}
    assert sides(write, row) == [("chosen", [U], [A]), ("rejected", [U], [B])]


def test_answers_as_strings_under_a_conversation(write):
    row = {"prompt": [U], "responses": ["yes", ""], "scores": [1, 0]}
    assert sides(write, row) == [("candidate", [U], [A]), ("candidate", [U], [])]


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
LIST = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 0]}
TREE = {"prompt": "p", "steps": [["a", "b"], ["c"]], "scores": [1, 0]}
ITEMS = {"prompt": "p", "items": ["a", "b"], "relevance": [0, 1]}
GOOD = {"prompt": "p", "completion": "c", "label": True}
STEPS = {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]}
BAD = {
    "missing column": ({"prompt": "p", "chosen": "a"}, r"row 1, field 'rejected': type 'preference' lacks column"),
    "only scores missing": ({"prompt": "p", "responses": ["a"]}, r"field 'scores': type 'list' lacks column 'scores'"),
    "documents without scores": ({"query": "q", "documents": ["a"]}, r"field 'scores': type 'query_documents' lacks"),
    "tree without scores": ({"prompt": "p", "steps": [["a"], ["b"]]}, r"field 'scores': type 'tree' lacks column"),
    "items without relevance": ({"prompt": "p", "items": ["a"]}, r"field 'relevance': type 'items' lacks column"),
    "only scores": ({"prompt": "p", "scores": [1]}, r"field 'responses': type 'list' lacks column 'responses'"),
    "only a prompt": ({"prompt": "p"}, r"field 'completion': there is only a prompt: nothing to train on"),
    "no type": ({"foo": 1}, r"row 1: no dataset type has columns \['foo'\]\. Rename columns to one of: .*text: text"),
    "steps without labels": ({"prompt": "p", "completions": ["a"]}, r"field 'labels': type 'steps' lacks column"),
    "labels of steps": ({**STEPS, "labels": [True]}, r"field 'labels': 2 steps but 1 labels\. Give one per step"),
    "label of a step": ({**STEPS, "labels": [True, -100]}, r"field 'labels': -100 is no label of a step\. Add"),
    "word for a label": ({**STEPS, "labels": [True, "bad"]}, r"field 'labels': expected a number, found 'bad'"),
    "no label": ({**STEPS, "labels": [None, None]}, r"field 'labels': no step is labelled"),
    "step without text": ({**STEPS, "completions": ["a", ""]}, r"field 'completions': the text is empty"),
    "no step": ({**STEPS, "completions": [], "labels": []}, r"field 'completions': there is no step"),
    "step of messages": ({**STEPS, "completions": [[A], [A]]}, r"field 'completions': expected a string, found list"),
    "ratings": ({"prompt": "p", "ratings": 3}, r"field 'ratings': expected \{name: number\}"),
    "no rating": ({"prompt": "p", "ratings": {"a": None}}, r"field 'ratings': expected \{name: number\}, one of them"),
    "nan rating": ({"prompt": "p", "ratings": {"a": float("nan")}}, r"field 'ratings': nan is not finite"),
    "rating in words": ({"prompt": "p", "ratings": {"a": "good"}}, r"field 'ratings': expected a number, found 'good'"),
    "rated nothing": ({"prompt": "", "ratings": {"a": 1}}, r"field 'prompt': the prompt is empty, and there is no"),
    "tie": ({**PAIR, "tie": "yes"}, r"field 'tie': 'yes' is not a tie\. Use true/false or 1/0"),
    "user": ({**PAIR, "user": ["ann"]}, r"field 'user': expected a name or a number, found \['ann'\]"),
    "group": (
        {**PAIR, "group": True},
        r"field 'group': expected a name or a number, found True\. Add a column `group`",
    ),
    "non-string": ({"text": 3}, r"field 'text': expected a string, found int"),
    "empty text": ({"text": ""}, r"field 'text': the text is empty"),
    "no role": ({"messages": [{"content": "x"}]}, r"field 'messages': message 0 has no role"),
    "no messages": ({"messages": []}, r"the conversation is empty"),
    "empty turn": ({"messages": [U, {"role": "assistant", "content": ""}]}, r"message 1 \(assistant\) has no content"),
    "tool calls": ({"messages": [U, {**A, "tool_calls": [1]}]}, r"field 'messages': message 1 has a call without"),
    "same": ({**PAIR, "rejected": "a"}, r"row 1, field 'rejected': chosen == rejected.*Remove the row or correct it"),
    "same chat": ({"chosen": [U, A], "rejected": [U, A]}, r"chosen == rejected"),
    "same twice": (
        {"prompt_chosen": "p", "prompt_rejected": "p", "chosen": "a", "rejected": "a"},
        r"chosen == rejected under the same prompt",
    ),
    "empty chosen": ({**PAIR, "chosen": ""}, r"field 'chosen': the text is empty"),
    "no common start": ({"chosen": "a b", "rejected": "c d"}, r"field 'prompt': there is no `prompt`.*Add a prompt"),
    "mixed forms": ({"prompt": "p", "completion": [A]}, r"prompt is a string but completion is a list of messages"),
    "user answers": ({"prompt": [U], "completion": [U]}, r"completion starts with a turn of 'user'"),
    "label": (
        {"prompt": "p", "completion": "c", "label": 2},
        r"field 'label': 2 is not a label\. Use true/false or 1/0",
    ),
    "label text": ({"prompt": "p", "completion": "c", "label": "good"}, r"'good' is not a label"),
    "nan margin": ({**PAIR, "margin": float("nan")}, r"field 'margin': nan is not finite"),
    "inf margin": ({**PAIR, "margin": float("inf")}, r"field 'margin': inf is not finite"),
    "margin text": ({**PAIR, "margin": "1"}, r"field 'margin': expected a number, found '1'"),
    "annotator": ({**PAIR, "annotator": 1.5}, r"field 'annotator': expected a name or a number"),
    "no annotator": ({**PAIR, "annotator": ""}, r"field 'annotator': expected a name or a number, found ''"),
    "rewards": ({**PAIR, "rewards": {"x": [1]}}, r"field 'rewards': expected \{name: \[chosen, rejected\]\}"),
    "votes": ({**PAIR, "votes": [0, 0]}, r"field 'votes': \[0, 0\] are not counts of votes"),
    "short scores": ({**LIST, "scores": [1]}, r"field 'scores': 2 responses but 1 scores\. Give one per response"),
    "one response": ({**LIST, "responses": ["a"], "scores": [1]}, r"field 'responses': 1 response\(s\).*at least 2"),
    "nan score": ({**LIST, "scores": [1, float("nan")]}, r"field 'scores': nan is not finite"),
    "scores": ({**LIST, "scores": 3}, r"`responses` and `scores` must be lists"),
    "zero weight": ({**GOOD, "weight": 0}, r"field 'weight': 0 is not above 0"),
    "nan weight": ({**GOOD, "weight": float("nan")}, r"field 'weight': nan is not finite"),
    "rewards of a list": (
        {**LIST, "rewards": {"x": [1, 0, 2]}},
        r"field 'rewards': expected \{name: \[2 numbers, one for each score\]\}",
    ),
    "rewards of branches": ({**TREE, "rewards": {"x": 1}}, r"field 'rewards': expected \{name: \[2 numbers"),
    "rewards of an answer": ({**GOOD, "rewards": {"x": [1, 0]}}, r"field 'rewards': expected \{name: number\}"),
    "reward in words": ({**STEPS, "rewards": {"x": "much"}}, r"field 'rewards': expected a number, found 'much'"),
    "nan reward": ({**PAIR, "rewards": {"x": [1, float("nan")]}}, r"field 'rewards': nan is not finite"),
    "no steps": ({**TREE, "steps": ["ab", "c"]}, r"field 'steps': response 0 is str, not a list of steps"),
    "empty step": ({**TREE, "steps": [["a"], ["c", ""]]}, r"field 'steps': step 1 of response 1 is empty"),
    "one branch": ({**TREE, "steps": [["a"]], "scores": [1]}, r"field 'steps': 1 response\(s\).*at least 2"),
    "short tree scores": ({**TREE, "scores": [1]}, r"field 'scores': 2 responses but 1 scores"),
    "inf tree score": ({**TREE, "scores": [1, float("inf")]}, r"field 'scores': inf is not finite"),
    "step text": ({**TREE, "steps": [["a"], [3]]}, r"field 'steps': expected a string, found int"),
    "items text": ({**ITEMS, "items": "a"}, r"field 'items': `items` and `relevance` must be lists"),
    "one item": (
        {**ITEMS, "items": ["a"], "relevance": [1]},
        r"field 'items': 1 item\(s\); a ranking needs at least 2",
    ),
    "empty item": ({**ITEMS, "items": ["a", ""]}, r"field 'items': the text is empty"),
    "short relevance": ({**ITEMS, "relevance": [1]}, r"field 'relevance': 2 items but 1 grades"),
    "relevance below": (
        {**ITEMS, "relevance": [1, -1]},
        r"field 'relevance': \[1, -1\] are not grades.*from 0",
    ),
    "relevance fraction": ({**ITEMS, "relevance": [1, 0.5]}, r"field 'relevance': .*are not grades"),
    "separator inside": ({**ITEMS, "items": ["a\nb", "c"]}, r"field 'items': item 0 contains the separator '\\n'"),
    "empty separator": ({**ITEMS, "separator": ""}, r"field 'separator': the text is empty"),
    "tools": ({"messages": [U, A], "tools": "f"}, r"field 'tools': `tools` must be a list"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(prepared, write, name):
    row, match = BAD[name]
    path = write(row)
    purpose = "sft" if {"text", "messages", "completion"} & set(row) and "label" not in row else "preference"
    with pytest.raises(DataError, match=match) as error:
        prepared(path, purpose)
    assert str(path) in str(error.value)


def test_later_row_without_a_column(prepared, write):
    path = write({**PAIR, "margin": 1.0}, PAIR)
    with pytest.raises(
        DataError, match=r"row 2, field 'margin': column 'margin' is missing; the file's other rows have"
    ):
        prepared(path, "preference")
    path = write({"text": "x"}, {"txt": "y"}, name="t.jsonl")
    with pytest.raises(DataError, match=r"t.jsonl, row 2, field 'text': column 'text' is missing"):
        prepared(path, "language")


def test_rewards_must_have_the_same_names(prepared, write):
    path = write({**PAIR, "rewards": {"x": [1, 0]}}, {**PAIR, "rewards": {"y": [1, 0]}})
    with pytest.raises(
        DataError, match=r"row 2, field 'rewards': rewards are named \['y'\], but \['x'\] in earlier rows"
    ):
        prepared(path, "preference")


@pytest.mark.parametrize(
    ("name", "roles", "columns", "match"),
    [
        (
            "preference",
            ("candidate",),
            ("scores",),
            r"row 1, field 'responses': column 'responses' is missing .*candidate",
        ),
        ("list", ("chosen", "rejected"), (), r"row 1, field 'chosen': column 'chosen' is missing .*type 'list'"),
        ("preference", ("chosen", "rejected", "gold"), (), r"field 'gold': column 'gold' is missing"),
        (
            "preference",
            ("chosen", "rejected"),
            ("annotator",),
            r"field 'annotator': .*Add a column `annotator`: a name",
        ),
        ("preference", ("chosen", "rejected", "rationale"), (), r"field 'rationale': .*rationale_prompt"),
        ("preference_chat", ("chosen", "rejected"), ("margin",), r"field 'margin': .*Add a column `margin`: a number"),
        ("prompt_completion", ("completion",), ("label",), r"field 'label': .*Add a column `label`: true for good"),
        ("prompt_completion", ("completion", "kl"), ("label",), r"field 'label': column 'label' is missing"),
        ("unpaired", ("completion",), ("label", "weight"), r"field 'weight': .*Add a column `weight`: a positive"),
        (
            "preference",
            ("chosen", "rejected", "inter_chosen"),
            (),
            r"field 'inter_prompt': column 'inter_prompt' is",
        ),
        ("two_prompt", ("items",), ("relevance",), r"field 'items': column 'items' is missing"),
        ("tree", ("chosen", "rejected"), (), r"field 'chosen': column 'chosen' is missing .*type 'tree'"),
    ],
)
def test_needs_are_checked_before_tokenising(prepared, files, name, roles, columns, match):
    lines: list[str] = []
    with pytest.raises(DataError, match=match) as error:
        prepared(files / f"{name}.jsonl", "preference", roles=roles, columns=columns, log=lines.append)
    assert f"{name}.jsonl" in str(error.value)
    assert not lines, "nothing was tokenised"


def test_preference_rows_in_an_sft_stage(prepared, files):
    with pytest.raises(DataError, match=r"a sft stage cannot train on rows of type 'preference'.*rename `chosen`"):
        prepared(files / "preference.jsonl", "sft")


def test_settings_that_cannot_work(prepared, files):
    with pytest.raises(ConfigError, match=r"data.row_length=32 is below data.max_length=64"):
        prepared(files / "text.jsonl", "language", row_length=32)
    with pytest.raises(
        ConfigError, match=r"2 problems:(.|\n)*max_length=1 must be at least 2(.|\n)*block_rows=0 must be"
    ):
        prepared(files / "text.jsonl", "language", max_length=1, block_rows=0)
    with pytest.raises(ConfigError, match=r"data.train_on='assistant' needs messages or completions"):
        prepared(files / "text.jsonl", "sft", train_on="assistant")
    with pytest.raises(ConfigError, match=r"data.train_on='all' has no meaning for 'preference' rows"):
        prepared(files / "preference.jsonl", "preference", train_on="all")


def test_no_supervised_token(prepared, write):
    path = write({"messages": [U, A]}, {"messages": [U, U]})
    with pytest.raises(
        DataError, match=r"row 2.*no token of this row is trained on \(train_on='auto'\): there is no assi"
    ):
        prepared(path)
    assert len(prepared(path, train_on="all")) == 2
