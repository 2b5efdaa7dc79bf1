"""Retrievers that pylate, sentence-transformers or we in their form have written, read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpo.config import Texts
from jaxpo.config.json_text import parse
from jaxpo.convert.config_json import read_json
from jaxpo.convert.retriever import Retriever
from jaxpo.convert.shards import open_file
from jaxpo.errors import CheckpointError
from jaxpo.models.retrieval import PROJECTION, Pooling, VectorHead

Tree = Any
MODULES, SETTINGS, BERT = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
WEIGHTS = "model.safetensors"
_TORCH = "torch.nn.modules"
ACTIVATION_CLASSES = {
    "identity": f"{_TORCH}.linear.Identity",
    "tanh": f"{_TORCH}.activation.Tanh",
    "relu": f"{_TORCH}.activation.ReLU",
    "gelu": f"{_TORCH}.activation.GELU",
    "silu": f"{_TORCH}.activation.SiLU",
}
POOLING_MODES = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
LATE, SINGLE = "tokens", ("mean", "cls", "last")


def is_retriever(directory: str | Path) -> bool:
    """Whether a folder is one that pylate or sentence-transformers wrote, or we in their form."""
    return (Path(directory) / MODULES).is_file()


def read_retriever(directory: str | Path) -> tuple[dict[str, Tree], Retriever]:
    """The dense layers, `{"projection": {"0": ...}}` or nothing, and how texts become tokens and vectors.

    Raises:
      CheckpointError: a module that is not known here; names it.
    """
    folder = Path(directory)
    pooling: Pooling = "tokens"
    layers: dict[str, Any] = {}
    activations: list[str] = []
    normalize, skip = False, None
    for path, kind in _modules(folder):
        name = kind.rpartition(".")[2]
        if name == "Transformer":
            continue
        if name == "Dense":
            layer, activation = _read_dense(folder / path)
            layers[str(len(activations))] = layer
            activations.append(activation)
        elif name == "Pooling":
            pooling = _read_pooling(folder / path)
        elif name == "Normalize":
            normalize = True
        elif name == "MultiVectorMask":
            skip = tuple(read_json(folder / path / "config.json").get("skiplist_words", ()))
        else:
            raise CheckpointError(f"{folder}: module {kind} is not known here; there are Transformer, Dense, Pooling, "
                                  "Normalize and MultiVectorMask.")  # fmt: skip
    late = pooling == LATE
    head = VectorHead(pooling, tuple(activations), normalize or late)
    return ({PROJECTION: layers} if layers else {}), Retriever(_read_texts(folder, late, skip), head)


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    try:
        listed = parse((folder / MODULES).read_text(encoding="utf-8-sig"))
        for module in listed:
            yield str(module["path"]), str(module["type"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / MODULES}: is no list of modules ({error}); copy it again.") from error


def _read_pooling(folder: Path) -> Pooling:
    document = read_json(folder / "config.json")
    if isinstance(mode := document.get("pooling_mode"), str):  # as sentence-transformers 6 writes it
        names = {"mean": "mean", "cls": "cls", "lasttoken": "last", "last": "last"}
        found = [names[mode]] if mode in names else []
    else:
        found = [name for name, key in POOLING_MODES.items() if document.get(f"pooling_mode_{key}")]
    if len(found) != 1:
        raise CheckpointError(f"{folder}: pools tokens in a way that is none of {', '.join(SINGLE)}.")
    return found[0]  # type: ignore[return-value]


def _read_dense(folder: Path) -> tuple[dict[str, Any], str]:
    document = read_json(folder / "config.json")
    named = {theirs: ours for ours, theirs in ACTIVATION_CLASSES.items()}
    activation = named.get(str(document.get("activation_function", ACTIVATION_CLASSES["identity"])))
    if activation is None:
        raise CheckpointError(f"{folder}: activation {document['activation_function']} is not known here.")
    with open_file(folder / WEIGHTS) as stored:
        values = {name: np.asarray(tensor.read(), np.float32) for name, tensor in stored.items()}
    if "linear.weight" not in values:
        raise CheckpointError(f"{folder / WEIGHTS}: has no linear.weight; copy it again.")
    layer = {"weight": values["linear.weight"].T}
    layer |= {"bias": values["linear.bias"]} if "linear.bias" in values else {}
    if document.get("use_residual"):
        same = np.eye(layer["weight"].shape[0], dtype=np.float32)
        layer["residual"] = values["residual.weight"].T if "residual.weight" in values else same
    return {name: jnp.asarray(value) for name, value in layer.items()}, activation


def _tokenizer_length(folder: Path) -> int | None:
    """Where sentence-transformers 6 keeps the longest text; None where the number stands for no bound."""
    file = folder / "tokenizer_config.json"
    found = read_json(file).get("model_max_length") if file.is_file() else None
    return int(found) if isinstance(found, int | float) and found < 1e9 else None


def _read_texts(folder: Path, late: bool, skip: tuple[str, ...] | None) -> Texts:
    """Of pylate's flat settings, or sentence-transformers 6's, whose prefixes are prompts and expansion an object."""
    said = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    bert = read_json(folder / BERT) if (folder / BERT).is_file() else {}
    prompts = said.get("prompts") or {}
    query, document = prompts.get("query", ""), prompts.get("document", prompts.get("passage", ""))
    length = bert.get("max_seq_length") or _tokenizer_length(folder)
    if not late:
        longest = int(length or 512)
        return Texts("", "", query, document, longest, longest, expansion=False, skip=())
    if "query_prefix" in said:
        return Texts(
            query_prefix=said["query_prefix"] or "",
            document_prefix=said.get("document_prefix") or "",
            query_text=query,
            document_text=document,
            query_length=int(said.get("query_length") or 32),
            document_length=int(said.get("document_length") or 180),
            expansion=bool(said.get("do_query_expansion", True)),
            attend_to_expansion=bool(said.get("attend_to_expansion_tokens", False)),
            skip=tuple(said.get("skiplist_words") or ()) if "skiplist_words" in said else Texts().skip,
        )
    own = {**bert, **said}
    expansion = own.get("query_expansion")
    wide = (expansion or {}).get("length") or own.get("query_length") or 32
    return Texts(
        query_prefix=query,
        document_prefix=document,
        query_length=int(wide),
        document_length=int(own.get("document_length") or length or 512),
        expansion=expansion is not None,
        attend_to_expansion=bool((expansion or {}).get("attend")),
        skip=skip or (),
    )
