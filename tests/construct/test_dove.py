"""DOVE's pairs: joint ones without replacement, conditional ones kept, ties dropped."""

from pathlib import Path

import numpy as np
import pytest

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.dove import DOVE, random_pairs
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import detect, read_record
from jaxpo.errors import ConfigError, DataError


def single(i, score):
    return {"prompt": f"p{i} ", "completion": f"r{i}", "score": score}


def run(data, seed=0, networks=None, **options):
    tools = Tools(seed=seed, networks=networks or {})
    rows = [Row(Path("items.jsonl"), i, d) for i, d in enumerate(data, start=1)]
    return list(DOVE(**options).run(rows, tools)), tools.counts


@pytest.mark.parametrize("n", [0, 1, 2, 7, 20])
def test_random_pairs_use_every_item_at_most_once(n):
    pairs = random_pairs(n, np.random.default_rng(n))
    used = [i for pair in pairs for i in pair]
    assert len(pairs) == n // 2
    assert len(set(used)) == len(used) == 2 * (n // 2)
    assert set(used) <= set(range(n))


def test_joint_pairs_of_single_responses():
    data = [single(i, float(i)) for i in range(11)]
    rows, counts = run(data)
    assert counts == {"joint_pairs": 5}
    prompts = [row[f"prompt_{side}"] for row in rows for side in ("chosen", "rejected")]
    assert len(set(prompts)) == 10
    for row in rows:
        assert int(row["chosen"][1:]) > int(row["rejected"][1:])
        assert row["prompt_chosen"] == f"p{row['chosen'][1:]} "
        assert detect(Row(Path("t"), 1, row)) == "two_prompt"
        read_record(Row(Path("t"), 1, row), "two_prompt")
    assert run(data)[0] == rows
    assert run(data, seed=1)[0] != rows


def test_ties_are_dropped_and_counted():
    assert run([single(0, 1.0), single(1, 1.0)]) == ([], {"dropped_tie": 1})
    assert run([single(0, 1.0), single(1, 1.2)], min_gap=0.5) == ([], {"dropped_tie": 1})
    assert len(run([single(0, 1.0), single(1, 1.2)], min_gap=0.1)[0]) == 1


def scored(prompt, *scores):
    return {"prompt": prompt, "responses": [f"{prompt}{k}" for k in range(len(scores))], "scores": list(scores)}


def test_lists_give_conditional_pairs_and_items():
    data = [scored("a", 0.1, 0.9, 0.5), scored("b", 0.3, 0.3), {"prompt": "c", "chosen": "x", "rejected": "y"}]
    rows, counts = run(data)
    assert counts == {"conditional_pairs": 2, "dropped_conditional_tie": 1, "joint_pairs": 1}
    assert {"prompt_chosen": "a", "chosen": "a1", "prompt_rejected": "a", "rejected": "a0"} in rows
    assert {"prompt_chosen": "c", "chosen": "x", "prompt_rejected": "c", "rejected": "y"} in rows
    (joint,) = [row for row in rows if row["prompt_chosen"] != row["prompt_rejected"]]
    assert {joint["prompt_chosen"], joint["prompt_rejected"]} == {"a", "b"}
    assert run(data, conditional=False)[1] == {"joint_pairs": 1}


def test_more_items_of_a_list_enter_when_asked():
    data = [scored(p, *np.linspace(0, 1, 4) + 0.01 * k) for k, p in enumerate("abc")]
    rows, counts = run(data, items_per_prompt=4, conditional=False)
    assert counts["joint_pairs"] == 6
    used = [row[side] for row in rows for side in ("chosen", "rejected")]
    assert len(set(used)) == 12


class Judge:
    def rewards(self, prompts, completions):
        return np.array([float(c[1:]) for c in completions])


def test_a_reward_model_scores_what_has_no_score():
    data = [{"prompt": f"p{i} ", "completion": f"r{i}"} for i in range(6)]
    rows, _ = run(data, networks={"reward": Judge()})
    assert len(rows) == 3
    assert all(int(row["chosen"][1:]) > int(row["rejected"][1:]) for row in rows)
    with pytest.raises(DataError, match=r"row 1.*score.*--reward"):
        run(data)


def test_bad_rows_and_options():
    with pytest.raises(DataError, match="holds no item"):
        run([{"text": "x"}])
    with pytest.raises(DataError, match="finite number"):
        run([single(0, float("inf"))])
    with pytest.raises(ConfigError, match="--items-per-prompt"):
        run([], items_per_prompt=0)
    with pytest.raises(ConfigError, match="--min-gap"):
        run([], min_gap=-1.0)
    assert constructions()["dove"] is DOVE
