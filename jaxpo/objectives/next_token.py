"""Plain next-token prediction as a method: what a stage minimises that names none. Importing it loads no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, Method
from jaxpo.objectives.methods.options import Options

if TYPE_CHECKING:
    from jaxpo.objectives.base import Objective
    from jaxpo.objectives.encode import Scorer


@dataclass(frozen=True)
class NextToken(Method):
    """Negative log-likelihood per supervised token of completions."""

    INFO = Info(
        name="next_token",
        function="jaxpo.losses.vocab.log_prob",
        family="sft",
        paper="maximum likelihood",
        arxiv="",
        certainty="textbook",
    )
    NEEDS = Needs(roles=("completion",))

    def objective(self, scorer: Scorer, options: Options) -> Objective:
        from jaxpo.objectives.families.tokens import next_token

        return next_token(scorer, roles=self.NEEDS.roles)


@dataclass(frozen=True)
class NextTokenOfDocuments(NextToken):
    """Negative log-likelihood per token of documents."""

    NEEDS = Needs(roles=("text",))
