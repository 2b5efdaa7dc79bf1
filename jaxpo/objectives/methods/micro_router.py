"""The second stage of MiCRo: a router that reads a user's context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info
from jaxpo.objectives.methods.micro import HEADS, PAPER, MicroMethod, named

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rewards import Rewards


@dataclass(frozen=True)
class MicroRouter(MicroMethod):
    """The router of `micro`, learnt from prompts with a context in front and the weights that belong to it.

    Rows are rated prompts, as `jaxpo data construct micro_router` writes them. The stage starts from that of `micro`,
    with its settings, and trains "router/*" and the model's own layers if they are to read contexts; the heads stay.

    Attributes:
      heads: K, as in the first stage, like all of these.
      router: what it reads, the end of the "prompt"; "global" sees no context.
      prior_scale: of the fixed random vectors beside the heads.
      combine: a response's one number: weighted log sigmoids of its K rewards, or their weighted "mean".
      mixture: weights in the router's place where a response is scored; None = the router's.
    """

    INFO = Info(name="micro_router", family="reward model", function="jaxpo.losses.micro_distil",
                certainty="ours: the paper says that context is routed, not how that is learnt", **PAPER)  # fmt: skip
    NEEDS = Needs(roles=("completion",), columns=("ratings",), extra=HEADS)
    METRICS = ("excess",)
    UNMEASURED = ("accuracy", "margin")

    def check_names(self, names: Mapping[str, tuple[str, ...]]) -> list[str]:
        """Weights of as many heads as there are."""
        wanted = tuple(named(k) for k in range(self.heads))
        if names.get("ratings", wanted) == wanted:
            return []
        return [
            f"micro_router: the rows have weights of {len(names['ratings'])} heads ({names['ratings'][0]}, ...), and "
            f"heads is {self.heads}; give the settings of the stage that the construction read."
        ]

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Every row has a weight of every head, and they add up to 1."""
        import numpy as np

        w = np.asarray(columns.get("ratings", ()), np.float64)
        if w.ndim == 2 and w.shape[1] != self.heads:
            return [f"micro_router: column 'ratings' holds {w.shape[1]} weights, and heads is {self.heads}."]
        if w.ndim < 2 or (np.all(w >= 0) and np.all(np.abs(w.sum(-1) - 1) < 1e-3)):
            return []
        return ["micro_router: ratings must be weights of all heads, at least 0, whose sum is 1."]

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {"ratings": (self.heads,)}

    def loss(self, x: Rewards) -> Array:
        """`[N]`, 0 where there is no row."""
        from jaxpo.losses import micro_distil

        return micro_distil(x.roles["completion"]["router"], x.columns["ratings"], where=x.present)

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """`excess`: what the loss has above its least value, KL(w || pi) in nats."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        w = jnp.where(x.present[:, None], x.columns["ratings"], 0.0)
        entropy = -jnp.sum(jnp.where(w > 0, w * jnp.log(jnp.where(w > 0, w, 1.0)), 0.0), axis=-1)
        return {"excess": masked_mean(self.loss(x) - entropy, x.present)}
