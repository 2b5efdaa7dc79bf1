"""The difficulty stage: which checkpoints answer, what is written, and that an interrupted one goes on exactly."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxpo.config import SFT, Curriculum, Data, Run, Tokenizer
from jaxpo.corpora.arithmetic import HELD_OUT, TRAIN, Arithmetic
from jaxpo.curriculum import stage as module
from jaxpo.curriculum.matrix import read_matrix
from jaxpo.curriculum.stage import MeasureDifficulty
from jaxpo.data.packing.curriculum import read_difficulties
from jaxpo.errors import ConfigError, DataError, RunError
from jaxpo.recipe.checks.run import find_problems
from jaxpo.train.signals import Preempted

STEPS = (2, 4, 6, 8, 10, 12)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A context whose checkpoint of step s answers the levels up to s / 2 rightly, and counts what it is asked."""
    Arithmetic(train=120, heldout=12).build(tmp_path / "corpus")
    rows = [json.loads(line) for line in (tmp_path / "corpus" / TRAIN).read_text().splitlines()]
    by_prompt = {row["prompt"][0]["content"]: row for row in rows}
    asked = []

    def answered(params, config, tokenizer, prompts, *, max_new_tokens, dtype):
        asked.append((params, len(prompts), max_new_tokens))
        found = [by_prompt[p[-1]["content"]] for p in prompts]
        return [f"#### {row['answer'] if row['level'] <= params / 2 else 'none'}" for row in found]

    monkeypatch.setattr(module, "greedy_answers", answered)
    monkeypatch.setattr(module, "CHUNK", 16)
    folder = tmp_path / "stages" / "difficulty"
    folder.mkdir(parents=True)
    probe = tmp_path / "stages" / "probe"
    context = SimpleNamespace(
        folder=folder,
        seed=3,
        say=lambda line: None,
        check=lambda: None,
        tokenizer=None,
        scorer=SimpleNamespace(dtype="float32"),
        files=lambda names: [tmp_path / "corpus" / name.removeprefix("corpus:") for name in names],
        stage_folder=lambda name: probe if name == "previous" else tmp_path / "stages" / name,
        snapshots=lambda name: [probe / "snapshots" / str(s) for s in STEPS] if name in ("probe", "previous") else [],
        load=lambda path: SimpleNamespace(params={"model": int(path.name) if path.name.isdigit() else 99}, config=None),
    )
    return SimpleNamespace(context=context, rows=rows, asked=asked, folder=folder)


def stage(**changes):
    return dataclasses.replace(MeasureDifficulty(items=(f"corpus:{TRAIN}",), limit=60), **changes)


def test_every_checkpoint_grades_every_item_and_the_data_come_back_with_a_difficulty(run):
    report = stage().run(run.context)
    matrix = read_matrix([run.folder / "matrix.npz"])
    assert matrix.models == tuple(f"probe-{s}" for s in STEPS)
    graded = [json.loads(line) for line in (run.folder / "graded.jsonl").read_text().splitlines()]
    for row in graded:
        assert row["difficulty"] == pytest.approx((row["authored_level"] - 1) / 6)
        assert row["level"] == 7 - row["authored_level"]
    trained = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in r.items() if not k.startswith("difficulty")} for r in trained] == run.rows
    assert [r["difficulty_from"] for r in trained] == ["measured", "predicted"] * 60
    hard = np.asarray([r["difficulty"] for r in trained])
    levels = np.asarray([r["level"] for r in trained])
    assert np.corrcoef(hard[1::2], levels[1::2])[0, 1] > 0.5, "the predicted half"
    assert read_difficulties([run.folder / "train.jsonl"], Curriculum())[0, 1] == trained[0]["difficulty"]
    assert (report["checkpoints"], report["items"], report["predicted"]) == (6, 60, 60)
    assert report["accuracy"]["probe-12"] == 1.0
    assert sum(report["level_counts"]) == 60
    assert report["level_counts"][0] == 0
    assert list(report["mean_success"]) == ["1", "2", "3", "4", "5", "6"]
    assert report["predictor"]["held_out"]["n"] == 15
    assert json.loads((run.folder / "predictor.json").read_text()) == report["predictor"]
    json.dumps(report, allow_nan=False)
    assert {n for _, _, n in run.asked} == {32}


def test_interrupted_it_goes_on_where_the_answers_end(run):
    stage().run(run.context)
    whole = {p.name: p.read_bytes() for p in run.folder.iterdir() if p.is_file() and p.suffix != ".npz"}
    for file in run.folder.rglob("*.*"):
        file.unlink()
    run.asked.clear()
    checks = iter([None] * 6)

    def check():
        if next(checks, 1) is not None:
            raise Preempted("stopped", 15)

    run.context.check = check
    with pytest.raises(Preempted):
        stage().run(run.context)
    assert [(p, n) for p, n, _ in run.asked] == [(2, 16), (2, 16), (2, 16), (2, 12), (4, 16), (4, 16)]
    half = run.folder / "answers" / "probe-4.jsonl"
    half.write_text(half.read_text() + '{"id": "l1-')  # a line that the end of the process cut off
    run.asked.clear()
    run.context.check = lambda: None
    stage().run(run.context)
    assert [(p, n) for p, n, _ in run.asked[:3]] == [(4, 16), (4, 12), (6, 16)]
    assert {p.name: p.read_bytes() for p in run.folder.iterdir() if p.is_file() and p.suffix != ".npz"} == whole
    run.asked.clear()
    stage().run(run.context)
    assert not run.asked


def test_answers_to_other_items_are_refused(run):
    stage().run(run.context)
    with pytest.raises(RunError, match=r"probe-2\.jsonl holds answers to other items"):
        stage(items=(f"corpus:{HELD_OUT}",), limit=None).run(run.context)


def test_a_stage_without_snapshots_answers_with_its_model(run):
    stage(stages=("probe", "sft")).run(run.context)
    assert read_matrix([run.folder / "matrix.npz"]).models == (*(f"probe-{s}" for s in STEPS), "sft")
    with pytest.raises(ConfigError, match=r"difficulty\.stages: sft is one checkpoint.*Set snapshot_steps"):
        stage(stages=("sft",)).run(run.context)


def test_an_item_without_an_answer_is_named_before_anything_is_asked(run, tmp_path):
    file = tmp_path / "bare.jsonl"
    file.write_text('{"prompt": "How many?", "completion": "Seven."}\n')
    run.context.files = lambda names: [file]
    with pytest.raises(DataError, match=r"bare\.jsonl, row 1, field 'completion'.*holds no number"):
        stage().run(run.context)
    assert not run.asked


def test_a_recipe_may_train_on_what_it_writes():
    data = Data(train=(f"corpus:{TRAIN}",))
    sorted_data = Data(train=("stage:difficulty/train.jsonl",), curriculum=Curriculum())
    run = Run(
        corpus=Arithmetic(),
        tokenizer=Tokenizer(train_on=(f"corpus:{TRAIN}",)),
        stages=(
            SFT(name="probe", data=data, max_steps=6, snapshot_steps=1),
            stage(),
            SFT(data=sorted_data, max_steps=1),
        ),
    )
    assert not list(find_problems(run))
    broken = dataclasses.replace(
        run, stages=(run.stages[0], stage(stages=("prob",), items=("no.jsonl",)), run.stages[2])
    )
    problems = list(find_problems(broken))
    assert any("difficulty: reads: there is no file or folder no.jsonl" in p for p in problems)
    assert any(
        "difficulty: the model 'prob' is not that of an earlier stage (probe). Did you mean" in p for p in problems
    )
