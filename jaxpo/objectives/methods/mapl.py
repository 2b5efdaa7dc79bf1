"""Multi-level aware preference learning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, PairMethod, number

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.preference import Pair

ENDS = ("chosen", "rejected")
INTER = tuple(f"inter_{end}" for end in ENDS)
INTRA = tuple(f"intra_{end}_{prompt}" for end in ENDS for prompt in ("plus", "minus"))


@dataclass(frozen=True)
class MAPL(PairMethod):
    """DPO, plus which of two prompts a response fits and how clear-cut a pair is under added instructions.

    Rows may carry `inter_prompt, inter_sign` and `intra`; `jaxpo data construct mapl` makes them. Across prompts the
    log-partition terms of the implicit reward do not cancel, so the intra term is an approximation here; for a reward
    model `jaxpo.losses.mapl` takes its rewards.

    Attributes:
      beta: strength of the tie to the reference.
      intra_weight: of the comparison of two prompts for one response.
      inter_weight: of the comparison of two preference gaps.
    """

    beta: float = number(0.1, above=0)
    intra_weight: float = number(1.0, at_least=0)
    inter_weight: float = number(1.0, at_least=0)

    INFO = Info(
        name="mapl",
        function="jaxpo.losses.mapl",
        family="pairs",
        paper="Multi-Level Aware Preference Learning: Enhancing RLHF for Complex Multi-Instruction Tasks",
        arxiv="2505.12845",
        certainty="intra term from a review and a sibling paper; inter term reconstructed, weights unknown",
    )
    NEEDS = replace(PAIRS_AND_REFERENCE, optional_roles=(*INTER, *INTRA))
    METRICS = ("intra/accuracies", "inter/accuracies")

    def scores(self, pair: Pair) -> dict[str, tuple[Array, Array]]:
        """`beta (P - R)` and presence of every role beyond the pair; absent where the data set has none."""
        import jax.numpy as jnp

        nothing = jnp.zeros_like(pair.chosen.logps)
        found = {}
        for role in (*INTER, *INTRA):
            side = pair.others.get(role)
            score, length = (nothing, nothing) if side is None else (self.beta * side.log_ratio, side.length)
            found[role] = (score, pair.present & (length > 0))
        return found

    def gathered(self, pair: Pair) -> tuple[tuple[Array, ...], dict[str, Array]]:
        """The arguments of `jaxpo.losses.mapl` and its masks."""
        import jax.numpy as jnp

        found = self.scores(pair)
        plus, minus = ([found[f"intra_{end}_{prompt}"] for end in ENDS] for prompt in ("plus", "minus"))
        scores = (
            self.reward(pair.chosen),
            self.reward(pair.rejected),
            *(jnp.stack([score for score, _ in side], axis=-1) for side in (plus, minus)),
            *(found[role][0] for role in INTER),
            pair.columns.get("inter_sign", jnp.ones_like(pair.chosen.logps)),
        )
        masks = {
            "where_intra": jnp.stack([a & b for (_, a), (_, b) in zip(plus, minus, strict=True)], axis=-1),
            "where_inter": found["inter_chosen"][1] & found["inter_rejected"][1],
        }
        return scores, masks

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import mapl

        scores, masks = self.gathered(pair)
        settings: dict[str, Any] = masks | {"intra_weight": self.intra_weight, "inter_weight": self.inter_weight}
        return mapl(*scores, where=pair.present, **settings)

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """Share of responses scored higher under the prompt they fit, and of gaps that moved as their sign says."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        (q_w, q_l, plus, minus, i_w, i_l, sign), masks = self.gathered(pair)
        moved = sign * ((i_w - i_l) - (q_w - q_l)) > 0
        return {
            "intra/accuracies": masked_mean((plus > minus).astype(jnp.float32), masks["where_intra"]),
            "inter/accuracies": masked_mean(moved.astype(jnp.float32), masks["where_inter"]),
        }
