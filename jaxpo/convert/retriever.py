"""How a finished model is used as a retriever: how texts become tokens, and hidden states vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from jaxpo.config import Texts
from jaxpo.errors import CheckpointError
from jaxpo.models.retrieval import ACTIVATIONS, PROJECTION, VectorHead

RETRIEVER = "retriever"
"""Where a model says of itself how it finds texts."""


@dataclass(frozen=True)
class Retriever:
    """What is to be known of a retriever besides its weights."""

    texts: Texts
    head: VectorHead

    def as_json(self) -> dict[str, Any]:
        """For the metadata of a model."""
        return {"texts": asdict(self.texts), "head": asdict(self.head)}


def retriever_of(params: Mapping[str, Any], about: Mapping[str, Any], where: object = "the model") -> Retriever | None:
    """How a model finds texts; None where it is no retriever.

    Raises:
      CheckpointError: it says it in a way that this version does not know, or lacks a dense layer that it speaks of.
    """
    found = about.get(RETRIEVER)
    if found is None:
        return None
    try:
        retriever = Retriever(_made(Texts, found["texts"]), _made(VectorHead, found["head"]))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: does not say in a known way how it finds texts: {error}") from error
    layers = {str(i) for i in range(len(retriever.head.activations))}
    if unknown := set(retriever.head.activations) - ACTIVATIONS.keys():
        raise CheckpointError(f"{where}: a dense layer has the activation {sorted(unknown)[0]!r}, which is not known.")
    if layers != set(params.get(PROJECTION, {})):
        raise CheckpointError(f"{where}: has {len(params.get(PROJECTION, {}))} dense layers and names {len(layers)}.")
    return retriever


def _made(kind: Any, values: Mapping[str, Any]) -> Any:
    """A frozen dataclass of a JSON object, whose lists are tuples."""
    known = {field.name for field in fields(kind)}
    if odd := values.keys() - known:
        raise KeyError(sorted(odd)[0])
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
