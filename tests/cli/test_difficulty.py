"""`jaxpo data difficulty`: from graded files, for training rows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxpo.cli.main import main
from jaxpo.corpora.arithmetic import items

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "curriculum"


def run(capsys, *argv):
    code = main(["data", "difficulty", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_the_shared_files(capsys, tmp_path):
    code, out, _ = run(capsys, *sorted(SHARED.glob("*.jsonl")), "--out", tmp_path / "out.jsonl")
    assert code == 0
    assert "4 models x 399 items, 5 levels" in out
    assert "items per level, none right to all right: [167, 27, 15, 114, 76]" in out
    assert "mean success by difficulty: core 0.594, standard 0.425, advanced 0.307" in out
    rows = read(tmp_path / "out.jsonl")
    assert len(rows) == 399
    assert rows[0] == {
        "id": "jkb-geo-core-001", "domain": "地理", "authored_difficulty": "core", "success": 1.0, "level": 4,
        "difficulty": 0.0,
    }  # fmt: skip


def test_training_rows_get_what_is_measured_or_predicted(capsys, tmp_path):
    drawn = [item for level in (1, 6) for item in items(level, 60, seed=0, held_out=False)]
    graded = write(tmp_path / "m.jsonl", [{"id": i.id, "correct": [i.level == 1, i.level == 1]} for i in drawn[::2]])
    rows = write(tmp_path / "rows.jsonl", [i.row() for i in drawn])
    code, out, _ = run(capsys, graded, "--rows", rows, "--out", tmp_path / "out.jsonl", "--column", "hard")
    assert code == 0
    assert "60 rows measured, 60 predicted" in out
    assert "rank correlation on 15 held-out rows: 0." in out
    found = read(tmp_path / "out.jsonl")
    assert [r["hard"] for r in found[::2]] == [float(i.level == 6) for i in drawn[::2]]
    assert all((r["hard"] > 0.5) == (i.level == 6) for r, i in zip(found, drawn, strict=True))
    # The rows so written are themselves graded rows for the next ones.
    for row in found[1::2]:
        del row["hard"]
    again = write(tmp_path / "again.jsonl", found)
    code, out, _ = run(capsys, "--rows", again, "--out", tmp_path / "out2.jsonl", "--column", "hard")
    assert code == 0
    assert read(tmp_path / "out2.jsonl") == read(tmp_path / "out.jsonl")


def test_an_id_of_two_prompts_is_refused_and_one_of_two_answers_is_not(capsys, tmp_path):
    graded = write(tmp_path / "m.jsonl", [{"id": x, "correct": [True, x == "a"]} for x in "ab"])
    answers = [{"id": x, "prompt": f"{x}?", "completion": c} for x, c in (("a", "1"), ("b", "2"), ("b", "3"))]
    rows = write(tmp_path / "rows.jsonl", answers)
    code, _, err = run(capsys, graded, "--rows", rows, "--out", tmp_path / "out.jsonl")
    assert code == 0, err
    assert [row["difficulty"] for row in read(tmp_path / "out.jsonl")] == [0.0, 0.5, 0.5]
    write(rows, [*answers, {"id": "b", "prompt": "c?", "completion": "4"}])
    code, _, err = run(capsys, graded, "--rows", rows, "--out", tmp_path / "other.jsonl")
    assert code == 2
    assert f"{rows}, row 4, field 'id': 'b' is the id of another prompt too ({rows}, row 2)." in err
    assert "Give each prompt an id of its own" in err


def test_mistakes_are_named(capsys, tmp_path):
    rows = write(
        tmp_path / "rows.jsonl",
        [{"prompt": "a", "completion": "b", "difficulty": 1}, {"prompt": "a", "completion": "c"}],
    )
    code, _, err = run(capsys, "--out", tmp_path / "x.txt", "--held-out", "2")
    assert code == 2
    assert "give graded files, or --rows" in err
    assert "x.txt: must be a .jsonl file" in err
    assert "--held-out 2: must lie between 0 and 1" in err
    code, _, err = run(capsys, "--rows", rows, "--out", tmp_path / "out.jsonl")
    assert code == 2
    assert f"{rows}, row 2, field 'difficulty': the difficulty is missing here" in err
    assert not (tmp_path / "out.jsonl").exists()
    code, _, err = run(capsys, rows, "--out", rows)
    assert code == 2
    assert "exists already" in err
