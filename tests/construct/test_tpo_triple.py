"""Triples from scored lists: who is gold, chosen and rejected, and which lists make none."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.rso import RSO
from jaxpo.construct.tpo_triple import TPOTriple, triple
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import detect, read_record
from jaxpo.errors import ConfigError, DataError


def run(responses, scores, **options):
    row = Row(Path("l.jsonl"), 1, {"prompt": "p ", "responses": responses, "scores": scores, "source": "x"})
    tools = Tools(seed=0)
    return list(TPOTriple(**options).run([row], tools)), tools.counts


def test_best_second_and_worst():
    (row,), _ = run(["a", "b", "c", "d"], [0.2, 0.9, 0.1, 0.5])
    assert row == {"prompt": "p ", "source": "x", "chosen": "d", "rejected": "c", "gold": "b"}
    assert detect(Row(Path("t"), 1, row)) == "triple"
    assert [s.role for s in read_record(Row(Path("t"), 1, row), "triple").sides] == ["chosen", "rejected", "gold"]
    (row,), _ = run(["a", "b", "c", "d"], [0.2, 0.9, 0.1, 0.5], chosen_rank=3)
    assert row["chosen"] == "a"


def test_two_responses_make_the_best_one_gold_and_chosen():
    (row,), _ = run(["a", "b"], [0.2, 0.9])
    assert (row["gold"], row["chosen"], row["rejected"]) == ("b", "b", "a")


def test_ties_keep_the_order_of_the_list():
    assert triple([1.0, 1.0, 0.0, 0.0]) == (0, 1, 3)
    assert triple([0.0, 1.0, 1.0, 0.0]) == (1, 2, 3)
    assert triple([0.5, 0.5, 0.5]) == (0, 1, 2)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8, unique=True), st.integers(1, 9))
def test_gold_is_the_best_rejected_the_worst_and_chosen_never_the_worst(scores, rank):
    gold, chosen, rejected = triple(scores, rank)
    assert scores[gold] == max(scores)
    assert scores[rejected] == min(scores)
    assert gold != rejected
    assert chosen != rejected


def test_lists_that_say_nothing_are_left_out_and_counted():
    assert run(["a", "b", "c"], [1.0, 0.5, 0.5]) == ([], {"dropped_tie": 1})
    assert run(["a", "b", "b"], [1.0, 0.5, 0.2]) == ([], {"dropped_same_text": 1})
    assert run(["a", "", ""], [1.0, 0.5, 0.2]) == (
        [],
        {"empty_responses_ignored": 2, "dropped_fewer_than_two_responses": 1},
    )
    (row,), counts = run(["a", "", "c"], [1.0, 0.9, 0.2])
    assert (row["chosen"], counts) == ("a", {"empty_responses_ignored": 1})


def test_bad_rows_and_options():
    with pytest.raises(DataError, match="holds no scored list"):
        list(TPOTriple().run([Row(Path("l"), 3, {"prompt": "p", "chosen": "a", "rejected": "b"})], Tools()))
    with pytest.raises(DataError, match="scores"):
        run(["a", "b"], [0.1, float("nan")])
    with pytest.raises(ConfigError, match="--chosen-rank is 0"):
        run(["a", "b"], [0.1, 0.2], chosen_rank=0)
    assert constructions()["tpo_triple"] is TPOTriple


def test_tools_are_kept_or_refused():
    """Without them the answers would belong to another prompt."""
    asked = [{"role": "user", "content": "q"}]
    data = {"prompt": asked, "responses": ["a", "b"], "scores": [0.9, 0.2], "tools": [{"name": "f"}]}
    row = Row(Path("l.jsonl"), 1, data)
    (new,) = TPOTriple().run([row], Tools())
    assert new["tools"] == [{"name": "f"}]
    with pytest.raises(DataError, match=r"row 1, field 'tools': rso makes rows without `tools`"):
        list(RSO(n=2).run([row], Tools()))
    with pytest.raises(DataError, match=r"field 'tools': a network would read its prompt without `tools`"):
        list(TPOTriple().run([row], Tools(networks={"reward": object()})))
