"""Bradley-Terry with a contrastive term on what the reward head reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Encode, Info, number
from jaxpo.objectives.methods.bradley_terry import BradleyTerry

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.pairs import Terms
    from jaxpo.objectives.families.rewards import Rewards
    from jaxpo.objectives.methods.options import Options

VIEW = 101
FIRST, SECOND = "contrast_first", "contrast_second"
TEMPERATURES = {"simcse": 0.05, "swav": 0.1}


@dataclass(frozen=True)
class SecretsRM(BradleyTerry):
    """Reward model on pairs whose states are also told apart by two dropout views of them.

    The stage needs dropout (`--stage.pooled-dropout 0.1`); the network runs twice in a step. A column `margin` and the
    `votes` of soft labels are read as by bradley_terry.

    Attributes:
      contrastive: "simcse" finds an item's other view among the step's; "swav" its balanced prototype.
      inputs: "pairs" contrasts the two responses' states, "difference" f_c - f_r and f_r - f_c.
      contrastive_weight: of the term, mean over items.
      contrastive_temperature: None = 0.05 of simcse, 0.1 of swav.
      prototypes: of swav.
      sinkhorn_epsilon: of swav's assignment; smaller is harder.
      sinkhorn_iterations: of swav's assignment.
      label_smoothing: as of bradley_terry, as are all that follow.
      center_rewards_coefficient: weight of the squared sum of the two rewards; None = off.
      temperature: of the difference of the rewards.
      margin: "shift", "weight" or "ignore".
      soft_labels: from a column `votes`.
      lm_coefficient: weight of the chosen responses' negative log-likelihood.
      yes_no: ids of two tokens, instead of a value head.
    """

    contrastive: Literal["simcse", "swav"] = "simcse"
    inputs: Literal["pairs", "difference"] = "pairs"
    contrastive_weight: float = number(1.0, at_least=0)
    contrastive_temperature: float | None = number(None, above=0)
    prototypes: int = number(64, at_least=2)
    sinkhorn_epsilon: float = number(0.05, above=0)
    sinkhorn_iterations: int = number(3, at_least=1)

    INFO = Info(
        name="secrets_rm",
        function="jaxpo.losses.simcse",
        family="reward model",
        paper="Secrets of RLHF in Large Language Models Part II: Reward Modeling",
        arxiv="2401.06080",
        certainty="the paper's text; temperature, weight and number of prototypes are not given there",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), extra=("value",))
    COUPLED = True
    TWO_VIEWS: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = ("contrastive_loss",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrastive == "swav":
            object.__setattr__(self, "NEEDS", replace(self.NEEDS, extra=(*self.NEEDS.extra, "prototypes")))

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        from jaxpo.models.heads import EXTRA_TABLES, linear_table

        own = {"prototypes": linear_table(config, self.prototypes, std=1.0)}
        return {name: own[name] if name in own else EXTRA_TABLES[name](config) for name in self.NEEDS.extra}

    def encoder(self, scorer: Scorer, options: Options) -> Encode:
        import jax
        import jax.numpy as jnp

        from jaxpo.data.packing.batch import read_at, segment_ends
        from jaxpo.objectives.families.rewards import gather

        def encode(params: Any, frozen: Any, batch: Batch, rng: Array | None) -> tuple[Rewards, dict[str, Any]]:
            keys = (rng, None if rng is None else jax.random.fold_in(rng, VIEW))
            (hidden, aux), (other, _) = (scorer.run(params["model"], batch, key) for key in keys)
            views = [scorer.pooled(x, batch, key) for x, key in zip((hidden, other), keys, strict=True)]
            found = self.read_states(scorer, params, views[0], batch)
            found |= self.also_read(scorer, params, hidden, batch)
            found |= dict(zip((FIRST, SECOND), (read_at(x, segment_ends(batch)) for x in views), strict=True))
            x = gather(found, batch, self.NEEDS, self.PER_TOKEN)
            items = {name: self._items(params, *x.pair(name)).astype(jnp.float32) for name in (FIRST, SECOND)}
            roles = {
                role: r.replace(values={k: v for k, v in r.values.items() if k not in items})  # type: ignore[attr-defined]
                for role, r in x.roles.items()
            }
            return x.replace(roles=roles, columns=x.columns | items), aux  # type: ignore[attr-defined]

        return encode

    def _items(self, params: Any, chosen: Array, rejected: Array) -> Array:
        """What is contrasted, `[N, 2, H]`, or its similarities with the prototypes, `[N, 2, K]`."""
        import jax.numpy as jnp

        from jaxpo.losses import prototype_scores

        both = (chosen, rejected) if self.inputs == "pairs" else (chosen - rejected, rejected - chosen)
        items = jnp.stack(both, axis=1)
        return items if self.contrastive == "simcse" else prototype_scores(items, params["prototypes"]["weight"])

    def contrast(self, x: Rewards) -> Array:
        """The contrastive term of each pair, mean over its two items, `[N]`."""
        import jax.numpy as jnp

        from jaxpo.losses import simcse, swav

        first, second = (x.columns[name].reshape(-1, x.columns[name].shape[-1]) for name in (FIRST, SECOND))
        tau = self.contrastive_temperature or TEMPERATURES[self.contrastive]
        here = jnp.repeat(x.present, 2)
        if self.contrastive == "simcse":
            found = simcse(first, second, temperature=tau, where=here)
        else:
            how = {"epsilon": self.sinkhorn_epsilon, "iterations": self.sinkhorn_iterations}
            found = swav(first, second, temperature=tau, where=here, **how)  # type: ignore[arg-type]
        return jnp.mean(found.reshape(-1, 2), axis=1)

    def loss(self, x: Rewards) -> Terms:
        """The pairs' own loss and the weighted contrastive term."""
        terms = super().loss(x)
        assert isinstance(terms, dict)
        return terms | {"examples": terms["examples"] + self.contrastive_weight * self.contrast(x)}

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """`contrastive_loss`, without its weight."""
        from jaxpo.objectives.base import masked_mean

        return super().metrics(x) | {"contrastive_loss": masked_mean(self.contrast(x), x.present)}
