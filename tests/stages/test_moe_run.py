"""`jaxpo run pretrain --preset nano_moe`, as a user starts it: it trains, shows the load, and exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import stages.recipe as recipes
from stages import process

from jaxpo.convert.hf import import_hf
from jaxpo.models.lfm2.presets import preset
from jaxpo.objectives.wrappers.routing import MEASURES
from jaxpo.train.metrics import read_metrics

MEASURED = ("aux_loss", "router_z_loss", *MEASURES)


@pytest.mark.slow
def test_pretraining_a_small_mixture_of_experts(tmp_path: Path) -> None:
    recipes.write_data(tmp_path)
    text, held_out = (str(tmp_path / f"text_{part}.jsonl") for part in ("train", "eval"))
    code, out = process.finish(
        process.start(
            "pretrain",
            *("--preset", "nano_moe", "--run", str(tmp_path / "run"), "--stage.max-steps", "8"),
            *("--tokenizer.train-on", text, "--tokenizer.vocab-size", "384", "--pretrain.data.train", text),
            *("--pretrain.data.eval", held_out, "--stage.eval-steps", "4", "--stage.logging-steps", "1"),
            *("--stage.data.max-length", "96", "--stage.data.row-length", "128", "--stage.rows-per-step", "8"),
        )
    )
    assert code == 0, out
    records = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    steps = [record for record in records if "loss" in record]
    assert len(steps) == 8
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    evaluations = [record for record in records if "eval_loss" in record]
    assert evaluations
    for name in MEASURED:
        assert all(record[name] >= 0 for record in steps), name
        assert all(record[f"eval_{name}"] >= 0 for record in evaluations), name
    assert all(0 < record["moe/load_entropy"] <= 1 + 1e-6 for record in steps)
    report = (tmp_path / "run" / "report.html").read_text()
    for chart in ("Load of the experts", "Use of the experts", "Balance loss", "Router z loss"):
        assert chart in report
    _, config = import_hf(tmp_path / "run" / "export")
    assert (config.num_experts, config.layer_types) == (8, preset("nano_moe").layer_types)
    verified = json.loads((tmp_path / "run" / "export" / "verification.json").read_text())
    assert verified["max_logprob_error"] < 1e-3
