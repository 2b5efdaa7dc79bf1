"""The settings of a stage's data, held against the rows they are for."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from jaxpo.config import Data, Fim
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.turns import is_rendered
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.rendering import Cut
from jaxpo.data.tokens.specials import allowed
from jaxpo.errors import ConfigError


def cut_of(data: Data, tokenizer: Tokenizer, *, whole: bool) -> Cut:
    """The settings that decide how a text is cut.

    Args:
      whole: documents that are trained on from end to end, whatever they hold.
    """
    train_on = "all" if whole and data.train_on == "auto" else data.train_on
    special = allowed(tokenizer.special_ids, data.special_tokens)
    return Cut(data.max_length, data.truncation, train_on, data.fim, data.rendered, special, data.reasoning)


def check_train_on(data: Data, kind: str, first: Row) -> None:
    """ConfigError for a mask that rows of this type have no meaning for."""
    if kind not in ("text", "messages", "prompt_completion") and data.train_on not in ("auto", "completion"):
        raise ConfigError(f"data.train_on={data.train_on!r} has no meaning for {kind!r} rows: leave it at 'auto'.")
    if kind == "text" and data.train_on in ("assistant", "completion") and not is_rendered(str(first.data["text"])):
        raise ConfigError(
            f"data.train_on={data.train_on!r} needs messages or completions; {first.file} holds plain text."
        )


def check_fim(fim: Fim, kind: str, files: Sequence[Path]) -> None:
    """ConfigError where no document of the files would be rearranged."""
    if kind != "text":
        raise ConfigError(
            f"data.fim rearranges plain text, but {files[0]} holds {kind!r} rows: leave it out, or give `text`."
        )
    if fim.files and not any(fnmatch.fnmatch(file.name, pattern) for file in files for pattern in fim.files):
        names = ", ".join(file.name for file in files[:5])
        raise ConfigError(f"data.fim.files: {', '.join(fim.files)} matches none of the training files ({names}).")
