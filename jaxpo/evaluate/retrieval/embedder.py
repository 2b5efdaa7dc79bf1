"""Texts to the vectors of a retriever, packed without padding."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.convert.model_io import Model
from jaxpo.convert.retriever import Retriever
from jaxpo.data.packing.batch import Batch
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.per_token import KEY
from jaxpo.data.tokens.retrieval import Encoded, TextEncoder, text_encoder
from jaxpo.errors import ConfigError
from jaxpo.evaluate.score import POSITIONS, Progress, each_segment
from jaxpo.models.retrieval import PROJECTION, VectorHead, project
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.pooled import pooled_segments

Tree = Any
SHORTEST_ROW = 64


@dataclass(frozen=True)
class Embedder:
    """A retriever ready to make vectors.

    Attributes:
      params: the model's tree, and the dense layers'.
      hash: of everything that a vector depends on; an index is of one.
    """

    scorer: Scorer
    params: Mapping[str, Tree]
    head: VectorHead
    encoder: TextEncoder
    hash: str

    def queries(self, texts: Sequence[str], progress: Progress = lambda *_: None) -> list[np.ndarray]:
        """float32 `[Q, E]` each; `[1, E]` where a text has one vector."""
        return self._vectors(self.encoder.queries(texts), progress)

    def documents(self, texts: Sequence[str], progress: Progress = lambda *_: None) -> list[np.ndarray]:
        """float32 `[T, E]` each, of the tokens that are scored; `[1, E]` where a text has one vector."""
        return self._vectors(self.encoder.documents(texts), progress)

    def _vectors(self, encoded: Sequence[Encoded], progress: Progress) -> list[np.ndarray]:
        late = self.head.pooling == "tokens"
        run = functools.partial(_tokens if late else _pooled, self.scorer, self.head, self.params)
        by_length: dict[int, list[int]] = {}
        for i, text in enumerate(encoded):
            by_length.setdefault(max(SHORTEST_ROW, 1 << (len(text.tokens) - 1).bit_length()), []).append(i)
        found: dict[int, np.ndarray] = {}
        for length, members in sorted(by_length.items()):
            chosen = [encoded[i] for i in members]
            beside = [{KEY: text.key.astype(np.int8)} for text in chosen]
            tokens = [text.tokens for text in chosen]
            for place, row in each_segment(run, tokens, max(1, POSITIONS // length), length, beside=beside):
                scored = chosen[place.segment].scored
                vectors = row[place.span][scored] if late else row[place.slot][None]
                found[members[place.segment]] = np.asarray(vectors, np.float32)
                progress(len(found), len(encoded))
        return [found[i] for i in range(len(encoded))]


def embedder_of(model: Model, *, dtype: str = "float32", say: Callable[[str], None] = lambda line: None) -> Embedder:
    """A model as it was loaded, ready to make vectors.

    Raises:
      ConfigError: it is no retriever, or has no tokenizer.
    """
    retriever = model.retriever
    if retriever is None:
        raise ConfigError(
            f"{model.path}: is no retriever; give the run or stage of a Retrieval stage, or a folder that pylate or "
            "sentence-transformers saved."
        )
    if model.tokenizer is None:
        raise ConfigError(f"{model.path}: has no tokenizer beside it.")
    return make_embedder(Scorer(model.config, dtype), model.params, retriever, model.tokenizer, say)


def make_embedder(
    scorer: Scorer,
    params: Mapping[str, Tree],
    retriever: Retriever,
    tokenizer: Tokenizer,
    say: Callable[[str], None] = lambda line: None,
) -> Embedder:
    """As `embedder_of`, from its parts."""
    encoder = text_encoder(tokenizer, retriever.texts, say)
    own = {"model": params["model"], **({PROJECTION: params[PROJECTION]} if PROJECTION in params else {})}
    facts = json.dumps([fingerprint(own), tokenizer.hash, retriever.as_json()], sort_keys=True)
    return Embedder(scorer, own, retriever.head, encoder, hashlib.sha256(facts.encode()).hexdigest())


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tokens(scorer: Scorer, head: VectorHead, params: Tree, batch: Batch) -> jax.Array:
    return project(params.get(PROJECTION, {}), scorer.hidden(params["model"], batch), head)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pooled(scorer: Scorer, head: VectorHead, params: Tree, batch: Batch) -> jax.Array:
    assert head.pooling != "tokens"
    states = pooled_segments(scorer.hidden(params["model"], batch), batch, head.pooling)
    return project(params.get(PROJECTION, {}), states, head)
