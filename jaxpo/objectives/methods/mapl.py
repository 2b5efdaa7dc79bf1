"""Multi-level aware preference learning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.pairs import Pair

ENDS = ("chosen", "rejected")
INTER = tuple(f"inter_{end}" for end in ENDS)
INTRA = tuple(f"intra_{end}_{prompt}" for end in ENDS for prompt in ("plus", "minus"))
MEASURED = ("intra/accuracies", "inter/accuracies")


def gathered(
    chosen: Array,
    rejected: Array,
    others: Mapping[str, tuple[Array, Array]],
    present: Array,
    columns: Mapping[str, Array],
) -> tuple[tuple[Array, ...], dict[str, Array]]:
    """The arguments of `jaxpo.losses.mapl` and its masks.

    Args:
      chosen, rejected: `[N]` scores of the pair.
      others: scores `[N]` and presence `[N]` of the roles beyond the pair; the data set may lack any.
      present: `[N]` False where there is no pair.
      columns: per-example columns; `inter_sign` among them where there are second prompts.
    """
    import jax.numpy as jnp

    nothing = jnp.zeros_like(chosen)
    lacking = (nothing, jnp.zeros_like(present))
    found = {role: others.get(role, lacking) for role in (*INTER, *INTRA)}
    here = {role: present & there for role, (_, there) in found.items()}
    plus, minus = ([f"intra_{end}_{prompt}" for end in ENDS] for prompt in ("plus", "minus"))
    scores = (
        chosen,
        rejected,
        *(jnp.stack([found[role][0] for role in side], axis=-1) for side in (plus, minus)),
        *(found[role][0] for role in INTER),
        columns.get("inter_sign", jnp.ones_like(chosen)),
    )
    masks = {
        "where_intra": jnp.stack([here[a] & here[b] for a, b in zip(plus, minus, strict=True)], axis=-1),
        "where_inter": here["inter_chosen"] & here["inter_rejected"],
    }
    return scores, masks


def accuracies(scores: tuple[Array, ...], masks: Mapping[str, Array]) -> dict[str, Metric]:
    """Share of responses scored higher under the prompt they fit, and of gaps that moved as their sign says."""
    import jax.numpy as jnp

    from jaxpo.objectives.base import masked_mean

    q_w, q_l, plus, minus, i_w, i_l, sign = scores
    moved = sign * ((i_w - i_l) - (q_w - q_l)) > 0
    return {
        "intra/accuracies": masked_mean((plus > minus).astype(jnp.float32), masks["where_intra"]),
        "inter/accuracies": masked_mean(moved.astype(jnp.float32), masks["where_inter"]),
    }


@dataclass(frozen=True)
class MAPL(PairMethod):
    """DPO, plus which of two prompts a response fits and how clear-cut a pair is under added instructions.

    Rows may carry `inter_prompt, inter_sign` and `intra`; `jaxpo data construct mapl` makes them. Across prompts the
    log-partition terms of the implicit reward do not cancel, so the intra term is an approximation here; `mapl_reward`
    trains a reward model, where it is exact.

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
        family="pairs",
        paper="Multi-Level Aware Preference Learning: Enhancing RLHF for Complex Multi-Instruction Tasks",
        arxiv="2505.12845",
        certainty="intra term from a review and a sibling paper; inter term reconstructed, weights unknown",
    )
    NEEDS = replace(PAIRS_AND_REFERENCE, optional_roles=(*INTER, *INTRA))
    METRICS = MEASURED

    def gathered(self, pair: Pair) -> tuple[tuple[Array, ...], dict[str, Array]]:
        """The arguments of `jaxpo.losses.mapl`, of scores `beta (P - R)`, and its masks."""
        others = {role: (self.beta * side.log_ratio, side.length > 0) for role, side in pair.others.items()}
        return gathered(self.reward(pair.chosen), self.reward(pair.rejected), others, pair.present, pair.columns)

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import mapl

        scores, masks = self.gathered(pair)
        settings: dict[str, Any] = masks | {"intra_weight": self.intra_weight, "inter_weight": self.inter_weight}
        return mapl(*scores, where=pair.present, **settings)

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """Both accuracies, of the implicit rewards."""
        return accuracies(*self.gathered(pair))
