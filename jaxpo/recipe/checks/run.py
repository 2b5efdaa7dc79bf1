"""Every mistake of a configuration, found before any work and shown together. Imports no jax."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from jaxpo.config import Run
from jaxpo.config.axes import AXES
from jaxpo.config.fields import describe, flag, hints_of, key, leaves
from jaxpo.config.run import ATTENTION, CONV, EXPERTS
from jaxpo.data.rows.files.remote import filesystem, is_remote, place_of
from jaxpo.errors import ConfigError, did_you_mean, no_folder
from jaxpo.models.family import limits, preset
from jaxpo.recipe.checks.files import file_problems
from jaxpo.recipe.checks.judges import judge_problems
from jaxpo.recipe.checks.model import ability_problems
from jaxpo.recipe.checks.positions import position_problems
from jaxpo.recipe.checks.probes import probe_problems
from jaxpo.recipe.checks.routing import declared_models, placement_problems
from jaxpo.recipe.checks.stage import data_problems, stage_problems
from jaxpo.recipe.kinds import find_kind, kind_names, kind_of
from jaxpo.recipe.lineage import declared_model, seed_of, trained

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb"}


def check(run: Run, *, files: bool = True) -> None:
    """Raise one ConfigError with every problem of a run; return if there is none.

    Args:
      files: data files and tokenizers are asked for too; what only compiles a run needs none.
    """
    problems = list(find_problems(run, files=files))
    if problems:
        raise ConfigError(problems)


def find_problems(run: Run, *, files: bool = True) -> Iterator[str]:
    """All problems, each naming the field and the remedy. Values of wrong type hide the checks that need them."""
    shape = list(shape_problems(run))
    if shape:
        yield from shape
        return
    wrong_types = list(type_problems(run))
    yield from wrong_types
    if wrong_types:
        return
    yield from run_problems(run)
    yield from tokenizer_problems(run) if files else ()
    yield from model_problems(run)
    yield from mesh_problems(run)
    yield from compute_problems(run)
    yield from probe_problems(
        run, {stage.name: declared_model(run, stage) for stage in run.stages if stage.LEAVES_MODEL}
    )
    for i, stage in enumerate(run.stages):
        if stage.TRAINS:
            yield from data_problems(run, stage) if files else ()
            yield from stage_problems(run, i, stage)
        yield from judge_problems(run, i, stage)
        for problems in kind_of(stage).checks:
            yield from problems(run, i, stage)


def shape_problems(run: Run) -> Iterator[str]:
    """Stages that are no stages, and names that cannot be addressed."""
    if not isinstance(run.stages, tuple) or not run.stages:
        yield f"stages: a run needs a tuple of at least one stage ({kind_names()})."
        return
    for name, kind in (("probes", "probes"), ("alerts", "alerts"), ("on_alert", "receivers")):
        if not isinstance(found := getattr(run, name), tuple):
            yield f"{name}: is a {type(found).__name__}, not a tuple of {kind}."
    seen: dict[str, int] = {}
    for i, stage in enumerate(run.stages):
        if find_kind(stage) is None:
            yield f"stages[{i}]: is a {type(stage).__name__}, not one of {kind_names()}."
            continue
        if not isinstance(stage.name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", stage.name):
            yield f"stages[{i}].name: {stage.name!r} must be a word of letters, digits, '-' and '_'; it names a folder."
            continue
        if key(stage.name) in (*hints_of(Run), "previous", "random", "preset", "run"):
            yield f"stages[{i}].name: {stage.name!r} is reserved; name the stage differently."
        if key(stage.name) in seen:
            first = seen[key(stage.name)]
            yield f"stages[{i}].name: {stage.name!r} is already the name of stages[{first}]; names must be unique."
        seen.setdefault(key(stage.name), i)


def type_problems(run: Run) -> Iterator[str]:
    """Values that do not obey their annotation."""
    for leaf in leaves(run):
        if not obeys(leaf.value, leaf.hint):
            yield f"{leaf.dotted}: expected {describe(leaf.hint)}, got {leaf.value!r}."


def obeys(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; an int is a valid float, a bool is not a number."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in arguments and type(value) in {type(a) for a in arguments}
    if origin in (typing.Union, types.UnionType):
        return any(obeys(value, a) for a in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is ...:
            return all(obeys(v, arguments[0]) for v in value)
        return len(value) == len(arguments) and all(map(obeys, value, arguments))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float)) and value == value
    kind = origin or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def run_problems(run: Run) -> Iterator[str]:
    """Name, seed, corpus, probes, alerts and trackers."""
    if not (run.hang_timeout >= 0 and math.isfinite(run.hang_timeout)):
        yield f"hang_timeout: {run.hang_timeout} must be a number of seconds, or 0 to watch nothing."
    if run.hang_exit and run.hang_timeout == 0:
        yield "hang_exit: hang_timeout 0 watches nothing, so that no process would end; give it the seconds."
    if not re.fullmatch(r"[\w][\w.+-]*", run.name):
        yield f"name: {run.name!r} must be one folder name; the folder above it is --output-dir."
    seeds = {"seed": run.seed} | {f"{stage.name}.seed": seed_of(run, stage) for stage in run.stages}
    for name, seed in seeds.items():
        if not 0 <= seed < 2**32 and (name == "seed" or seed != run.seed):
            yield f"{name}: {seed} must lie in 0 .. 2^32 - 1."
    if run.corpus is not None and not callable(getattr(run.corpus, "build", None)):
        yield f"corpus: {type(run.corpus).__name__} has no build(directory)."
    for i, probe in enumerate(run.probes):
        if not callable(getattr(probe, "measure", None)):
            yield f"probes[{i}]: {type(probe).__name__} has no measure(context)."
    yield from watching_problems(run)
    yield from mirror_problems(run)
    for tracker in run.report_to:
        if importlib.util.find_spec(TRACKERS[tracker]) is None:
            yield f"report_to: {tracker} is not installed; pip install 'jaxpo[trackers]', or leave it out."


def watching_problems(run: Run) -> Iterator[str]:
    """Alerts that check nothing, receivers that take none, and places where no metrics can be offered."""
    for name, method in (("alerts", "check(record, history)"), ("on_alert", "send(alert)")):
        for i, found in enumerate(getattr(run, name)):
            if not callable(getattr(found, method.partition("(")[0], None)):
                yield f"{name}[{i}]: {type(found).__name__} has no {method}."
    folder, port = run.prometheus.folder, run.prometheus.port
    if folder is not None and not (Path(folder).is_absolute() and os.access(folder, os.W_OK) and Path(folder).is_dir()):
        yield f"prometheus.folder: {folder} must be the absolute path of a folder that exists and can be written to."
    if port is not None and not 1 <= port < 2**16:
        yield f"prometheus.port: {port} must lie in 1 .. {2**16 - 1}."


def mirror_problems(run: Run) -> Iterator[str]:
    """A mirror that nothing can be written to, or whose library is not installed."""
    if run.mirror is None:
        return
    if not is_remote(run.mirror) or run.mirror.startswith("http"):
        yield f"mirror: {run.mirror!r} must be a folder at s3:// or gs://; a path here is --output-dir."
        return
    try:
        place_of(run.mirror, Path())
        filesystem(run.mirror)
    except ConfigError as error:
        yield f"mirror: {error}"


def tokenizer_problems(run: Run) -> Iterator[str]:
    """There is one; and it is not made from texts for a model that has its own."""
    given = run.tokenizer
    if given.path is not None:
        yield from file_problems(run, "tokenizer.path", (given.path,))
        return
    if not given.train_on and run.model_from is None:
        yield "tokenizer: needs --tokenizer.path FILE (a tokenizer.json) or --tokenizer.train-on FILES to train one on."
    has_model = run.model_from is not None and Path(run.model_from).is_dir()
    if given.train_on and has_model and not given.new_embedding:
        yield (
            f"tokenizer.train_on: a tokenizer that is trained on these files is not that of --model-from "
            f"{run.model_from}, whose embedding has a row for each token of its own. Give --tokenizer.path "
            f"{run.model_from} to use that, or --tokenizer.new-embedding to learn the embedding anew."
        )
    yield from file_problems(run, "tokenizer.train_on", given.train_on)


def model_problems(run: Run) -> Iterator[str]:
    """The preset's name, initial weights, and room for the tokenizer and the longest segment."""
    if run.model_from is not None and not Path(run.model_from).is_dir():
        yield f"model_from: {no_folder(run.model_from)}."
    try:
        config = preset(run.model) if isinstance(run.model, str) else run.model
        most = limits(config)
    except ConfigError as error:
        yield from (f"model: {p}" for p in error.problems)
        return
    if run.model_from is not None:
        # The checkpoint brings its own shape, which is checked when it is read.
        return
    yield from ability_problems(run, config)
    for stage in trained(run):
        if stage.model is None and stage.data.max_length > most.context > 0:
            yield (
                f"{stage.name}.data.max_length: {stage.data.max_length} exceeds the model's context of {most.context}; "
                f"lower {flag((stage.name, 'data', 'max_length'))} or raise --model.max-position-embeddings."
            )
    if run.tokenizer.path is None and run.tokenizer.vocab_size > most.vocabulary > 0:
        yield (
            f"tokenizer.vocab_size: {run.tokenizer.vocab_size} exceeds the model's vocabulary of {most.vocabulary}; "
            f"lower --tokenizer.vocab-size or raise --model.vocab-size."
        )


def mesh_problems(run: Run) -> Iterator[str]:
    """Sizes of mesh axes and the names in rules."""
    sizes = {axis: getattr(run.mesh, axis) for axis in AXES}
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            yield f"mesh.{axis}: {size} must be at least 1, or -1 for all remaining devices."
    if list(sizes.values()).count(-1) > 1:
        free = " and ".join(f"mesh.{a}" for a, s in sizes.items() if s == -1)
        yield f"mesh: only one axis can take all remaining devices (-1), not {free}."
    for logical, target in run.mesh.rules:
        if target is not None and target not in AXES:
            known = f"the mesh axes are {', '.join(AXES)}"
            yield f"mesh.rules: {logical} -> {target}: {known}.{did_you_mean(target, AXES)}"
    known_targets = all(target is None or target in AXES for _, target in run.mesh.rules)
    if known_targets:
        # The size of an axis that takes all remaining devices (-1) is known once there are devices.
        yield from placement_problems(run, declared_models(run), sizes)
    yield from position_problems(run, sizes)


def compute_problems(run: Run) -> Iterator[str]:
    """Implementations that do not exist, the size of a chunk, and what a device is said to reach."""
    for field, known in (("attention", ATTENTION), ("experts", EXPERTS), ("conv", CONV)):
        name = getattr(run.compute, field)
        if name is not None and name not in known:
            yield (
                f"compute.{field}: there is no implementation {name!r}; leave it out to take the best of this "
                f"platform, or choose one of {', '.join(known)}.{did_you_mean(name, known)}"
            )
    if run.compute.head_chunk is not None and run.compute.head_chunk < 1:
        yield f"compute.head_chunk: {run.compute.head_chunk} must be at least 1."
    given = run.compute.memory_gib
    if given is not None and not 0 < given < math.inf:
        yield f"compute.memory_gib: {given} must be a number above 0; leave it out to take what the device has."
    if given is not None and run.compute.remat != "auto":
        yield (
            f"compute.memory_gib: is read with compute.remat auto alone, and it is {run.compute.remat}; "
            "leave one of them out."
        )
    if run.compute.peak_tflops is not None and not 0 < run.compute.peak_tflops < math.inf:
        yield f"compute.peak_tflops: {run.compute.peak_tflops} must be a number above 0; leave it out for the table's."


def check_names(run: Run) -> None:
    """Stages must be stages with usable names before flags can address them."""
    problems = list(shape_problems(run))
    if problems:
        raise ConfigError(problems)
