"""Several processes are one run only if they were started alike: what could differ is compared before any work."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import jax

from jaxpo import __version__
from jaxpo.config import Run
from jaxpo.config.serialise import to_jsonable
from jaxpo.errors import RunError
from jaxpo.sharding.turns import by_first_process, tell_first_process
from jaxpo.stages.run_inputs import RunInputs
from jaxpo.train.rundir import RunDir


def started_alike(run: Run) -> None:
    """Versions, devices and configuration are those of process 0; RunError names what differs, and where."""
    facts = {
        "jaxpo": __version__,
        "jax": version("jax"),
        "jaxlib": version("jaxlib"),
        "device": jax.local_devices()[0].device_kind,
        "devices here": jax.local_device_count(),
    }
    agree(facts, "give every host the same installation and devices")
    agree(dict(_flat(to_jsonable(run))), "start all with the same command and the same configuration")


def same_directory(home: RunDir) -> None:
    """The run directory is the folder that process 0 holds: the lock in it has its name. RunError where it is not."""
    agree({f"lock in {home.path}": home.holder()}, "put the run directory where all hosts share it")


def same_data(inputs: RunInputs) -> None:
    """Tokenizer and data of every stage are those of process 0; RunError names what differs."""
    found = {stage: data.fingerprint() for stage, data in inputs.stages.items()}
    agree({"tokenizer": inputs.tokenizer.hash} | dict(_flat(found)), "give every host the same files")


def agree(mine: Mapping[str, Any], remedy: str) -> None:
    """RunError, on process 0 too, where a value is not what process 0 has."""
    theirs = by_first_process(lambda: dict(mine))
    own, said = json.loads(json.dumps(dict(mine))), ""
    wrong = [name for name in {**theirs, **own} if own.get(name) != theirs.get(name)]
    if wrong:
        shown = "; ".join(f"{name}: {own.get(name)!r}, not {theirs.get(name)!r}" for name in wrong[:5])
        said = f"process {jax.process_index()} is not as process 0: {shown}. {remedy[0].upper()}{remedy[1:]}."
    for complaint in (*tell_first_process(said), said):
        if complaint:
            raise RunError(complaint)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all values in JSON."""
    if isinstance(value, dict | list) and value:
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(below, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
