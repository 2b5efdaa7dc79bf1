"""Reward model on embeddings of responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.embeddings import EmbeddingMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.families.rewards import Rewards


@dataclass(frozen=True)
class EmbeddingReward(EmbeddingMethod):
    """Bradley-Terry reward model whose reward is the product of a response's vector with a query.

        r(x, y) = <q, e(x, y)>,    e = W^T h_last / |W^T h_last|

    Attributes:
      size: E, entries of the vectors.
      unit_length: e is divided by its length, so that no reward is larger than |q|.
      query: q is one "vector" for all prompts, or a linear map of the state at the end of the "prompt".
      temperature: of the difference of the rewards.
      center_rewards_coefficient: weight of the squared sum of the two rewards; 0 = off.
    """

    query: Literal["vector", "prompt"] = "vector"
    temperature: float = number(1.0, above=0)
    center_rewards_coefficient: float = number(0.0, at_least=0)

    INFO = Info(
        name="embedding_reward",
        family="reward model",
        paper="Rank analysis of incomplete block designs (1952)",
        arxiv="",
        certainty="the loss is bradley_terry's; the head is plain: no paper's",
        function="jaxpo.losses.bradley_terry",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), extra=("embedding", "query"))

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """Also the query's: `[E, 1]`, zero, so that all rewards begin equal; or `[D, E]`."""
        from jaxpo.models.heads import embedding_table
        from jaxpo.models.spec import Param, zeros

        one = {"weight": Param((self.size, 1), (None, None), zeros, decay=False)}
        query = one if self.query == "vector" else embedding_table(config, self.size)
        return {**super().extra_tables(config), "query": query}

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """ "embedding" `[R, M, E]` and "score" `[R, M]`."""
        import jax.numpy as jnp

        from jaxpo.data.packing.batch import read_at
        from jaxpo.models.heads import linear_head

        found = super().read(params, hidden, ends, prompt_ends, per_token)
        if self.query == "vector":
            return found | {"score": linear_head(params["query"], found["embedding"])[..., 0]}
        asked = linear_head(params["query"], read_at(hidden, prompt_ends))
        return found | {"score": jnp.sum(asked * found["embedding"], axis=-1)}

    def loss(self, x: Rewards) -> Array:
        """`[N]`, 0 where there is no pair."""
        from jaxpo.losses import bradley_terry

        return bradley_terry(
            *x.pair(),
            x.columns.get("margin"),
            temperature=self.temperature,
            center_rewards_coefficient=self.center_rewards_coefficient,
            where=x.present,
        )
