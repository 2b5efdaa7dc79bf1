"""One recipe with a stage of every kind, so small that several real processes run it; and how two runs are compared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import stages.recipe as recipes

from jaxpo.config import Distill, Merge, Preference
from jaxpo.config.serialise import to_jsonable
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.evaluate.probes import BitsPerByte, RankingAccuracy
from jaxpo.judges import FunctionJudge
from jaxpo.objectives.methods import METHODS
from jaxpo.train.metrics import TIMING, read_metrics

STAGES = ("pretrain", "sft", "preference", "on_policy", "again", "distill", "merge")


def write(folder: Path) -> Path:
    """The recipe and its data: pretrain, SFT, DPO, pairs of the model's own, DPO on them, distillation, a merge."""
    recipes.write_data(folder)
    (folder / "judge.py").write_text("def score(prompt, answer, row):\n    return len(answer)\n")
    whole = recipes.recipe(folder)
    short = {"max_steps": 2, "eval_steps": 2, "save_steps": 1, "rows_per_step": 4, "gradient_accumulation_steps": 1}
    pretrain, sft, preference = (
        # One row per block: blocks may not follow from the devices that a process has.
        dataclasses.replace(stage, data=dataclasses.replace(stage.data, block_rows=1, curriculum=None), **short)
        for stage in whole.stages[:3]
    )
    sft = dataclasses.replace(sft, snapshot_steps=0)
    preference = dataclasses.replace(preference, loss=METHODS["dpo"]())
    pairs = OnPolicyPairs(
        prompts=(str(folder / "sft_eval.jsonl"),),
        judge=FunctionJudge(f"{folder}/judge.py:score"),
        samples=2,
        max_new_tokens=4,
        keep_unfinished=True,
        max_length=64,
        max_prompts=8,
        heldout_one_in=4,
    )
    own = dataclasses.replace(preference.data, train=("stage:on_policy/pairs.jsonl",), eval=())
    again = Preference(
        name="again", data=own, loss=METHODS["dpo"](), optimizer=preference.optimizer, **short | {"eval_steps": 0}
    )
    distill = Distill(
        data=pretrain.data,
        optimizer=pretrain.optimizer,
        loss=METHODS["decoupled_topk_kd"](top_k=8),
        teacher="pretrain",
        **short,
    )
    model = dataclasses.replace(whole.model, layer_types=("full_attention",))
    probes = (
        BitsPerByte(files=(str(folder / "text_eval.jsonl"),)),
        RankingAccuracy(files=(str(folder / "pref_eval.jsonl"),)),
    )
    stages = (pretrain, sft, preference, pairs, again, distill, Merge(models=("preference", "distill")))
    run = dataclasses.replace(whole, model=model, stages=stages, probes=probes, prompts=("the cat",))
    file = folder / "every_stage.json"
    file.write_text(json.dumps(to_jsonable(run)))
    return file


def records(run: Path) -> list[dict]:
    """A run's metrics without what measures the machine."""
    return [{k: v for k, v in r.items() if k not in TIMING} for r in read_metrics(run / "metrics.jsonl")]


def assert_alike(one: list[dict], other: list[dict], rtol: float = 2e-4) -> None:
    """The same lines; counts and names equal, values to float32 rounding."""
    assert [(r["stage"], r["step"], sorted(r)) for r in one] == [(r["stage"], r["step"], sorted(r)) for r in other]
    for a, b in zip(one, other, strict=True):
        for name, value in a.items():
            if isinstance(value, float):
                np.testing.assert_allclose(b[name], value, rtol=rtol, atol=2e-5, err_msg=f"{a['stage']} {name}")
            else:
                assert b[name] == value, name
