"""The checks of experts that need more than a configuration: a checkpoint's shape, or the number of devices."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from jaxpo.config import Run
from jaxpo.convert.model_io import read_config
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.recipe.checks.routing import balance_problems, declared_models, placement_problems
from jaxpo.recipe.lineage import trained


def check_balance(run: Run) -> None:
    """What the stages ask of the balance suits the model of `model_from`; ConfigError lists what does not."""
    config = config_of_origin(run)
    own = [stage for stage in trained(run) if stage.model is None]
    problems = [p for stage in own for p in balance_problems(stage, config)]
    if problems:
        raise ConfigError(problems)


def check_placement(run: Run, mesh: Mesh) -> None:
    """The devices can share the experts of every model of a run; ConfigError lists those of which they cannot."""
    models: dict[str, Any] = {**declared_models(run), "model_from": config_of_origin(run)}
    problems = list(placement_problems(run, models, mesh.shape))
    if problems:
        raise ConfigError(problems)


def config_of_origin(run: Run) -> LFM2Config | None:
    """The architecture of `model_from`, without its weights; None when the run starts from random ones."""
    return None if run.model_from is None else read_config(run.model_from)
