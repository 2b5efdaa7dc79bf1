"""`jaxpo eval` on two small models: the table, the three files, and what it says of mistakes."""

from __future__ import annotations

import json

import pytest

from jaxpo.cli.main import main

BINARY = ("acc", "acc_token", "acc_bytes")


@pytest.fixture(scope="module")
def evaluated(model_folders, files, tmp_path_factory):
    """The folder that a comparison on all tasks writes, and what was printed."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("out") / "eval"
    ours, theirs = map(str, model_folders)
    tasks = [
        f"perplexity:{files}/texts.jsonl",
        f"bits_per_byte:{files}/texts.jsonl",
        f"multiple_choice:{files}/choices.jsonl",
        f"ranking:{files}/pairs.jsonl",
        f"gsm8k:{files}/maths.jsonl",
    ]
    options = ["--max-new-tokens", "6", "--samples", "2", "--k", "1,2", "--temperature", "1", "--set", "gsm8k.shots=0"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["eval", ours, "--against", theirs, "--tasks", *tasks, *options, "--out", str(out)]) == 0
    return out, printed.getvalue(), tasks


def test_every_number_has_n_an_interval_and_a_hash(evaluated):
    out, _, tasks = evaluated
    found = json.loads((out / "results.json").read_text())
    assert list(found["tasks"]) == tasks
    assert found["model"]["dtype"] == "float32"
    for task in found["tasks"].values():
        assert len(task["prompt_hash"]) == 16
        assert task["examples"] == 4
        assert task["settings"]["source"]
        for side in (task, task["against"]):
            for result in side["results"].values():
                assert result["n"] in (2, 4)
                assert result["low"] <= result["value"] <= result["high"]


def test_both_models_answer_the_same_examples(evaluated):
    out, _, tasks = evaluated
    found = json.loads((out / "results.json").read_text())["tasks"]
    rows = [json.loads(line) for line in (out / "examples.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == [task for task in tasks for _ in range(4)]
    choices = [row for row in rows if row["task"] == tasks[2]]
    for name in BINARY:
        mine = [row["values"][name] for row in choices]
        other = [row["against"]["values"][name] for row in choices]
        difference = found[tasks[2]]["differences"][name]
        assert difference["value"] == pytest.approx((sum(mine) - sum(other)) / 4)
        assert difference["better"] == sum(a > b for a, b in zip(mine, other, strict=True))
        assert 0 < difference["p"] <= 1
    assert found[tasks[0]]["differences"]["perplexity"]["p"] is None


def test_samples_reach_the_generative_tasks_alone(evaluated):
    out, _, tasks = evaluated
    found = json.loads((out / "results.json").read_text())["tasks"]
    assert {"strict", "strict_pass@1", "strict_pass@2", "flexible_pass@2"} <= set(found[tasks[4]]["results"])
    assert set(found[tasks[2]]["results"]) == set(BINARY)


def test_the_table_and_the_page(evaluated):
    out, printed, tasks = evaluated
    lines = printed.splitlines()
    assert lines[0].split()[:4] == ["task", "result", "value", "95%"]
    assert "McNemar p" in lines[0]
    assert sum(line.startswith(tasks[2]) for line in lines) == 3
    page = (out / "report.html").read_text()
    assert "multiple_choice" in page
    assert "worst examples" in page
    assert "Ein Satz mit Umlauten: Äpfel" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_model_in_eight_bits_is_evaluated(evaluated, model_folders, files, tmp_path, capsys):
    """How far it is from its own is said; that the engine takes it: tests/sampling/test_quantised.py."""
    float_out, _, tasks = evaluated
    words = ["--tasks", tasks[0], "--quantize", "int8", "--out", str(tmp_path / "out")]
    assert main(["eval", str(model_folders[0]), *words]) == 0
    assert "int8: KL to the float model" in capsys.readouterr().err
    found, full = (json.loads((path / "results.json").read_text()) for path in (tmp_path / "out", float_out))
    assert (full["model"]["quantize"], found["model"]["quantize"]) == (None, "int8")
    ours, theirs = (one["tasks"][tasks[0]]["results"]["perplexity"]["value"] for one in (found, full))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.05)


def test_a_second_evaluation_does_not_overwrite_the_first(evaluated, model_folders, files, capsys):
    out, _, tasks = evaluated
    assert main(["eval", str(model_folders[0]), "--tasks", tasks[0], "--out", str(out)]) == 2
    assert "holds results.json of an earlier evaluation" in capsys.readouterr().err


def test_the_list_names_every_task_with_its_file(capsys):
    from jaxpo.evaluate.tasks.registry import TASKS

    assert main(["eval", "--list"]) == 0
    printed = capsys.readouterr().out
    for name in TASKS:
        assert f"\n{name}" in f"\n{printed}"
    assert "FILE: rows with `question`, `choices`" in printed
    assert "lm_eval:TASK" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "multiple_choise:x.jsonl"], "there is no task 'multiple_choise'. Did you mean multiple_choice?"),
        (["--tasks", "gsm8k"], "gsm8k: needs rows with `question`"),
        (["--tasks", "gsm8k:absent.jsonl"], "absent.jsonl: there is no such file. The task gsm8k needs rows"),
        (
            ["--tasks", "perplexity:{files}/choices.jsonl"],
            "choices.jsonl, row 1, field 'text': column 'text' is missing",
        ),
        (["--tasks", "gsm8k:{files}/maths.jsonl", "--set", "gsm8k.shot=1"], "no setting 'shot'. Did you mean shots?"),
        (["--tasks", "gsm8k:{files}/maths.jsonl", "--set", "gsm8k.shots=many"], "expected an integer, got 'many'"),
        (["--tasks", "gsm8k:{files}/maths.jsonl", "--set", "shots"], "--set shots: expected TASK.SETTING=VALUE"),
        (["--tasks", "gsm8k:{files}/maths.jsonl", "--set", "ranking.limit=1"], "'ranking' is none of the tasks"),
        (["--tasks", "gsm8k:{files}/maths.jsonl", "--samples", "3"], "3 greedy answers are all the same"),
        (["--tasks", "ranking:{files}/pairs.jsonl", "--chat"], "--chat: none of these tasks has it"),
        (["--tasks", "ranking:{files}/pairs.jsonl", "--limit", "0"], "ranking.limit: 0 must be at least 1"),
        (["--tasks", "ranking:{files}/pairs.jsonl", "--against", "{model}"], "is the model itself"),
        (["--tasks", "ranking:{files}/pairs.jsonl", "ranking:{files}/pairs.jsonl"], "is given twice"),
        ([], "--tasks: name at least one"),
    ],
)
def test_mistakes_are_named_before_the_model_is_read(
    words, message, model_folders, files, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxpo.evaluate.subject.subject_of", None)
    filled = [word.format(files=files, model=model_folders[0]) for word in words]
    assert main(["eval", str(model_folders[0]), *filled]) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_a_tokenizer_is_named(model_folders, files, tmp_path, capsys):
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(model_folders[0], bare)
    shutil.rmtree(bare / "tokenizer")
    assert main(["eval", str(bare), "--tasks", f"ranking:{files}/pairs.jsonl", "--out", str(tmp_path / "out")]) == 2
    assert "holds no tokenizer, so it cannot be evaluated" in capsys.readouterr().err


def test_the_report_of_a_run_has_what_was_evaluated_of_it(evaluated, tmp_path):
    import shutil

    from jaxpo.cli.eval import default_folder

    run = tmp_path / "run"
    (run / "stages").mkdir(parents=True)
    assert default_folder(run) == run / "eval"
    (run / "config.json").write_text("{}")
    shutil.copytree(evaluated[0], run / "eval")
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Evaluation eval" in page
    assert "choices.jsonl: acc_bytes" in page
