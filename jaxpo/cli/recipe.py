"""What `run` and `explain` share: a configuration file, flags of the command, and overrides of the recipe."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxpo.errors import ConfigError
from jaxpo.recipe.overrides import Resolved, load_run_with, resolve_run, split_flags

OPTIONS = """\
  --run NAME             name of the run, which is its folder under --output-dir; NAME may hold that folder, a/b
  --preset NAME          short for --model: nano, lfm2_350m, lfm2_700m, lfm2_1_2b, lfm2_2_6b,
                         nano_lfm3, lfm3_1_7b
  --stage.loss METHOD    preference method (`jaxpo losses`); its own fields follow, e.g. --stage.loss.beta 0.2
  --stage.optimizer NAME adamw, muon or adafactor; its own fields follow, e.g. --stage.optimizer.muon-beta 0.9
  --STAGE.FIELD VALUE    a stage's field, e.g. --sft.optimizer.learning-rate 1e-4 --pretrain.max-steps 500
  --FIELD VALUE          a field of the run, e.g. --seed 1 --compute.dtype bfloat16 --mesh.tensor 2
  --PARAMETER VALUE      a parameter of the recipe's config(), e.g. --text notes/ for quickstart
  --help                 after a CONFIG: every field of it, its type and its present value

CONFIG is a recipe of `jaxpo recipes` by its name, a Python file with a function config() that returns a
jaxpo.config.Run, either with :FUNCTION for another function, a saved config.json, or a run directory.
`-` and `_` are the same in options. A budget given here (max-steps, max-tokens, num-train-epochs) replaces
the file's."""


@dataclass(frozen=True)
class Request:
    """The parsed command line of `run` or `explain`.

    Attributes:
      flags: values of the command's own options, in order of `own`; absent ones are missing.
      words: the remaining words: overrides of the recipe.
    """

    config: str
    flags: dict[str, str]
    words: list[str]
    help: bool


def read_request(argv: Sequence[str], own: dict[str, bool], usage: str) -> Request | None:
    """Separate the command's own options from the recipe's.

    Args:
      own: option name -> whether it takes a value.

    Returns:
      None when only help was asked for, which has been printed.
    """
    words = list(argv)
    wants_help = any(w in ("-h", "--help") for w in words)
    words = [w for w in words if w not in ("-h", "--help")]
    if not words or words[0].startswith("-"):
        if wants_help:
            print(usage)
            return None
        raise ConfigError(f"give a configuration first.\n\n{usage}")
    flags: dict[str, str] = {}
    rest: list[str] = []
    for name, values in split_flags(words[1:]):
        takes = own.get(name.replace("_", "-"))
        if takes is None:
            rest += [f"--{name}", *values]
        elif len(values) != int(takes):
            raise ConfigError(f"--{name}: {'needs one value' if takes else 'takes no value'}, got {values}.")
        else:
            flags[name.replace("_", "-")] = values[0] if values else ""
    return Request(words[0], flags, rest, wants_help)


def resolve_request(request: Request) -> Resolved:
    """Load the configuration and apply its overrides; `--run a/b` sets output_dir and name."""
    words = []
    for name, values in split_flags(request.words):
        if name == "run" and len(values) == 1 and len(Path(values[0]).parts) > 1:
            path = Path(values[0])
            words += ["--output-dir", str(path.parent), "--name", path.name]
        else:
            words += [f"--{name}", *values]
    return resolve_run(*load_run_with(request.config, words))


def renamed(resolved: Resolved, config: str) -> Resolved:
    """A saved configuration inside a run directory continues that directory, wherever it has been moved."""
    path = Path(os.path.abspath(config))
    folder = path if path.is_dir() else path.parent
    if (folder / "config.json").is_file() and (path.is_dir() or path.name == "config.json"):
        untouched = not {"name", "output_dir"} & set(resolved.origins)
        if untouched and folder.name:
            run = dataclasses.replace(resolved.run, name=folder.name, output_dir=str(folder.parent))
            return Resolved(run, resolved.origins)
    return resolved
