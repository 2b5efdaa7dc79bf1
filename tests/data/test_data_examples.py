"""Rows to segments: what is trained on, and every truncation policy with its counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.data.chat.chat import encode_spans, render
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.rows import read_record
from jaxpo.data.tokens.examples import split_text
from jaxpo.errors import DataError

U = {"role": "user", "content": "What is it?"}


def A(content):
    return {"role": "assistant", "content": content}


def shown(dataset, example, role, k=None):
    """(the whole segment, its trained part) as text."""
    found = dataset.store.read([example])[0]
    index = found.roles[role] if k is None else found.roles[role][k]
    segment = found.segments[index]
    decode = dataset.tokenizer.decode
    return tuple(decode(ids, skip_special_tokens=False) for ids in (segment.tokens, segment.tokens[segment.supervised]))


def test_text_is_trained_whole_and_ends(prepared, files):
    data = prepared(files / "text.jsonl", "language", roles=("text",))
    text = "The quick brown fox jumps over the lazy dog."
    assert shown(data, 0, "text") == (f"<|startoftext|>{text}<|im_end|>",) * 2


def test_standard_rows_are_not_templated(prepared, files):
    data = prepared(files / "prompt_completion.jsonl", roles=("completion",))
    whole, trained = shown(data, 0, "completion")
    assert whole == "<|startoftext|>What is the capital of France? Paris.<|im_end|>"
    assert trained == "Paris.<|im_end|>"


def test_conversations_train_the_assistant(prepared, files):
    data = prepared(files / "messages.jsonl", max_length=128, row_length=128)
    whole, trained = shown(data, 5, "completion")
    assert whole.startswith(
        "<|startoftext|><|im_start|>system\nAnswer in one word.<|im_end|>\n<|im_start|>user\nCapital"
    )
    assert trained == "Tokyo<|im_end|>\nRome<|im_end|>\n"
    whole, trained = shown(data, 6, "completion")
    assert 'List of tools: <|tool_list_start|>[{"name": "weather"' in whole
    assert "<|tool_response_start|>" in whole
    assert trained.startswith("<|tool_call_start|>[weather(")


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("assistant", "a<|im_end|>\nb<|im_end|>\n"),
        ("completion", "b<|im_end|>\n"),
        ("auto", "a<|im_end|>\nb<|im_end|>\n"),
    ],
)
def test_train_on(prepared, write, train_on, expected):
    path = write({"messages": [U, A("a"), U, A("b")]})
    assert shown(prepared(path, train_on=train_on), 0, "completion")[1] == expected
    both = write({"prompt": [U, A("a"), U], "completion": [A("b")]}, name="both.jsonl")
    expected = "b<|im_end|>\n" if train_on == "auto" else expected
    assert shown(prepared(both, train_on=train_on), 0, "completion")[1] == expected


def test_train_on_everything(prepared, write):
    path = write({"prompt": [U], "completion": [A("b")]})
    whole, trained = shown(prepared(path, train_on="all"), 0, "completion")
    assert whole == trained


def test_pairs_share_their_prompt_tokens(prepared, files):
    for name in ("preference", "preference_chat", "preference_implicit", "triple"):
        data = prepared(files / f"{name}.jsonl", "preference", roles=("chosen", "rejected"))
        for example in data.store.read(range(len(data))):
            prompts = [s.tokens[~s.supervised] for s in example.segments]
            assert len(prompts) == 2, "a gold response is left out unless asked for"
            assert np.array_equal(*prompts)
            assert all(
                s.tokens[s.supervised][-1 if name in ("preference", "triple") else -2] == 7 for s in example.segments
            )


def test_gold_and_rationale_when_asked_for(prepared, files):
    data = prepared(files / "triple.jsonl", "preference", roles=("chosen", "rejected", "gold"))
    assert shown(data, 0, "gold")[1] == "Paris. (checked)<|im_end|>"
    data = prepared(files / "rationale.jsonl", "preference", roles=("chosen", "rejected", "rationale"))
    assert shown(data, 1, "rationale")[1] == "'Eleven.' answers the question.<|im_end|>"
    assert "Is it better to say" in shown(data, 1, "rationale")[0]


def test_lists_mark_empty_responses(prepared, files):
    data = prepared(files / "list.jsonl", "preference", roles=("candidate",), columns=("scores",))
    examples = data.store.read(range(3))
    assert [e.roles["candidate"] for e in examples] == [[0, 1, 2, -1], [0, 1], [0, 1, 2]]
    assert data.counts["empty_responses"] == 1
    assert data.roles == {"candidate": 4}
    assert data.columns["scores"].shape == (4,)
    assert shown(data, 0, "candidate", 2)[1] == "Sleep<|im_end|>\n"


def test_lists_with_one_response_left_are_dropped(prepared, write):
    good = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 0]}
    data = prepared(write(good, {**good, "responses": ["a", ""]}), "preference", roles=("candidate",))
    assert (len(data), data.counts["dropped_fewer_than_2_responses"]) == (1, 1)


def test_pairs_serve_unpaired_methods(prepared, files):
    data = prepared(files / "preference_implicit.jsonl", "preference", roles=("completion",), columns=("label",))
    assert (data.type, len(data)) == ("unpaired", 10)
    assert [e.columns["label"] for e in data.store.read([0, 1])] == [True, False]
    assert shown(data, 1, "completion")[1] == "It is Lyon, I think.<|im_end|>\n"


def test_annotators_have_the_same_ids_in_held_out_data(prepared, files, write, tokenizer, tmp_path):
    from jaxpo.config import Data
    from jaxpo.data.rows.needs import Needs
    from jaxpo.data.tokens.prepare import prepare

    data = prepared(files / "annotators.jsonl", "preference", roles=("chosen", "rejected"), columns=("annotator",))
    assert data.names["annotator"] == ("ann", "bob", "cy")
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    held_out = write({**pair, "annotator": "cy"}, {**pair, "annotator": "eve"}, {**pair, "annotator": "ann"})
    other = prepare(
        [held_out],
        data=Data(),
        tokenizer=tokenizer,
        purpose="preference",
        needs=Needs(columns=("annotator",)),
        cache_dir=tmp_path,
        log=lambda line: None,
        names=data.names,
    )
    assert [e.columns["annotator"] for e in other.store.read(range(len(other)))] == [2, 0]
    assert other.counts["dropped_unknown_annotator"] == 1


def test_users_and_groups_have_the_same_ids_in_held_out_data(prepared, files, write):
    """A new group is measured; a new user is left out where the method reads users, and kept where it does not."""
    ask = {"roles": ("chosen", "rejected")}
    data = prepared(files / "groups.jsonl", "preference", **ask)
    assert data.names == {"annotator": (), "user": ("ann", "bob", "cy"), "group": ("facts", "lists")}
    read = data.store.read(range(len(data)))
    assert [(e.columns["user"], e.columns["group"], e.columns["tie"]) for e in read] == [
        (0, 0, False), (1, 1, True), (0, 1, False), (2, 0, False)
    ]  # fmt: skip
    pair = {"prompt": "p", "chosen": "a", "rejected": "b", "group": "new"}
    held_out = write({**pair, "user": "eve"}, {**pair, "user": "bob"})
    kept = prepared(held_out, "preference", names=data.names, **ask)
    assert kept.names["group"] == ("facts", "lists", "new")
    assert [e.columns["user"] for e in kept.store.read(range(2))] == [3, 1]
    said: list[str] = []
    known = prepared(held_out, "preference", names=data.names, columns=("user",), log=said.append, **ask)
    assert "warning: left out: rows of the users eve, whom the training rows do not have" in said
    assert [e.columns["user"] for e in known.store.read(range(len(known)))] == [1]
    assert known.counts["dropped_unknown_user"] == 1
    # Another method may meet new users: it does not take up what this one has left.
    new = prepared(held_out, "preference", names=data.names, columns=("user",), new_names=("user",), **ask)
    assert [e.columns["user"] for e in new.store.read(range(len(new)))] == [3, 1]


def test_a_method_that_knows_its_users_numbers_them_and_refuses_others(prepared, files, write):
    ask = {"roles": ("chosen", "rejected"), "columns": ("user",)}
    known = prepared(files / "responsibilities.jsonl", "preference", names=None, declared=("bob", "ann"), **ask)
    assert known.names["user"] == ("bob", "ann")
    assert [e.columns["user"] for e in known.store.read(range(len(known)))] == [1, 0, 1, 0]
    assert known.columns["responsibilities"].names == ("group_000", "group_001")
    with pytest.raises(DataError, match=r"row 2, field 'user': 'bob' is not among the 1 known: ann\."):
        prepared(files / "responsibilities.jsonl", "preference", names=None, declared=("ann",), **ask)


def test_a_step_ends_at_the_last_token_of_its_separator(prepared, files, tokenizer):
    data = prepared(files / "steps.jsonl", "preference", roles=("completion",), columns=("labels",),
                    per_token=("step_end",))  # fmt: skip
    first, second = data.store.read(range(2))
    assert (first.columns["labels"], second.columns["labels"]) == ([1.0, 1.0], [0.0, 0.0, -1])
    for example, steps in ((first, 2), (second, 3)):
        (segment,) = example.segments
        ends = segment.per_token["step_end"]
        at = np.flatnonzero(ends)
        assert ends[at].tolist() == list(range(1, steps + 1))
        assert all(tokenizer.decode(segment.tokens[: t + 1].tolist()).endswith("\n") for t in at)
        assert segment.supervised[at].all()


def test_a_rated_prompt_is_all_that_is_supervised(prepared, files, write):
    ask = {"roles": ("completion",), "columns": ("ratings",)}
    data = prepared(files / "rated_prompts.jsonl", "preference", **ask)
    assert data.columns["ratings"].names == ("creative", "factual")
    assert all(e.segments[0].supervised.all() for e in data.store.read(range(len(data))))
    chat = [{"role": "user", "content": "Name a fruit."}]
    (example,) = prepared(write({"prompt": chat, "ratings": {"a": 1}}), "preference", **ask).store.read(range(1))
    assert example.segments[0].supervised.all()
    answers = prepared(files / "rated.jsonl", "preference", **ask)
    rows = [e.columns["ratings"] for e in answers.store.read(range(4))]
    assert rows[:2] == [[5.0, 4.0], [2.5, 1.0]]  # by name: brief, helpful
    assert np.isnan(rows[2][0])
    assert not answers.store.read(range(1))[0].segments[0].supervised.all()


@pytest.mark.parametrize(("first", "later", "problem"), [
    ({"completion": "c"}, {}, r"row 2, field 'completion': column 'completion' is missing or null; the file's other"),
    ({}, {"completion": "c"}, r"row 2, field 'completion': there is a completion, which the first row lacks"),
])  # fmt: skip
def test_rated_answers_and_rated_prompts_do_not_mix(prepared, write, first, later, problem):
    rows = [{"prompt": "p", "ratings": {"a": 1}, **more} for more in (first, later)]
    with pytest.raises(DataError, match=problem):
        prepared(write(*rows), "preference", roles=("completion",), columns=("ratings",))


def test_answers_with_ratings_are_plain_answers_to_fine_tuning(prepared, files):
    data = prepared(files / "rated.jsonl", "sft", roles=("completion",))
    assert (data.type, data.columns) == ("prompt_completion", {})
    assert data.counts["unread_column_ratings"] == 4


def test_ratings_need_the_same_names_in_every_row(prepared, write):
    rows = [{"prompt": "p", "completion": "c", "ratings": {name: 1}} for name in ("a", "b")]
    with pytest.raises(DataError, match=r"row 2, field 'ratings': ratings are named \['b'\], but \['a'\] in earlier"):
        prepared(write(*rows), "preference", roles=("completion",), columns=("ratings",))


@given(n=st.integers(1, 60), max_length=st.integers(2, 20))
def test_documents_are_split_so_that_each_token_is_a_target_once(n, max_length):
    tokens = np.arange(n)
    pieces = split_text(tokens, max_length)
    assert all(len(piece) <= max_length for piece in pieces)
    assert np.array_equal(np.concatenate([pieces[0][:1], *(piece[1:] for piece in pieces)]), tokens)


def test_long_documents_are_split(prepared, write):
    data = prepared(write({"text": "word " * 200}, {"text": "short"}), "language", max_length=16, row_length=16)
    assert (data.counts["split_documents"], data.counts["read"]) == (1, 2)
    assert data.counts["kept"] == len(data) > 3
    assert data.lengths.values.max() == 16


LONG = "one two three four five six seven eight nine ten " * 3
ROWS = [
    {"prompt": "q: ", "chosen": "yes", "rejected": LONG},
    {"prompt": LONG, "chosen": "yes", "rejected": "no no"},
    {"prompt": "q: ", "chosen": "yes", "rejected": "no"},
]


def lengths(tokenizer, row):
    return [
        1 + len(tokenizer.encode(row["prompt"])) + len(tokenizer.encode(row[side])) + 1
        for side in ("chosen", "rejected")
    ]


def test_response_right(prepared, write, tokenizer):
    data = prepared(write(ROWS[0], ROWS[2]), "preference", max_length=32)
    assert data.lengths.of(0).tolist() == [lengths(tokenizer, ROWS[0])[0], 32]
    assert data.counts["truncated_response"] == 1
    path = write(*ROWS)
    with pytest.raises(
        DataError, match=r"row 2, field 'prompt': the prompt has \d+ tokens and max_length is 32: no super.*"
    ) as e:
        prepared(path, "preference", max_length=32)
    assert "Raise data.max_length, or set data.truncation to prompt_left or drop" in str(e.value)


def test_prompt_left_cuts_both_sides_alike(prepared, write, tokenizer):
    data = prepared(write(*ROWS), "preference", max_length=32, truncation="prompt_left")
    assert (data.counts["truncated_prompt"], data.counts["truncated_response"]) == (2, 1)
    chosen, rejected = data.store.read([1])[0].segments
    prompts = [s.tokens[~s.supervised] for s in (chosen, rejected)]
    assert np.array_equal(*prompts)
    assert max(len(chosen.tokens), len(rejected.tokens)) == 32
    whole = [1, *tokenizer.encode(LONG)]
    assert prompts[0][0] == tokenizer.bos_id
    assert prompts[0][1:].tolist() == whole[-(len(prompts[0]) - 1) :]
    assert tokenizer.decode(chosen.tokens[chosen.supervised]) == "yes"
    assert data.store.read([0])[0].segments[1].tokens[0] == tokenizer.bos_id


def test_two_prompts_are_cut_separately(prepared, write):
    row = {"prompt_chosen": LONG, "chosen": "yes", "prompt_rejected": "short ", "rejected": "no"}
    data = prepared(write(row), "preference", max_length=32, truncation="prompt_left")
    a, b = data.lengths.of(0)
    assert a == 32 > b
    assert shown(data, 0, "rejected")[0] == "<|startoftext|>short no<|im_end|>"


def test_drop_and_error(prepared, write):
    path = write(*ROWS)
    data = prepared(path, "preference", max_length=32, truncation="drop")
    assert (len(data), data.counts["dropped_longer_than_max_length"], data.counts["read"]) == (1, 2, 3)
    with pytest.raises(DataError, match=r"row 1: \d+ tokens, but max_length is 32\. Raise data.max_length"):
        prepared(path, "preference", max_length=32, truncation="error")
    with pytest.raises(
        DataError, match=r"no example is left\. Counts: read 1, kept 0, dropped_longer_than_max_length 1"
    ):
        prepared(write(ROWS[0], name="one.jsonl"), "preference", max_length=32, truncation="drop")


def test_pairs_that_differ_only_beyond_the_window_are_dropped(prepared, write):
    same_start = {"prompt": "q: ", "chosen": LONG + "yes", "rejected": LONG + "no"}
    data = prepared(write(same_start, ROWS[2]), "preference", max_length=32)
    assert (len(data), data.counts["dropped_equal_after_truncation"]) == (1, 1)


def test_chat_prompts_equal_what_generation_sees(prepared, files, tokenizer):
    data = prepared(files / "preference_chat.jsonl", "preference", roles=("chosen", "rejected"))
    prompt = [{"role": "user", "content": "2 + 2?"}]
    ids, _ = encode_spans(tokenizer, render(prompt, add_generation_prompt=True, train_on="none"))
    for segment in data.store.read([4])[0].segments:
        assert segment.tokens[~segment.supervised].tolist() == ids.tolist()


def test_real_lists(shared_data, prepared, write):
    path = shared_data / "alpaca_eval_ranked.jsonl.gz"
    rows = list(read_rows([path]))
    records = [read_record(row, "list", extras=("scores",)) for row in rows]
    assert len(records) == 805
    assert sum(not side.completion for record in records for side in record.sides) == 22
    scores = np.mean([record.columns["scores"] for record in records], axis=0)
    assert np.allclose(scores, [0.500, 0.513, 0.092, 0.048, 0.034, 0.026, 0.021], atol=6e-4)
    holed = [row.data for row in rows if "" in row.data["responses"]]
    data = prepared(
        write(*holed), "preference", roles=("candidate",), columns=("scores",), max_length=256, truncation="prompt_left"
    )
    assert (data.roles, data.counts["empty_responses"]) == ({"candidate": 7}, 22)
    assert sum(e.roles["candidate"].count(-1) for e in data.store.read(range(len(data)))) == 22
    assert data.lengths.values.max() <= 256
