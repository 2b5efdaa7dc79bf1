"""Rows of the embedding for the tokens that a run adds to the vocabulary of the model that it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxpo.config import Run
from jaxpo.convert.model_io import near_tokenizer
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.spec import Param, map_table, param_shardings

Tree = Any
VOCABULARY = "vocab"
"""The axis of a parameter that has an entry for each token."""


def added_ids(run: Run, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids of `tokenizer.added` that the model of `model_from` has learnt nothing of; none where that is unknown."""
    own = None if run.model_from is None or not run.tokenizer.added else near_tokenizer(Path(run.model_from))
    if own is None:
        return ()
    ids = (tokenizer.id_of(token) for token in run.tokenizer.added if own.id_of(token) is None)
    return tuple(sorted(i for i in ids if i is not None))


def with_room(config: TextConfig, ids: Sequence[int]) -> TextConfig:
    """The architecture with a row for each of these ids; itself where it has them, as LFM2's padded vocabulary does."""
    size = max((i + 1 for i in ids), default=0)
    if not any(field.name == "vocab_size" for field in fields(config)) or size <= config.vocab_size:
        return config
    return replace(config, vocab_size=size)


def with_added_rows(
    model: Tree, config: TextConfig, ids: Sequence[int], known: int, mesh: Mesh, rules: Any = None
) -> Tree:
    """A model whose rows of added tokens are the mean of the rows of all tokens that it knows.

    Rows that nothing was learnt of are as long as chance made them; from the mean a token starts as one among the
    others (Hewitt 2021, "Initializing new word embeddings for pretrained language models").

    Args:
      model: perhaps of fewer rows than `config` has.
      ids: of the added tokens.
      known: number of ids that the model's own tokenizer has.
    """
    table = param_table(config)

    def rows(param: Param, x: jax.Array) -> jax.Array:
        if VOCABULARY not in param.axes:
            return x
        axis = param.axes.index(VOCABULARY)
        own = jnp.moveaxis(x, axis, 0)
        mean = jnp.mean(own[:known].astype(jnp.float32), axis=0).astype(x.dtype)
        room = jnp.zeros((param.shape[axis] - len(own), *own.shape[1:]), x.dtype)
        return jnp.moveaxis(jnp.concatenate([own, room]).at[jnp.asarray(ids)].set(mean), 0, axis)

    fill = jax.jit(lambda tree: map_table(rows, table, tree), out_shardings=param_shardings(table, mesh, rules))
    filled: Tree = fill(model)
    return filled
