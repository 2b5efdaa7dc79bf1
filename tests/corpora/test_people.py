"""People with tastes: rows of a file of answers, or of made-up ones; reproducible, held out by prompt, checked."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxpo.corpora.people import HELD_OUT, LISTS, TASTES, TRAIN, People, made_up
from jaxpo.errors import DataError


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    file = tmp_path_factory.mktemp("answers") / "ranked.jsonl"
    found = [{"prompt": x.prompt, "responses": [*x.texts, "", x.texts[0]], "scores": [*x.scores, 0.5, 0.1]}
             for x in made_up(1, 200)]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return file


def test_pairs_of_a_file(answers, tmp_path):
    report = People(str(answers), pairs=4).build(tmp_path)
    assert not report["reused"]
    assert People(str(answers), pairs=4).build(tmp_path)["reused"]
    assert "made up too" not in "".join(report["lines"])
    train, held = rows_of(tmp_path / TRAIN), rows_of(tmp_path / HELD_OUT)
    prompts = [{row["prompt"][0]["content"] for row in part} for part in (train, held)]
    assert not prompts[0] & prompts[1]
    assert {row["group"] for row in train} == {row["group"] for row in held} == set(TASTES)
    assert report["counts"] == {"train": len(train), "heldout": len(held), "prompts": 200}
    for row in train:
        assert set(row["rewards"]) == set(TASTES)
        assert row["user"].startswith(row["group"])
        chosen, rejected = (row[side][0]["content"] for side in ("chosen", "rejected"))
        assert chosen.strip()
        assert chosen != rejected
        assert row["rewards"]["thorough"] == pytest.approx([np.log1p(len(chosen)), np.log1p(len(rejected))], abs=1e-4)
        assert np.add(row["rewards"]["thorough"], row["rewards"]["brief"]) == pytest.approx([0, 0], abs=1e-4)
        assert row["rewards"]["plain"][0] == pytest.approx(-np.log1p(chosen.count("- ")), abs=1e-4)
    for group in TASTES:
        right = [np.sign(-np.diff(row["rewards"][group])[0]) > 0 for row in train if row["group"] == group]
        assert 0.6 < np.mean(right) < 1.0, "a person prefers what their taste does, and not always"
    assert all("" not in row["responses"] for row in rows_of(tmp_path / LISTS))


def test_made_up_answers_say_so(tmp_path):
    report = People().build(tmp_path / "a")
    assert "the prompts and answers are made up too" in report["lines"][1]
    assert "--answers FILE" in report["lines"][1]
    People(seed=0).build(tmp_path / "b")
    assert (tmp_path / "a" / TRAIN).read_bytes() == (tmp_path / "b" / TRAIN).read_bytes()
    People(seed=1).build(tmp_path / "b")
    assert (tmp_path / "a" / TRAIN).read_bytes() != (tmp_path / "b" / TRAIN).read_bytes()


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, r"row 1, field .responses.: the row has no answers to"),
        ({"prompt": "p", "responses": ["a"], "scores": [0.5, 1]}, r"row 1, field .scores.: every response needs"),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [0.5, 7]}, r"field 'scores': .*a score in \[0, 1\]"),
        ({"prompt": "p", "responses": ["a", "a"], "scores": [0.5, 1]}, r"there are too few prompts with different"),
    ],
)  # fmt: skip
def test_other_rows_are_refused(tmp_path, row, match):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=match):
        People(str(tmp_path / "rows.jsonl")).build(tmp_path / "out")
