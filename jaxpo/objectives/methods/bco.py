"""Binary classifier optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.needs import Needs
from jaxpo.objectives.methods.base import Info, UnpairedMethod, number

if TYPE_CHECKING:
    from jaxpo.data.batch import Batch
    from jaxpo.objectives.base import Counts, Out
    from jaxpo.objectives.preference_unpaired import Unpaired


@dataclass(frozen=True)
class BCO(UnpairedMethod):
    """Binary classifier of good and bad responses, its logit the implicit reward minus a running shift.

    Attributes:
      beta: strength of the tie to the reference.
      momentum: of the moving average of each class's mean reward.
      reduction: "rows" averages over all rows, so that class sizes act as weights (the authors' implementation, on data
        balanced by over-sampling); "classes" is the paper's formula, the sum of the two class means.
    """

    beta: float = number(0.1, above=0)
    momentum: float = number(0.9, at_least=0, at_most=1)
    reduction: Literal["rows", "classes"] = "rows"

    INFO = Info(
        name="bco",
        function="jaxpo.losses.bco",
        family="unpaired",
        paper="Binary Classifier Optimization for Large Language Model Alignment",
        arxiv="2404.04656",
        certainty="paper: class-balanced moving average, momentum unpublished; TRL keeps one cumulative mean instead",
    )
    NEEDS = Needs(roles=("completion",), columns=("label",), reference="logps")
    COUPLED = True
    METRICS = ("delta",)

    def init_carry(self) -> Any:
        from jaxpo.losses import init_bco_state

        return init_bco_state()

    def after(self, carry: Any, stats: Any) -> Any:
        from jaxpo.losses import update_bco_shift

        return update_bco_shift(carry, stats, momentum=self.momentum)

    def evaluate(self, features: Unpaired, batch: Batch, carry: Any, counts: Counts) -> Out:
        import jax.numpy as jnp

        from jaxpo.losses import bco, bco_shift, bco_stats
        from jaxpo.objectives.base import Mean, Out

        x = features
        rows = (x.completion.logps, x.completion.ref_logps, x.good)
        stats = bco_stats(*rows, beta=self.beta, where=x.present)
        # The shift moves first, with this step's rewards, and the loss is taken at the new shift.
        shift = bco_shift(self.after(carry, stats))
        terms = bco(*rows, shift, beta=self.beta, where=x.present)
        by_class = {"chosen": jnp.where(x.good, terms, 0.0), "rejected": jnp.where(x.good, 0.0, terms)}
        metrics = self.all_metrics(x) | {"delta": Mean(shift, jnp.ones(()))}
        named = by_class if self.reduction == "classes" else {"rows": terms}
        return Out(self.reduce(x, named, counts), metrics, stats)
