"""Writes a GGUF file: every tensor in its turn and by blocks of rows, so that none is in memory twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxpo.convert.generation import end_ids
from jaxpo.convert.gguf import hyperparameters, vocabulary
from jaxpo.convert.gguf.exact import keep_exact
from jaxpo.convert.gguf.kinds import KINDS, WITHOUT_BLOCKS, Kind
from jaxpo.convert.gguf.library import gguf
from jaxpo.convert.gguf.names import DENSE, MODEL, TAPS, gguf_name, is_float32
from jaxpo.convert.shards import BLOCK, Source
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.retrieval import VectorHead

SAMPLING = {
    "temperature": "add_sampling_temp",
    "top_k": "add_sampling_top_k",
    "top_p": "add_sampling_top_p",
    "min_p": "add_sampling_min_p",
    "repetition_penalty": "add_sampling_penalty_repeat",
}
"""Settings of generation_config.json that a GGUF file has keys for."""
EMBEDDING = MODEL["model.embed_tokens.weight"]


@dataclass
class Planned:
    """A tensor to write.

    Attributes:
      shape: outermost dimension first.
      kind: ggml's type, by name.
      sources: one, or those of the experts that are stacked in it.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    sources: list[Source]


def check_expressible(config: Any, tokenizer: Tokenizer | None, generation: Mapping[str, Any] | None = None) -> None:
    """ConfigError that lists everything of a model, its tokenizer and its sampling that a GGUF file cannot say."""
    problems = hyperparameters.inexpressible(config)
    if tokenizer is None:
        problems.append("a GGUF file holds its tokenizer, and the model's directory has none")
    else:
        problems += vocabulary.inexpressible(tokenizer)
        if tokenizer.vocab_size > config.vocab_size:
            problems.append(f"the tokenizer has {tokenizer.vocab_size} ids and the embedding {config.vocab_size} rows")
        if len(ends := further_ends(config, tokenizer, generation)) > 2:
            problems.append(
                f"generation_config.json names the ends {ends} besides {config.eos_token_id}, and a GGUF file has keys "
                "for two; leave in eos_token_id those that the model writes"
            )
    if problems:
        raise ConfigError([f"export --format gguf: {problem}." for problem in problems])


def write_gguf(
    file: Path,
    sources: Sequence[Source],
    config: Any,
    tokenizer: Tokenizer,
    kind: str = "f32",
    *,
    name: str = "",
    generation: Mapping[str, Any] | None = None,
    head: VectorHead | None = None,
) -> list[Planned]:
    """Write one file under its final name; the caller puts it where nothing half-written is looked for.

    Args:
      sources: every tensor of the model by its name in a checkpoint, as `jaxpo.convert.hf.tensors_of` gives them.
      kind: one of `KINDS`.
      name: `general.name`.
      generation: the model's generation_config.json, whose sampling settings and further end ids go along.
      head: how a retriever makes vectors; its dense layer is among the sources, as `DENSE`.

    Returns:
      What was written, without the values.

    Raises:
      ConfigError: something that the format cannot say (`check_expressible`).
      CheckpointError: values that are infinite in the file's type.
    """
    check_expressible(config, tokenizer, generation)
    library, mixture = gguf(), KINDS[kind]
    planned = plan(sources, mixture)
    writer = library.GGUFWriter(file, hyperparameters.architecture(config))
    try:
        if name:
            writer.add_name(name)
        writer.add_file_type(library.LlamaFileType[mixture.file_type])
        writer.add_quantization_version(library.GGML_QUANT_VERSION)
        hyperparameters.write_hyperparameters(writer, config, library, head)
        for source in sources:
            if source.name == DENSE:
                writer.add_embedding_length_out(source.shape[0])
        vocabulary.write_vocabulary(writer, tokenizer, config.vocab_size)
        _write_ids(writer, config, tokenizer, generation or {})
        write_tensors(writer, planned)
    finally:
        writer.close()
    return planned


def _write_ids(writer: Any, config: Any, tokenizer: Tokenizer, generation: Mapping[str, Any]) -> None:
    """Ids with a meaning, and how the model is sampled."""
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    # What llama.cpp calls the end of a turn and of a message ends an answer like the end of a text.
    keys = (writer.add_eot_token_id, writer.add_eom_token_id)
    for add, end in zip(keys, further_ends(config, tokenizer, generation), strict=False):
        add(end)
    for setting, add in SAMPLING.items():
        if isinstance(value := generation.get(setting), int | float):
            getattr(writer, add)(int(value) if setting == "top_k" else float(value))


def further_ends(config: Any, tokenizer: Tokenizer, generation: Mapping[str, Any] | None) -> list[int]:
    """Ids that end an answer besides the configuration's: those of the model's sampling, then the turn's end."""
    turn, *named = end_ids(generation, tokenizer.eos_id)
    return [end for end in (*named, turn) if end != config.eos_token_id]


def plan(sources: Sequence[Source], mixture: Kind) -> list[Planned]:
    """Which tensors a file holds, of which types."""
    planned: dict[str, Planned] = {}
    for source in sources:
        name = gguf_name(source.name)
        if name in planned:
            planned[name].sources.append(source)
            continue
        shape = (source.shape[0], source.shape[-1]) if name.endswith(TAPS) else source.shape
        planned[name] = Planned(name, shape, _kind(name, shape, mixture), [source])
    for one in planned.values():
        if ".experts." in one.sources[0].name:
            one.shape = (len(one.sources), *one.shape)
    return list(planned.values())


def _kind(name: str, shape: tuple[int, ...], mixture: Kind) -> str:
    if is_float32(name, len(shape)):
        return "F32"
    wanted = mixture.embedding if name == EMBEDDING else mixture.matrix
    return wanted if shape[-1] % _block(wanted)[0] == 0 else WITHOUT_BLOCKS


def _block(kind: str) -> tuple[int, int]:
    """Values and bytes of a block."""
    library = gguf()
    values, size = library.GGML_QUANT_SIZES[library.GGMLQuantizationType[kind]]
    return values, size


def unblocked(planned: Sequence[Planned], mixture: Kind) -> list[str]:
    """Tensors that stayed in `WITHOUT_BLOCKS` because their rows are no whole number of blocks."""
    others = {"F32", mixture.matrix, mixture.embedding}
    return [p.name for p in planned if p.kind == WITHOUT_BLOCKS and p.kind not in others]


def write_tensors(writer: Any, planned: Sequence[Planned]) -> None:
    """Header, keys and values of a `GGUFWriter` that has its keys."""
    library = gguf()
    for one in planned:
        values, size = _block(one.kind)
        kind = library.GGMLQuantizationType[one.kind]
        writer.add_tensor_info(one.name, one.shape, np.dtype(np.float32), math.prod(one.shape) // values * size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    out = writer.fout[0]
    writer.write_padding(out, out.tell())
    for one in planned:
        written = sum(_write(out, source, one, library) for source in one.sources)
        writer.write_padding(out, written)


def _write(out: BinaryIO, source: Source, one: Planned, library: Any) -> int:
    """Bytes written of one tensor, or of one expert in it."""
    kind, written = library.GGMLQuantizationType[one.kind], 0
    value = source.load()
    if value.shape != source.shape:
        raise ValueError(f"{source.name}: has shape {value.shape}, {source.shape} was announced")
    for rows in _blocks(value.reshape(-1, value.shape[-1])):
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(rows, np.float32)
            packed = keep_exact(values, library.quants.quantize(values, kind), one.kind, library)
        if one.kind == "F16" and not np.isfinite(packed).all():
            raise CheckpointError(f"{source.name}: holds values beyond float16's 65,504; choose --dtype bf16 or f32.")
        written += out.write(np.ascontiguousarray(packed).data.cast("B"))
    return written


def _blocks(matrix: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, BLOCK // matrix.shape[1])
    for start in range(0, matrix.shape[0], rows):
        yield matrix[start : start + rows]
