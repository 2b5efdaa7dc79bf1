"""Kahneman-Tversky optimisation, and APO-zero on single responses: TRL's two losses on unpaired rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import UnpairedMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.unpaired import Unpaired


def one_class_only(name: str, columns: Mapping[str, Any]) -> list[str]:
    """The problem of a data set whose labels are all the same; empty if there is none."""
    import numpy as np

    label = np.asarray(columns.get("label", ()))
    if label.size == 0 or np.any(label > 0) != np.all(label > 0):
        return []
    have, lack = ("good", "false") if np.all(label > 0) else ("bad", "true")
    return [
        f"{name}: all {label.size} rows are labelled {have}, but the loss weighs good responses against bad ones; add "
        f"rows with label {lack}, or fine-tune on the good ones with the sft stage."
    ]


@dataclass(frozen=True)
class KTO(UnpairedMethod):
    """Gains and losses of good and bad responses around a reference point, saturating on both sides.

    The reference point is the step's mean log-ratio of mismatched responses, which the loader pairs with each prompt.
    With many more rows of one label, weigh them so that desirable_weight * good rows / (undesirable_weight * bad rows)
    lies within about [1, 4/3].

    Attributes:
      beta: sharpness around the reference point.
      desirable_weight: of rows labelled good.
      undesirable_weight: of rows labelled bad.
    """

    beta: float = number(0.1, above=0)
    desirable_weight: float = number(1.0, at_least=0)
    undesirable_weight: float = number(1.0, at_least=0)

    INFO = Info(
        name="kto",
        family="unpaired",
        paper="KTO: Model Alignment as Prospect Theoretic Optimization",
        arxiv="2402.01306",
        certainty="agrees with TRL given the reference point, which TRL takes from one device's micro-batch, here from "
        "the whole step; range of the weights from memory",
    )
    NEEDS = Needs(roles=("completion", "kl"), columns=("label",), networks=(("reference", "logps"),))
    COUPLED = True
    METRICS = ("kl",)

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        return one_class_only(self.INFO.name, columns)

    def reference_point(self, x: Unpaired) -> Array:
        """z of the step."""
        from jaxpo.losses import kto_kl

        return kto_kl(x.kl.logps, x.kl.ref_logps, where=x.present & (x.kl.length > 0))

    def loss(self, x: Unpaired) -> dict[str, Array]:
        from jaxpo.losses import kto

        terms = kto(
            x.completion.logps,
            x.completion.ref_logps,
            x.good,
            self.reference_point(x),
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
            where=x.present,
        )
        return {"rows": terms}

    def metrics(self, x: Unpaired) -> dict[str, Metric]:
        """`kl`: the reference point."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import Mean

        seen = jnp.any(x.present).astype(jnp.float32)
        return {"kl": Mean(seen * self.reference_point(x), seen)}


@dataclass(frozen=True)
class APOZeroUnpaired(UnpairedMethod):
    """Raises good responses and lowers bad ones against the reference, each by itself.

    Attributes:
      beta: strength of the tie to the reference.
      desirable_weight: of rows labelled good.
      undesirable_weight: of rows labelled bad.
    """

    beta: float = number(0.1, above=0)
    desirable_weight: float = number(1.0, at_least=0)
    undesirable_weight: float = number(1.0, at_least=0)

    INFO = Info(
        name="apo_zero_unpaired",
        family="unpaired",
        paper="Anchored Preference Optimization and Contrastive Revisions: Addressing Underspecification in Alignment",
        arxiv="2408.06266",
        certainty="agrees with TRL, which took the paper's paired loss apart",
    )
    NEEDS = Needs(roles=("completion",), columns=("label",), networks=(("reference", "logps"),))

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        return one_class_only(self.INFO.name, columns)

    def loss(self, x: Unpaired) -> dict[str, Array]:
        from jaxpo.losses import apo_zero_unpaired

        terms = apo_zero_unpaired(
            x.completion.logps,
            x.completion.ref_logps,
            x.good,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
            where=x.present,
        )
        return {"rows": terms}
