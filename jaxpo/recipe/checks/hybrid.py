"""The checks of a stage of pairs and answers. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from jaxpo.config import Hybrid, Run
from jaxpo.objectives.methods.hypo import HyPO
from jaxpo.recipe.checks.online import online_problems
from jaxpo.recipe.checks.rollouts import rollout_problems

BOTH = {"chosen", "rejected", "completion"}


def hybrid_problems(run: Run, index: int, stage: Hybrid) -> Iterator[str]:
    """Rows for both, a method that reads both, and what every online stage must have."""
    name = stage.name
    if not 0 < stage.pair_rows < stage.rows_per_step:
        yield (
            f"{name}.pair_rows: {stage.pair_rows} of the {stage.rows_per_step} rows of a step; both pairs and answers "
            "need some."
        )
        return
    if stage.loss is not None and not set(stage.loss.NEEDS.roles) >= BOTH:
        yield f"{name}.loss: {stage.loss.INFO.name} reads no pairs beside its answers; give HyPO, or an Online stage."
    if stage.environment is not None:
        yield f"{name}.environment: answers are written to the prompts of the pairs; leave it out."
    for field in ("maxmin", "eval_temperature", "num_generations_eval"):
        if getattr(stage, field) != getattr(Hybrid, field):
            why = "nobody rewards the answers" if field == "maxmin" else "held-out pairs are compared, not answered"
            yield f"{name}.{field}: {why}; leave it out."
    if stage.data.row_length < 2 * stage.data.max_length:
        yield (
            f"{name}.data.row_length: {stage.data.row_length} holds one response of {stage.data.max_length} tokens "
            f"with its prompt, and both of a pair lie in one row; give {2 * stage.data.max_length}."
        )
    answers = replace(stage.answering_part, loss=stage.loss or HyPO())
    yield from online_problems(run, index, answers)
    yield from rollout_problems(run, index, answers)
