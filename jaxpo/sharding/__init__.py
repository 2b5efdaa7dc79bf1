"""Meshes, logical-axis rules, and the one call that models use to say where an activation lives."""

from jaxpo.config.axes import AXES, BATCH_AXES, RULES, Rules
from jaxpo.sharding.mesh import make_mesh
from jaxpo.sharding.place import put_batch, settle
from jaxpo.sharding.rules import (
    batch_sharding,
    constrain,
    current_mesh,
    current_rules,
    fitting_spec,
    param_shardings,
    replicated,
    spec_for,
    use_mesh,
)

__all__ = [
    "AXES",
    "BATCH_AXES",
    "RULES",
    "Rules",
    "batch_sharding",
    "constrain",
    "current_mesh",
    "current_rules",
    "fitting_spec",
    "make_mesh",
    "param_shardings",
    "put_batch",
    "replicated",
    "settle",
    "spec_for",
    "use_mesh",
]
