"""A plan carried out on files: models opened and compared, the result written or placed leaf by leaf."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpo.convert.card import Facts
from jaxpo.convert.generation import GENERATION, keep_generation
from jaxpo.convert.hf import SavesItself, describe, disk_shape, folder_in_making, import_hf
from jaxpo.convert.model_io import TOKENIZER, save_model
from jaxpo.convert.open_model import OpenModel, open_model
from jaxpo.convert.shards import ShardWriter, parse_size
from jaxpo.convert.verify import verify as verify_export
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import ConfigError
from jaxpo.merge.plan import Models, Plan, check_leaves
from jaxpo.merge.stream import merged_leaves, merged_together
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.spec import Param, leaves, map_table, param_shardings
from jaxpo.sharding import make_mesh

Tree = Any


@contextlib.contextmanager
def open_models(paths: Mapping[str, Path | str], *, depth_may_differ: bool = False) -> Iterator[dict[str, OpenModel]]:
    """Open several models of one kind.

    Args:
      paths: name -> folder; the names stand in plans and messages.
      depth_may_differ: whether only layers are to be of one kind, for stacks of slices.

    Raises:
      ConfigError: models of different configurations or tokenizers, each difference named.
    """
    with contextlib.ExitStack() as stack:
        found = {name: stack.enter_context(open_model(path)) for name, path in paths.items()}
        first = next(iter(found.values()))
        problems = [p for name, m in list(found.items())[1:] for p in unlike(first, m, name, depth_may_differ)]
        if problems:
            raise ConfigError(problems)
        yield found


def unlike(first: Any, other: Any, name: object, depth_may_differ: bool = False) -> list[str]:
    """Why two models cannot be merged."""
    problems = []
    for field, value in vars(first.config).items():
        found = getattr(other.config, field, None)
        if found != value and not (depth_may_differ and field == "layer_types"):
            problems.append(
                f"{name}: {field} is {found}, the first model has {value}; only equal models can be averaged."
            )
    hashes = {t.hash for t in (first.tokenizer, other.tokenizer) if t is not None}
    if len(hashes) > 1:
        problems.append(f"{name}: has another tokenizer than the first model, so the same row means another token.")
    return problems


def template_lines(models: Mapping[str, OpenModel]) -> list[str]:
    """Whose chat template the result has, where the models have different ones."""
    found = {name: m.tokenizer.template for name, m in models.items() if m.tokenizer is not None}
    first = next(iter(found), "")
    others = [name for name, template in found.items() if template != found[first]]
    return [f"chat template: that of {first}; {', '.join(others)} has another"] if others else []


def leaf_names(config: TextConfig) -> list[str]:
    """Names of a model's leaves on disk, in the table's order."""
    return [name for _, param in leaves(param_table(config)) for name in param.tensors]


def stored_leaves(models: Mapping[str, OpenModel]) -> Models:
    """What `jaxpo.merge.stream` reads."""
    return {name: model.leaves for name, model in models.items()}


def result_config(plan: Plan, models: Mapping[str, OpenModel]) -> TextConfig:
    """The configuration of a plan's result: its layers are of the kinds that their sources have.

    Raises:
      ConfigError: a layer of attention merged with one of convolution, named.
    """
    configs: dict[str, Any] = {name: model.config for name, model in models.items()}
    first: TextConfig = next(iter(configs.values()))
    if plan.layers is None:
        return first
    return replace(first, layer_types=tuple(configs[model].layer_types[i] for model, i in plan.layers))


def generation_of(models: Mapping[str, OpenModel]) -> Mapping[str, Any] | None:
    """The generation_config.json of a merge: that of the first model that has its own."""
    return next((model.generation for model in models.values() if model.generation is not None), None)


def generation_lines(models: Mapping[str, OpenModel]) -> list[str]:
    """Which model's generation_config.json a merge keeps, where they differ."""
    own = {name: model.generation for name, model in models.items() if model.generation is not None}
    if all(found == generation_of(models) for found in own.values()):
        return []
    kept, *others = own
    return [f"{GENERATION} is that of {kept}; {', '.join(o for o in others if own[o] != own[kept])} had another"]


def homes(config: TextConfig, mesh: Any, rules: Any = None) -> dict[str, tuple[Param, Any]]:
    """Name on disk -> the parameter and where it is placed."""
    table = param_table(config)
    pairs = zip(leaves(table), jax.tree.leaves(param_shardings(table, mesh, rules)), strict=True)
    return {name: (param, place) for (_, param), place in pairs for name in param.tensors}


def merge_to_params(plan: Plan, models: Mapping[str, OpenModel], mesh: Any, rules: Any = None) -> Tree:
    """The merged model in memory, each leaf placed on the mesh as soon as it is made."""
    return merge_many_to_params([plan], models, mesh, rules)[0]


def merge_many_to_params(
    plans: Sequence[Plan], models: Mapping[str, OpenModel], mesh: Any, rules: Any = None
) -> list[Tree]:
    """Several merges of the same models, made in one pass over their leaves."""
    config = result_config(plans[0], models)
    places = homes(config, mesh, rules)
    placed: list[dict[str, jax.Array]] = [{} for _ in plans]
    waiting: list[dict[str, np.ndarray]] = [{} for _ in plans]
    for name, number, values in merged_together(plans, stored_leaves(models)):
        param, sharding = places[name]
        if isinstance(param.hf, str):
            here = np.ascontiguousarray(param.layout.from_disk(values, param.shape))
            placed[number][name] = jax.device_put(here, sharding)
            continue
        # One expert after another: they are placed together once the last is there.
        entry = param.tensors.index(name)
        whole = waiting[number].setdefault(param.tensors[0], np.empty(param.shape, values.dtype))
        whole[entry] = param.layout.from_disk(values, param.shape[1:])
        if entry == len(param.tensors) - 1:
            placed[number][param.tensors[0]] = jax.device_put(waiting[number].pop(param.tensors[0]), sharding)
    return [map_table(lambda param, made=made: made[param.tensors[0]], param_table(config)) for made in placed]


def merge_to_export(
    plan: Plan,
    models: Mapping[str, OpenModel],
    folder: Path,
    *,
    tokenizer: SavesItself | None,
    dtype: str = "float32",
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    verify: bool = True,
    compare_transformers: bool | None = None,
) -> dict[str, Any]:
    """Write a merge as a Hugging Face checkpoint that gets its name when it is complete.

    Args:
      verify: afterwards load the result (it alone) and compare what our forward and another one compute.
      compare_transformers: with transformers as well; None = when it is installed.

    Returns:
      What was verified; empty without `verify`.
    """
    config = result_config(plan, models)
    check_leaves(plan, stored_leaves(models))
    table = {name: param for _, param in leaves(param_table(config)) for name in param.tensors}
    shapes = {leaf.name: disk_shape(table[leaf.name]) for leaf in plan.leaves}
    own = {name: "float32" for name, param in table.items() if param.buffer}
    with folder_in_making(folder, overwrite=overwrite) as partial:
        with ShardWriter(partial, shapes, dtype, parse_size(max_shard_size), own) as writer:
            for name, values in merged_leaves(plan, stored_leaves(models)):
                writer.write(name, values)
        made_of = "merge of " + ", ".join(Path(model.path).name for model in models.values())
        describe(partial, config, dtype, tokenizer, generation_of(models), Facts(Path(folder).name, made_of))
        if not verify:
            return {}
        return verify_export(import_hf(partial)[0], config, partial, dtype=dtype, transformers=compare_transformers)


def merge_to_stage(
    plan: Plan,
    models: Mapping[str, OpenModel],
    folder: Path,
    *,
    tokenizer: Tokenizer | None,
    trained_on: str,
) -> None:
    """Write a merge as a jaxpo model directory; the result (it alone) is in memory once."""
    with folder_in_making(folder, overwrite=False) as partial:
        params = merge_to_params(plan, models, make_mesh({}, jax.devices()[:1]))
        about = {"stage": "merge", "trained_on": trained_on}
        save_model(partial, {"model": params}, result_config(plan, models), about)
        keep_generation(partial, generation_of(models))
        if tokenizer is not None:
            tokenizer.save(partial / TOKENIZER)
