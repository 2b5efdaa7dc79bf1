"""Reward models that give a response a vector.

No jax here at the top level, as in `jaxpo.objectives.methods.base`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpo.objectives.methods.base import number
from jaxpo.objectives.methods.rewards import RewardMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table


@dataclass(frozen=True)
class EmbeddingMethod(RewardMethod):
    """A vector of each response, "embedding" `[R, M, E]`, by a linear map of the state at its last token.

    What a method makes of it, `reward` and `loss` say; what further heads it needs, its own `extra_tables` and `read`
    add to those of this class. Its NEEDS name "embedding" in `extra`.

    Attributes:
      size: E, entries of the vector.
      unit_length: the vector is divided by its length.
    """

    size: int = number(64, at_least=1)
    unit_length: bool = True

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """The map `[D, E]`."""
        from jaxpo.models.heads import embedding_table

        return {"embedding": embedding_table(config, self.size)}

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """ "embedding", at each last token."""
        from jaxpo.data.packing.batch import read_at
        from jaxpo.models.heads import embedding

        return {"embedding": embedding(params["embedding"], read_at(hidden, ends), unit_length=self.unit_length)}
