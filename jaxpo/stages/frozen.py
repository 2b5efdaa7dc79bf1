"""Networks that are read and not trained: where they come from, and whether they fit the trained one's vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.convert.model_io import load_model, near_tokenizer, read_config
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, limits
from jaxpo.objectives.encode import Scorer
from jaxpo.recipe.checks.beside import trained_word

Tree = Any
Say = Callable[[str], None]


@dataclass(frozen=True)
class FrozenNetwork:
    """A network that is run and not trained.

    Attributes:
      params: as `frozen[name]` holds them: of the model alone, or {"model": ..., "value": ...} where its head is read.
      scorer: how it is run.
    """

    params: Tree
    scorer: Scorer

    @cached_property
    def fingerprint(self) -> str:
        """Of the parameters."""
        return fingerprint(self.params)


def tokenizer_of(path: Path, given: Tokenizer | None) -> Tokenizer:
    """The tokenizer to use with a teacher: the given one, else its own.

    Raises:
      ConfigError: neither exists.
    """
    if given is not None:
        return given
    found = near_tokenizer(path)
    if found is None:
        raise ConfigError(f"{path}: the teacher has no tokenizer beside it; give --tokenizer, that of the student.")
    return found


def check_vocabulary(
    name: str, path: Path | str, tokenizer: Tokenizer, vocab_size: int | None = None, say: Say = lambda _: None
) -> TextConfig:
    """A network's architecture, read without its weights.

    Args:
      name: of the network, for messages.
      tokenizer: of the trained one.
      vocab_size: of the trained one's logits; None = any.
      say: told when the network's tokenizer is unknown, so that only sizes could be compared.

    Raises:
      ConfigError: its distribution is over other tokens than the trained one's.
      CheckpointError: the folder holds no model.
    """
    config, own, trained = read_config(path), near_tokenizer(Path(path)), trained_word(name)
    why, vocabulary = None, limits(config).vocabulary
    if vocab_size is not None and vocabulary != vocab_size:
        why = f"its logits are over {vocabulary} tokens and the {trained}'s over {vocab_size}"
    elif own is not None and own.hash != tokenizer.hash:
        why = f"its tokenizer ({own.vocab_size} tokens) is not the {trained}'s ({tokenizer.vocab_size} tokens)"
    elif tokenizer.vocab_size > vocabulary > 0:
        why = f"the tokenizer has {tokenizer.vocab_size} ids and its logits are over {vocabulary}"
    if why:
        raise ConfigError(
            f"{name} {path}: it has another vocabulary: {why}. Distributions over different tokens cannot be "
            f"compared; use a {name} with the {trained}'s tokenizer, or train the {trained} with the {name}'s "
            "(--tokenizer.path)."
        )
    if own is None and vocabulary:
        say(
            f"{name} {path}: its tokenizer is unknown, there is none beside it; only the size of the vocabulary was "
            f"compared ({vocabulary} logits, {tokenizer.vocab_size} tokens of the {trained})"
        )
    return config


def load_frozen(
    name: str,
    path: Path | str,
    tokenizer: Tokenizer,
    mesh: jax.sharding.Mesh,
    rules: Any = None,
    *,
    vocab_size: int | None = None,
    dtype: str = "float32",
    scorer: Scorer | None = None,
    heads: bool = False,
    say: Say = lambda _: None,
) -> FrozenNetwork:
    """Read a network: a run, a stage, or a Hugging Face export.

    Args:
      scorer: of the trained one, whose settings it is run with; None = the default ones with `dtype`.
      heads: with the heads beside its model.
      name, tokenizer, vocab_size, say: see `check_vocabulary`.

    Raises: as `check_vocabulary`.
    """
    config = check_vocabulary(name, path, tokenizer, vocab_size, say)
    params = load_model(path, mesh, rules).params
    how = Scorer(config, dtype) if scorer is None else dataclasses.replace(scorer, config=config, remat="none")
    return FrozenNetwork(params if heads else params["model"], how)
