"""The merge stage: one model from the models of earlier stages."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxpo.config import Merge, Search
from jaxpo.convert.open_model import OpenModel
from jaxpo.evaluate.context import ProbeContext
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.merge_report import better_input, write_search
from jaxpo.evaluate.selection import Yardstick
from jaxpo.merge.methods import Soup
from jaxpo.merge.plan import plan_models
from jaxpo.recipe.lineage import merged_names, seed_of
from jaxpo.stages.merging.files import leaf_names, merge_to_params, open_models
from jaxpo.stages.merging.search import Bench, Outcome, Task, search
from jaxpo.stages.setting import Setting
from jaxpo.train.signals import stopper

Tree = Any


def merge(setting: Setting, stage: Merge) -> Tree:
    """Merge the models that the stage names, leaf by leaf, with its method or with the best that its search finds."""
    base, names = stage.base, merged_names(setting.run, stage)
    folders = {name: setting.model_folder(name) for name in (*names, *([base] if base is not None else []))}
    with open_models(folders) as opened:
        if stage.search is not None:
            return {"model": _searched(setting, stage, stage.search, opened)}
        method = stage.method or Soup()
        leaves = leaf_names(setting.config(stage))
        plan = plan_models(leaves, method, names, stage.weights, base, seed_of(setting.run, stage))
        setting.console.say(f"{stage.name}: {method.NAME}")
        for line in plan.lines:
            setting.console.say(f"{stage.name}: {line.strip()}")
        return {"model": merge_to_params(plan, opened, setting.mesh, setting.rules)}


def _searched(setting: Setting, stage: Merge, wanted: Search, opened: Mapping[str, OpenModel]) -> Tree:
    task = Task.of(
        wanted,
        opened,
        merged_names(setting.run, stage),
        stage.base,
        seed=seed_of(setting.run, stage),
        place=(setting.mesh, setting.rules),
        resolve=setting.inputs.resolve,
    )
    folder = setting.home.stage(stage.name) / "search"
    bench = Bench(
        evaluate=functools.partial(_evaluate, setting, stage),
        folder=folder,
        say=setting.console.say,
        check=stopper(setting.stop, stage.name),
        primary=jax.process_index() == 0,
    )
    outcome = search(task, bench)
    document = describe(outcome, task.select, folder if bench.primary else None)
    setting.results.merged(stage.name, document)
    for line in verdict(document):
        setting.console.say(f"{stage.name}: {line}")
    return task.make([outcome.best])[0]


def describe(outcome: Outcome, select: Yardstick, folder: Path | None) -> dict[str, Any]:
    """The outcome as JSON; also written as table and plot where a folder is given."""
    rows = [row.record() for row in outcome.rows]
    if folder is not None:
        write_search(folder, outcome.best.label, select.metrics, rows)
    return {"best": outcome.best.label, "metrics": [list(m) for m in select.metrics], "rows": rows}


def verdict(document: Mapping[str, Any]) -> list[str]:
    """The choice, what it reaches on the report files, and whether a model that went in is better still."""
    row = next(r for r in document["rows"] if r["on"] == "report" and r["label"] == document["best"])
    figures = ", ".join(f"{name} {found['value']:.4f}" for name, found in row["measured"].items())
    lines = [f"best: {document['best']}; on the report files {figures}"]
    above = better_input(document)
    if above is not None:
        lines.append(f"{above['label']}, which went in, scores better than every merge on the selection files")
    return lines


def _evaluate(setting: Setting, stage: Merge, model: Tree, by: Yardstick) -> dict[str, Measurement]:
    context = ProbeContext(
        params=model,
        scorer=setting.scorer_of(stage),
        tokenizer=setting.inputs.tokenizer,
        stage=stage.name,
        run_dir=setting.home.path,
    )
    return by.measure(context)
