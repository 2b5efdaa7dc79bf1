"""Meshes, logical-axis rules, and the one call that models use to say where an activation lives."""

from jaxpo.config.axes import AXES, BATCH_AXES, RULES, Rules
from jaxpo.sharding.mesh import make_mesh
from jaxpo.sharding.place import own_share, put_batch, settle, to_host
from jaxpo.sharding.rules import (
    axis_size,
    batch_sharding,
    constrain,
    current_mesh,
    current_rules,
    fitting_spec,
    replicated,
    spec_for,
    use_mesh,
)

__all__ = [
    "AXES",
    "BATCH_AXES",
    "RULES",
    "Rules",
    "axis_size",
    "batch_sharding",
    "constrain",
    "current_mesh",
    "current_rules",
    "fitting_spec",
    "make_mesh",
    "own_share",
    "put_batch",
    "replicated",
    "settle",
    "spec_for",
    "to_host",
    "use_mesh",
]
