"""Binary classifier optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import UnpairedMethod
from jaxpo.objectives.methods.kto import one_class_only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Counts, Out
    from jaxpo.objectives.families.unpaired import Unpaired


@dataclass(frozen=True)
class BCO(UnpairedMethod):
    """Binary classifier of good and bad responses, its logit the implicit reward minus a running shift.

    A column `weight` multiplies the loss of rows labelled bad: `jaxpo data construct bco` writes weights that match
    their prompts to those of the good rows (underlying-distribution matching). The paper balances the classes by
    repeating good rows in the data; reduction "classes" does it without repetition.

    Attributes:
      beta: strength of the tie to the reference.
      shift: "balanced" is halfway between moving averages of the two classes' mean rewards (paper); "cumulative" the
        mean of all rewards ever seen (TRL), in which the larger class counts more.
      momentum: of the moving averages of the balanced shift.
      reduction: "rows" averages over all rows, so that class sizes act as weights (the authors' implementation, on data
        balanced by over-sampling); "classes" is the paper's formula, the sum of the two class means.
    """

    beta: float = number(0.1, above=0)
    shift: Literal["balanced", "cumulative"] = "balanced"
    momentum: float = number(0.9, at_least=0, at_most=1)
    reduction: Literal["rows", "classes"] = "rows"

    INFO = Info(
        name="bco",
        family="unpaired",
        paper="Binary Classifier Optimization for Large Language Model Alignment",
        arxiv="2404.04656",
        certainty="paper: class-balanced moving average, momentum unpublished; TRL keeps one cumulative mean instead",
    )
    NEEDS = Needs(roles=("completion",), columns=("label",), networks=(("reference", "logps"),))
    COUPLED = True
    METRICS = ("delta",)

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        return one_class_only(self.INFO.name, columns)

    def init_carry(self) -> Any:
        from jaxpo.losses import init_bco_state

        return init_bco_state()

    def after(self, carry: Any, stats: Any) -> Any:
        from jaxpo.losses import update_bco_shift

        return update_bco_shift(carry, stats, momentum=self.momentum if self.shift == "balanced" else None)

    def evaluate(self, features: Unpaired, batch: Batch, carry: Any, counts: Counts) -> Out:
        import jax.numpy as jnp

        from jaxpo.losses import bco, bco_shift, bco_stats
        from jaxpo.objectives.base import Mean, Out

        x = features
        rows = (x.completion.logps, x.completion.ref_logps, x.good)
        stats = bco_stats(*rows, beta=self.beta, where=x.present)
        # The shift moves first, with this step's rewards, and the loss is taken at the new shift.
        shift = bco_shift(self.after(carry, stats), balanced=self.shift == "balanced")
        terms = bco(*rows, shift, beta=self.beta, weight=x.columns.get("weight"), where=x.present)
        by_class = {"chosen": jnp.where(x.good, terms, 0.0), "rejected": jnp.where(x.good, 0.0, terms)}
        metrics = self.all_metrics(x) | {"delta": Mean(shift, jnp.ones(()))}
        named = by_class if self.reduction == "classes" else {"rows": terms}
        return Out(self.reduce(x, named, counts), metrics, stats)
