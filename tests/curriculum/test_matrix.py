"""Success matrices: levels by hand, the shared right/wrong files, what is wrong with a file named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxpo.curriculum.matrix import SuccessMatrix, read_matrix
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "curriculum"
CORRECT = np.asarray([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], bool)


def matrix() -> SuccessMatrix:
    about = {item: {"label": label} for item, label in zip("abcd", ("easy", "easy", "hard", "hard"), strict=True)}
    return SuccessMatrix(("m1", "m2", "m3"), tuple("abcd"), CORRECT, about)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_levels_and_difficulty_by_hand():
    np.testing.assert_allclose(matrix().success, [1, 2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(matrix().difficulty, [0, 1 / 3, 2 / 3, 1])
    assert matrix().levels.tolist() == [3, 2, 1, 0]
    assert matrix().level_counts() == [1, 1, 1, 1]
    means = matrix().mean_success("label")
    assert list(means) == ["easy", "hard"]
    assert means == {"easy": pytest.approx(5 / 6), "hard": pytest.approx(1 / 6)}


def test_twelve_models_give_thirteen_levels():
    correct = np.random.default_rng(0).random((12, 500)) < 0.5
    counts = SuccessMatrix(tuple(map(str, range(12))), tuple(map(str, range(500))), correct).level_counts()
    assert len(counts) == 13
    assert sum(counts) == 500
    assert counts == [int((correct.sum(0) == k).sum()) for k in range(13)]


def test_what_is_saved_is_read_back(tmp_path):
    matrix().save(tmp_path / "matrix.npz")
    found = read_matrix([tmp_path / "matrix.npz"])
    assert (found.models, found.items, found.about) == (matrix().models, matrix().items, matrix().about)
    np.testing.assert_array_equal(found.correct, CORRECT)


def test_an_item_that_is_there_twice_is_named(tmp_path):
    message = r"two items are named 'b'\. Give every row an `id` of its own .* two files of one name"
    with pytest.raises(DataError, match=message):
        SuccessMatrix(("m1", "m2", "m3"), tuple("abcb"), CORRECT)
    np.savez(
        tmp_path / "twice.npz",
        models=np.asarray(["m1", "m2", "m3"]),
        items=np.asarray(list("abcb")),
        correct=CORRECT,
        about=np.asarray("[{}, {}, {}, {}]"),
    )
    with pytest.raises(DataError, match=r"twice\.npz, field 'id': " + message):
        read_matrix([tmp_path / "twice.npz"])


def test_a_foreign_npz_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(DataError, match=r"other\.npz: not a success matrix: .*Name a matrix\.npz"):
        read_matrix([tmp_path / "other.npz"])
    np.savez(tmp_path / "pickled.npz", models=np.asarray([{}], object))
    with pytest.raises(DataError, match=r"pickled\.npz: not a success matrix"):
        read_matrix([tmp_path / "pickled.npz"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_the_four_shared_files():
    """399 items, 4 models, 5 levels; what the authors call harder is answered rightly less often."""
    found = read_matrix(sorted(SHARED.glob("*.jsonl")))
    assert found.models == ("base", "cptB-final", "dpo-001-b005", "sft005-distill")
    assert len(found.items) == 399
    counts = {}
    for file in SHARED.glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            counts[row["id"]] = counts.get(row["id"], 0) + row["correct"]
    assert found.level_counts() == [list(counts.values()).count(k) for k in range(5)] == [167, 27, 15, 114, 76]
    means = found.mean_success("difficulty")
    assert list(means) == ["core", "standard", "advanced"]
    assert means == {
        k: pytest.approx(v, abs=5e-4) for k, v in {"core": 0.594, "standard": 0.425, "advanced": 0.307}.items()
    }


def test_one_file_may_hold_a_list_per_row(tmp_path):
    file = write(tmp_path / "all.jsonl", [{"id": 1, "correct": [True, 0]}, {"id": 2, "correct": [1, True]}])
    found = read_matrix([file])
    assert found.models == ("all-0", "all-1")
    assert found.correct.tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "correct": True}, {"correct": True}], r"m\.jsonl, row 2, field 'id': the item has no name"),
        ([{"id": "a", "correct": "yes"}], r"m\.jsonl, row 1, field 'correct': 'yes' does not say right or wrong.*list"),
        ([{"id": "a"}], r"m\.jsonl, row 1, field 'correct': None does not say"),
        ([{"id": "a", "correct": 2}], r"field 'correct': 2 does not say"),
        ([{"id": "a", "correct": 1}] * 2, r"m\.jsonl, row 2, field 'id': 'a' is there twice"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_matrix([write(tmp_path / "m.jsonl", rows)])


def test_a_model_without_some_item_is_named(tmp_path):
    files = [
        write(tmp_path / "whole.jsonl", [{"id": i, "correct": True} for i in "abc"]),
        write(tmp_path / "part.jsonl", [{"id": "b", "correct": True}]),
    ]
    with pytest.raises(DataError, match=r"part\.jsonl, field 'id': model 'part' has no answer to 2 of 3 items.*'a'"):
        read_matrix(files)


def test_rows_are_written_whole_or_not_at_all(tmp_path):
    assert write_jsonl(tmp_path / "out.jsonl", [{"a": "é"}, {"a": 1}]) == 2
    assert [json.loads(x) for x in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()] == [
        {"a": "é"},
        {"a": 1},
    ]
    with pytest.raises(DataError, match="not finite"):
        write_jsonl(tmp_path / "nan.jsonl", [{"a": float("nan")}])
    assert not (tmp_path / "nan.jsonl").exists()
