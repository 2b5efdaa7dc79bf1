"""The task `alpaca`: AlpacaEval's files in and out, what is refused, difficulties by instruction and by position."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxpo.cli.main import main
from jaxpo.evaluate.alpaca import glm
from jaxpo.evaluate.tasks.alpaca import Alpaca

N = 24


def annotations(model="ours", seed=0, missing=(), baseline="base", known=N):
    rng = np.random.default_rng(seed)
    rows = [
        {
            "instruction": f"Question {i}",
            "output_1": "b" * (20 + i),
            "generator_1": baseline,
            "output_2": "m" * int(rng.integers(5, 60)),
            "generator_2": model,
            "annotator": "judge",
            "preference": round(float(rng.uniform(1, 2)), 3),
        }
        for i in range(known)
    ]
    return [row for i, row in enumerate(rows) if i not in missing]


@pytest.fixture
def put(tmp_path):
    def write(name, rows):
        text = json.dumps(rows) if name.endswith("json") else rows
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def outputs(put):
    rows = [{"instruction": f"Question {i}", "output": "b" * (20 + i), "generator": "base"} for i in range(N)]
    return put("baseline.json", rows)


def run(tmp_path, *words):
    code = main(["eval", "--tasks", *words, "--out", str(tmp_path / "out")])
    if code:
        return code, {}
    return code, next(iter(json.loads((tmp_path / "out" / "results.json").read_text())["tasks"].values()))


def difficulty(n=N):
    return np.linspace(-2, 2, n) ** 3


def table(put, n=N):
    """The reference's file."""
    lines = [f"{i},{d}" for i, d in enumerate(difficulty(n))]
    return put("difficulty.csv", "index,instruction_difficulty\n" + "\n".join(lines) + "\n")


def controlled(found):
    return found["results"]["length_controlled_winrate"]["value"]


def test_a_judges_file_alone(put, outputs, tmp_path, capsys):
    rows = annotations()
    rows[3]["preference"] = None
    rows[4]["preference"] = 0
    code, found = run(tmp_path, f"alpaca:{put('judged.json', rows)}", "--set", f"alpaca.baseline={outputs}")
    assert code == 0
    y = np.asarray([np.nan if r["preference"] is None else (r["preference"] or 1.5) - 1 for r in rows])
    results = {name: x["value"] for name, x in found["results"].items()}
    assert results["win_rate"] == pytest.approx(100 * np.nanmean(y))
    assert results["discrete_win_rate"] == pytest.approx(100 * (np.sum(y > 0.5) + 0.5) / 23)
    longer = [
        100 * (len(r["output_2"]) > len(r["output_1"])) + 50 * (len(r["output_2"]) == len(r["output_1"])) for r in rows
    ]
    assert results["win_rate_longer_wins"] == pytest.approx(np.mean(longer))
    sizes = [(len(r["output_1"]), len(r["output_2"])) for r in rows]
    expected = glm.fit(glm.Compared(y, glm.relative_length(*zip(*sizes, strict=True))))
    assert controlled(found) == pytest.approx(glm.win_rate(glm.predictions(expected, None, N)).value)
    assert found["results"]["length_controlled_winrate"]["n"] == N
    said = capsys.readouterr().out
    assert "1 rows without a preference are left out of the fit and kept in its prediction." in said
    assert "without gamed rows" in said


def test_gamed_rows_others_and_fitted_difficulties(put, tmp_path):
    mine, long, short, other = (
        put(f"{name}.json", annotations(name, seed)) for seed, name in enumerate(("ours", "long", "short", "other"))
    )
    words = (f"alpaca:{mine}", "--set", f"alpaca.gamed={long},{short}", "--set", f"alpaca.others={other}")
    code, found = run(tmp_path, *words, "--set", "alpaca.difficulty=fit")
    assert code == 0
    names = [name for name in found["results"] if name.startswith("length_controlled")]
    assert names == ["length_controlled_winrate", "length_controlled_winrate_against_other"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "difficulties.jsonl").read_text().splitlines()]
    assert [line["instruction"] for line in lines] == [f"Question {i}" for i in range(N)]
    assert lines[0]["difficulty"] == 0
    (tmp_path / "out" / "results.json").unlink()
    again = put("difficulties.jsonl", (tmp_path / "out" / "difficulties.jsonl").read_text())
    assert controlled(run(tmp_path, *words, "--set", f"alpaca.difficulty={again}")[1]) == pytest.approx(
        controlled(found)
    )


def test_the_references_table_of_gamed_rows(put, outputs, tmp_path):
    rng = np.random.default_rng(1)
    t, y, d = rng.normal(size=2 * N), rng.uniform(size=2 * N), np.tile(difficulty(), 2)
    lines = [f"x,{y[i]},{i % N},{t[i]},{d[i]},False" for i in range(2 * N)]
    head = "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
    gamed = put("df_gamed.csv", head + "\n".join(lines) + "\n")
    rows = annotations()
    words = (f"alpaca:{put('judged.json', rows)}", "--set", f"alpaca.gamed={gamed}")
    settings = ("--set", f"alpaca.difficulty={gamed}", "--set", f"alpaca.baseline={outputs}")
    _, found = run(tmp_path, *words, *settings)
    sizes = [(len(r["output_1"]), len(r["output_2"])) for r in rows]
    mine = glm.Compared(
        np.asarray([r["preference"] for r in rows]) - 1, glm.relative_length(*zip(*sizes, strict=True)), difficulty()
    )
    fit = glm.fit(mine, [glm.Compared(y, np.tanh(t), d)])
    assert controlled(found) == pytest.approx(glm.win_rate(glm.predictions(fit, difficulty(), N)).value)


def test_positions_shift_difficulties_where_rows_are_missing(put, outputs, tmp_path):
    """The reference's rule, and ours."""
    mine, d = put("judged.json", annotations(missing=(2, 9))), table(put)
    rows = annotations(missing=(2, 9))
    sizes = [(len(r["output_1"]), len(r["output_2"])) for r in rows]
    y, t = np.asarray([r["preference"] for r in rows]) - 1, glm.relative_length(*zip(*sizes, strict=True))
    kept = [i for i in range(N) if i not in (2, 9)]
    for words, expected in (
        (("--set", f"alpaca.baseline={outputs}"), difficulty()[kept]),
        (("--set", "alpaca.positional=true"), difficulty()[: N - 2]),
    ):
        _, found = run(tmp_path, f"alpaca:{mine}", "--set", f"alpaca.difficulty={d}", *words)
        fit = glm.fit(glm.Compared(y, t, expected))
        assert controlled(found) == pytest.approx(glm.win_rate(glm.predictions(fit, expected, N - 2)).value)
        (tmp_path / "out" / "results.json").unlink()


def test_the_baseline_against_itself_has_one_half(put, tmp_path):
    rows = [row | {"output_2": row["output_1"], "preference": 1.5} for row in annotations("base")]
    _, found = run(tmp_path, f"alpaca:{put('judged.json', rows)}")
    assert controlled(found) == 50


def refused(put, outputs, tmp_path, capsys, rows, *settings):
    assert run(tmp_path, f"alpaca:{put('judged.json', rows)}", *settings)[0] == 2
    return capsys.readouterr().err


def test_other_instructions_than_the_baselines_are_refused(put, outputs, tmp_path, capsys):
    rows = annotations()
    rows[5]["instruction"] = "Another question"
    said = refused(put, outputs, tmp_path, capsys, rows, "--set", f"alpaca.baseline={outputs}")
    assert "judged.json, row 6, field 'instruction'" in said
    assert "is not one of the baseline's" in said
    rows = annotations()
    rows[5]["output_1"] = "shorter"
    said = refused(put, outputs, tmp_path, capsys, rows, "--set", f"alpaca.baseline={outputs}")
    assert "the baseline's answer is another one" in said


@pytest.mark.parametrize(("change", "message"), [
    ({"preference": 2.5}, "is 2.5"),
    ({"generator_2": "theirs"}, "compares 'theirs' with 'base', but the rows before compare 'ours'"),
    ({"output_2": 7}, "must be a text, found int"),
    ({"instruction": " "}, "is empty"),
])  # fmt: skip
def test_rows_that_are_refused(put, outputs, tmp_path, capsys, change, message):
    rows = annotations()
    rows[7] |= change
    said = refused(put, outputs, tmp_path, capsys, rows)
    assert "row 8" in said
    assert message in said


@pytest.mark.parametrize(("rows", "words", "message"), [
    (annotations(known=4), (), "4 rows with a preference are too few"),
    (annotations(), ("alpaca.difficulty=fit",), "'fit' needs several models"),
    (annotations(), ("alpaca.positional=true",), "needs a file of difficulties"),
    (annotations(), ("alpaca.gamed_weight=0",), "must be above 0"),
    ([row | {"preference": None} for row in annotations()], (), "no row has a preference"),
])  # fmt: skip
def test_settings_that_are_refused(put, outputs, tmp_path, capsys, rows, words, message):
    assert message in refused(put, outputs, tmp_path, capsys, rows, *(x for w in words for x in ("--set", w)))


def test_files_of_others_are_refused(put, outputs, tmp_path, capsys):
    other = put("other.json", annotations("theirs", baseline="another"))
    said = refused(put, outputs, tmp_path, capsys, annotations(), "--set", f"alpaca.others={other}")
    assert "compares with 'another', but" in said
    same = put("same.json", annotations("ours", 3))
    said = refused(put, outputs, tmp_path, capsys, annotations(), "--set", f"alpaca.others={same}")
    assert "the model 'ours' is there twice" in said
    d = put("difficulties.jsonl", json.dumps({"instruction": "Question 0", "difficulty": 1}) + "\n")
    said = refused(put, outputs, tmp_path, capsys, annotations(), "--set", f"alpaca.difficulty={d}")
    assert "'Question 1' has no difficulty" in said
    said = refused(put, outputs, tmp_path, capsys, annotations(), "--set", f"alpaca.difficulty={table(put)}")
    assert "alpaca.baseline=OUTPUTS" in said


@pytest.fixture
def few(put):
    """Six outputs of a baseline."""
    return put("few.json", [{"instruction": f"Say {i}.", "output": "b" * i, "generator": "base"} for i in range(6)])


@pytest.mark.slow  # an engine compiled; what is done with the answers is tested without one
def test_a_model_answers(model_folders, few, tmp_path, capsys):
    words = ["--tasks", f"alpaca:{few}", "--max-new-tokens", "4", "--set", "alpaca.generator=mine"]
    assert main(["eval", str(model_folders[0]), *words, "--out", str(tmp_path / "out")]) == 0
    made = json.loads((tmp_path / "out" / "model_outputs.json").read_text())
    assert [row["instruction"] for row in made] == [f"Say {i}." for i in range(6)]
    assert "jaxpo data construct lc_alpacaeval" in capsys.readouterr().out


def test_answers_are_judged_and_the_judgements_read(few, put, tmp_path, capsys):
    task = Alpaca(source=few, generator="mine")
    scored = [task.score(one, SimpleNamespace(texts=("m" * (9 - i),))) for i, one in enumerate(task.examples())]
    (text,) = task.files(scored).values()
    assert [set(row) for row in json.loads(text)] == [{"instruction", "output", "generator"}] * 6
    assert {row["generator"] for row in json.loads(text)} == {"mine"}
    assert "jaxpo data construct lc_alpacaeval" in task.notes(scored)[0]
    (tmp_path / "model_outputs.json").write_text(text)
    (tmp_path / "judge.py").write_text("def score(prompt, answer, row):\n    return len(answer) / 10\n")
    judged = tmp_path / "annotations.jsonl"
    judge = ["--baseline", few, "--judge", f"{tmp_path / 'judge.py'}:score"]
    assert main(["data", "construct", "lc_alpacaeval", str(tmp_path / "model_outputs.json"), str(judged), *judge]) == 0
    rows = [json.loads(line) for line in judged.read_text().splitlines()]
    for row in rows:
        gap = (len(row["output_2"]) - len(row["output_1"])) / 10
        assert row["preference"] == pytest.approx(1 + 1 / (1 + np.exp(-gap)))
    assert main(["eval", "--tasks", f"alpaca:{judged}", "--out", str(tmp_path / "second")]) == 0
    assert main(["eval", str(tmp_path), "--tasks", f"alpaca:{judged}", "--out", str(tmp_path / "third")]) == 2
    assert "no model is asked" in capsys.readouterr().err
    assert main(["eval", "--tasks", f"alpaca:{few}", "--out", str(tmp_path / "fourth")]) == 2
    assert "name the model" in capsys.readouterr().err


@pytest.mark.parametrize(("how", "model", "expected"), [("hard", 2.0, 2.0), ("hard", 1.0, 1.5), ("hard", 0.5, 1.0)])
def test_what_two_scores_mean(how, model, expected):
    from jaxpo.construct.lc_alpacaeval import LCAlpacaEval

    assert LCAlpacaEval(baseline="x", preference=how).preferred(1.0, model) == expected
