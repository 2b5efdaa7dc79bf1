"""The checks of what is asked of the model of `model_from`, whose shape is known once its folder is read."""

from __future__ import annotations

from jaxpo.config import Run
from jaxpo.errors import ConfigError
from jaxpo.models.family import is_config
from jaxpo.recipe.checks.masked_lm import sight_problems
from jaxpo.recipe.checks.model import ability_problems, direction_problems
from jaxpo.recipe.checks.probes import probe_problems
from jaxpo.recipe.checks.routing import balance_problems, config_of_origin
from jaxpo.recipe.checks.sharing import window_problems
from jaxpo.recipe.kinds import kind_of
from jaxpo.recipe.lineage import descent, trained, with_additions


def check_origin(run: Run) -> None:
    """What run, stages and probes ask of the model of `model_from` suits it; ConfigError lists what does not."""
    config = config_of_origin(run)
    if not is_config(config):
        return
    own = [stage for stage in trained(run) if stage.model is None]
    problems = list(ability_problems(run, config))
    for stage in own:
        problems += [*balance_problems(stage, config), *sight_problems(stage, config)]
        problems += [*direction_problems(stage, config, kind_of(stage).predicts), *window_problems(stage, config)]
    models = {"model_from": config} | {s.name: with_additions(config, *descent(run, s)) for s in own}
    problems += probe_problems(run, models)
    if problems:
        raise ConfigError(problems)
