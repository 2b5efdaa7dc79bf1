"""A recipe that measures difficulty and trains by it: data without the column are refused; stopped, it goes on."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import stages.recipe as recipes

from jaxpo.config import SFT, Curriculum, Data, Run, Tokenizer
from jaxpo.corpora.arithmetic import TRAIN, Arithmetic
from jaxpo.curriculum import stage as module
from jaxpo.curriculum.stage import MeasureDifficulty
from jaxpo.data.packing.curriculum import easy_to_hard, read_difficulties
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import DataError
from jaxpo.stages.run import execute
from jaxpo.stages.run_inputs import make_inputs
from jaxpo.train.metrics import TIMING, read_metrics


def recipe(folder, name="run") -> Run:
    data = Data(train=(f"corpus:{TRAIN}",), max_length=128, row_length=128)
    return Run(
        name=name,
        output_dir=str(folder),
        model=recipes.MODEL,
        corpus=Arithmetic(train=120, heldout=6),
        tokenizer=Tokenizer(train_on=(f"corpus:{TRAIN}",), vocab_size=recipes.MODEL.vocab_size),
        stages=(
            SFT(name="probe", data=data, max_steps=6, rows_per_step=8, snapshot_steps=1),
            MeasureDifficulty(items=data.train, stages=("probe",), limit=40, max_new_tokens=4),
            SFT(
                data=dataclasses.replace(data, train=("stage:difficulty/train.jsonl",), curriculum=Curriculum()),
                max_steps=4,
                rows_per_step=8,
            ),
        ),
        export=False,
    )


def test_a_run_refuses_rows_without_the_column_before_it_tokenises_them(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "difficulty": 1}, {"prompt": "c", "completion": "d"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_tokenizer(["some text"] * 4, 300).save(tmp_path / "tokenizer")
    data = Data(train=(str(tmp_path / "rows.jsonl"),), max_length=32, row_length=32, curriculum=Curriculum())
    run = Run(
        model=recipes.MODEL,
        tokenizer=Tokenizer(path=str(tmp_path / "tokenizer")),
        stages=(SFT(data=data, max_steps=1),),
    )
    said = []
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2, field 'difficulty': the curriculum's column is missing"):
        make_inputs(run, tmp_path / "run", said.append)
    assert not any("tokenising" in line for line in said)
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1] | {"difficulty": 0}) + "\n")
    inputs = make_inputs(run, tmp_path / "run", said.append)
    order = inputs.stages["sft"].train.order
    assert order.tolist() == easy_to_hard(np.asarray([1.0, 0.0]), 4, 0.1, 0).tolist() == [1, 0]


@pytest.mark.slow
def test_measured_trained_and_stopped_in_between_it_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 16)
    assert execute(recipe(tmp_path)) == 0
    whole = tmp_path / "run"
    report = json.loads((whole / "summary.json").read_text())["work"]["difficulty"]
    assert report["checkpoints"] == 6
    assert sum(report["level_counts"]) == report["items"] == 40
    assert report["predicted"] == 80
    train = whole / "stages" / "difficulty" / "train.jsonl"
    assert len(read_difficulties([train], Curriculum())) == 120

    asked = []

    def interrupted(*arguments, **options):
        asked.append(len(arguments[3]))
        if len(asked) == 8:
            raise KeyboardInterrupt
        return greedy(*arguments, **options)

    greedy = module.greedy_answers
    monkeypatch.setattr(module, "greedy_answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(recipe(tmp_path, "stopped"))
    assert execute(recipe(tmp_path, "stopped")) == 0
    # Two checkpoints whole, the third up to its second chunk; then the rest of it and the other three.
    assert asked == [16, 16, 8] * 2 + [16, 16] + [16, 8] + [16, 16, 8] * 3
    stopped = tmp_path / "stopped"
    assert (stopped / "stages" / "difficulty" / "train.jsonl").read_bytes() == train.read_bytes()
    timeless = [
        [{k: v for k, v in r.items() if k not in TIMING} for r in read_metrics(run / "metrics.jsonl")]
        for run in (whole, stopped)
    ]
    assert timeless[0] == timeless[1]
