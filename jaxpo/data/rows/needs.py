"""What a method asks of the data and of the run. Imports no jax: the catalogue and the configuration checks read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["logps", "vocab", "top_k", "values", "network", "denoiser"]
"""What is read of a network beside the trained one; of a network that is not read at all it is "none"."""
RECORDABLE: tuple[Kind, ...] = ("logps", "top_k", "values")
"""Kinds that are numbers per token, so that they can be computed once and stored."""
TAKEN = ("base", "config", "data")
REFERENCE, TEACHER = "reference", "teacher"
"""The names that a stage's own fields (`precompute_ref_log_probs`, `teacher`, ...) are about."""


@dataclass(frozen=True)
class Needs:
    """What an objective requires of the data and of the run; checked before any model is built.

    Attributes:
      roles: segment roles every example must have ("chosen", "rejected"; "candidate"; "completion"; "text").
      columns: per-example columns ("margin", "annotator", "scores", "label", ...).
      networks: (name, kind) of every network that is read but not trained, as `frozen[name]` or as recorded columns.
        "logps": its log-prob of every token. "top_k": its K likeliest tokens. "values": its value head's output at
        every token; `frozen[name]` is then {"model": ..., "value": ...}. "vocab": a term runs over the vocabulary of
        both models. "network": the method runs it inside `encode`. "denoiser": likewise, of models that denoise
        images, without heads. The last three cannot be recorded.
      extra: names of extra parameter groups under `params` ("value", "mask", ...).
      per_token: per-token columns of the batch; those of marks ("phrase", "step", "item", "keyword") are int32 numbers
        of supervised tokens, 0 = none.
      optional_roles: segment roles that an example may lack.
      new_names: those of the columns of names ("user") in which held-out rows may have names that no training row has.
      whole_step: `encode` must see all examples of a step at once, so there is one microbatch (an in-batch bank, a
        statistic of parameters); coupled losses over features need not ask for it.
      names: (column of names, names in the order of their numbers) where the method has parameters for each; a training
        row of another name is refused, a held-out one left out.
      classes: of words, in the order of their numbers; a row with another is refused.
    """

    roles: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    networks: tuple[tuple[str, Kind], ...] = ()
    extra: tuple[str, ...] = ()
    per_token: tuple[str, ...] = ()
    optional_roles: tuple[str, ...] = ()
    new_names: tuple[str, ...] = ()
    whole_step: bool = False
    names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.networks]
        if len(names) > len(set(names)):
            raise ValueError(f"two networks of one name: {', '.join(names)}")
        if taken := [name for name in names if name in TAKEN]:
            raise ValueError(f"a network cannot be called {taken[0]!r}: a stage keeps something else under that name")

    def kind(self, network: str) -> Kind | Literal["none"]:
        """What is read of a network."""
        return dict(self.networks).get(network, "none")


def recorded_column(network: str, kind: str) -> str:
    """Name in `Batch.per_token` of the numbers that were recorded of a network; of "top_k" the start of three names."""
    if kind == "logps" and network == REFERENCE:
        return "ref_logps"
    return network if kind == "top_k" else f"{network}_{kind}"
