"""General preference model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.embeddings import EmbeddingMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.pairs import Terms
    from jaxpo.objectives.families.rewards import Rewards


@dataclass(frozen=True)
class GPM(EmbeddingMethod):
    """Preference model whose score of a pair is skew-symmetric, so that A > B > C > A can be learnt.

    A response has a vector, not a reward: what it is worth depends on what it is compared with.

    Attributes:
      size: 2k, an even number.
      unit_length: vectors are divided by their lengths, as in the paper.
      gate: the k blocks are weighted by a "softmax" of the state at the end of the prompt, or by k times that
        ("scaled"); "none" = all by 1.
      temperature: tau, of the score; where it is learnt, what it starts at.
      learn_temperature: train it, at 0.01 or above.
      margin: what the score has to exceed, of the form "logistic".
      form: "logistic", or "regression" of the score over tau to 10.
      ptx_coefficient: c; the loss is (1 - c) times itself and c times softplus(-ptx_beta log p(chosen)).
      ptx_beta: of the log-probability of the chosen response, summed over its tokens.
    """

    size: int = number(8, at_least=2)
    gate: Literal["softmax", "scaled", "none"] = "softmax"
    temperature: float = number(0.1, above=0)
    learn_temperature: bool = False
    margin: float = number(0.0)
    form: Literal["logistic", "regression"] = "logistic"
    ptx_coefficient: float = number(0.0, at_least=0, at_most=1)
    ptx_beta: float = number(1e-3, above=0)

    INFO = Info(
        name="gpm",
        family="reward model",
        paper="Beyond Bradley-Terry Models: A General Preference Model for Language Model Alignment",
        arxiv="2410.02197",
        certainty="paper and authors' code; of the two gates there the plain softmax is the default",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), extra=("embedding",))
    COMPARES_ANSWERS: ClassVar[bool] = True
    NO_REWARD = (
        "the model compares answers (gpm) and gives none a reward by itself; several answers to one prompt have mean "
        "scores against each other: `Network.mean_scores`, the evaluation of reward models, GPOPairs."
    )

    def __post_init__(self) -> None:
        asked = {"gate": self.gate != "none", "temperature": self.learn_temperature}
        extra = ("embedding", *(name for name, there in asked.items() if there))
        object.__setattr__(self, "NEEDS", replace(type(self).NEEDS, extra=extra))
        if self.ptx_coefficient:
            object.__setattr__(self, "METRICS", (*type(self).METRICS, "nll_loss"))

    def problems(self) -> list[str]:
        """Also a size that makes no blocks of two, and a margin that nothing reads."""
        found = super().problems()
        if self.size % 2:
            found.append(f"gpm: size is {self.size} but must be even: it is cut into blocks of two.")
        if self.form == "regression" and self.margin:
            found.append("gpm: margin is of the form logistic; regression has none. Set it to 0, or form to logistic.")
        return found

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """Also the gate's `[D, k]`, and the number that the temperature is learnt by."""
        from jaxpo.models.heads import embedding_table
        from jaxpo.models.spec import Param

        found = super().extra_tables(config)
        if self.gate != "none":
            found["gate"] = embedding_table(config, self.size // 2)
        if self.learn_temperature:
            start = math.log(math.expm1(self.temperature))

            def constant(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
                import jax.numpy as jnp

                return jnp.full(shape, start, dtype)

            found["temperature"] = {"theta": Param((1,), (None,), constant, decay=False)}
        return found

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """ "embedding" `[R, M, 2k]`, "gate" `[R, M, k]` and "temperature" `[R, M]`."""
        import jax.numpy as jnp

        from jaxpo.data.packing.batch import read_at
        from jaxpo.losses import gpm_gates, gpm_temperature
        from jaxpo.models.heads import linear_head

        found = super().read(params, hidden, ends, prompt_ends, per_token)
        if self.gate == "none":
            found["gate"] = jnp.ones((*ends.shape, self.size // 2), jnp.float32)
        else:
            logits = linear_head(params["gate"], read_at(hidden, prompt_ends))
            found["gate"] = gpm_gates(logits, scaled=self.gate == "scaled")
        tau = gpm_temperature(params["temperature"]["theta"][0]) if self.learn_temperature else self.temperature
        return found | {"temperature": jnp.full(ends.shape, tau, jnp.float32)}

    def also_read(self, scorer: Scorer, params: Any, hidden: Array, batch: Batch) -> dict[str, Array]:
        """ "logps", summed over each response's tokens, where they are trained."""
        if not self.ptx_coefficient:
            return {}
        from jaxpo.objectives.families.features import segment_sums

        return {"logps": segment_sums(scorer.logps(params["model"], batch, hidden), batch.masks["completion"], batch)}

    def rewards(self, features: Rewards) -> dict[str, Array]:
        """Mean scores within the pair, s / (2 tau) and -s / (2 tau): they differ by the log-odds."""
        half = 0.5 * self.log_odds(features)
        return {"chosen": half, "rejected": -half}

    def log_odds(self, x: Rewards) -> Array:
        """`s(chosen > rejected) / tau`, `[N]`."""
        import jax.numpy as jnp

        from jaxpo.losses import gpm_score

        score = gpm_score(*x.pair("embedding"), x.roles["chosen"]["gate"])
        return score / jnp.where(x.present, x.roles["chosen"]["temperature"], 1.0)

    def loss(self, x: Rewards) -> Terms:
        """`[N]`, 0 where there is no pair; with a weight, the likelihood."""
        import jax.numpy as jnp

        from jaxpo.losses import gpm, gpm_ptx

        chosen = x.roles["chosen"]
        tau = jnp.where(x.present, chosen["temperature"], 1.0)
        how: dict[str, Any] = {"temperature": tau, "margin": self.margin, "form": self.form, "where": x.present}
        loss = gpm(*x.pair("embedding"), chosen["gate"], **how)
        c = self.ptx_coefficient
        return loss if not c else (1 - c) * loss + c * gpm_ptx(chosen["logps"], beta=self.ptx_beta, where=x.present)

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """`nll_loss`, per chosen token, where the likelihood is trained."""
        if not self.ptx_coefficient:
            return {}
        import jax.numpy as jnp

        from jaxpo.losses import sft
        from jaxpo.objectives.base import Mean

        chosen = x.roles["chosen"]
        nll = sft(chosen["logps"], where=x.present)
        return {"nll_loss": Mean(jnp.sum(nll), jnp.sum(jnp.where(x.present, chosen.length, 0.0)))}
