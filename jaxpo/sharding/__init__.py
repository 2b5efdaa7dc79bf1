"""Meshes, logical-axis rules, and the one call that models use to say where an activation lives."""

from jaxpo.config.axes import AXES, BATCH_AXES, RULES, SEQUENCE, Rules
from jaxpo.sharding.mesh import make_mesh
from jaxpo.sharding.place import batch_shardings, put_batch, row_share, settle, to_host, whole_rows
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
    "SEQUENCE",
    "Rules",
    "axis_size",
    "batch_sharding",
    "batch_shardings",
    "constrain",
    "current_mesh",
    "current_rules",
    "fitting_spec",
    "make_mesh",
    "put_batch",
    "replicated",
    "row_share",
    "settle",
    "spec_for",
    "to_host",
    "use_mesh",
    "whole_rows",
]
