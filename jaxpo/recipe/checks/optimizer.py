"""The checks of what moves the parameters: schedule, optimiser, moving average, dropout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jaxpo.config import SFT, Adafactor, Muon, Optimizer, Run, Stage
from jaxpo.config.fields import flag


def optimizer_problems(stage: Stage) -> Iterator[str]:
    """Ranges of the schedule's numbers, and of those of the chosen optimiser. Patterns: `jaxpo.stages.trained`."""
    yield from _schedule_problems(stage)
    o, name = stage.optimizer, f"{stage.name}.optimizer"
    for pattern, factor in o.lr_factors:
        if not 0 < factor < math.inf:
            yield (
                f"{name}.lr_factors: {pattern!r} has the factor {factor:g}, which must be a number above 0; what must "
                f"not move is left out of {flag((stage.name, 'train'))}."
            )
    if isinstance(o, Optimizer):
        yield from _fractions(o, name, ("adam_beta1", "adam_beta2"))
        yield from _positive(o, name, ("adam_epsilon",))
    if isinstance(o, Muon):
        yield from _fractions(o, name, ("muon_beta",))
        yield from _positive(o, name, ("consistent_rms",))
        if not 1 <= o.ns_steps <= 20:
            yield f"{name}.ns_steps: {o.ns_steps} must lie in 1 .. 20; 5 iterations are usual."
    if isinstance(o, Adafactor):
        yield from _fractions(o, name, ("momentum",))
        yield from _positive(o, name, ("clipping_threshold", "adafactor_epsilon"))
        if not 0 < o.decay_rate <= 1:
            yield f"{name}.decay_rate: {o.decay_rate:g} must lie in (0, 1]; the past weighs 1 - t^-decay_rate."
        if o.min_dim_size_to_factor < 1:
            yield f"{name}.min_dim_size_to_factor: {o.min_dim_size_to_factor} must be at least 1."


def _schedule_problems(stage: Stage) -> Iterator[str]:
    o, name = stage.optimizer, f"{stage.name}.optimizer"
    if o.learning_rate <= 0:
        yield f"{name}.learning_rate: {o.learning_rate:g} must be above 0."
    if not 0 <= o.final_learning_rate <= max(o.learning_rate, 0):
        top = f"learning_rate {o.learning_rate:g}"
        yield f"{name}.final_learning_rate: {o.final_learning_rate:g} must lie in 0 .. {top}."
    if not 0 < o.decay_ratio <= 1:
        yield f"{name}.decay_ratio: {o.decay_ratio:g} must lie in (0, 1]; it is the decaying share of the steps."
    if o.max_grad_norm <= 0:
        yield f"{name}.max_grad_norm: {o.max_grad_norm:g} must be above 0; inf does not clip."
    if o.weight_decay < 0:
        yield f"{name}.weight_decay: {o.weight_decay:g} must not be negative."
    if not 0 <= o.warmup_ratio < 1:
        yield f"{name}.warmup_ratio: {o.warmup_ratio:g} must lie in [0, 1); it is a share of the steps."
    elif o.warmup_ratio and o.warmup_steps:
        both = f"{o.warmup_ratio:g} and warmup_steps {o.warmup_steps}"
        yield f"{name}.warmup_ratio: {both} exclude each other; set one to 0."
    if o.warmup_steps < 0:
        yield f"{name}.warmup_steps: {o.warmup_steps} must not be negative."
    elif stage.max_steps is not None and 0 < stage.max_steps < o.warmup_steps:
        yield f"{name}.warmup_steps: {o.warmup_steps} exceeds the stage's max_steps {stage.max_steps}."


def _fractions(config: Any, name: str, fields: tuple[str, ...]) -> Iterator[str]:
    for field in fields:
        value = getattr(config, field)
        if value is not None and not 0 <= value < 1:
            yield f"{name}.{field}: {value:g} must lie in [0, 1)."


def _positive(config: Any, name: str, fields: tuple[str, ...]) -> Iterator[str]:
    for field in fields:
        value = getattr(config, field)
        if value is not None and not 0 < value < math.inf:
            yield f"{name}.{field}: {value:g} must be above 0."


def dropout_problems(run: Run, index: int, stage: SFT) -> Iterator[str]:
    """A rate at which something is left."""
    if not 0 <= stage.embedding_dropout < 1:
        yield f"{stage.name}.embedding_dropout: {stage.embedding_dropout:g} must lie in [0, 1)."


def average_problems(stage: Stage) -> Iterator[str]:
    """A moving average needs a decay that averages."""
    name, decay = stage.name, stage.ema_decay
    if decay is not None and not 0 < decay < 1:
        yield f"{name}.ema_decay: {decay:g} must lie in (0, 1); None keeps no average."
    if stage.use_ema and decay is None:
        yield f"{name}.use_ema: there is no average to use; give {flag((name, 'ema_decay'))} 0.999."
