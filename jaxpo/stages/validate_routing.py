"""The checks of a mixture of experts: numbers of its balance, and devices that share the experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxpo.config import Run, Stage
from jaxpo.stages.fields import flag
from jaxpo.stages.validate_model import declared_model

ROUTING_METRICS = (
    "aux_loss",
    "router_z_loss",
    *(f"moe/{m}" for m in ("max_load_violation", "mean_load_violation", "load_entropy", "dead_experts")),
)


def routing_problems(run: Run, stage: Stage) -> Iterator[str]:
    """Ranges of the balance's numbers, and a bias that belongs to a frozen base."""
    name = f"{stage.name}.routing"
    for field in ("bias_update_rate", "router_aux_loss_coef", "router_z_loss_coef"):
        if not 0 <= getattr(stage.routing, field) < float("inf"):
            yield f"{name}.{field}: {getattr(stage.routing, field):g} must be a number at least 0; 0 switches it off."
    # The shape of a checkpoint is known once it is read; the assembly asks again then.
    if getattr(declared_model(run, stage), "num_experts", 0):
        yield from adapted_bias_problems(stage)


def adapted_bias_problems(stage: Stage) -> Iterator[str]:
    """A moving bias of a model with experts, beside adapters."""
    if stage.lora is not None and stage.routing.bias_update_rate:
        yield (
            f"{stage.name}.routing.bias_update_rate: {stage.routing.bias_update_rate:g}, but with adapters the routing "
            f"bias belongs to the frozen base; {flag((stage.name, 'routing', 'bias_update_rate'))} 0, or train without "
            "adapters."
        )


def expert_axis_problems(run: Run, config: Any) -> Iterator[str]:
    """Devices of the expert axis hold equally many experts each."""
    devices, experts = run.mesh.expert, getattr(config, "num_experts", 0)
    if devices > 1 and experts % devices and dict(run.mesh.rules).get("expert", "expert") == "expert":
        yield (
            f"mesh.expert: {devices} devices cannot share {experts} experts equally (model.num_experts); choose a "
            "divisor of their number."
        )
