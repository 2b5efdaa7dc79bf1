"""The checks of a retrieval stage: its texts fit its rows, and its vectors what is made of them."""

from __future__ import annotations

from collections.abc import Iterator

from jaxpo.config import Retrieval, Run
from jaxpo.config.fields import flag


def retrieval_problems(run: Run, index: int, stage: Retrieval) -> Iterator[str]:
    """Lengths and rates in range; one vector for a text is not read off positions that are no text."""
    texts, name = stage.texts, stage.name
    for field in ("query_length", "document_length"):
        length = getattr(texts, field)
        if length < 3:
            yield f"{name}.texts.{field}: {length} must be at least 3: BOS, a prefix and a token."
        if length > stage.data.row_length:
            yield (
                f"{name}.texts.{field}: {length} exceeds {name}.data.row_length {stage.data.row_length}; raise "
                f"{flag((name, 'data', 'row_length'))}."
            )
    if not 0 <= stage.embedding_dropout < 1:
        yield f"{name}.embedding_dropout: {stage.embedding_dropout:g} must lie in [0, 1)."
    pooling = getattr(stage.loss, "pooling", "tokens")
    if pooling != "tokens" and texts.expansion:
        yield (
            f"{name}.texts.expansion: fills queries up with positions that have vectors of their own, but the loss "
            f"makes one vector of a text (pooling {pooling!r}); set {flag((name, 'texts', 'expansion'))} False."
        )
