"""What a method asks of the data and of the run. Imports no jax: the catalogue and the configuration checks read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Needs:
    """What an objective requires of the data and of the run; checked before any model is built.

    Attributes:
      roles: segment roles every example must have ("chosen", "rejected"; "candidate"; "completion"; "text").
      columns: per-example columns ("margin", "annotator", "scores", "label", ...).
      reference: "none"; "logps" (per-token reference log-probs, cached or online); "vocab" (the reference network
        itself, because a term runs over the vocabulary of both models: cannot be cached).
      extra: names of extra parameter groups under `params` ("value", "mask", ...).
      per_token: per-token columns of the batch; those of marks ("phrase", "step", "item", "keyword") are int32 numbers
        of supervised tokens, 0 = none.
      optional_roles: segment roles that an example may lack.
      teacher: "none"; "top_k" (its K likeliest tokens, recorded or online); "vocab" (the teacher's network itself).
    """

    roles: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    reference: Literal["none", "logps", "vocab"] = "none"
    extra: tuple[str, ...] = ()
    per_token: tuple[str, ...] = ()
    optional_roles: tuple[str, ...] = ()
    teacher: Literal["none", "top_k", "vocab"] = "none"
