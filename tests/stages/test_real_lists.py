"""Lists of seven real responses, packed and trained on with LiPO's lambda loss, through a whole run."""

import dataclasses
import gzip
import json

import pytest
import stages.recipe as recipes
from stages.process import finish, start

from jaxpo.config import Data, Optimizer, Preference, Run, Tokenizer
from jaxpo.config.serialise import to_jsonable
from jaxpo.objectives.methods import METHODS
from jaxpo.train.metrics import read_metrics


@pytest.mark.slow
def test_lipo_trains_on_seven_real_responses_per_prompt(shared_data, tmp_path):
    with gzip.open(shared_data / "alpaca_eval_ranked.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(40), strict=False)]
    lists = [
        {
            "prompt": row["prompt"][:200],
            "responses": [text[:200] for text in row["responses"]],
            "scores": row["scores"],
        }
        for row in rows
    ]
    assert all(len(row["responses"]) == 7 for row in lists)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lists[:32]))
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lists[32:]))
    stage = Preference(
        data=Data(
            train=(str(tmp_path / "train.jsonl"),),
            eval=(str(tmp_path / "eval.jsonl"),),
            max_length=256,
            row_length=512,
            truncation="response_right",
        ),
        loss=METHODS["lipo"](beta=0.5),
        optimizer=Optimizer(learning_rate=3e-3),
        rows_per_step=16,
        max_steps=6,
    )
    model = dataclasses.replace(recipes.MODEL, max_position_embeddings=512)
    tokenizer = Tokenizer(train_on=(str(tmp_path / "train.jsonl"),), vocab_size=model.vocab_size)
    run = Run(
        name="lists",
        output_dir=str(tmp_path),
        model=model,
        tokenizer=tokenizer,
        stages=(stage,),
        export=False,
    )
    (tmp_path / "run.json").write_text(json.dumps(to_jsonable(run)))
    code, out = finish(start(tmp_path / "run.json"))
    assert code == 0, out
    records = [r for r in read_metrics(tmp_path / "lists" / "metrics.jsonl") if r["stage"] == "preference"]
    losses = [r["loss"] for r in records if "loss" in r]
    assert losses[-1] < losses[0]
    assert any("eval_loss" in r for r in records)
