"""Reward models with heads of their own: the model as a Hugging Face folder, the heads as named tensors beside it.

model.safetensors, config.json, tokenizer ...   the model, which transformers loads
heads.safetensors                               "GROUP.NAME" -> float32, as they are multiplied: hidden @ weight
reward.json                                     the method that reads them, with its settings

A classifier of words that transformers can run has its head in `model.safetensors` too (`token_classes_hf`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.convert import token_classes_hf
from jaxpo.convert.card import Facts
from jaxpo.convert.config_json import read_json, write_json
from jaxpo.convert.hf import SavesItself, describe, folder_in_making, tensors_of
from jaxpo.convert.reader import Reader
from jaxpo.convert.shards import open_file, parse_size, write_shards
from jaxpo.convert.verify import verify as verify_export
from jaxpo.errors import CheckpointError
from jaxpo.models.family import TextConfig, param_table

Tree = Any
HEADS, READING = "heads.safetensors", "reward.json"
USE = (f"With jaxpo, wherever a reward model is asked for: its heads are in `{HEADS}`, read as `{READING}` says.",)
"""For the model card."""


def export_heads(
    params: Mapping[str, Tree],
    config: TextConfig,
    directory: str | Path,
    reader: Reader,
    *,
    tokenizer: SavesItself | None = None,
    generation: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    verify: bool = True,
    compare_transformers: bool | None = None,
    facts: Facts | None = None,
) -> dict[str, Any]:
    """Write a reward model whose head no class of transformers has.

    Args:
      params: `{"model": ..., NAME: ...}`, as a reward stage leaves them.
      reader: how they are read.
      directory, tokenizer, generation, dtype, max_shard_size, overwrite, verify, compare_transformers, facts: as in
        `jaxpo.convert.hf.export_hf`; heads are float32 whatever the type of the model.

    Returns:
      What was verified of the model, with the number of heads' tensors that were read back as they are.

    Raises:
      CheckpointError: the folder exists, or what was written is not what it was written from.
    """
    from safetensors.numpy import save_file

    heads = dict(flat({name: tree for name, tree in params.items() if name != "model"}))
    with folder_in_making(directory, overwrite=overwrite) as partial:
        told = token_classes_hf.has_form(config, reader)
        use: Sequence[str] = token_classes_hf.USE if told else USE
        tensors = list(tensors_of(params["model"], param_table(config)))
        tensors += token_classes_hf.score_tensors(params["classes"]) if told else ()
        write_shards(partial, tensors, dtype, parse_size(max_shard_size))
        describe(partial, config, dtype, tokenizer, generation, facts or Facts(Path(directory).name), use)
        if told:
            token_classes_hf.describe_classes(partial, config, reader)
        if heads:
            save_file(heads, partial / HEADS)
        write_json(partial / READING, {**reader.as_json(), "heads": {n: list(x.shape) for n, x in heads.items()}})
        if not verify:
            return {}
        report = verify_export(params["model"], config, partial, dtype=dtype, transformers=compare_transformers)
        again = dict(flat(read_heads_of(partial)))
        if again.keys() != heads.keys() or not all(np.array_equal(again[name], heads[name]) for name in heads):
            raise CheckpointError(f"{directory}: {HEADS} does not hold what was written to it; see to the disk.")
        report = {**report, "heads": len(heads)}
        write_json(partial / "verification.json", report)
        return report


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """`{"a": {"b": x}}` as ("a.b", x), float32 on the host."""
    for name, below in tree.items():
        if isinstance(below, Mapping):
            yield from flat(below, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", np.ascontiguousarray(np.asarray(below, np.float32))


def is_heads(directory: str | Path) -> bool:
    """Whether a folder holds a reward model of this form."""
    return (Path(directory) / READING).is_file()


def reading_of(directory: str | Path) -> dict[str, Any]:
    """What the folder says of how its rewards are read."""
    found = read_json(Path(directory) / READING)
    if not isinstance(found, dict) or not isinstance(found.get("heads"), dict):
        raise CheckpointError(f"{directory}: {READING} does not describe a reward model; export it again.")
    return found


def read_heads_of(directory: str | Path, place: Any = None) -> dict[str, Tree]:
    """The heads beside the model: name -> tree of float32 arrays, on the devices of a sharding.

    Raises:
      CheckpointError: tensors that are not those that `reward.json` names, with their shapes.
    """
    folder, wanted = Path(directory), reading_of(directory)["heads"]
    tree: dict[str, Any] = {}
    if not wanted:
        return tree
    with open_file(folder / HEADS) as stored:
        found = {name: list(tensor.shape) for name, tensor in stored.items()}
        if found != wanted:
            odd = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))[0]
            raise CheckpointError(
                f"{folder / HEADS}: {odd} is {found.get(odd, 'absent')}, and {READING} says "
                f"{wanted.get(odd, 'absent')}; export the model again."
            )
        for name, tensor in stored.items():
            *above, last = name.split(".")
            inner = tree
            for key in above:
                inner = inner.setdefault(key, {})
            inner[last] = jax.device_put(jnp.asarray(tensor.read(), jnp.float32), place)
    return tree
