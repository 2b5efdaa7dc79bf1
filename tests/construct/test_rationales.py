"""Rationale prompts: both orders, labels that follow the order, rows without a reason."""

from pathlib import Path

import pytest

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.rationales import Rationales, facts
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import read_record
from jaxpo.errors import DataError

REASON = "{chosen} is right, {rejected} is not."


def pairs(n=1, **more):
    return [{"prompt": f"Question {i}? ", "chosen": "good one", "rejected": "bad one", **more} for i in range(n)]


def run(data, seed=0, **options):
    tools = Tools(seed=seed)
    rows = [Row(Path("r.jsonl"), i, d) for i, d in enumerate(data, start=1)]
    return list(Rationales(**options).run(rows, tools)), tools.counts


def test_the_labels_say_where_the_chosen_response_stands():
    rows, _ = run(pairs(40, rationale=REASON))
    firsts = 0
    for row in rows:
        chosen_first = row["rationale_prompt"].index("good one") < row["rationale_prompt"].index("bad one")
        firsts += chosen_first
        names = ("Response A", "Response B") if chosen_first else ("Response B", "Response A")
        assert row["rationale"] == f"{names[0]} is preferable. {names[0]} is right, {names[1]} is not."
        assert row["rationale_prompt"].startswith("Question")
        assert row["rationale_prompt"].index("Response A:\n") < row["rationale_prompt"].index("Response B:\n")
        record = read_record(Row(Path("t"), 1, row), "preference", roles=("rationale",))
        assert record.sides[2].role == "rationale"
    assert 8 <= firsts <= 32
    assert run(pairs(40, rationale=REASON))[0] == rows
    assert run(pairs(40, rationale=REASON), seed=1)[0] != rows


def test_the_released_order_has_the_chosen_one_first():
    rows, _ = run(pairs(9, rationale=REASON), order="chosen_first", verdict=False)
    assert {row["rationale"] for row in rows} == {"Response A is right, Response B is not."}


def test_rows_without_a_reason_stay_without_or_get_checkable_facts():
    rows, counts = run([*pairs(), *pairs(rationale=REASON)])
    assert "rationale" not in rows[0]
    assert "rationale_prompt" not in rows[0]
    assert "rationale" in rows[1]
    assert counts == {"without_rationale": 1}
    rows, counts = run(pairs(), rule="facts")
    assert counts == {"rationales_by_rule": 1}
    assert "has 2 words" in rows[0]["rationale"]
    text = facts("Which planet is largest?", "The largest planet is Jupiter.", "Mars")
    assert text == "{chosen} has 5 words and takes up 2 of the question's, {rejected} has 1 and takes up 0."
    assert "has 1 word and" in facts("", "Mars", "")


def test_conversations_stay_conversations():
    chat = {
        "prompt": [{"role": "user", "content": "Hi?"}],
        "chosen": [{"role": "assistant", "content": "Hello."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "rationale": [{"role": "assistant", "content": REASON}],
    }
    (row,), _ = run([chat])
    assert row["rationale_prompt"][0]["role"] == "user"
    assert "Hello." in row["rationale_prompt"][0]["content"]
    assert row["rationale"][0]["role"] == "assistant"
    read_record(Row(Path("t"), 1, row), "preference", roles=("rationale",))


def test_bad_rows():
    with pytest.raises(DataError, match=r"row 1.*rationale"):
        run(pairs(rationale="  "))
    with pytest.raises(DataError, match="different prompts"):
        run([{"prompt_chosen": "a", "chosen": "b", "prompt_rejected": "c", "rejected": "d"}])
    with pytest.raises(DataError, match="holds no pair"):
        run([{"text": "x"}])
    assert constructions()["rationales"] is Rationales
