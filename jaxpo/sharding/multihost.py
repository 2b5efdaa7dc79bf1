"""Several processes as one run: found in the environment, called together by number, then handed to jax.distributed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import jax

from jaxpo.errors import RunError
from jaxpo.sharding.liveness import Line, patient_abort
from jaxpo.sharding.roll_call import answer_roll, call_roll, split_address

ADDRESS, COUNT, INDEX = EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
BIND, TIMEOUT, PEERS = "JAX_COORDINATOR_BIND_ADDRESS", "JAXPO_START_TIMEOUT", "JAXPO_PEER_TIMEOUT"
START_SECONDS, PEER_SECONDS = 300, 30
# What a process of each cluster that JAX can read has in its environment, and which variable tells
# how many there are, or lists them; of Kubernetes its service knows.
CLUSTERS = {
    "SLURM": (("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"), "SLURM_NTASKS"),
    "Open MPI": (("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK"), "OMPI_COMM_WORLD_SIZE"),
    "TPU slices": (("MEGASCALE_COORDINATOR_ADDRESS", "TPU_WORKER_ID"), "MEGASCALE_NUM_SLICES"),
    "TPU hosts": (("TPU_WORKER_ID",), "TPU_WORKER_HOSTNAMES"),
    "an indexed Kubernetes job": (("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"), ""),
}


@dataclass(frozen=True)
class Place:
    """One process among several.

    Attributes:
      address: "host:port" of process 0.
      devices: ids of the local devices that this process uses; None = all.
    """

    address: str
    count: int
    index: int
    devices: tuple[int, ...] | None = None


def start_processes(environ: Mapping[str, str] = os.environ) -> Line | None:
    """Join the other processes of this run when the environment says that there are any; before JAX is used.

    Nothing happens where there is one process, or where the caller has started `jax.distributed`. All must have come
    within `JAXPO_START_TIMEOUT` seconds (300); one that is gone later ends the others, for silence only after
    `JAXPO_PEER_TIMEOUT` seconds (30).

    Returns:
      The line on which the processes hear of one another; None where there is one process.

    Raises:
      RunError: settings that contradict each other; processes that did not come, by number.
    """
    if jax.distributed.is_initialized():
        return None
    seconds = _number(environ, TIMEOUT, least=1) if environ.get(TIMEOUT) else START_SECONDS
    silence = _number(environ, PEERS, least=5) if environ.get(PEERS) else PEER_SECONDS
    place = find_place(environ, seconds)
    if place is None:
        return None
    deadline = time.monotonic() + seconds
    # JAX itself would end a process that waits in vain by SIGABRT, without a word on who is missing.
    if place.index == 0:
        connections = call_roll(place.address, place.count, deadline, environ.get(BIND))
    else:
        connections = {0: answer_roll(place.address, place.index, place.count, deadline)}
    line = Line(place.index, connections, silence)
    patient_abort()
    jax.distributed.initialize(
        place.address,
        place.count,
        place.index,
        place.devices,
        # Should the line fail, JAX's own heartbeat ends the processes later.
        heartbeat_timeout_seconds=2 * silence,
        # At the end the others wait for process 0, which may still hand alerts on or close a tracker.
        shutdown_timeout_seconds=max(START_SECONDS, 2 * silence),
    )
    return line


def find_place(environ: Mapping[str, str], seconds: int = 300) -> Place | None:
    """What the environment says: explicit settings first, what they leave open from the cluster; None = alone."""
    given = [name for name in EXPLICIT if environ.get(name)]
    cluster = find_cluster(environ)
    if COUNT in given and _number(environ, COUNT, least=1) == 1 and environ.get(INDEX, "0") == "0":
        return None
    if len(given) == len(EXPLICIT):
        return _checked(Place(environ[ADDRESS], _number(environ, COUNT, least=1), _number(environ, INDEX)))
    if cluster is not None:
        place = _of_cluster(cluster, environ, seconds)
        return None if place.count == 1 else _checked(place)
    if given:
        missing = [name for name in EXPLICIT if name not in given]
        raise RunError(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} set, {' and '.join(missing)} not: "
            "set all three, or none to run in one process."
        )
    return None


def find_cluster(environ: Mapping[str, str]) -> str | None:
    """Name of the cluster in whose environment several processes run."""
    for name, (variables, size) in CLUSTERS.items():
        if all(v in environ for v in variables) and (not size or _several(environ.get(size, ""))):
            return name
    return None


def _several(size: str) -> bool:
    """Of "4" and of "host0,host1"."""
    return "," in size or (size.isdecimal() and int(size) > 1)


def _of_cluster(name: str, environ: Mapping[str, str], seconds: int) -> Place:
    """As JAX reads the cluster's variables: what it does inside `initialize`, for the roll call needs the address."""
    from jax._src.clusters import ClusterEnv

    count, index = (_number(environ, v) if environ.get(v) else None for v in (COUNT, INDEX))
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            environ.get(ADDRESS) or None, count, index, None, None, seconds
        )
    except Exception as error:
        raise RunError(f"this looks like {name}, and JAX cannot read it: {error}. {_remedy()}") from error
    address, count, index, devices = found
    if address is None or count is None or index is None:
        raise RunError(f"this looks like {name}, and JAX does not find where its processes are. {_remedy()}")
    return Place(address, count, index, None if devices is None else tuple(devices))


def _remedy() -> str:
    return f"Set {', '.join(EXPLICIT)}; or {COUNT}=1 to run in one process."


def _checked(place: Place) -> Place:
    split_address(place.address)
    if not 0 <= place.index < place.count:
        raise RunError(
            f"{INDEX} is {place.index} and {COUNT} {place.count}: processes have the numbers 0 to {place.count - 1}."
        )
    return place


def _number(environ: Mapping[str, str], name: str, least: int = 0) -> int:
    text = environ[name].strip()
    if not text.isdecimal() or int(text) < least:
        raise RunError(f"{name}: expected a whole number of at least {least}, got {text!r}.")
    return int(text)
