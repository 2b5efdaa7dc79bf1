"""`jaxpo run CONFIG [overrides]`: check the configuration, then train, or resume."""

from __future__ import annotations

from collections.abc import Sequence

from jaxpo.cli.recipe import OPTIONS, read_request, renamed, resolve_request
from jaxpo.cli.terminal import lasting_streams
from jaxpo.errors import ConfigError
from jaxpo.recipe.checks.profile import check_profile
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.located import located
from jaxpo.train.profile_range import parse_range

USAGE = f"""\
usage: jaxpo run CONFIG [options]

Trains the stages of a configuration one after another, in one run directory. The same command again resumes.
SIGTERM and Ctrl-C save after the current step (exit status 143 or 130), a second Ctrl-C stops at once; a background
job that a script starts ignores SIGINT, as the shell asks of it: stop it with `kill`. A closed terminal stops nothing.

Several processes are one run where SLURM, Open MPI, an indexed Kubernetes job or GKE start them, or where each has
JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID. They share the run directory,
and wait JAXPO_START_TIMEOUT seconds (300) for one another. JAX_NUM_PROCESSES=1: this process alone. When one is gone
the others end and name it (exit status 75; a host that is silent counts as gone after JAXPO_PEER_TIMEOUT, 30 seconds).

  --resume WHEN          auto (the default), never, or a step of the current stage
  --restart              move the old run directory aside and start anew
  --profile FROM:TO      record these steps of every stage that trains, or STAGE:FROM:TO of one: a trace in
                         stages/STAGE/profile for XProf or TensorBoard, and the costliest operations in the report
{OPTIONS}"""


def main(argv: Sequence[str]) -> int:
    with lasting_streams():
        return run(argv)


def run(argv: Sequence[str]) -> int:
    """As `main`, where everything can be printed."""
    request = read_request(argv, {"resume": True, "restart": False, "profile": True}, USAGE)
    if request is None:
        return 0
    if request.help:
        from jaxpo.cli.explain import field_help

        field_help(resolve_request(request).run)
        return 0
    resume = parse_resume(request.flags.get("resume", "auto"))
    profile = parse_range(request.flags["profile"]) if "profile" in request.flags else None
    resolved = renamed(resolve_request(request), request.config)
    recipe = located(resolved.run)
    check(recipe)
    if profile is not None:
        check_profile(recipe, profile)
    from jaxpo.sharding.multihost import start_processes

    # What follows may use JAX as soon as it is imported.
    line = start_processes()
    from jaxpo.sharding.liveness import together
    from jaxpo.stages.run import execute

    return together(line, lambda: execute(recipe, resume=resume, restart="restart" in request.flags, profile=profile))


def parse_resume(text: str) -> str | int:
    """auto, never, or a step number."""
    if text in ("auto", "never"):
        return text
    if text.isdigit():
        return int(text)
    raise ConfigError(f"--resume: expected auto, never or a step number, got {text!r}.")
