"""The predictor ranks what its prompt decides, finds nothing where there is nothing, and sees the prompt only."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxpo.corpora.arithmetic import LEVELS, items
from jaxpo.curriculum.annotate import annotate, known_difficulties, prompt_text
from jaxpo.curriculum.predictor import fit_predictor, prompt_features, rank_correlation
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def graded():
    """600 arithmetic prompts; their difficulty: how often eight imagined models fail at their level."""
    drawn = [item for level in LEVELS for item in items(level, 100, seed=5, held_out=False)]
    hard = np.asarray([item.level for item in drawn]) / 7
    difficulty = (np.random.default_rng(0).random((8, len(drawn))) < hard).mean(0)
    return [item.prompt for item in drawn], difficulty


def test_spearman_equals_the_definition():
    rng = np.random.default_rng(1)
    a = rng.permutation(50).astype(float)
    b = a + 10 * rng.standard_normal(50)
    rank = lambda x: np.argsort(np.argsort(x, kind="stable"), kind="stable")  # noqa: E731
    expected = 1 - 6 * ((rank(a) - rank(b)) ** 2).sum() / (50 * (50**2 - 1))
    found = rank_correlation(a, b)
    assert found.rho == pytest.approx(expected)
    assert found.low < found.rho < found.high
    assert found.n == 50
    assert rank_correlation(a, a).rho == pytest.approx(1)
    assert rank_correlation(a, -a).rho == pytest.approx(-1)
    assert rank_correlation(a, np.zeros(50)).rho is None


def test_it_ranks_held_out_items_and_better_than_their_length(graded):
    texts, difficulty = graded
    predictor, report = fit_predictor(texts, difficulty, seed=1)
    assert report.held_out.n == 150
    assert report.held_out.rho > 0.7
    assert report.held_out.low > report.length.high
    predicted = predictor.predict(texts)
    assert predicted.min() >= 0
    assert predicted.max() <= 1
    again, same = fit_predictor(texts, difficulty, seed=1)
    assert same == report
    np.testing.assert_array_equal(again.predict(texts), predicted)


def test_shuffled_labels_cannot_be_predicted(graded):
    texts, difficulty = graded
    _, report = fit_predictor(texts, np.random.default_rng(2).permutation(difficulty), seed=1)
    assert report.held_out.rho is None or report.held_out.low < 0.1


def test_equal_prompts_stay_on_one_side():
    """Random labels of ten prompts, 30 rows each: a leak would be known by heart."""
    texts = [f"question number {i % 10}" for i in range(300)]
    labels = np.random.default_rng(3).random(10)[np.arange(300) % 10]
    _, report = fit_predictor(texts, labels, held_out=0.3)
    assert report.held_out.n == 90
    assert report.fitted.rho == pytest.approx(1, abs=0.02)
    assert report.held_out.rho is None or report.held_out.rho < 0.9


def test_features_are_of_the_prompt_s_numbers_and_words():
    one, other, longer = prompt_features(["Ann has 12 pens.", "Ann has 13 pens.", "Ann has 12 pens and 7 nuts."])
    assert (one != other).sum() >= 3
    assert one[3] == 1
    assert longer[3] == 2
    assert longer[8] == 19


@pytest.mark.parametrize(
    ("n", "held_out", "message"),
    [(5, 0.25, r"5 graded items are too few.*at least 20"), (30, 0.001, r"held-out share of 0\.001 of 30 prompts")],
)
def test_what_cannot_be_fitted_is_refused(n, held_out, message):
    with pytest.raises(ConfigError, match=message):
        fit_predictor([f"prompt {i}" for i in range(n)], np.arange(n) / n, held_out=held_out)


def rows_of(tmp_path, rows):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_rows([tmp_path / "rows.jsonl"]))


def test_rows_without_a_difficulty_get_a_predicted_one(graded, tmp_path):
    texts, difficulty = graded
    rows = [{"prompt": t, "completion": "x", "difficulty": float(d)} for t, d in zip(texts, difficulty, strict=True)]
    for row in rows[::2]:
        del row["difficulty"]
    read = rows_of(tmp_path, rows)
    found = annotate(read, known_difficulties(read))
    assert (found.measured, found.predicted) == (300, 300)
    assert [row["difficulty_from"] for row in found.rows] == ["predicted", "measured"] * 300
    assert [row["difficulty"] for row in found.rows[1::2]] == difficulty[1::2].tolist()
    assert rank_correlation(np.asarray([row["difficulty"] for row in found.rows[::2]]), difficulty[::2]).rho > 0.7
    assert found.report.held_out.n == 75


def test_too_few_to_learn_from_is_an_error_that_names_the_first_row(tmp_path):
    read = rows_of(tmp_path, [{"prompt": "a", "completion": "b", "difficulty": 1}, {"prompt": "c", "completion": "d"}])
    with pytest.raises(
        DataError, match=r"rows\.jsonl, row 2, field 'difficulty': the difficulty is missing here and in 0"
    ):
        annotate(read, known_difficulties(read))
    assert annotate(read[:1], known_difficulties(read[:1])).report is None


def test_a_difficulty_that_is_no_number_is_named(tmp_path):
    read = rows_of(tmp_path, [{"prompt": "a", "completion": "b", "difficulty": "core"}])
    with pytest.raises(DataError, match=r"row 1, field 'difficulty': 'core' is not a difficulty.*have it predicted"):
        known_difficulties(read)


def test_only_what_the_model_is_asked_is_read():
    def row(**data):
        return Row(__file__, 1, data)

    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "secret"}]
    assert prompt_text(row(prompt="q", completion="secret")) == "q"
    assert prompt_text(row(messages=turns)) == "q"
    assert prompt_text(row(prompt=turns[:1], completion=turns[1:])) == "q"
    with pytest.raises(DataError, match="field 'prompt': has no prompt"):
        prompt_text(row(chosen="a", rejected="b"))
