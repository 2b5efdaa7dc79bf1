"""A model as a pipeline of diffusers, written so that `from_pretrained` loads it, and verified."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.convert.card import Facts, write_card
from jaxpo.convert.config_json import CONFIG, write_json
from jaxpo.convert.diffusers.files import OWN, PIPELINE, SCHEDULER, form_of, pipeline_json, place_of, user_names
from jaxpo.convert.diffusers.schedules import FILE, schedule_to_json
from jaxpo.convert.diffusers.verify import verify_pipeline
from jaxpo.convert.formats import DIFFUSERS, Options, Row
from jaxpo.convert.hf import SavesItself, folder_in_making, tensors_of
from jaxpo.convert.hf_folder import facts_of_model, params_of, sources_of
from jaxpo.convert.open_model import open_model
from jaxpo.convert.shards import SINGLE, Source, write_shards
from jaxpo.models.family import param_table

Tree = Any
TOKENIZER = "tokenizer"


def export_diffusers(
    params: Tree,
    config: Any,
    directory: str | Path,
    *,
    tokenizer: SavesItself | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    verify: bool = True,
    compare_diffusers: bool | None = None,
    facts: Facts | None = None,
) -> dict[str, Any]:
    """Write a pipeline's folder: the model, its schedule, and what diffusers has no place for in files beside them.

    Everything is written and verified in a temporary folder, which is then renamed.

    Args:
      params: the model's tree (`State.params["model"]`).
      directory: the folder to make.
      tokenizer: of captions, where the model has a text tower.
      dtype: "float32" or "bfloat16" on disk.
      overwrite: replace an existing folder.
      verify: see `jaxpo.convert.diffusers.verify.verify_pipeline`.
      compare_diffusers: run the files by diffusers as well; None = when it is installed.
      facts: what the model card says of the model; None = its name alone.

    Returns:
      What was verified, also stored as `verification.json`; empty when `verify` is False.

    Raises:
      ConfigError: the family, or its schedule, has no form in diffusers.
      CheckpointError: the folder exists, or what was written is something else than `params`.
    """
    form_of(config)
    sources = tensors_of(params, param_table(config))
    facts = facts or Facts(Path(directory).name)
    with folder_in_making(directory, overwrite=overwrite) as partial:
        _write(partial, sources, config, dtype, tokenizer, facts)
        return verify_pipeline(partial, params, config, dtype, compare_diffusers) if verify else {}


def write(model: Path, out: Path, options: Options) -> list[Row]:
    """Export what lies in a folder, for `jaxpo export --format diffusers`."""
    (dtype,) = options.dtypes
    with open_model(model) as opened, folder_in_making(out, overwrite=options.overwrite) as partial:
        config: Any = opened.config
        _write(partial, sources_of(opened), config, dtype, opened.tokenizer, facts_of_model(model))
        report = verify_pipeline(partial, params_of(opened), config, dtype) if options.verify else {}
    files = sorted(out.rglob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    name = str(out / form_of(opened.config).component)
    if not report:
        return [Row(DIFFUSERS, name, size)]
    compared = isinstance(report["diffusers"], dict)
    error = f"{report['diffusers']['max_error']:.1e} of the output" if compared else "none"
    return [Row(DIFFUSERS, name, size, "diffusers" if compared else "read back", error)]


def _write(
    folder: Path,
    sources: Sequence[Source],
    config: Any,
    dtype: str,
    tokenizer: SavesItself | None,
    facts: Facts,
) -> None:
    form = form_of(config)
    # Refused before anything of any size is written.
    scheduler = schedule_to_json(config.schedule)
    users = user_names(source.name for source in sources)
    by_file: dict[str, list[Source]] = {}
    for source in sources:
        file, name = place_of(source.name, users, form)
        by_file.setdefault(file, []).append(dataclasses.replace(source, name=name))
    for file, inside in by_file.items():
        target = folder / file
        target.parent.mkdir(exist_ok=True)
        write_shards(target.parent, inside, dtype, sys.maxsize)
        (target.parent / SINGLE).rename(target)
    write_json(folder / form.component / CONFIG, form.to_json(config))
    (folder / SCHEDULER).mkdir()
    write_json(folder / SCHEDULER / FILE, scheduler)
    write_json(folder / PIPELINE, pipeline_json(form))
    if own := form.own_to_json(config):
        write_json(folder / OWN, own)
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)
    write_card(folder, facts, config, use(form.classes[0], form.component), library="diffusers")


def use(name: str, component: str) -> tuple[str, ...]:
    """How a folder is run, for its model card."""
    return (
        "```python",
        f"from diffusers import {name}, DDIMScheduler",
        "",
        f'model = {name}.from_pretrained("FOLDER", subfolder="{component}")',
        'scheduler = DDIMScheduler.from_pretrained("FOLDER", subfolder="scheduler")',
        "```",
        "",
        "With jaxpo, the folder wherever a model is asked for.",
    )
