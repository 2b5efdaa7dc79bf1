"""What a stage asks of the balance of a model that has no experts, or no bias. Imports no jax."""

from __future__ import annotations

from jaxpo.config import Routing
from jaxpo.models.lfm2.config import LFM2Config


def routing_problems(config: LFM2Config, routing: Routing) -> list[str]:
    """One sentence per coefficient that this model has no use for, each naming the field and the remedy."""
    problems = []
    for name in ("router_aux_loss_coef", "router_z_loss_coef"):
        if not config.num_experts and getattr(routing, name) > 0:
            problems.append(f"routing.{name}: {getattr(routing, name):g}, and the model has no experts; set it to 0.")
    if config.num_experts and routing.bias_update_rate > 0 and not config.use_expert_bias:
        problems.append(
            f"routing.bias_update_rate: {routing.bias_update_rate:g}, and the model has no expert bias "
            "(model.use_expert_bias is off); set it to 0."
        )
    return problems
