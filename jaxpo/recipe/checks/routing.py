"""The checks of a mixture of experts: numbers of its balance, and devices that share the experts. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxpo.config import Routing, Run, Stage
from jaxpo.config.axes import RULES
from jaxpo.config.fields import flag
from jaxpo.errors import ConfigError
from jaxpo.models.expert_axes import devices_of, share_problems, spread
from jaxpo.models.family import family, is_config
from jaxpo.models.parts import Experts
from jaxpo.recipe.checks.positions import position_problems
from jaxpo.recipe.lineage import declared_model, resolved, trained


def check_placement(run: Run, sizes: Mapping[str, int]) -> None:
    """The devices can share the experts of every model of a run, and its rows; ConfigError lists what they cannot.

    Args:
      sizes: devices of each mesh axis.
    """
    models: dict[str, Any] = {**declared_models(run), "model_from": config_of_origin(run)}
    problems = [*placement_problems(run, models, sizes), *position_problems(run, sizes)]
    if problems:
        raise ConfigError(problems)


def config_of_origin(run: Run) -> Any:
    """The architecture of `model_from`, without its weights; None when the run starts from random ones."""
    from jaxpo.convert.model_io import read_config

    return None if run.model_from is None else read_config(run.model_from)


def routing_problems(run: Run, stage: Stage) -> Iterator[str]:
    """Ranges of the balance's numbers, and what they ask of the model."""
    name = f"{stage.name}.routing"
    for field in ("bias_update_rate", "router_aux_loss_coef", "router_z_loss_coef"):
        if not 0 <= getattr(stage.routing, field) < float("inf"):
            yield f"{name}.{field}: {getattr(stage.routing, field):g} must be a number at least 0; 0 switches it off."
    # The shape of a checkpoint is known once it is read; `checks.origin` asks again then.
    yield from balance_problems(stage, declared_model(run, stage))


def balance_problems(stage: Stage, config: Any) -> Iterator[str]:
    """Coefficients that the model has no use for, and a moving bias beside adapters; none for an unknown model."""
    if not is_config(config):
        return
    experts = family(config).experts(config)
    yield from (f"{stage.name}.{problem}" for problem in unused_coefficients(experts, stage.routing))
    if experts is not None and stage.lora is not None and stage.routing.bias_update_rate:
        yield (
            f"{stage.name}.routing.bias_update_rate: {stage.routing.bias_update_rate:g}, but with adapters the routing "
            f"bias belongs to the frozen base; {flag((stage.name, 'routing', 'bias_update_rate'))} 0, or train without "
            "adapters."
        )


def unused_coefficients(experts: Experts | None, routing: Routing) -> Iterator[str]:
    """One sentence per coefficient that a model with these experts has no use for, with the remedy."""
    for name in ("router_aux_loss_coef", "router_z_loss_coef"):
        if experts is None and getattr(routing, name) > 0:
            yield f"routing.{name}: {getattr(routing, name):g}, and the model has no experts; set it to 0."
    if experts is not None and routing.bias_update_rate > 0 and not experts.biases:
        yield (
            f"routing.bias_update_rate: {routing.bias_update_rate:g}, and the model has no expert bias "
            "(model.use_expert_bias is off); set it to 0."
        )


def declared_models(run: Run) -> dict[str, Any]:
    """Field -> architecture: the run's, unless a checkpoint brings it, and those of stages with one of their own."""
    models = {} if run.model_from is not None else {"model": resolved(run.model)}
    own = [stage for stage in trained(run) if stage.model is not None]
    return models | {f"{stage.name}.model": resolved(stage.model) for stage in own}


def placement_problems(run: Run, models: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterator[str]:
    """Devices hold equally many experts each, and add up results only over devices with the same tokens.

    Args:
      models: field -> architecture.
      sizes: devices of each mesh axis; one below 1 is not known yet, which hides the checks that need it.
    """
    known = {field: family(config).experts(config) for field, config in models.items() if is_config(config)}
    mixtures = {field: experts.count for field, experts in known.items() if experts is not None}
    if not mixtures:
        return
    rules = {**RULES, **dict(run.mesh.rules)}
    axes, devices = spread(rules["expert"], sizes), devices_of(rules["expert"], sizes)
    for field, experts in mixtures.items():
        if experts % devices:
            yield (
                f"mesh.{', '.join(axes)}: {devices} devices cannot share {experts} experts equally "
                f"({field}.num_experts); choose a divisor of their number."
            )
    yield from share_problems(rules["batch"], rules["sequence"], rules, sizes)
