"""What a run keeps in the memory of the hosts, checked before any work."""

from __future__ import annotations

from jaxpo.config import Run
from jaxpo.recipe.lineage import trained
from jaxpo.sharding.host_memory import require_host_memory
from jaxpo.train.optimizers.offload import REMEDY


def check_host_memory(run: Run) -> None:
    """ConfigError where activations or optimiser state are to be kept in a memory that the devices cannot use."""
    if run.compute.remat in ("offload", "offload_dots"):
        require_host_memory(f"compute.remat {run.compute.remat!r}", "choose 'full' instead")
    for stage in trained(run):
        if stage.optimizer.offload:
            require_host_memory(f"{stage.name}.optimizer.offload", REMEDY)
