"""Pipelines of diffusers, read: `model_index.json`, `unet` or `transformer`, `scheduler`; safetensors only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxpo.convert.config_json import CONFIG, read_json
from jaxpo.convert.diffusers.files import (
    OWN,
    PIPELINE,
    SCHEDULER,
    STEM,
    TEXTS,
    USERS,
    component_of,
    user_names,
)
from jaxpo.convert.diffusers.schedules import FILE, sampler_notes, schedule_from_json
from jaxpo.convert.shards import Stored, open_file, open_shards
from jaxpo.models.family import param_table
from jaxpo.models.spec import leaves


def read_pipeline_config(path: Path) -> Any:
    """The configuration of a pipeline's model, without its weights.

    Raises:
      CheckpointError: a model or a schedule that no family has, or files that are missing or broken.
    """
    folder, form = component_of(path)
    scheduler = path / SCHEDULER / FILE
    schedule = schedule_from_json(read_json(scheduler), scheduler)
    config = form.from_json(read_json(folder / CONFIG), folder / CONFIG, schedule)
    if not (path / OWN).is_file():
        return config
    return form.with_own(config, read_json(path / OWN), path / OWN)


def notes(path: Path) -> list[str]:
    """What a pipeline's folder holds that its model does not keep."""
    form = component_of(path).form
    index = read_json(path / PIPELINE)
    others = [
        name
        for name, kind in index.items()
        if isinstance(kind, list) and any(kind) and name not in (form.component, SCHEDULER)
    ]
    texts = [f"not read: {', '.join(others)}"] if others else []
    return [*texts, *sampler_notes(read_json(path / SCHEDULER / FILE))]


@contextlib.contextmanager
def open_pipeline(path: Path) -> Iterator[tuple[Any, Mapping[str, Stored]]]:
    """The configuration of a pipeline's model and its tensors by the names of the parameter table, none loaded yet."""
    config = read_pipeline_config(path)
    users = user_names(name for _, param in leaves(param_table(config)) for name in param.tensors)
    with contextlib.ExitStack() as stack:
        stored = dict(stack.enter_context(open_shards(component_of(path).folder, STEM)))
        for prefix, file in TEXTS.items():
            if getattr(config, prefix.removesuffix(".")) is not None:
                own = stack.enter_context(open_file(path / file))
                stored |= {prefix + name: tensor for name, tensor in own.items()}
        if config.user_channels:
            ours = {theirs: name for name, theirs in users.items()}
            beside = stack.enter_context(open_file(path / USERS))
            stored |= {ours.get(name, name): tensor for name, tensor in beside.items()}
        yield config, stored
