"""Methods that train a reward model: what their heads read of the states of a response, and a loss on that.

No jax here at the top level, as in `jaxpo.objectives.methods.base`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.errors import ConfigError
from jaxpo.objectives.methods.base import ArrayMethod, Encode
from jaxpo.objectives.methods.options import Options

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Counts, Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.pairs import Terms
    from jaxpo.objectives.families.rewards import Reading, Rewards

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class RewardMethod(ArrayMethod):
    """A reward model: `loss` reads a `Rewards`; counts are "examples", "ROLEs" and "ROLE_tokens".

    Attributes:
      PER_TOKEN: names of what `read` gives per token; all else is per segment.
      UNMEASURED: names of the common metrics of reward models that this one's rows do not show.
      COMPARES_ANSWERS: what a response is worth depends on the others to its prompt; there is no `reward` of one.
      NO_REWARD: why there is no `reward` of one, and what to ask of the model instead; "" = there is.
    """

    PER_TOKEN: ClassVar[tuple[str, ...]] = ()
    UNMEASURED: ClassVar[tuple[str, ...]] = ()
    COMPARES_ANSWERS: ClassVar[bool] = False
    NO_REWARD: ClassVar[str] = ""

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """What the heads make of the final hidden states, by name; as it stands, the value head at each last token.

        Args:
          params: the model, the heads of `extra_tables`, and, as "output", the output matrix `[V, D]` of a family that
            predicts tokens.
          hidden: `[R, S, D]`; position s has read token s.
          ends, prompt_ends: int32 `[R, M]`, position of the last token of each segment and of its prompt, -1 = absent;
            see `jaxpo.data.packing.batch.read_at`.
          per_token: the batch's per-token columns.

        Returns:
          `[R, M, ...]` each, or `[R, S, ...]` where PER_TOKEN names it.
        """
        from jaxpo.data.packing.batch import read_at
        from jaxpo.models.heads import value

        return {"score": value(params["value"], read_at(hidden, ends))}

    def reward(self, reading: Reading) -> Array:
        """The one number of a response, `[N]` or `[N, K]`, that the common metrics are about.

        Raises:
          ConfigError: NO_REWARD.
        """
        if self.NO_REWARD:
            raise ConfigError(self.NO_REWARD)
        return reading["score"]

    def head_names(self) -> tuple[str, ...]:
        """Names of the numbers of `head_values`."""
        return ("reward",)

    def head_values(self, reading: Reading) -> Array:
        """All numbers that are known of a response, `[N, C]` or `[N, K, C]`."""
        return self.reward(reading)[..., None]

    def encoder(self, scorer: Scorer, options: Options) -> Encode:
        from jaxpo.objectives.families.rewards import gather

        def encode(params: Any, frozen: Any, batch: Batch, rng: Array | None) -> tuple[Rewards, dict[str, Any]]:
            hidden, aux = scorer.run(params["model"], batch, rng)
            found = self.read_states(scorer, params, scorer.pooled(hidden, batch, rng), batch)
            found |= self.also_read(scorer, params, hidden, batch)
            features = gather(found, batch, self.NEEDS, self.PER_TOKEN)
            return replace(features, columns=features.columns | self.of_examples(params, batch)), aux

        return encode

    def read_states(self, scorer: Scorer, params: Any, hidden: Array, batch: Batch) -> dict[str, Array]:
        """`read` of a packed batch."""
        from jaxpo.data.packing.batch import prompt_ends, segment_ends

        return self.read(scorer.with_output(params), hidden, segment_ends(batch), prompt_ends(batch), batch.per_token)

    def also_read(self, scorer: Scorer, params: Any, hidden: Array, batch: Batch) -> dict[str, Array]:
        """What training alone reads of the states, which no dropout has touched after the last layer."""
        return {}

    def of_examples(self, params: Any, batch: Batch) -> dict[str, Array]:
        """What parameters and data say of an example beside its responses, such as its user, as further columns."""
        return {}

    def counts(self, batch: Batch) -> dict[str, Array]:
        from jaxpo.objectives.families.rewards import reward_counts

        return reward_counts(batch, self.NEEDS)

    def reduce(self, features: Any, terms: Terms, counts: Counts) -> Array:
        """Sum of the terms over their denominators; an array's is the number of examples."""
        return super().reduce(features, terms if isinstance(terms, Mapping) else {"examples": terms}, counts)

    def common_metrics(self, features: Rewards) -> dict[str, Metric]:
        """TRL's metrics of a reward trainer, of both sides of pairs, or of the first role."""
        from jaxpo.objectives.families.rewards import pair_metrics, reward_metrics

        rewards = self.rewards(features)
        more = pair_metrics(features, *rewards.values()) if self.on_pairs else {}
        return more | reward_metrics(features, rewards)

    def rewards(self, features: Rewards) -> dict[str, Array]:
        """What the common metrics are about, by role: of pairs both sides, else the first role."""
        return {role: self.reward(features.roles[role]) for role in (SIDES if self.on_pairs else self.NEEDS.roles[:1])}

    @property
    def on_pairs(self) -> bool:
        """Whether an example is a chosen and a rejected response."""
        return set(SIDES) <= set(self.NEEDS.roles)

    def right(self, features: Rewards) -> tuple[Array, Array] | None:
        if not self.on_pairs:
            return None
        from jaxpo.objectives.families.rewards import decided

        chosen, rejected = (self.rewards(features)[role] for role in SIDES)
        return chosen > rejected, decided(features)
