"""The checks of a mixture of experts: numbers of its balance, and devices that share the experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxpo.config import Run, Stage
from jaxpo.config.axes import RULES
from jaxpo.config.fields import flag
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.expert_axes import devices_of, share_problems, spread
from jaxpo.objectives.wrappers.routing_problems import routing_problems as unused_coefficients
from jaxpo.recipe.lineage import declared_model, resolved, trained


def routing_problems(run: Run, stage: Stage) -> Iterator[str]:
    """Ranges of the balance's numbers, and what they ask of the model."""
    name = f"{stage.name}.routing"
    for field in ("bias_update_rate", "router_aux_loss_coef", "router_z_loss_coef"):
        if not 0 <= getattr(stage.routing, field) < float("inf"):
            yield f"{name}.{field}: {getattr(stage.routing, field):g} must be a number at least 0; 0 switches it off."
    # The shape of a checkpoint is known once it is read; `jaxpo.recipe.checks.experts` asks again then.
    yield from balance_problems(stage, declared_model(run, stage))


def balance_problems(stage: Stage, config: Any) -> Iterator[str]:
    """Coefficients that the model has no use for, and a moving bias beside adapters; none for an unknown model."""
    if not isinstance(config, LFM2Config):
        return
    yield from (f"{stage.name}.{problem}" for problem in unused_coefficients(config, stage.routing))
    if config.num_experts and stage.lora is not None and stage.routing.bias_update_rate:
        yield (
            f"{stage.name}.routing.bias_update_rate: {stage.routing.bias_update_rate:g}, but with adapters the routing "
            f"bias belongs to the frozen base; {flag((stage.name, 'routing', 'bias_update_rate'))} 0, or train without "
            "adapters."
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
    mixtures = {field: c.num_experts for field, c in models.items() if getattr(c, "num_experts", 0)}
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
