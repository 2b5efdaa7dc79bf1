"""The LFM2 report's family of length-normalised objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class LengthNormalized(PairMethod):
    """Relative plus absolute term of the two rewards per token; the whole family by its parts.

    Attributes:
      beta: scale of the reward per token; 5 acts like 5/n on responses of n tokens.
      relative: shape of the relative term.
      margin: taken off the difference of rewards; with `squared` 0.5, and omega 1 / beta^2, it is IPO.
      omega: weight of the relative term.
      absolute: shape of the absolute term.
      lam: weight of the absolute term.
    """

    beta: float = number(5.0, above=0)
    relative: Literal["logistic", "hinge", "squared", "none"] = "logistic"
    margin: float = number(0.0)
    omega: float = number(1.0, at_least=0)
    absolute: Literal["none", "apo_zero", "apo_down"] = "none"
    lam: float = number(1.0, at_least=0)

    INFO = Info(
        name="length_normalized",
        family="pairs",
        paper="LFM2 Technical Report",
        arxiv="2511.23404",
        certainty="report's symbols; which omega, lambda and delta each model used is not published",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def problems(self) -> list[str]:
        """A loss needs a term."""
        found = super().problems()
        if self.relative == "none" and self.absolute == "none":
            found.append("length_normalized: relative and absolute are both none, which leaves no loss; choose one.")
        return found

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import length_normalized as family
        from jaxpo.losses.length_normalized import apo_down_term, apo_zero_term, hinged, logistic, squared

        return family(
            *pair.logps,
            *pair.lengths,
            beta=self.beta,
            relative={"logistic": logistic, "hinge": hinged, "squared": squared, "none": None}[self.relative],
            margin=self.margin,
            omega=self.omega,
            absolute={"apo_zero": apo_zero_term, "apo_down": apo_down_term, "none": None}[self.absolute],
            lam=self.lam,
            where=pair.present,
        )


@dataclass(frozen=True)
class APOZeroNorm(PairMethod):
    """APO-zero on rewards per token, the second member that the report names.

    Attributes:
      beta: scale of the reward per token; 5 acts like 5/n on responses of n tokens.
    """

    beta: float = number(5.0, above=0)

    INFO = Info(
        name="apo_zero_norm",
        family="pairs",
        paper="LFM2 Technical Report",
        arxiv="2511.23404",
        certainty="the report names the member; its delta follows APO-zero, less the constant 1",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import apo_zero_norm

        return apo_zero_norm(*pair.logps, *pair.lengths, beta=self.beta, where=pair.present)


@dataclass(frozen=True)
class APODownNorm(PairMethod):
    """APO-down on rewards per token.

    Attributes:
      beta: scale of the reward per token; 5 acts like 5/n on responses of n tokens.
    """

    beta: float = number(5.0, above=0)

    INFO = Info(
        name="apo_down_norm",
        family="pairs",
        paper="LFM2 Technical Report",
        arxiv="2511.23404",
        certainty="completes the report's family with APO-down, less the constant 1; not named there",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import apo_down_norm

        return apo_down_norm(*pair.logps, *pair.lengths, beta=self.beta, where=pair.present)


@dataclass(frozen=True)
class HingePerToken(PairMethod):
    """Hinge loss on rewards per token.

    Attributes:
      beta: scale of the reward per token; 5 acts like 5/n on responses of n tokens.
    """

    beta: float = number(5.0, above=0)

    INFO = Info(
        name="hinge_per_token",
        family="pairs",
        paper="LFM2 Technical Report",
        arxiv="2511.23404",
        certainty="completes the report's family with a hinge; not named there",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import hinge_per_token

        return hinge_per_token(*pair.logps, *pair.lengths, beta=self.beta, where=pair.present)
