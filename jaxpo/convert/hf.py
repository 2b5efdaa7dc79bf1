"""Hugging Face checkpoints, out and in, driven by the parameter table."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.convert.card import Facts, write_card
from jaxpo.convert.config_json import CONFIG, config_to_json, export_of, write_json
from jaxpo.convert.folder import open_folder
from jaxpo.convert.generation import write_generation
from jaxpo.convert.shards import READABLE, Source, Stored, parse_size, write_shards
from jaxpo.convert.verify import verify as verify_export
from jaxpo.data.durable import publish
from jaxpo.data.media.settings import PREPROCESSOR, ImageSettings, read_settings
from jaxpo.errors import CheckpointError, writing
from jaxpo.models.export import CAUSAL_LM, IMAGE_TEXT
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.spec import Param, Table, leaves, map_table

Tree = Any
USE = (
    "With transformers:",
    "",
    "```python",
    "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "",
    'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
    'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
    "```",
    "",
    "With vLLM: `vllm serve FOLDER`. With MLX: `mlx_lm.generate --model FOLDER --prompt TEXT`.",
    "With jaxpo: `jaxpo chat FOLDER`; for llama.cpp: `jaxpo export FOLDER OUT --format gguf`.",
)
"""How a folder is run, for its model card."""
USE_SEEING = (
    "With transformers:",
    "",
    "```python",
    "from transformers import AutoModelForImageTextToText, AutoProcessor",
    "",
    'model = AutoModelForImageTextToText.from_pretrained("FOLDER")',
    'processor = AutoProcessor.from_pretrained("FOLDER")',
    "```",
    "",
    "With vLLM: `vllm serve FOLDER`. With jaxpo: `jaxpo chat FOLDER --image FILE`.",
)
_USES = {CAUSAL_LM: USE, IMAGE_TEXT: USE_SEEING}


class SavesItself(Protocol):
    """A tokenizer that writes its files (and the chat template) into a folder."""

    def save(self, directory: str | Path) -> None: ...


def disk_shape(param: Param) -> tuple[int, ...]:
    """Shape of the parameter in a file (of each of its tensors); allocates nothing."""
    shape = param.shape if isinstance(param.hf, str) or param.hf is None else param.shape[1:]
    return param.layout.to_disk(np.broadcast_to(np.float32(0), shape)).shape


def export_hf(
    params: Tree,
    config: TextConfig,
    directory: str | Path,
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
    """Write a checkpoint that transformers, vLLM and MLX load as it is.

    Everything is written and verified in a temporary folder beside the target, which is then renamed: an interrupted
    export never looks finished. One tensor is on the host at a time.

    Args:
      params: the model's tree (`State.params["model"]`), sharded or not.
      directory: the folder to make.
      tokenizer: writes tokenizer.json, tokenizer_config.json and chat_template.jinja by its `save`.
      generation: the model's own generation_config.json; None = the ids of its configuration.
      dtype: "float32" or "bfloat16" on disk.
      max_shard_size: bytes or "5GB"; larger models are split and indexed.
      overwrite: replace an existing folder.
      verify: read the files back through another implementation and compare (see `jaxpo.convert.verify.verify`).
      compare_transformers: compare with transformers as well; None = when it is installed.
      facts: what the model card says of the model; None = its name alone.

    Returns:
      What was verified, also stored as `verification.json`; empty when `verify` is False.

    Raises:
      CheckpointError: the folder exists, or what was written computes something else than `params`.
    """
    with folder_in_making(directory, overwrite=overwrite) as partial:
        write_shards(partial, tensors_of(params, param_table(config)), dtype, parse_size(max_shard_size))
        describe(partial, config, dtype, tokenizer, generation, facts or Facts(Path(directory).name))
        return verify_export(params, config, partial, dtype=dtype, transformers=compare_transformers) if verify else {}


def describe(
    folder: Path,
    config: TextConfig,
    dtype: str,
    tokenizer: SavesItself | None,
    generation: Mapping[str, Any] | None,
    facts: Facts,
    use: Sequence[str] | None = None,
) -> None:
    """Write everything of a checkpoint but its weights: configuration, sampling, tokenizer with template, card.

    Args:
      use: how it is run; None = as its family's models are.
    """
    export = export_of(config)
    write_json(folder / CONFIG, config_to_json(config, dtype))
    write_generation(folder, config, generation)
    if tokenizer is not None:
        tokenizer.save(folder)
    if export.processor is not None and read_settings(folder) is None:
        write_json(folder / PREPROCESSOR, ImageSettings(**export.processor(config)).to_json())
    write_card(folder, facts, config, _USES[export.loader] if use is None else use)


@contextlib.contextmanager
def folder_in_making(directory: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, beside the target; it gets the target's name when the block ends without an error."""
    target = Path(directory)
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target}: exists already; choose another folder or allow overwriting it.")
    partial = target.parent / f".{target.name}.partial"
    try:
        with writing(target, partial):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            _swap_in(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def import_hf(
    directory: str | Path, *, dtype: Any = jnp.float32, shardings: Tree | None = None, besides: tuple[str, ...] = ()
) -> tuple[Tree, TextConfig]:
    """Read a checkpoint of any family, an adapter and its base, or a pipeline of diffusers, one tensor at a time.

    Args:
      directory: folder with config.json and model.safetensors (or an index and shards); or one that PEFT saved; or
        one with model_index.json. Nothing but safetensors is read.
      dtype: of the parameters in memory.
      shardings: tree of shardings in the shape of the parameter tree; each tensor goes straight to its place.
      besides: names of tensors that belong to something else.

    Returns:
      The model's parameters and its configuration.

    Raises:
      CheckpointError: a foreign model, or files that are truncated, or missing, extra or misshaped tensors (all named).
    """
    folder = Path(directory)
    with open_folder(folder) as found:
        table = param_table(found.config)
        read = read_tensors(found.tensors, table, folder, dtype=dtype, shardings=shardings, besides=besides)
        return read, found.config


def read_tensors(
    stored: Mapping[str, Stored],
    table: Table,
    folder: Path,
    *,
    dtype: Any = jnp.float32,
    shardings: Tree | None = None,
    besides: tuple[str, ...] = (),
    described_in: str = CONFIG,
) -> Tree:
    """The parameters of a table from the tensors of a file; `besides` names tensors that belong to something else."""
    own = {name: tensor for name, tensor in stored.items() if name not in besides}
    check_tensors(own, table, folder, described_in)

    def load(param: Param, sharding: Any = None) -> jax.Array:
        return jax.device_put(value_of(param, stored, jnp.dtype(param.dtype(dtype))), sharding)

    trees = () if shardings is None else (shardings,)
    return map_table(load, table, *trees)


def value_of(param: Param, stored: Mapping[str, Stored], dtype: Any = jnp.float32) -> np.ndarray:
    """One parameter in memory's layout; of several tensors, each is laid into its place as it is read."""
    if isinstance(param.hf, str):
        value = param.layout.from_disk(stored[param.hf].read(), param.shape)
        return np.ascontiguousarray(value, dtype=dtype)
    whole = np.empty(param.shape, dtype)
    for entry, name in zip(whole, param.tensors, strict=True):
        entry[...] = param.layout.from_disk(stored[name].read(), param.shape[1:])
    return whole


class _Pair(NamedTuple):
    param: Param
    value: Any


def tensors_of(params: Tree, table: Table) -> list[Source]:
    """What to write: every parameter that has a name in the file, read when its turn comes."""
    sources = []
    pairs = jax.tree.leaves(map_table(_Pair, table, params), is_leaf=lambda x: isinstance(x, _Pair))
    for (name, _), (param, value) in zip(leaves(table), pairs, strict=True):
        if tuple(value.shape) != param.shape:
            raise CheckpointError(f"{name}: has shape {tuple(value.shape)}, the configuration says {param.shape}.")
        own = "float32" if param.buffer else None
        for i, tensor in enumerate(param.tensors):
            entry = None if isinstance(param.hf, str) else i
            sources.append(Source(tensor, disk_shape(param), _loader(param, value, entry), own))
    return sources


def _loader(param: Param, value: Any, entry: int | None) -> Any:
    return lambda: param.layout.to_disk(np.asarray(value if entry is None else value[entry]))


def check_tensors(stored: Mapping[str, Stored], table: Table, folder: Path, described_in: str = CONFIG) -> None:
    """CheckpointError that names every tensor that is missing, extra, misshaped or of a type that is not read."""
    expected = {name: disk_shape(param) for _, param in leaves(table) for name in param.tensors}
    found = set(stored) - (_tied_head(stored, table) - expected.keys())
    problems = []
    if missing := sorted(expected.keys() - found):
        problems.append(f"missing: {_shortened(missing)}{_about_bias(missing)}")
    if extra := sorted(found - expected.keys()):
        problems.append(f"not part of the model: {_shortened(extra)}")
    shared = sorted(expected.keys() & found)
    if wrong := [f"{n} {stored[n].shape}, expected {expected[n]}" for n in shared if stored[n].shape != expected[n]]:
        problems.append(f"wrong shape: {'; '.join(wrong)}")
    if odd := [f"{n} {stored[n].dtype}" for n in shared if stored[n].dtype not in READABLE]:
        problems.append(f"not a floating-point type ({', '.join(READABLE)}): {', '.join(odd)}")
    if problems:
        raise CheckpointError(f"{folder}: the tensors do not fit {described_in}. " + ". ".join(problems) + ".")


def _shortened(names: list[str], most: int = 40) -> str:
    """All of a dense model's layer, not all of 64 experts."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _about_bias(missing: list[str]) -> str:
    """What to do about a mixture whose file lacks the bias that its configuration announces."""
    if not any(name.endswith(".expert_bias") for name in missing):
        return ""
    return (
        " (the configuration says use_expert_bias; a file without the bias selects other experts than the model did: "
        "get the complete checkpoint, or set use_expert_bias to false if it was trained without one)"
    )


def _tied_head(stored: Mapping[str, Stored], table: Table) -> set[str]:
    """Some tools store the tied output matrix as well: redundant only when it is the embedding, bit for bit."""
    if "embed_tokens" not in table:
        return set()
    (name,) = table["embed_tokens"]["weight"].tensors
    head, embedding = stored.get("lm_head.weight"), stored.get(name)
    if head is None or embedding is None or head.shape != embedding.shape or head.dtype != embedding.dtype:
        return set()
    return {"lm_head.weight"} if head.read().tobytes() == embedding.read().tobytes() else set()


def _swap_in(partial: Path, target: Path) -> None:
    """Sync the finished folder and rename it into place; an older one is set aside first and removed last."""
    old = target.parent / f".{target.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    publish(partial, target)
    if old.is_dir():
        shutil.rmtree(old)
