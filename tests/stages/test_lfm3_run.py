"""`jaxpo run pretrain --preset nano_lfm3`, as a user starts it: it trains and exports what is verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import stages.recipe as recipes
from stages import process

from jaxpo.convert.hf import import_hf
from jaxpo.models.lfm2.presets import preset
from jaxpo.train.metrics import read_metrics


@pytest.mark.slow
def test_pretraining_a_small_lfm3(tmp_path: Path) -> None:
    recipes.write_data(tmp_path)
    text = str(tmp_path / "text_train.jsonl")
    code, out = process.finish(
        process.start(
            "pretrain",
            *("--preset", "nano_lfm3", "--run", str(tmp_path / "run"), "--stage.max-steps", "8"),
            *("--tokenizer.train-on", text, "--tokenizer.vocab-size", "384", "--pretrain.data.train", text),
            # segments below and above the window of 32, several of them in a row
            *("--stage.data.max-length", "96", "--stage.data.row-length", "128", "--stage.rows-per-step", "8"),
            *("--stage.logging-steps", "1"),
        )
    )
    assert code == 0, out
    records = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 8
    assert losses[-1] < 0.5 * losses[0]
    _, config = import_hf(tmp_path / "run" / "export")
    assert (config.model_type, config.layer_types) == ("lfm3", preset("nano_lfm3").layer_types)
    verified = json.loads((tmp_path / "run" / "export" / "verification.json").read_text())
    assert verified["max_logprob_error"] < 1e-3
