"""A tokenised dataset of one type, ready to be packed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.data.rows.unread import COLUMN, KEY
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.layout import Layout
from jaxpo.data.tokens.pictures import Sight
from jaxpo.data.tokens.shares import Share
from jaxpo.data.tokens.store import ExampleStore, Lengths


@dataclass(frozen=True)
class Column:
    """A per-example array: its shape beyond the example axis, its dtype, and the names along that axis.

    Attributes:
      fill: what stands beyond the end of a list, and where there is no example.
    """

    shape: tuple[int, ...]
    dtype: Any
    names: tuple[str, ...] = ()
    fill: float = 0


@dataclass(frozen=True)
class Dataset:
    """Tokenised examples of one type.

    Attributes:
      store: random access to examples.
      type: one of `rows.TYPES`.
      roles: role -> K for lists, 0 for single segments.
      columns: name -> shape and dtype of `Batch.per_example[name]`; `rewards` is `[N, C, 2]`, `ratings`
        `[N, C]`, with their names.
      per_token: dtype and trailing shape of the columns that the examples carry, as in `Batch.per_token`.
      media: the same of `Batch.media[kind].values`; empty, or one kind.
      names: of a column of names ("annotator", "user", "group"): `names[column][i]` is the name behind number i.
      counts: read, kept, truncated_prompt, truncated_response, dropped_REASON, split_documents, empty_responses.
      hash: of the files' contents, tokenizer, template and settings.
      order: example numbers in a fixed order of training (a curriculum), or an order as `jaxpo.data.packing.orders`
        describes it (groups that are spread); None = as the loader is told.
      shares: the sources of a mixture, in the order of their examples; () = trained as one.
      sight: decodes the examples' images; None = the model does not see.
    """

    store: ExampleStore
    tokenizer: Tokenizer
    type: str
    roles: dict[str, int]
    columns: dict[str, Column]
    names: dict[str, tuple[str, ...]]
    counts: dict[str, int]
    files: tuple[str, ...]
    hash: str
    per_token: Layout = field(default_factory=dict)
    media: Layout = field(default_factory=dict)
    order: Any = field(default=None, compare=False)
    shares: tuple[Share, ...] = ()
    sight: Sight | None = None

    def __len__(self) -> int:
        return len(self.store)

    @property
    def lengths(self) -> Lengths:
        """Length of every segment."""
        return self.store.lengths

    @property
    def tokens(self) -> int:
        """Tokens of all segments."""
        return int(self.lengths.values.sum(dtype=np.int64))


def describe_counts(counts: dict[str, int]) -> str:
    """`read 10, kept 9, dropped_longer_than_max_length 1`; what is not read has a line of its own."""
    shown = {name: n for name, n in counts.items() if not name.startswith((COLUMN, KEY))}
    return ", ".join(f"{name} {n}" for name, n in shown.items() if n or name in ("read", "kept"))
