"""General preference optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class GPO(PairMethod):
    """Regression of log-ratios on mean scores of a preference model: of the best and the worst of a list of answers.

    One stage is one round: the reference is the policy that wrote the answers, which the stage starts from.
    `jaxpo.construct.gpo.GPOPairs` draws, scores and picks them; `rewards` holds one name, the mean scores of the two.

    Attributes:
      beta: log-ratios are driven to score / beta.
    """

    beta: float = number(1e-3, above=0)

    INFO = Info(
        name="gpo",
        family="pairs",
        paper="Beyond Bradley-Terry Models: A General Preference Model for Language Model Alignment",
        arxiv="2410.02197",
        certainty="paper, Sec. 5, with log Z = 0; the mean over the two kept responses is the authors' code's",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), columns=("rewards",), networks=(("reference", "logps"),))

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """One score per response."""
        import numpy as np

        if np.size(columns.get("rewards", ())) == 0 or np.shape(columns["rewards"])[1] == 1:
            return []
        found = np.shape(columns["rewards"])[1]
        return [f"gpo: column 'rewards' holds {found} names, but a response has one mean score; keep one of them."]

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import gpo

        scores = pair.columns["rewards"][:, 0]
        sides = ((pair.chosen, scores[:, 0]), (pair.rejected, scores[:, 1]))
        chosen, rejected = (
            gpo(side.logps, side.ref_logps, score, beta=self.beta, where=pair.present) for side, score in sides
        )
        return 0.5 * (chosen + rejected)
