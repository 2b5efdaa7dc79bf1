"""Reward models that give a response one score: by a value head, or by the odds of two tokens after it.

No jax here at the top level, as in `jaxpo.objectives.methods.base`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jaxpo.objectives.methods.base import number
from jaxpo.objectives.methods.rewards import RewardMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.pairs import Terms
    from jaxpo.objectives.families.rewards import Rewards


@dataclass(frozen=True)
class ScoreMethod(RewardMethod):
    """One score per response.

    Attributes:
      yes_no: ids of two tokens, whose log-odds after the response are its reward, by the model's own output matrix;
        None = a value head.
    """

    yes_no: tuple[int, int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.yes_no is not None:
            object.__setattr__(self, "NEEDS", replace(type(self).NEEDS, extra=()))

    def problems(self) -> list[str]:
        """Also two tokens that are one, or none."""
        found = super().problems()
        pair = self.yes_no
        if pair is not None and (len(set(pair)) != 2 or not all(type(i) is int and i >= 0 for i in pair)):
            found.append(f"{self.INFO.name}: yes_no is {pair!r} but must be the ids of two different tokens, or None.")
        return found

    def read_states(self, scorer: Scorer, params: Any, hidden: Array, batch: Batch) -> dict[str, Array]:
        if self.yes_no is not None:
            from jaxpo.errors import ConfigError
            from jaxpo.models.family import limits

            size = limits(scorer.config).vocabulary
            if max(self.yes_no) >= size:
                raise ConfigError(f"{self.INFO.name}: yes_no is {self.yes_no!r}, but the model has {size} tokens.")
        return super().read_states(scorer, params, hidden, batch)

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """ "score", at each last token."""
        if self.yes_no is None:
            return super().read(params, hidden, ends, prompt_ends, per_token)
        from jaxpo.data.packing.batch import read_at
        from jaxpo.models.heads import log_odds

        return {"score": log_odds(params["output"], read_at(hidden, ends), *self.yes_no)}


@dataclass(frozen=True)
class PairScoreMethod(ScoreMethod):
    """One score of each response of a pair; the likelihood of the chosen ones may be trained beside it.

    Attributes:
      lm_coefficient: weight of the negative log-likelihood per token of the chosen responses.
    """

    lm_coefficient: float = number(0.0, at_least=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lm_coefficient:
            object.__setattr__(self, "METRICS", (*type(self).METRICS, "nll_loss"))

    def also_read(self, scorer: Scorer, params: Any, hidden: Array, batch: Batch) -> dict[str, Array]:
        """ "logps", summed over each response's tokens, where they are trained."""
        if not self.lm_coefficient:
            return {}
        from jaxpo.objectives.families.features import segment_sums

        logps = scorer.logps(params["model"], batch, hidden)
        return {"logps": segment_sums(logps, batch.masks["completion"], batch)}

    def with_likelihood(self, x: Rewards, loss: Array) -> Terms:
        """The loss per pair, and the weighted one per chosen token."""
        if not self.lm_coefficient:
            return {"examples": loss}
        from jaxpo.losses import sft

        nll = sft(x.roles["chosen"]["logps"], where=x.present)
        return {"examples": loss, "chosen_tokens": self.lm_coefficient * nll}

    def centred(self, x: Rewards, loss: Array, coefficient: float) -> Terms:
        """The loss per pair with `c (r_w + r_l)^2`, and the likelihood."""
        from jaxpo.losses import centring

        return self.with_likelihood(x, loss + coefficient * centring(*x.pair(), where=x.present))

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """`nll_loss`: negative log-likelihood per chosen token, without its weight."""
        if not self.lm_coefficient:
            return {}
        import jax.numpy as jnp

        from jaxpo.losses import sft
        from jaxpo.objectives.base import Mean

        chosen = x.roles["chosen"]
        nll = sft(chosen["logps"], where=x.present)
        return {"nll_loss": Mean(jnp.sum(nll), jnp.sum(jnp.where(x.present, chosen.length, 0.0)))}
