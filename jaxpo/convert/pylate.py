"""Retrievers as folders that pylate and sentence-transformers load, out and in.

A late-interaction model is written in pylate's form, which sentence-transformers 6 reads too (its own form pylate does
not read); one with a vector for each text as a SentenceTransformer. Both forms, and sentence-transformers 6's own, are
read: prefixes as tokens or prompts, several dense layers, biases, residuals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config import Texts
from jaxpo.convert.card import Facts, write_card
from jaxpo.convert.config_json import CONFIG, config_to_json, export_of, write_json
from jaxpo.convert.hf import folder_in_making, tensors_of
from jaxpo.convert.pylate_files import ACTIVATION_CLASSES, BERT, LATE, MODULES, POOLING_MODES, SETTINGS
from jaxpo.convert.pylate_verify import verify_vectors
from jaxpo.convert.retriever import Retriever
from jaxpo.convert.shards import Source, parse_size, write_shards
from jaxpo.errors import CheckpointError
from jaxpo.models.family import TextConfig, limits, param_table
from jaxpo.models.retrieval import PROJECTION

Tree = Any
PREFIX = "model."
"""Of the tensors of a model with its head."""
_ST = "sentence_transformers.models"


def export_retriever(
    params: Mapping[str, Tree],
    config: TextConfig,
    directory: str | Path,
    retriever: Retriever,
    *,
    tokenizer: Any,
    dtype: str = "float32",
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    verify: bool = True,
    facts: Facts | None = None,
) -> dict[str, Any]:
    """Write a retriever that pylate (late interaction) and sentence-transformers load.

    The embedding is cut to the ids that the tokenizer has, as those libraries size it.

    Args:
      params: `{"model": ..., "projection": ...}`, as a retrieval stage leaves them.
      tokenizer: has the prefixes among its tokens.
      directory, dtype, max_shard_size, overwrite, facts: as in `jaxpo.convert.hf.export_hf`.
      verify: read the files back and compare vectors (see `verify_vectors`).

    Returns:
      What was verified, also stored as `verification.json`; empty when `verify` is False.

    Raises:
      CheckpointError: the folder exists, or what was written computes something else.
    """
    if export_of(config).seen is not None:
        raise CheckpointError(f"{directory}: pylate and sentence-transformers load no retriever that sees images.")
    size = min(tokenizer.vocab_size, limits(config).vocabulary)
    config = replace(config, vocab_size=size)
    model = {**params["model"], "embed_tokens": {"weight": params["model"]["embed_tokens"]["weight"][:size]}}
    params = {**params, "model": model}
    with folder_in_making(directory, overwrite=overwrite) as partial:
        table = param_table(config)
        sources = [replace(each, name=each.name.removeprefix(PREFIX)) for each in tensors_of(model, table)]
        write_shards(partial, sources, dtype, parse_size(max_shard_size))
        write_json(partial / CONFIG, _config(config, dtype))
        tokenizer.save(partial)
        _write_modules(partial, params.get(PROJECTION, {}), config, retriever)
        write_card(partial, facts or Facts(Path(directory).name), config, use_of(config, retriever))
        return verify_vectors(params, config, retriever, partial, dtype) if verify else {}


def _config(config: TextConfig, dtype: str) -> dict[str, Any]:
    """`config.json` of a model without its head."""
    document = config_to_json(config, dtype)
    kind = "Model" if limits(config).causal else "BidirectionalModel"
    return {**document, "architectures": [export_of(config).classes[document["model_type"]] + kind]}


def use_of(config: TextConfig, retriever: Retriever) -> tuple[str, ...]:
    """How the folder is used, for its card; who reads it."""
    ours = "With jaxpo: `jaxpo data embed FILES INDEX --model FOLDER`, `jaxpo retrieve INDEX QUERY`."
    if not limits(config).causal:
        return (
            ours,
            "",
            "The model looks both ways, which transformers' own LFM2 does not: pylate and sentence-transformers would "
            "load it as a causal one, without a word, and give other vectors. jaxpo reads this folder; llama.cpp runs "
            "the model from a GGUF file (`jaxpo export FOLDER OUT --format gguf`).",
        )
    library, name = ("pylate", "models.ColBERT") if retriever.head.pooling == LATE else ("sentence_transformers", "")
    call = 'ColBERT("FOLDER")' if name else 'SentenceTransformer("FOLDER")'
    source = "from pylate.models import ColBERT" if name else f"from {library} import SentenceTransformer"
    more = ("", 'With sentence-transformers 6: `MultiVectorEncoder("FOLDER")`.') if name else ()
    return ("```python", source, "", f"model = {call}", "```", *more, "", ours)


def _write_modules(folder: Path, layers: Tree, config: TextConfig, retriever: Retriever) -> None:
    """Everything beside the model: which modules there are, the dense layers, pooling, and how texts become tokens."""
    texts, head = retriever.texts, retriever.head
    late = head.pooling == LATE
    modules = [("", f"{_ST}.Transformer")]
    if not late:
        modules.append((f"{len(modules)}_Pooling", f"{_ST}.Pooling"))
        (folder / modules[-1][0]).mkdir()
        modes = {f"pooling_mode_{mode}": name == head.pooling for name, mode in POOLING_MODES.items()}
        others = dict.fromkeys(("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"), False)
        others = {f"pooling_mode_{name}": off for name, off in others.items()}
        write_json(
            folder / modules[-1][0] / "config.json",
            {"word_embedding_dimension": config.hidden_size, **modes, **others, "include_prompt": True},
        )
    for i, activation in enumerate(head.activations):
        modules.append((f"{len(modules)}_Dense", "pylate.models.Dense.Dense" if late else f"{_ST}.Dense"))
        _write_dense(folder / modules[-1][0], layers[str(i)], activation, late)
    if head.normalize and not late:
        modules.append((f"{len(modules)}_Normalize", f"{_ST}.Normalize"))
        (folder / modules[-1][0]).mkdir()
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    (folder / MODULES).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    inserted = bool(texts.document_prefix)
    write_json(folder / BERT, {"max_seq_length": texts.document_length - inserted, "do_lower_case": False})
    write_json(folder / SETTINGS, _settings(texts, late))


def _settings(texts: Texts, late: bool) -> dict[str, Any]:
    prompts = {"query": texts.query_text, "document": texts.document_text}
    shared = {"__version__": {}, "prompts": prompts, "default_prompt_name": None}
    if not late:
        return {"model_type": "SentenceTransformer", **shared, "similarity_fn_name": "cosine"}
    return {
        "model_type": "ColBERT",
        **shared,
        "similarity_fn_name": "MaxSim",
        "query_prefix": texts.query_prefix,
        "document_prefix": texts.document_prefix,
        "query_length": texts.query_length,
        "document_length": texts.document_length,
        "attend_to_expansion_tokens": texts.attend_to_expansion,
        "skiplist_words": list(texts.skip),
        "do_query_expansion": texts.expansion,
    }


def _write_dense(folder: Path, layer: Mapping[str, Any], activation: str, late: bool) -> None:
    values = {name: np.asarray(value, np.float32) for name, value in layer.items()}
    size_in, size_out = values["weight"].shape
    residual = values.get("residual")
    same = residual is not None and size_in == size_out and np.array_equal(residual, np.eye(size_in, dtype=np.float32))
    if residual is not None and not late:
        raise CheckpointError(f"{folder}: a dense layer has a residual, which only late interaction's have there.")
    if residual is not None and size_in == size_out and not same:
        raise CheckpointError(
            f"{folder}: a square dense layer has a residual matrix; pylate adds what comes in as it is."
        )
    folder.mkdir()
    document = {
        "in_features": size_in,
        "out_features": size_out,
        "bias": "bias" in values,
        "activation_function": ACTIVATION_CLASSES[activation],
        **({"use_residual": residual is not None} if late else {}),
    }
    write_json(folder / "config.json", document)
    stored = {"linear.weight": values["weight"].T}
    stored |= {"linear.bias": values["bias"]} if "bias" in values else {}
    stored |= {"residual.weight": residual.T} if residual is not None and not same else {}
    write_shards(folder, [_source(name, value) for name, value in stored.items()], "float32", parse_size("5GB"))


def _source(name: str, value: np.ndarray) -> Source:
    whole = np.ascontiguousarray(value)
    return Source(name, whole.shape, lambda: whole)
