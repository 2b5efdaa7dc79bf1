"""Mixture of reward heads with a router: learning them, and teaching the router what a context says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.mixtures import MixtureMethod, mixture_problems

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rewards import Reading, Rewards

PAPER: dict[str, Any] = {
    "paper": "MiCRo: Mixture Modeling and Context-aware Routing for Personalized Preference Learning",
    "arxiv": "2505.24846",
}
HEADS = ("heads", "router")


def named(part: int) -> str:
    """The name of a head where rows give weights by name: in alphabetical order as in numerical."""
    return f"head_{part:03d}"


@dataclass(frozen=True)
class MicroMethod(MixtureMethod):
    """K linear heads beside fixed random ones, and a router over them.

    Attributes:
      heads: K.
      router: the state that it reads, at the end of the "prompt"; or "global", one vector of weights for all prompts.
      prior_scale: of the random vector p_k beside each head, r_k = (w_k + p_k) . h; of standard deviation
        prior_scale / sqrt(D), and never trained.
      combine: how one number is made of a response's K rewards: weighted log sigmoids, as the authors evaluate, or the
        weighted "mean".
      mixture: weights that are taken in the router's place where a response is scored; None = the router's.
    """

    heads: int = number(10, at_least=1)
    router: Literal["prompt", "global"] = "prompt"
    prior_scale: float = number(1.0, at_least=0)
    combine: Literal["log_sigmoid", "mean"] = "log_sigmoid"
    mixture: tuple[float, ...] | None = None

    READ_PER_ANSWER: ClassVar[tuple[str, ...]] = ("heads",)

    @property
    def parts(self) -> int:
        return self.heads

    def problems(self) -> list[str]:
        return super().problems() + mixture_problems(self.INFO.name, self.mixture, self.heads)

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """`[D, K]` trained from 0 and `[D, K]` random and fixed; `[D, K]` or `[K]` of the router."""
        from jaxpo.models.heads import linear_table
        from jaxpo.models.spec import Param, normal, zeros

        d = config.hidden_size
        prior = Param((d, self.heads), ("embed", None), normal(self.prior_scale * d**-0.5), decay=False, buffer=True)
        router = linear_table(config, self.heads, std=1.0 / (d + 1))
        if self.router == "global":
            router = {"weight": Param((self.heads,), (None,), zeros, decay=False)}
        return {"heads": {**linear_table(config, self.heads), "prior": prior}, "router": router}

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """ "heads" `[R, M, K]` at the last token, "router" `[R, M, K]`, its logits at the prompt's end."""
        import jax
        import jax.numpy as jnp

        from jaxpo.data.packing.batch import read_at
        from jaxpo.models.heads import linear_head

        table = params["heads"]
        weight = table["weight"].astype(jnp.float32) + jax.lax.stop_gradient(table["prior"].astype(jnp.float32))
        last = read_at(hidden, ends)
        found = {"heads": linear_head({"weight": weight}, last)}
        if self.router == "global":
            return found | {"router": jnp.broadcast_to(params["router"]["weight"], found["heads"].shape)}
        asked = last if self.routes_answers else read_at(hidden, prompt_ends)
        return found | {"router": linear_head(params["router"], asked)}

    @property
    def routes_answers(self) -> bool:
        """Whether the router reads the end of the response, not of the prompt."""
        return False

    def reward(self, reading: Reading) -> Array:
        """Under `mixture`, or the router's weights."""
        import jax
        import jax.numpy as jnp

        weights = jax.nn.softmax(reading["router"], axis=-1)
        if self.mixture is not None:
            weights = jnp.broadcast_to(jnp.asarray(self.mixture, jnp.float32), weights.shape)
        return self.under({}, {"heads": reading["heads"]}, weights)

    def under(self, params: Any, values: Mapping[str, Array], weights: Array) -> Array:
        """One number of the heads' rewards."""
        from jaxpo.losses import micro_score

        return micro_score(values["heads"], weights, combine=self.combine)


@dataclass(frozen=True)
class MiCRo(MicroMethod):
    """Mixture of Bradley-Terry heads, learnt from the pairs of many without their names, and routed by the prompt.

    `jaxpo data construct micro_router` turns a few comparisons of a user into targets for `micro_router`.

    Attributes:
      variant: "mixture" of likelihoods; of "mixed_rewards", weighted by a router at the end of each response; "heads",
        each by itself.
      entropy_coefficient: lambda of the negative entropy of the weights, added: it spreads them. Of the mixture alone.
      label_smoothing: probability that a label is flipped.
      heads: K.
      router: what it reads: the state at the end of the "prompt", or nothing ("global").
      prior_scale: of the fixed random vector beside each head, times 1 / sqrt(D).
      combine: a response's one number: weighted log sigmoids of its K rewards, or their weighted "mean".
      mixture: weights in the router's place where a response is scored; None = the router's.
    """

    variant: Literal["mixture", "mixed_rewards", "heads"] = "mixture"
    entropy_coefficient: float = number(0.5, at_least=0)
    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)

    INFO = Info(
        name="micro",
        family="reward model",
        certainty="loss, sign of the entropy, heads and router as in the authors' code, whose run script sets the "
        "variant without a router; smoothing of the mixture is ours",
        **PAPER,
    )
    NEEDS = Needs(roles=("chosen", "rejected"), extra=HEADS)
    METRICS = ("router_entropy",)

    @property
    def routes_answers(self) -> bool:
        return self.variant == "mixed_rewards"

    def rewards(self, features: Rewards) -> dict[str, Array]:
        """Of both sides; of the mixture and of single heads halves of the log-odds that the chosen one wins."""
        if self.variant == "mixed_rewards":
            return super().rewards(features)
        half = 0.5 * self.log_odds(features)
        return {"chosen": half, "rejected": -half}

    def log_odds(self, x: Rewards) -> Array:
        """Of P(chosen > rejected) = sum_k pi_k sigmoid(D_k)."""
        import jax

        difference = x.roles["chosen"]["heads"] - x.roles["rejected"]["heads"]
        log_pi = jax.nn.log_softmax(x.roles["chosen"]["router"], axis=-1)
        win, lose = (jax.nn.logsumexp(log_pi + jax.nn.log_sigmoid(d), axis=-1) for d in (difference, -difference))
        return win - lose

    def loss(self, x: Rewards) -> Array:
        """`[N]`, 0 where there is no pair."""
        from jaxpo.losses import micro, micro_heads, micro_mixed

        how: dict[str, Any] = {"label_smoothing": self.label_smoothing, "where": x.present}
        if self.variant == "heads":
            return micro_heads(*x.pair("heads"), **how)
        if self.variant == "mixed_rewards":
            return micro_mixed(*x.pair("heads"), *x.pair("router"), **how)
        router = x.roles["chosen"]["router"]
        return micro(*x.pair("heads"), router, entropy_coefficient=self.entropy_coefficient, **how)

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """`router_entropy`: of the weights of each prompt, nats."""
        import jax
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        log_pi = jax.nn.log_softmax(x.roles["chosen"]["router"], axis=-1)
        return {"router_entropy": masked_mean(-jnp.sum(jnp.exp(log_pi) * log_pi, axis=-1), x.present)}
