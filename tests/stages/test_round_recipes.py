"""The recipes of rounds, short: every stage runs and reads what those before it wrote; one is killed within a round."""

from __future__ import annotations

import importlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from stages import process

from jaxpo.cli.main import main
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.model_io import load_model
from jaxpo.judges import OverlapJudge

pytestmark = pytest.mark.usefixtures("one_device")


def work(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "summary.json").read_text())["work"]
    return found


def smaller(recipe: str, **settings: Any) -> Any:
    """A recipe with little of everything, as a run that can be saved."""
    run = importlib.import_module(f"jaxpo.recipes.{recipe}").config(**settings)
    stages = []
    for stage in run.stages:
        known = set(stage.__dataclass_fields__)
        changes: dict[str, Any] = {}
        if "optimizer" in known:
            changes["optimizer"] = replace(stage.optimizer, warmup_steps=0)
            changes |= {"max_steps": 2, "max_tokens": None, "num_train_epochs": None}
        for name, value in {"max_prompts": 8, "max_new_tokens": 12, "heldout_one_in": 3, "step_tokens": 8}.items():
            if name in known:
                changes[name] = value
        if "judge" in known:
            changes["judge"] = OverlapJudge(with_reference=False)
        if "oracle" in known:
            changes["oracle"] = replace(stage.oracle, judge=OverlapJudge(with_reference=False))
        if "kept" in known:
            changes |= {"kept": "none", "depth": 2, "simulations": 1}
        stages.append(replace(stage, **changes))
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = replace(run.model, **small, head_dim=8, layer_types=("conv", "full_attention"))
    corpus = replace(run.corpus, levels=(1,))
    return replace(run, model=model, corpus=corpus, stages=tuple(stages), probes=(), export=False)


LAST = {
    "inpo": ("inpo_2", {"rounds": 2, "samples": 4}),
    "vpo": ("vpo_2", {"rounds": 2}),
    "hypo": ("hypo", {}),
    "upo": ("upo_2", {"rounds": 2, "samples": 4, "masks": 3}),
    "mcts_dpo": ("mcts_dpo_2", {"rounds": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAST)
def test_every_round_reads_what_was_written_before_it(name: str, tmp_path: Path) -> None:
    last, settings = LAST[name]
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(smaller(name, **settings))))
    home = tmp_path / "run"
    assert main(["run", str(config), "--run", str(home)]) == 0
    assert load_model(home / "stages" / last).about["stage"] == last
    if name == "upo":
        found = work(home)
        assert 0 < found["pairs_1"]["smoothing"] < 0.5
        for judge in ("reward_1", "estimator_1"):
            assert load_model(home / "stages" / judge).about["stage"] == judge
    if name == "inpo":
        assert work(home)["pairs_2"]["comparisons"] > 0


@pytest.mark.slow
def test_killed_within_its_second_round_it_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    config = tmp_path / "recipe.json"
    run = smaller("inpo", rounds=2, samples=4)
    config.write_text(json.dumps(to_jsonable(run)))
    code, out = process.finish(process.start(config, "--run", str(tmp_path / "whole")))
    assert code == 0, out
    killed = tmp_path / "killed"
    child = process.start(config, "--run", str(killed))
    while not list((killed / "stages" / "pairs_2").glob("samples-*")) and child.poll() is None:
        time.sleep(0.002)
    process.kill(child)
    code, out = process.finish(process.start(config, "--run", str(killed)))
    assert code == 0, out
    for stage in ("inpo_1", "inpo_2"):
        models = (load_model(home / "stages" / stage).params for home in (tmp_path / "whole", killed))
        jax.tree.map(np.testing.assert_array_equal, *models)
    for name in ("pairs.jsonl", "heldout_pairs.jsonl"):
        texts = {(home / "stages" / "pairs_2" / name).read_text() for home in (tmp_path / "whole", killed)}
        assert len(texts) == 1
