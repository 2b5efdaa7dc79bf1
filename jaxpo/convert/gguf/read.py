"""Reads a GGUF file: its model, its tokenizer and its sampling, each tensor dequantised when it is asked for."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.convert.gguf.header import Header, TensorInfo, read_header
from jaxpo.convert.gguf.hyperparameters import pooling_of, read_config
from jaxpo.convert.gguf.library import gguf
from jaxpo.convert.gguf.names import DENSE, TAPS, hf_names
from jaxpo.convert.gguf.vocabulary import read_vocabulary
from jaxpo.convert.gguf.write import SAMPLING
from jaxpo.convert.hf import check_tensors, read_tensors
from jaxpo.convert.shards import Stored
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import CheckpointError
from jaxpo.models.family import TextConfig, param_table

Tree = Any
_SAMPLING_KEYS = {"temperature": "temp", "repetition_penalty": "penalty_repeat"}


@dataclass(frozen=True)
class GGUF:
    """An open file.

    Attributes:
      config: what its keys mean.
      tensors: by their names in a checkpoint, experts one by one, float32 whatever the file's types.
      kinds: ggml's types in the file, and of how many tensors each.
      generation: its sampling settings and ends, as a generation_config.json; None when it has none.
      dense: the dense layer of a retriever, by its name; else nothing.
      pooling: what a retriever makes of the states of a text (`hyperparameters.POOLING`); None where it is none.
    """

    path: Path
    config: TextConfig
    tokenizer: Tokenizer
    tensors: Mapping[str, Stored]
    kinds: Mapping[str, int]
    generation: Mapping[str, Any] | None
    dense: Mapping[str, Stored] = field(default_factory=dict)
    pooling: str | None = None


def open_gguf(file: Path) -> GGUF:
    """Read what a file says of itself, and check that its tensors are those of the model that it describes.

    Raises:
      CheckpointError: broken, of another architecture, of types that cannot be read, or with other tensors.
    """
    header = read_header(file)
    if (kind := header.metadata.get("general.type", "model")) != "model":
        raise CheckpointError(f"{file}: holds {str(kind)[:40]!r}, not a whole model.")
    biased = any(name.endswith("exp_probs_b.bias") for name in header.tensors)
    config = read_config(header.metadata, biased, file)
    tensors = stored_tensors(file, header, config.num_experts)
    dense = {name: tensors.pop(name) for name in (DENSE,) if name in tensors}
    check_tensors(tensors, param_table(config), file, described_in="its keys")
    tokenizer = read_vocabulary(header.metadata, file)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(f"{file}: has {tokenizer.vocab_size:,} tokens and {config.vocab_size:,} embedding rows.")
    kinds: dict[str, int] = {}
    for info in header.tensors.values():
        kinds[info.kind] = kinds.get(info.kind, 0) + 1
    pooling = pooling_of(header.metadata, file)
    return GGUF(file, config, tokenizer, tensors, kinds, _generation(header.metadata), dense, pooling)


def import_gguf(file: Path) -> tuple[Tree, GGUF]:
    """The parameters in float32, and the file that they are from.

    Raises:
      CheckpointError: as `open_gguf`; or it is a retriever, of which such a file does not say how texts become tokens.
    """
    found = open_gguf(file)
    if found.dense or found.pooling is not None:
        raise CheckpointError(
            f"{file}: is a retriever, of which a GGUF file does not say how texts become tokens (prefixes, lengths, "
            "skipped words); give the folder that it was made from."
        )
    return read_tensors(found.tensors, param_table(found.config), file, described_in="its keys"), found


def stored_tensors(file: Path, header: Header, experts: int) -> dict[str, Stored]:
    """A file's tensors by their names in a checkpoint.

    Raises:
      CheckpointError: a tensor that LFM2 has not, or of a type that cannot be dequantised.
    """
    tensors: dict[str, Stored] = {}
    readable = _readable()
    for name, info in header.tensors.items():
        if info.kind not in readable:
            raise CheckpointError(
                f"{file}: {name} is quantised to {info.kind}, which is not read; use a file in another type."
            )
        try:
            names = hf_names(name, experts)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}.") from error
        stacked = names[0].rpartition(".experts.")[1]
        if stacked and (len(info.shape) != 3 or info.shape[0] != experts):
            raise CheckpointError(f"{file}: {name} has shape {info.shape}; there are {experts} experts.")
        shape = info.shape[1:] if stacked else info.shape
        if name.endswith(TAPS) and len(shape) == 2:
            shape = (shape[0], 1, shape[1])
        for i, ours in enumerate(names):
            tensors[ours] = Stored(shape, "F32", functools.partial(read_values, file, info, shape, i))
    return tensors


def _readable() -> set[str]:
    """Types that the `gguf` package turns into numbers; it has no list of them, so each is tried with one block."""
    library = gguf()
    found = set()
    for kind, (_, size) in library.GGML_QUANT_SIZES.items():
        try:
            library.quants.dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        found.add(kind.name)
    return found


def read_values(file: Path, info: TensorInfo, shape: tuple[int, ...], entry: int = 0) -> np.ndarray:
    """One tensor, or one entry of a stack, in float32."""
    library = gguf()
    kind = library.GGMLQuantizationType[info.kind]
    block, size = library.GGML_QUANT_SIZES[kind]
    count = math.prod(shape) // block * size
    packed = np.fromfile(file, np.uint8, count, offset=info.start + entry * count)
    if packed.size != count:
        raise CheckpointError(f"{file}: was changed while it was open.")
    rows = packed.reshape(-1, info.shape[-1] // block * size)
    with np.errstate(over="ignore", invalid="ignore"):
        values = library.quants.dequantize(rows, kind)
    return np.asarray(values, np.float32).reshape(shape)


def _generation(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: dict[str, Any] = {}
    for setting in SAMPLING:
        value = metadata.get(f"general.sampling.{_SAMPLING_KEYS.get(setting, setting)}")
        if type(value) in (int, float):
            found[setting] = float(str(np.float32(value))) if isinstance(value, float) else value
    named = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(end for end in named if type(end) is int))
    if type(named[0]) is int and len(ends) > 1:
        found["eos_token_id"] = ends
    return found or None
