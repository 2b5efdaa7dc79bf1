"""The `jaxpo` command: finds the subcommand, runs it, and turns user-facing errors into a message and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from jaxpo import __version__
from jaxpo.cli.terminal import drop, open_streams
from jaxpo.errors import INTERRUPTED, OK, PREEMPTED, USER_ERROR, JaxpoError, did_you_mean, file_problem
from jaxpo.train.watchman import AGAIN, Watchman

COMMANDS = {
    "run": ("jaxpo.cli.run", "train: execute a recipe or a configuration of your own, or resume it"),
    "recipes": ("jaxpo.cli.recipes", "what `jaxpo run NAME` can run: list them, copy one"),
    "explain": ("jaxpo.cli.explain", "every value of a configuration and where it came from"),
    "dry-run": ("jaxpo.cli.dry_run", "what a run would take of a mesh's devices: compiled, never run"),
    "data": ("jaxpo.cli.data", "inspect or tokenise data files"),
    "losses": ("jaxpo.cli.losses", "the catalogue of preference methods"),
    "import": ("jaxpo.cli.import_", "Hugging Face safetensors -> jaxpo, checked"),
    "export": ("jaxpo.cli.export", "jaxpo -> Hugging Face safetensors, verified"),
    "quantize": ("jaxpo.cli.quantize", "a model rounded to 4 or 8 bits, plainly or on a text, measured"),
    "merge": ("jaxpo.cli.merge", "one model from several: fifteen methods, mergekit's YAML, or a search"),
    "generate": ("jaxpo.cli.generate", "answer prompts with a trained model"),
    "chat": ("jaxpo.cli.chat", "talk to a trained model"),
    "serve": ("jaxpo.cli.serve", "a model behind OpenAI's HTTP interface"),
    "retrieve": ("jaxpo.cli.retrieve", "the documents of an index that answer a query"),
    "eval": ("jaxpo.cli.eval", "measure a model on tasks, alone or against another"),
    "report": ("jaxpo.cli.report", "report.html of one run, or of several compared"),
    "selftest": ("jaxpo.cli.selftest", "does this installation work on this machine?"),
    "env": ("jaxpo.cli.env", "versions, devices and memory, for bug reports"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; that of the command line where none is given.

    Returns:
      0 done; 2 a mistake the user can correct; 75 another process of the run is gone; 130 interrupted; 143 preempted
      after saving.
    """
    if argv is not None:
        return run(argv)
    code = run(sys.argv[1:])
    if code != OK:
        leave(code)
    return code


def leave(code: int) -> None:
    """End a process that was stopped without taking the interpreter down: it crashes while JAX still computes.

    One process of several ends so after any error, for at its exit JAX would wait for the others; those that were
    stopped at the same step end together.
    """
    jax = sys.modules.get("jax")
    several = jax is not None and jax.distributed.is_initialized()
    if code == PREEMPTED if several else code < INTERRUPTED:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(words: Sequence[str]) -> int:
    """Run the command of these words; errors that are meant for the user become a message."""
    open_streams()
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return OK if words else USER_ERROR
    if words[0] in ("-V", "--version"):
        print(f"jaxpo {__version__}")
        return OK
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        return complain(f"there is no command {name!r}.{did_you_mean(name, COMMANDS)} `jaxpo --help` lists them.")
    try:
        with Watchman(lambda: print(f"\njaxpo: stopping when what is computed now ends; {AGAIN}", file=sys.stderr)):
            return int(importlib.import_module(COMMANDS[name][0]).main(rest))
    except JaxpoError as error:
        return complain(str(error))
    except KeyboardInterrupt:
        print("\njaxpo: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has what it wanted; the interpreter must not complain while flushing.
        drop(sys.stdout)
        return OK
    except OSError as error:
        problem = file_problem(error)
        if problem is None:
            raise
        return complain(problem)


def complain(message: str) -> int:
    print(f"jaxpo: {message}", file=sys.stderr)
    return USER_ERROR


def usage() -> str:
    rows = "\n".join(f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items())
    return (
        f"jaxpo {__version__}: training of the LFM2 model family in JAX\n\n"
        f"usage: jaxpo COMMAND [options]\n\n{rows}\n\n"
        "`jaxpo COMMAND --help` explains one of them."
    )
