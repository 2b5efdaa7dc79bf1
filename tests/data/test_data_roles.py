"""Further segments of an example: rationales, MAPL's prompts, gold answers, KTO's mismatched rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.mismatched import AHEAD, with_mismatched
from jaxpo.data.rows.rows import read_record
from jaxpo.errors import DataError

PAIR = {"prompt": "p ", "chosen": "a", "rejected": "b"}
ROLES = ("chosen", "rejected")
INTER = ("inter_chosen", "inter_rejected")
INTRA = tuple(f"intra_{of}_{sign}" for of in ROLES for sign in ("plus", "minus"))


def texts(dataset, example):
    """{role: (prompt, response)} as text; None where the role is absent."""
    found = dataset.store.read([example])[0]
    decode = dataset.tokenizer.decode

    def both(index):
        if index < 0:
            return None
        s = found.segments[index]
        return tuple(decode(s.tokens[m], skip_special_tokens=True) for m in (~s.supervised, s.supervised))

    return {role: both(index) for role, index in found.roles.items()}


def test_mapl(prepared, files):
    data = prepared(files / "mapl.jsonl", "preference", roles=ROLES, optional_roles=(*INTER, *INTRA))
    assert data.roles == dict.fromkeys((*ROLES, *INTER, *INTRA), 0)
    first, second, third, fourth = (texts(data, i) for i in range(4))
    few, many = "Describe the sea. Use at most four words. ", "Describe the sea. Use at least ten words. "
    assert first["inter_chosen"] == (few, "Blue, wide and deep.")
    assert first["inter_rejected"] == (few, "The sea is a body of salt water.")
    assert first["intra_chosen_plus"] == (few, "Blue, wide and deep.")
    assert first["intra_chosen_minus"] == (many, "Blue, wide and deep.")
    assert first["intra_rejected_minus"] == (
        "Describe the sea. Do not mention salt. ",
        "The sea is a body of salt water.",
    )
    assert [second[role] is None for role in (*INTER, *INTRA)] == [False] * 2 + [True] * 4
    assert [third[role] is None for role in (*INTER, *INTRA)] == [True] * 4 + [False] * 2
    assert all(fourth[role] is None for role in (*INTER, *INTRA))
    assert [e.columns["inter_sign"] for e in data.store.read(range(4))] == [1, -1, 0, 0]


def test_parts_of_mapl_can_be_asked_for_alone(prepared, files):
    data = prepared(files / "mapl.jsonl", "preference", roles=ROLES, optional_roles=INTRA, columns=(), names=None)
    assert set(data.roles) == {*ROLES, *INTRA}
    assert "inter_sign" not in data.columns
    data = prepared(files / "mapl.jsonl", "preference", roles=ROLES, optional_roles=INTER, columns=("inter_sign",))
    assert set(data.roles) == {*ROLES, *INTER}
    assert "inter_sign" in data.columns


BAD = {
    "sign": ({"inter_prompt": "q ", "inter_sign": 2}, r"field 'inter_sign': 2 is neither 1 nor -1"),
    "sign bool": ({"inter_prompt": "q ", "inter_sign": True}, r"field 'inter_sign': True is neither"),
    "no sign": ({"inter_prompt": "q "}, r"field 'inter_sign': column 'inter_sign' is missing for the role 'inter_cho"),
    "no prompt": ({"inter_sign": 1}, r"field 'inter_prompt': column 'inter_prompt' is missing for the role"),
    "intra list": ({"intra": ["x", "y"]}, r"field 'intra': expected an object"),
    "intra key": ({"intra": {"gold": ["x", "y"]}}, r"field 'intra': expected an object.*chosen.*prompt_plus"),
    "intra one": ({"intra": {"chosen": ["x"]}}, r"field 'intra': expected two prompts for 'chosen'"),
    "intra same": ({"intra": {"rejected": ["x", "x"]}}, r"field 'intra': both prompts for 'rejected' are"),
    "rationale": ({"rationale": "r"}, r"field 'rationale_prompt': column 'rationale_prompt' is missing for the role"),
    "empty": ({"rationale": "", "rationale_prompt": "x"}, r"field 'rationale': the text is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_further_segments(prepared, write, name):
    more, match = BAD[name]
    path = write({**PAIR, "rationale_prompt": "q", "rationale": "r"}, {**PAIR, **more})
    with pytest.raises(DataError, match=rf"row 2, {match}"):
        prepared(path, "preference", roles=ROLES, optional_roles=("rationale", *INTER, *INTRA))


def test_rationales_may_be_missing_when_they_are_optional(prepared, write):
    reason = {"rationale_prompt": "why? ", "rationale": "because"}
    path = write(PAIR, {**PAIR, **reason})
    data = prepared(path, "preference", roles=ROLES, optional_roles=("rationale",))
    assert texts(data, 0)["rationale"] is None
    assert texts(data, 1)["rationale"] == ("why? ", "because")
    with pytest.raises(DataError, match=r"row 1, field 'rationale': column 'rationale' is missing"):
        prepared(path, "preference", roles=(*ROLES, "rationale"))
    with pytest.raises(DataError, match=r"row 2, field 'rationale': column 'rationale' is missing for the role"):
        prepared(write({**PAIR, **reason}, PAIR), "preference", roles=(*ROLES, "rationale"))


def test_optional_segments_that_no_row_has(prepared, write):
    """A method without its column; of held-out rows it is only said."""
    ask = {"roles": ROLES, "optional_roles": ("rationale",)}
    with pytest.raises(DataError, match=r"field 'rationale': no row has 'rationale'\. Add it to some rows, or choose"):
        prepared(write(PAIR, PAIR), "preference", **ask)
    lines: list[str] = []
    assert len(prepared(write(PAIR, PAIR), "preference", names={}, log=lines.append, **ask)) == 2
    assert any(line.startswith("warning: ") and "no row has 'rationale'" in line for line in lines)


def test_gold_may_be_optional(prepared, write):
    """Even in every row: the chosen response then takes its place."""
    assert len(prepared(write(PAIR, name="none.jsonl"), "preference", roles=ROLES, optional_roles=("gold",))) == 1
    path = write({**PAIR, "gold": "g"}, PAIR)
    data = prepared(path, "preference", roles=ROLES, optional_roles=("gold",))
    assert texts(data, 0)["gold"] == ("p ", "g")
    assert texts(data, 1)["gold"] is None


def test_inter_prompt_must_have_the_form_of_the_answers(prepared, write):
    chat = {
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": "a",
        "rejected": "b",
        "inter_prompt": "q",
        "inter_sign": 1,
    }
    with pytest.raises(DataError, match=r"prompt is a string but chosen is a list of messages"):
        prepared(write(chat), "preference", roles=ROLES, optional_roles=INTER)


# Mismatched rows


def unpaired(rows):
    """Records of (prompt, completion) rows."""
    made = (
        Row(Path("f.jsonl"), i, {"prompt": p, "completion": c, "label": i % 2 == 0})
        for i, (p, c) in enumerate(rows, start=1)
    )
    return [read_record(row, "unpaired", extras=("label",)) for row in made]


def responses(rows):
    found = list(with_mismatched(unpaired(rows)))
    assert [r.sides[0].completion for r in found] == [c for _, c in rows]
    assert all(r.sides[1].role == "kl" and r.sides[1].prompt == r.sides[0].prompt for r in found)
    return [r.sides[1].completion for r in found]


@pytest.mark.parametrize("n", [2, 3, AHEAD - 1, AHEAD, AHEAD + 1, AHEAD + 2, 3 * AHEAD])
def test_every_prompt_gets_the_response_of_the_next_row(n):
    rows = [(f"p{i}", f"c{i}") for i in range(n)]
    assert responses(rows) == [f"c{(i + 1) % n}" for i in range(n)]


def test_rows_of_the_same_prompt_or_text_are_passed_over():
    rows = [("p", "a"), ("p", "b"), ("q", "a"), ("r", "c")]
    assert responses(rows) == ["c", "a", "c", "a"]
    assert responses([("p", "a"), ("p", "b")]) == ["b", "a"], "the same prompt, when there is no other"
    assert responses([("p", "a"), ("q", "a")]) == ["a", "a"], "the same text, when there is no other"


def test_the_choice_depends_on_no_more_than_the_rows_ahead():
    rows = [(f"p{i % 50}", f"c{i % 30}") for i in range(400)]
    at = 120
    assert responses(rows)[at : at + 10] == responses(rows[at : at + 10 + AHEAD])[:10]


def test_a_single_row_has_no_mismatch(prepared, write):
    row = {"prompt": "p", "completion": "c", "label": True}
    with pytest.raises(DataError, match=r"row 1, field 'completion': there is no other row: the KL term pairs"):
        prepared(write(row), "preference", roles=("completion", "kl"), columns=("label",))


def test_kto_reads_unpaired_rows_and_pairs(prepared, files):
    ask = {"roles": ("completion", "kl"), "columns": ("label",)}
    data = prepared(files / "unpaired.jsonl", "preference", **ask)
    assert data.roles == {"completion": 0, "kl": 0}
    found = [texts(data, i) for i in range(len(data))]
    assert all(row["kl"][0] == row["completion"][0] for row in found), "under its own prompt"
    assert [row["kl"][1] for row in found] == [found[(i + 1) % 5]["completion"][1] for i in range(5)]
    data = prepared(files / "preference.jsonl", "preference", **ask)
    found = [texts(data, i) for i in range(len(data))]
    assert len(found) == 10
    for i, row in enumerate(found):
        own = {found[i // 2 * 2 + j]["completion"][1] for j in (0, 1)}
        assert row["kl"][1] not in own, "neither side of its own pair"


@pytest.mark.parametrize("truncation", ["response_right", "prompt_left", "drop", "error"])
def test_a_long_mismatched_response_is_cut_and_drops_nothing(prepared, write, truncation):
    long = "one two three four five six seven eight nine ten " * 2
    rows = [{"prompt": "short ", "completion": "yes", "label": True}]
    if truncation in ("response_right", "prompt_left"):
        rows += [{"prompt": "other ", "completion": long, "label": False}]
    else:
        # Fits under its own prompt, but not under the longer prompt of the row before it.
        rows = [
            {"prompt": "one two three four five six ", "completion": "yes", "label": True},
            {"prompt": "", "completion": "one two three four five six seven", "label": False},
        ]
    data = prepared(
        write(*rows),
        "preference",
        roles=("completion", "kl"),
        columns=("label",),
        max_length=24,
        truncation=truncation,
    )
    assert len(data) == 2
    first = data.store.read([0])[0]
    kl = first.segments[first.roles["kl"]]
    assert len(kl.tokens) == 24
    assert kl.supervised[1:].any()
    assert data.counts.get("truncated_response", 0) == (1 if truncation in ("response_right", "prompt_left") else 0)


# The whole file


@pytest.mark.parametrize(("label", "missing"), [(True, "bad"), (False, "good")])
def test_one_class_only(prepared, write, label, missing):
    rows = [{"prompt": "p", "completion": c, "label": label} for c in "ab"]
    ask = {"roles": ("completion",), "columns": ("label",)}
    match = rf"field 'label': no row is labelled {missing}\. Add rows with label {str(not label).lower()}"
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError, match=match):
            prepared(write(*rows), "preference", **ask)
    lines: list[str] = []
    assert len(prepared(write(*rows), "preference", names={}, log=lines.append, **ask)) == 2
    assert any(line.startswith("warning: ") and "no row is labelled" in line for line in lines)


def test_reference_log_probs_in_the_data_are_not_used(prepared, write):
    path = write({**PAIR, "ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0})

    def said(**ask):
        lines: list[str] = []
        prepared(path, "preference", roles=ROLES, log=lines.append, **ask)
        return [line for line in lines if line.startswith("warning: ")]

    (line,) = said()
    assert "columns ref_chosen_logps, ref_rejected_logps not used: the method has no reference model." in line
    (line,) = said(networks=(("reference", "logps"),))
    assert "ignored: reference log-probs are computed anew from the reference model" in line
    assert str(path) in line
    quiet: list[str] = []
    prepared(write(PAIR, name="plain.jsonl"), "preference", roles=ROLES, log=quiet.append)
    assert not any("warning" in text for text in quiet)
