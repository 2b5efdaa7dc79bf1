"""Adapters of a model of images as diffusers loads them: `pytorch_lora_weights.safetensors`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from jaxpo.config import LoRA
from jaxpo.config.json_text import parse
from jaxpo.convert.adapter_folder import variants
from jaxpo.convert.diffusers.files import TEXTS, form_of
from jaxpo.convert.hf import disk_shape, folder_in_making, tensors_of
from jaxpo.convert.shards import DTYPES, SINGLE, Source, Stored, open_file, write_shards
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.document import Document, shown
from jaxpo.models.family import param_table
from jaxpo.models.lowrank import PEFT_PREFIX, adapter_table, is_projection, scale_of
from jaxpo.models.spec import Table, leaves, map_table

Tree = Any
FILE = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
SIDES = {
    "A": ("lora.down.weight", "lora_A.weight", "lora_A.default.weight"),
    "B": ("lora.up.weight", "lora_B.weight", "lora_B.default.weight"),
}
"""What follows a module's name; the first is written, all are read."""
ALPHA = "alpha"


def export_lora(
    adapter: Tree,
    lora: LoRA,
    config: Any,
    directory: str | Path,
    *,
    dtype: str = "float32",
    overwrite: bool = False,
    verify: bool = True,
) -> Path:
    """Write an adapter that `pipeline.load_lora_weights(folder)` puts onto its base; returns the file.

    The file knows no alpha, and readers take it to be the rank: with another, B is multiplied by the scale.

    Raises:
      ConfigError: the adapter is also on what diffusers has not, a text tower of jaxpo's or attention to a user.
      CheckpointError: the folder exists, or the file does not hold what was written.
    """
    table = adapter_table(param_table(config), lora)
    sources = [_renamed(source, lora, config) for source in tensors_of(adapter, table)]
    with folder_in_making(directory, overwrite=overwrite) as partial:
        write_shards(partial, sources, dtype, sys.maxsize)
        (partial / SINGLE).rename(partial / FILE)
        if verify:
            _check(partial / FILE, sources, dtype)
    return Path(directory) / FILE


def _renamed(source: Source, lora: LoRA, config: Any) -> Source:
    module, _, side = source.name.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".lora_")
    if module.startswith(tuple(TEXTS)) or ".processor." in module:
        raise ConfigError(
            f"export: the adapter is also on {module}, which diffusers has not; train one on attention alone "
            '(lora.target_modules "*/to_?/weight" "*/to_out/0/weight"), or export the merged model.'
        )
    scale = np.float32(scale_of(lora) if side == "B" else 1.0)
    name = f"{form_of(config).component}.{module}.{SIDES[side][0]}"
    return dataclasses.replace(source, name=name, load=lambda: source.load() * scale)


def _check(file: Path, sources: list[Source], dtype: str) -> None:
    with open_file(file) as stored:
        for source in sources:
            given = np.ascontiguousarray(source.load()).astype(DTYPES[dtype][1])
            if stored[source.name].read().tobytes() != given.tobytes():
                raise CheckpointError(f"{file}: {source.name} is not what was written.")


def read_lora(path: str | Path, config: Any) -> tuple[Tree, LoRA]:
    """An adapter's tree and what it is, from a file or a folder that holds one; both published forms of keys are read.

    Raises:
      CheckpointError: keys of another form, modules that the model has not, ranks or alphas that differ from module to
        module, tensors that are missing or misshaped, or metadata of another variant (DoRA); names them.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    with open_file(file) as stored:
        pairs, alphas = _sorted(stored, config, file)
        modules = dict.fromkeys(module for module, _ in pairs)
        targets = _targets(param_table(config), modules, file)
        if lone := sorted(m for m in modules if not {(m, "A"), (m, "B")} <= pairs.keys()):
            raise CheckpointError(f"{file}: {lone[0]} has one of its two matrices only; copy or download it again.")
        rank = _one({next(iter(pairs[module, "A"].shape), 0) for module in modules}, "rank", file)
        said, use_rslora = _said(file, form_of(config).component)
        own = {_number(tensor, module, file) for module, tensor in alphas.items()}
        alpha = _one(own or {float(rank) if said is None else said}, "alpha", file)
        if rank < 1 or not 0 < alpha < float("inf"):
            raise CheckpointError(f"{file}: its rank is {rank} and its alpha {alpha}; both must be above 0.")
        lora = LoRA(rank=rank, alpha=alpha, use_rslora=use_rslora, init="gaussian", target_modules=targets)
        table = adapter_table(param_table(config), lora)
        return map_table(lambda p: _value(p, pairs, file), table), lora


def _sorted(
    stored: Mapping[str, Stored], config: Any, file: Path
) -> tuple[dict[tuple[str, str], Stored], dict[str, Stored]]:
    """`(module, side) -> tensor` and `module -> alpha`."""
    pairs: dict[tuple[str, str], Stored] = {}
    alphas: dict[str, Stored] = {}
    odd: list[str] = []
    endings = [(f".{ending}", side) for side, each in SIDES.items() for ending in each]
    for name, tensor in stored.items():
        bare = name.removeprefix(f"{form_of(config).component}.")
        found = next(((bare.removesuffix(end), side) for end, side in endings if bare.endswith(end)), None)
        if found is not None:
            pairs[found] = tensor
        elif bare.endswith(f".{ALPHA}"):
            alphas[bare.removesuffix(f".{ALPHA}")] = tensor
        else:
            odd.append(name)
    if odd or not pairs:
        raise CheckpointError(
            f"{file}: {odd[0] if odd else 'nothing'} is no key of an adapter that diffusers wrote "
            f"({form_of(config).component}.MODULE.{SIDES['A'][0]} or .{SIDES['A'][1]}); convert it there first "
            "(pipeline.load_lora_weights, pipeline.save_lora_weights)."
        )
    return pairs, alphas


def _targets(table: Table, modules: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """Paths of the parameters that modules are."""
    paths = {param.module: path for path, param in leaves(table) if is_projection(param)}
    if unknown := sorted(modules.keys() - paths.keys()):
        raise CheckpointError(
            f"{file}: adapts {unknown[0]}, which is no projection of this model ({len(unknown)} such of "
            f"{len(modules)}); it belongs to another model, or also to a text encoder, whose states are data here."
        )
    return tuple(path for module, path in paths.items() if module in modules)


def _value(param: Any, pairs: Mapping[tuple[str, str], Stored], file: Path) -> Any:
    module, _, side = param.hf.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".lora_")
    tensor = pairs[module, side]
    if tensor.shape != disk_shape(param):
        raise CheckpointError(f"{file}: {module} has {SIDES[side][0]} {tensor.shape}, expected {disk_shape(param)}.")
    return jnp.asarray(param.layout.from_disk(tensor.read(), param.shape), jnp.float32)


def _one(found: set[Any], what: str, file: Path) -> Any:
    if len(found) != 1:
        raise CheckpointError(f"{file}: modules have different values of {what}, {sorted(found)}; one is read.")
    return next(iter(found))


def _number(tensor: Stored, module: str, file: Path) -> float:
    if tensor.shape not in ((), (1,)):
        raise CheckpointError(f"{file}: {module}.{ALPHA} has shape {tensor.shape}; it must be one number.")
    return float(tensor.read().reshape(()))


def _said(file: Path, component: str) -> tuple[float | None, bool]:
    """Alpha, and whether the scale is rank-stabilised: what diffusers wrote of the model's own part beside the tensors.

    A `rank_pattern` is what the tensors themselves say.
    """
    with safe_open(file, framework="np") as opened:
        text = (opened.metadata() or {}).get(METADATA, "{}")
    try:
        document = parse(text)
    except ValueError as error:
        raise CheckpointError(f"{file}: its {METADATA} is not valid JSON ({error}).") from error
    values, prefix = document if isinstance(document, dict) else {}, f"{component}."
    own = {key.removeprefix(prefix): x for key, x in values.items() if key.startswith(prefix) or "." not in key}
    read = Document(own, prefix)
    found = variants(read)
    if alphas := read.part("alpha_pattern").values:
        found.append(f"alpha_pattern = {shown(alphas)}")
    alpha = None if own.get("lora_alpha") is None else read.number("lora_alpha", 1.0)
    stabilised = read.flag("use_rslora", False)
    read.check(file)
    if found:
        raise CheckpointError(
            f"{file}: is more than pairs of matrices of one scale ({', '.join(found)}); merge it in diffusers "
            "(pipeline.fuse_lora, pipeline.save_pretrained), and give the result."
        )
    return alpha, stabilised
