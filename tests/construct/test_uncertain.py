"""UPO's data: rendered pairs, the estimator under masks, which pairs are made, drawn and smoothed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from construct.work_context import context_of
from judges.reward_networks import network

from jaxpo.construct.estimator import ANSWER, RenderPairs, order_probabilities, rendered
from jaxpo.construct.on_policy.uncertain import UncertainPairs, drawn_by_certainty, screened
from jaxpo.errors import ConfigError, DataError

WORDS = ("quick", "brown", "fox", "jumps", "lazy", "dog")


def context(folder: Path) -> Any:
    """Stages "policy" and "reward" of one random reward model, and "estimator" of another with dropout."""
    models = {"estimator": network("yes_no", pooled_dropout=0.5), "sure": network("yes_no")}
    some = network("value")
    object.__setattr__(some, "path", folder / "stages" / "policy")
    found = context_of(some, folder / "stages" / "work", load=lambda path: models.get(path.name, some))
    object.__setattr__(found, "run_dir", folder)
    return found


def test_winners_are_of_the_better_half_and_losers_of_the_worse():
    scores = np.array([0.3, 5.0, -1.0, 2.0, 0.0, 4.0])
    pairs = screened(scores)
    assert len(pairs) == 9
    assert {w for w, _ in pairs} == {1, 5, 3}
    assert {loser for _, loser in pairs} == {0, 4, 2}
    assert all(scores[w] > scores[loser] for w, loser in pairs)
    assert {w for w, _ in screened(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))} == {4, 3}  # the middle one is in neither half
    assert screened(np.ones(6)) == []
    assert len(screened(np.array([2.0, 2.0, 2.0, 1.0]))) == 2  # equal scores make no pair
    assert screened(np.array([1.0])) == []


def test_certain_pairs_are_drawn_more_often_and_smoothed_less():
    sure, torn = np.full((20, 10), 0.9), np.tile([0.02, 0.98], (20, 5))
    found = drawn_by_certainty(np.concatenate([sure, torn]), 400, mu=4.0, c=None, seed=0)
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-5)
    share = np.mean(found.index < 20)
    expected = 1 / (1 + (1 - found.information_gain[-1]) ** 4)
    assert share == pytest.approx(expected, abs=0.05)
    assert share > 0.9
    assert found.smoothing[0] < 0.1 < found.smoothing[-1]
    np.testing.assert_allclose(found.smoothing, 1 / (9 * 40 * found.weights + 1), rtol=1e-5)
    again = drawn_by_certainty(np.concatenate([sure, torn]), 400, mu=4.0, c=None, seed=0)
    np.testing.assert_array_equal(again.index, found.index)
    alike = drawn_by_certainty(np.concatenate([sure, torn]), 400, mu=0.0, c=None, seed=0)
    assert np.mean(alike.index < 20) == pytest.approx(0.5, abs=0.1)


def test_a_pair_is_rendered_both_ways_round(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    said = lambda role, text: {"role": role, "content": text}  # noqa: E731
    chat = [said("user", "Hi."), said("assistant", "Yes?"), said("user", "A")]
    rows = [
        {"prompt": "p", "chosen": "good", "rejected": "bad"},
        {"prompt": chat, "chosen": [said("assistant", "b")], "rejected": [said("assistant", "c")], "smoothing": 0.1},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = context(tmp_path)
    stage = RenderPairs(rows=(str(file),))
    assert stage.run(where) == {"pairs": 2, "rows": 4}
    made = [json.loads(line) for line in (where.folder / "rows.jsonl").read_text().splitlines()]
    assert [row["label"] for row in made] == [True, False, True, False]
    first, back = (row["prompt"][0]["content"] for row in made[:2])
    assert first.index("good") < first.index("bad")
    assert back.index("bad") < back.index("good")
    assert "user: Hi.\nassistant: Yes?\nuser: A" in made[2]["prompt"][0]["content"]
    assert all(row["completion"] == [{"role": "assistant", "content": ANSWER}] for row in made)
    pairs = [json.loads(line) for line in (where.folder / "pairs.jsonl").read_text().splitlines()]
    assert pairs == [{k: v for k, v in row.items() if k != "smoothing"} for row in rows]  # one form for a reward model
    assert RenderPairs().problems() == ["rows names no file."]


def test_the_estimator_is_a_classifier_under_masks():
    pairs = [("Name it.", "fox", "dog"), ("Name it.", "lazy", "dog")]
    found = order_probabilities(network("yes_no", pooled_dropout=0.5), pairs, masks=4, seed=0)
    assert found.shape == (2, 4)
    assert np.all((found > 0) & (found < 1))
    assert np.all(found.std(axis=1) > 0)
    one = network("yes_no", pooled_dropout=0.5)
    texts = [rendered(*pair) for pair in pairs]
    logits = one.rewards([p for p, _ in texts], [c for _, c in texts], masks=4, seed=0)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-6)
    with pytest.raises(ConfigError, match="was trained by bradley_terry; give a stage of outcome_reward"):
        order_probabilities(network("value"), pairs, 4, 0)
    with pytest.raises(ConfigError, match="trained without dropout"):
        order_probabilities(network("yes_no"), pairs, 4, 0)


def test_the_stage_draws_ranks_estimates_and_writes(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"The {w}"}) + "\n" for w in WORDS))
    where = context(tmp_path)
    said: list[str] = []
    object.__setattr__(where, "say", said.append)
    how: dict[str, Any] = {"prompts": (str(file),), "model": "policy", "samples": 4, "masks": 3, "max_new_tokens": 5}
    stage = UncertainPairs(heldout_one_in=3, skip_prompts=1, **how)
    assert stage.problems() == []
    report = stage.run(where)
    rows = [json.loads(x) for name in stage.outputs() for x in (where.folder / name).read_text().splitlines()]
    assert report["prompts"] == 5
    assert len(rows) == report["pairs"] + report["heldout_pairs"] == round(0.5 * report["pairs_in_all"])
    assert report["pairs_in_all"] <= 5 * 4
    judge = network("value")
    for row in rows:
        better, worse = judge.rewards([row["prompt"]] * 2, [row["chosen"], row["rejected"]])
        assert better > worse
        assert 0 < row["smoothing"] < 1
        assert 0 <= row["information_gain"] <= np.log(2) + 1e-6
    before = {name: (where.folder / name).read_text() for name in stage.outputs()}
    assert stage.run(where)["samples_drawn"] == 0
    assert {name: (where.folder / name).read_text() for name in stage.outputs()} == before
    UncertainPairs(heldout_one_in=3, c=1.0, **how).run(where)
    assert any("at 1 pairs are learnt the wrong way round" in line for line in said)
    with pytest.raises(DataError, match="no rows are left for uncertain_pairs after skip_prompts 6"):
        UncertainPairs(**{**how, "skip_prompts": 6}).run(where)


def test_settings_that_cannot_work_are_refused() -> None:
    found = UncertainPairs(samples=3, masks=1, mu=-1.0, share=0.0, c=0.0).problems()
    assert len(found) == 6
    assert "samples is 3 but must be at least 4." in found
