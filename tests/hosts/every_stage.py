"""One recipe with a stage of every kind, so small that several real processes run it; and how two runs are compared."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import stages.recipe as recipes
from safetensors.numpy import load_file

from jaxpo.config import Data, Distill, Merge, Mixed, Preference
from jaxpo.config.serialise import to_jsonable
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.evaluate.probes import BitsPerByte, RankingAccuracy
from jaxpo.judges import FunctionJudge
from jaxpo.objectives.methods import METHODS
from jaxpo.train.metrics import TIMING, read_metrics

STAGES = ("pretrain", "sft", "preference", "on_policy", "again", "distill", "merge")
SHORT = ("pretrain", "on_policy", "distill", "merge")
"""Without pairs, with which tests/elastic goes from one process to two, and without what is measured beside."""


def write(folder: Path, stages: tuple[str, ...] = STAGES) -> Path:
    """The recipe, or some of it, and its data: pretrain, SFT, DPO, the model's own pairs, DPO on them, and so on."""
    recipes.write_data(folder)
    (folder / "judge.py").write_text("def score(prompt, answer, row):\n    return len(answer)\n")
    whole = recipes.recipe(folder)
    short = {"max_steps": 2, "eval_steps": 2, "save_steps": 1, "rows_per_step": 4, "gradient_accumulation_steps": 1}
    pretrain, sft, preference = (
        dataclasses.replace(stage, data=dataclasses.replace(stage.data, curriculum=None), **short)
        for stage in whole.stages[:3]
    )
    pretrain, sft = (dataclasses.replace(stage, data=mixed(folder, stage.data)) for stage in (pretrain, sft))
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
    last = Merge(models=("preference" if "preference" in stages else "pretrain", "distill"))
    chosen = tuple(s for s in (pretrain, sft, preference, pairs, again, distill, last) if s.name in stages)
    measured = {"probes": probes, "prompts": ("the cat",)} if stages == STAGES else {"probes": (), "prompts": ()}
    run = dataclasses.replace(whole, model=model, stages=chosen, **measured)
    file = folder / "every_stage.json"
    file.write_text(json.dumps(to_jsonable(run)))
    return file


def mixed(folder: Path, data: Data) -> Data:
    """Data whose training rows come from two sources, most of them from the smaller one."""
    (file,) = data.train
    lines = Path(file).read_text().splitlines(keepends=True)
    parts = {"few": (lines[:20], 3.0), "many": (lines[20:], 1.0)}
    for name, (some, _) in parts.items():
        (folder / f"{name}_{Path(file).name}").write_text("".join(some))
    sources = {name: Mixed((str(folder / f"{name}_{Path(file).name}"),), w) for name, (_, w) in parts.items()}
    return dataclasses.replace(data, train=(), mix=tuple(sources.items()))


def records(run: Path) -> list[dict]:
    """A run's metrics without what measures the machine, or rounding.

    At its first step a policy is its reference: the sign of its rewards, which are 0, is that of a rounding error.
    """
    lines = read_metrics(run / "metrics.jsonl")
    left_out = {1: {*TIMING, "rewards/accuracies"}}
    return [{k: v for k, v in r.items() if k not in left_out.get(r["step"], TIMING)} for r in lines]


def files(run: Path) -> list[str]:
    """Names of a run's files, less that of alerts, which are of the machine.

    Those of a checkpoint follow from the processes: its folder alone. Parameters that differ in their last bits give
    other names to what was recorded of them.
    """
    named = {re.sub(r"/(0\d{7})/.*", r"/\1", str(p.relative_to(run))) for p in run.rglob("*") if p.is_file()}
    named -= {"alerts.jsonl"}
    return sorted(re.sub(r"[0-9a-f]{16}/|samples-[0-9a-f]{8}", "*", name) for name in named)


def recorded(run: Path) -> list[np.ndarray]:
    """Reference log-probs of all stages."""
    found = sorted(run.glob("stages/*/reference/*/values.f32"), key=lambda p: (p.parts[-4], p.stat().st_size))
    return [np.fromfile(file, "<f4") for file in found]


def assert_alike(one: Path, other: Path) -> None:
    """Two runs of the recipe: the same files, lines and counts; values to float32 rounding."""
    assert files(one) == files(other)
    lines = records(one), records(other)
    assert {"pretrain", "distill"} <= {r["stage"] for r in lines[0]}
    for a, b in zip(*lines, strict=True):
        assert_close(a, b, a["stage"])
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    for section in ("probes", "work", "export"):
        assert_close(summaries[0][section], summaries[1][section], section)
    assert (one / "stages/on_policy/pairs.jsonl").stat().st_size > 0
    named = ("samples.json", "data.json", "stages/on_policy/pairs.jsonl", "stages/on_policy/heldout_pairs.jsonl")
    for name in filter(lambda name: (one / name).exists(), named):
        texts = [(run / name).read_text().replace(str(run), "RUN") for run in (one, other)]
        assert texts[0] == texts[1], name
    for a, b in zip(recorded(one), recorded(other), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)
    weights = [load_file(run / "export" / "model.safetensors") for run in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, rtol=1e-3, atol=2e-5, err_msg=name)


def assert_close(one: Any, other: Any, where: str) -> None:
    """JSON of two runs: equal, but numbers to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name, value in one.items():
            assert_close(value, other[name], f"{where} {name}")
    elif isinstance(one, float):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=2e-4, err_msg=where)
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for a, b in zip(one, other, strict=True):
            assert_close(a, b, where)
    else:
        assert one == other, where
