"""MetaRM: Bradley-Terry at parameters that tell a shifted policy's answers apart better."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.segments import MOST_SAMPLES
from jaxpo.objectives.methods.base import Encode, Info, number
from jaxpo.objectives.methods.bradley_terry import BradleyTerry

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.rewards import Rewards
    from jaxpo.objectives.methods.options import Options


@dataclass(frozen=True)
class MetaRM(BradleyTerry):
    """Reward model on pairs that stays discriminative on samples of the policy it is used for.

    theta' = theta + rate grad J, J how far rewards of a prompt's samples lie apart; the gradient of the pairs' loss is
    taken at theta' and applied to theta. Rows have `samples`, answers of the present policy to their prompt, which
    `jaxpo data construct meta_rm` draws; a row may lack them. All parameters move, so the stage trains all of them.

    Attributes:
      rate: eta; 0 is plain Bradley-Terry.
      samples: k, read of every row at most.
      label_smoothing: as of bradley_terry, as are all that follow.
      center_rewards_coefficient: weight of the squared sum of the two rewards; None = off.
      temperature: of the difference of the rewards.
      margin: "shift", "weight" or "ignore".
      soft_labels: from a column `votes`.
      lm_coefficient: weight of the chosen responses' negative log-likelihood.
      yes_no: ids of two tokens, instead of a value head.
    """

    rate: float = number(0.01, at_least=0)
    samples: int = number(4, at_least=2, at_most=MOST_SAMPLES)

    INFO = Info(
        name="meta_rm",
        function="jaxpo.losses.reward_difference",
        family="reward model",
        paper="Secrets of RLHF in Large Language Models Part II: Reward Modeling",
        arxiv="2401.06080",
        certainty="the paper's text; rate and k are not given there",
    )
    NEEDS = Needs(
        roles=("chosen", "rejected"),
        extra=("value",),
        optional_roles=("sample_1", "sample_2", "sample_3", "sample_4"),
        whole_step=True,
    )
    MOVES_ALL: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = ("difference",)

    def __post_init__(self) -> None:
        super().__post_init__()
        roles = tuple(f"sample_{i}" for i in range(1, self.samples + 1)) if isinstance(self.samples, int) else ()
        object.__setattr__(self, "NEEDS", replace(self.NEEDS, optional_roles=roles[:MOST_SAMPLES]))

    def encoder(self, scorer: Scorer, options: Options) -> Encode:
        import jax
        import jax.numpy as jnp

        plain = super().encoder(scorer, options)

        def encode(params: Any, frozen: Any, batch: Batch, rng: Array | None) -> tuple[Rewards, dict[str, Any]]:
            # Held-out evaluation is of the model as it is.
            if rng is None or not self.rate:
                return plain(params, frozen, batch, rng)

            def apart(shifted: Any) -> Array:
                each, counted = self.apart(plain(shifted, frozen, batch, rng)[0])
                return jnp.sum(each) / jnp.maximum(jnp.sum(counted), 1)

            ascent = jax.lax.stop_gradient(jax.grad(apart)(params))
            moved = jax.tree.map(lambda p, g: p + self.rate * g, params, ascent)
            return plain(moved, frozen, batch, rng)

        return encode

    def apart(self, x: Rewards) -> tuple[Array, Array]:
        """J of each example's samples, `[N]`, 0 where there are fewer than two; and where there are more."""
        import jax.numpy as jnp

        from jaxpo.losses import reward_difference

        read = [x.roles[role] for role in self.NEEDS.optional_roles if role in x.roles]
        if not read:
            return jnp.zeros(x.present.shape), jnp.zeros(x.present.shape, bool)
        rewards, present = (
            jnp.stack(values, axis=1) for values in zip(*((r["score"], r.present) for r in read), strict=True)
        )
        return reward_difference(rewards, present), jnp.sum(present, axis=1) > 1

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """`difference`: J over prompts with samples; in training at the parameters that the pairs see."""
        from jaxpo.objectives.base import masked_mean

        return super().metrics(x) | {"difference": masked_mean(*self.apart(x))}
