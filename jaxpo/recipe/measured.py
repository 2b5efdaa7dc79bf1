"""Names of what held-out evaluations measure, by kind of stage: what `metric_for_best_model` may be. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxpo.objectives.diagnostics import DIAGNOSTICS
from jaxpo.objectives.methods.features import ListMethod
from jaxpo.online.rewards.names import reward_names

ROUTING = (
    "aux_loss",
    "router_z_loss",
    *(f"moe/{m}" for m in ("max_load_violation", "mean_load_violation", "load_entropy", "dead_experts")),
)
WORST = "rewards/worst_group_accuracy"
"""Of rows with a column `group`."""
LANGUAGE = ("loss", "entropy", "mean_token_accuracy", *ROUTING)
PREFERENCE = (
    *LANGUAGE,
    *(f"rewards/{m}" for m in ("chosen", "rejected", "margins", "accuracies")),
    *(f"logps/{m}" for m in ("chosen", "rejected")),
    WORST,
)
MASKED = ("loss", "entropy", "masked_accuracy", *ROUTING)
REWARD = ("loss", "accuracy", "margin", "min_reward", "mean_reward", "max_reward", WORST, *ROUTING)
RETRIEVAL = ("loss", "accuracy", "margin", *ROUTING)
DENOISING = ("loss", "denoising_error", "shuffled_error")
ONLINE = ("reward", "completions/mean_length", "completions/clipped_ratio")


def reward_metrics(stage: Any) -> Iterator[str]:
    """The mean of each of an online stage's rewards."""
    return (f"rewards/{name}/mean" for name in reward_names(stage.reward_funcs))


def diagnostic_metrics(stage: Any) -> Iterator[str]:
    """What a stage's diagnostics give; those that compare with a reference need a method that has one."""
    referenced = "reference" in dict(getattr(getattr(stage.loss, "NEEDS", None), "networks", ()))
    for diagnostic in (DIAGNOSTICS[name] for name in stage.diagnostics if name in DIAGNOSTICS):
        yield from diagnostic.names if referenced else diagnostic.always
        yield from diagnostic.on_lists if isinstance(stage.loss, ListMethod) else ()


def column_of_metric(stage: Any) -> str | None:
    """The column that held-out rows must have for the best checkpoint's metric to be measured; None if there is none.

    A diagnostic leaves such a metric out, and without the check the first evaluation would end the run.
    """
    wanted = (stage.metric_for_best_model or "").removeprefix("eval_")
    if wanted == WORST:
        return "group"
    columns = (DIAGNOSTICS[n].with_column.items() for n in getattr(stage, "diagnostics", ()) if n in DIAGNOSTICS)
    return next((column for items in columns for column, names in items if wanted in names), None)
