"""`jaxpo dry-run CONFIG [overrides]`: what every stage would take of a mesh's devices, compiled and never run."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpo.cli.recipe import OPTIONS, read_request, renamed, resolve_request
from jaxpo.config import Run
from jaxpo.config.axes import AXES
from jaxpo.errors import ConfigError, writing
from jaxpo.recipe.checks.origin import check_origin
from jaxpo.recipe.checks.routing import check_placement
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.located import located
from jaxpo.train.chips import named_chip

if TYPE_CHECKING:
    from jax.sharding import Mesh

MOST = 512
USAGE = f"""\
usage: jaxpo dry-run CONFIG [options]

Compiles the training step of every stage for a mesh of simulated devices (up to {MOST}) and says what it takes of each:
parameters, optimiser and the networks beside the trained one exactly, temporary memory as the compiler estimates it,
floating-point operations, and what the devices send one another. Nothing is allocated, trained or written, and no data
are read: rows are as long as the configuration says, and segments of a usual length.

  --devices N            of the mesh, where the configuration leaves an axis open (-1); else as many as its axes make
  --stage NAME           this stage alone; several: NAME,NAME
  --chip NAME            does it fit, and which is the smallest mesh that does: h100, h200, a100, v5e, v5p, v6e, ...
  --topology NAME        compile for TPUs by their topology, such as v5e:4x4; needs libtpu (jaxpo[tpu]), and no TPU
  --lower                do not compile: no temporary memory as a compiler sees it, and no collectives
  --json FILE            write all of it as JSON too; - is the standard output, instead of the tables
{OPTIONS}"""
OWN = {"devices": True, "stage": True, "chip": True, "topology": True, "lower": False, "json": True}
FLAG = "--xla_force_host_platform_device_count"
# The simulated devices' code is never run: LLVM need not optimise it, which takes most of the time otherwise.
FAST = {"--xla_backend_optimization_level": "0", "--xla_llvm_disable_expensive_passes": "true"}


def main(argv: Sequence[str]) -> int:
    request = read_request(argv, OWN, USAGE)
    if request is None:
        return 0
    if request.help:
        print(USAGE)
        return 0
    run = located(renamed(resolve_request(request), request.config).run)
    check(run, files=False)
    flags = request.flags
    check_json(flags.get("json", "-"))
    # Beside a topology too: libtpu would look for TPUs, and wait for them, if JAX were left to choose.
    devices = 1 if "topology" in flags else device_count(run, flags.get("devices"))
    if simulated(os.environ) < devices:
        command = [sys.executable, "-m", "jaxpo", "dry-run", *argv]
        return subprocess.run(command, env=os.environ | environment(os.environ, devices), check=False).returncode
    return show(run, flags)


def device_count(run: Run, given: str | None) -> int:
    """How many devices the mesh of a run has; an open axis takes what `--devices` leaves, else one.

    Raises:
      ConfigError: no number; too many; not a multiple of the other axes.
    """
    sizes = [getattr(run.mesh, axis) for axis in AXES]
    fixed, free = math.prod(n for n in sizes if n != -1), -1 in sizes
    if given is not None and (not given.isdecimal() or int(given) < 1):
        raise ConfigError(f"--devices: expected a number of devices, got {given!r}.")
    devices = fixed if given is None else int(given)
    if devices > MOST:
        raise ConfigError(f"--devices: {devices} are more than the {MOST} that can be simulated; take a smaller mesh.")
    if devices % fixed or (not free and devices != fixed):
        raise ConfigError(f"--devices: the axes of the mesh make {fixed} devices, and --devices says {devices}.")
    return devices


def simulated(environ: Mapping[str, str]) -> int:
    """Devices that JAX simulates in a process with this environment; 0 where it would take others."""
    found = re.findall(rf"{FLAG}=(\d+)", environ.get("XLA_FLAGS", ""))
    return int(found[-1]) if found and environ.get("JAX_PLATFORMS") == "cpu" else 0


def environment(environ: Mapping[str, str], devices: int) -> dict[str, str]:
    """What a process of its own needs to simulate so many."""
    wanted = {FLAG: str(devices)} | FAST
    kept = [word for word in environ.get("XLA_FLAGS", "").split() if word.partition("=")[0] not in wanted]
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*kept, *(f"{k}={v}" for k, v in wanted.items())])}


def show(run: Run, flags: Mapping[str, str]) -> int:
    """Plan every stage, and print or write what was found."""
    from jaxpo.cli.dry_run_tables import as_json, print_plan
    from jaxpo.stages.dry_run import plan
    from jaxpo.stages.fitting_mesh import smallest_mesh
    from jaxpo.stages.trained import check_patterns

    check_patterns(run)
    check_origin(run)
    chip = named_chip(flags["chip"]) if "chip" in flags else None
    memory = None if chip is None else chip[1].memory
    mesh = mesh_of(run, flags)
    found = []
    for stage in chosen_stages(run, flags.get("stage")):
        if not stage.TRAINS:
            print(f"{stage.name}: {type(stage).__name__} has no training step", file=sys.stderr)
            continue
        planned = plan(run, stage, mesh, memory=memory, compile_it="lower" not in flags)
        fit = None if memory is None else smallest_mesh(run, stage, memory, MOST)
        found.append(as_json(planned, chip, fit))
        if flags.get("json") != "-":
            print_plan(planned, chip, fit)
    if "json" in flags:
        write(found, flags["json"])
    return 0


def mesh_of(run: Run, flags: Mapping[str, str]) -> Mesh:
    """Of simulated devices, or of those of a topology."""
    import jax

    from jaxpo.sharding import make_mesh

    sizes = {axis: getattr(run.mesh, axis) for axis in AXES}
    if "topology" in flags:
        devices = topology_devices(flags["topology"])
    else:
        devices = jax.devices()[: device_count(run, flags.get("devices"))]
    mesh = make_mesh(sizes, devices)
    check_placement(run, mesh.shape)
    return mesh


def topology_devices(name: str) -> list[Any]:
    """The devices of a TPU topology, none of which is here.

    Raises:
      ConfigError: libtpu is not installed, or does not know the topology.
    """
    from importlib.util import find_spec

    if find_spec("libtpu") is None:
        raise ConfigError(
            "--topology: needs libtpu: pip install 'jaxpo[tpu]'; without it devices are simulated on CPU."
        )
    # Else it asks the network which TPU it stands beside, and complains that there is none.
    os.environ.update({"TPU_SKIP_MDS_QUERY": "1", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"} | os.environ)
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(name, platform="tpu")
    except Exception as error:  # libtpu's errors have no type of their own
        raise ConfigError(f"--topology: libtpu does not know {name!r} ({error}); a name is such as v5e:4x4.") from error
    return list(found.devices)


def chosen_stages(run: Run, names: str | None) -> list[Any]:
    """All, or those that are named; ConfigError for a name that there is not."""
    if names is None:
        return list(run.stages)
    wanted = names.split(",")
    unknown = [name for name in wanted if name not in [stage.name for stage in run.stages]]
    if unknown:
        there = ", ".join(stage.name for stage in run.stages)
        raise ConfigError(f"--stage: there is no stage {unknown[0]!r}; there are: {there}.")
    return [stage for stage in run.stages if stage.name in wanted]


def check_json(path: str) -> None:
    """The file of `--json` can be written, asked before minutes of compiling; else ConfigError."""
    there = Path(path).parent
    if path != "-" and (Path(path).is_dir() or not os.access(there, os.W_OK)):
        raise ConfigError(f"--json: cannot write {path}: name a file in a folder that exists and can be written to.")


def write(found: list[dict[str, Any]], path: str) -> None:
    """As JSON, to a file or to the standard output."""
    text = json.dumps(found, indent=2)
    if path == "-":
        print(text)
        return
    with writing(Path(path)):
        Path(path).write_text(f"{text}\n")
