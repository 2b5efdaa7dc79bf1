"""The reward models of MaxMin-RLHF: one head for every group of users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.mixtures import MixtureMethod, mixture_problems

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rewards import Reading, Rewards


@dataclass(frozen=True)
class MaxMinRLHF(MixtureMethod):
    """Bradley-Terry heads of K groups, each on the pairs of its users: the M step of an EM over users.

    Rows carry `responsibilities`, a weight for every group, which `jaxpo.construct.maxmin.AssignUsers` writes between
    two such stages.

    Attributes:
      groups: K.
      own: number of the one group that is trained, counted from 0: K such stages make K separate reward models, each
        with a network of its own below its head; None = the groups share one.
      combine: what a response is worth as one number: the "mean" of the groups' z-scored rewards under `mixture`, or
        the "least" of them.
      mixture: weights lambda of the groups; None = alike, or the group that is trained alone.
      means: of each group's rewards over common responses, which are subtracted; None = 0. `AssignUsers` reports both.
      scales: their standard deviations, which rewards are divided by; None = 1.
    """

    groups: int = number(2, at_least=1)
    own: int | None = number(None, at_least=0)
    combine: Literal["mean", "least"] = "mean"
    mixture: tuple[float, ...] | None = None
    means: tuple[float, ...] | None = None
    scales: tuple[float, ...] | None = None

    INFO = Info(
        name="maxmin_rlhf",
        family="reward model",
        paper="MaxMin-RLHF: Alignment with Diverse Human Preferences",
        arxiv="2402.08925",
        certainty="EM and the per-sample minimum as in a public copy of the code; objective from overviews; soft EM, "
        "duality and z-scores are standard; groups share the model below their heads unless `own` parts them",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), columns=("responsibilities",), extra=("groups",))
    METRICS = ("group_accuracy_min",)
    READ_PER_ANSWER: ClassVar[tuple[str, ...]] = ("groups",)

    @property
    def parts(self) -> int:
        return self.groups

    def problems(self) -> list[str]:
        found = super().problems() + mixture_problems("maxmin_rlhf", self.mixture, self.groups)
        if self.own is not None and self.own >= self.groups:
            found.append(f"maxmin_rlhf: own is {self.own} but must be below groups, {self.groups}: the first is 0.")
        for name in ("means", "scales"):
            values = getattr(self, name)
            if values is not None and len(values) != self.groups:
                found.append(f"maxmin_rlhf: {name} has {len(values)} entries for {self.groups} groups.")
        if self.scales is not None and not all(x > 0 for x in self.scales):
            found.append(f"maxmin_rlhf: scales is {self.scales!r} but must be numbers above 0.")
        return found

    def check_names(self, names: Mapping[str, tuple[str, ...]]) -> list[str]:
        """Weights of as many groups as there are heads."""
        given = names.get("responsibilities")
        if given is None or len(given) == self.groups:
            return []
        return [f"maxmin_rlhf: the rows have weights of {len(given)} groups, and groups is {self.groups}; make it so."]

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Weights that no probability can be."""
        import numpy as np

        gamma = np.asarray(columns.get("responsibilities", ()), np.float64)
        if not gamma.size or (np.all(gamma >= 0) and np.all(np.abs(gamma.sum(-1) - 1) < 1e-3)):
            return []
        return ["maxmin_rlhf: responsibilities must be numbers of at least 0 whose sum is 1."]

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {"responsibilities": (self.groups,)}

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """`[D, K]`, small and random: equal heads would make all users alike."""
        from jaxpo.models.heads import linear_table

        return {"groups": linear_table(config, self.groups, std=1.0 / (config.hidden_size + 1))}

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """ "groups" `[R, M, K]`, at each last token."""
        from jaxpo.data.packing.batch import read_at
        from jaxpo.models.heads import linear_head

        return {"groups": linear_head(params["groups"], read_at(hidden, ends))}

    def reward(self, reading: Reading) -> Array:
        import jax.numpy as jnp

        rewards = reading["groups"]
        weights = self.mixture or self.trained
        return self.under({}, {"groups": rewards}, jnp.broadcast_to(jnp.asarray(weights, jnp.float32), rewards.shape))

    @property
    def trained(self) -> tuple[float, ...]:
        """Weights of the groups that are trained, alike."""
        if self.own is None:
            return (1.0 / self.groups,) * self.groups
        return tuple(float(k == self.own) for k in range(self.groups))

    def under(self, params: Any, values: Mapping[str, Array], weights: Array) -> Array:
        """sum_u lambda_u z_u of the z-scores, or the least of those with a weight."""
        import jax.numpy as jnp

        z = self.standardised(values["groups"])
        if self.combine == "least":
            return jnp.min(jnp.where(weights > 0, z, jnp.inf), axis=-1)
        return jnp.sum(weights * z, axis=-1)

    def standardised(self, rewards: Array) -> Array:
        """`(r - mean) / scale` of each group."""
        import jax.numpy as jnp

        mean = jnp.asarray(self.means or (0.0,) * self.groups, jnp.float32)
        return (rewards - mean) / jnp.asarray(self.scales or (1.0,) * self.groups, jnp.float32)

    def counts(self, batch: Batch) -> dict[str, Array]:
        """Also "group_k", the weight of all pairs of each group."""
        import jax.numpy as jnp

        from jaxpo.objectives.families.rewards import examples_present

        here = examples_present(batch, self.NEEDS)
        weight = jnp.sum(jnp.where(here[:, None], batch.per_example["responsibilities"], 0.0), axis=0)
        return super().counts(batch) | {f"group_{k}": weight[k] for k in range(self.groups)}

    def rewards(self, features: Rewards) -> dict[str, Array]:
        """Of each pair's own groups: weighted by its responsibilities; of one group alone that group's."""
        import jax.numpy as jnp

        if self.own is not None:
            return {role: features.roles[role]["groups"][..., self.own] for role in ("chosen", "rejected")}
        gamma = features.columns["responsibilities"]
        return {role: jnp.sum(gamma * features.roles[role]["groups"], -1) for role in ("chosen", "rejected")}

    def loss(self, x: Rewards) -> dict[str, Array]:
        """`[N]` of each group, divided by its weight in the step; one of less than a pair counts as a pair."""
        from jaxpo.losses import maxmin_rlhf

        terms = maxmin_rlhf(*x.pair("groups"), x.columns["responsibilities"], where=x.present)
        return {f"group_{k}": terms[:, k] for k in range(self.groups) if self.own in (None, k)}

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """`group_accuracy_min`: of the group that is served worst."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import OfSums
        from jaxpo.objectives.families.groups import worst

        chosen, rejected = x.pair("groups")
        gamma = jnp.where(x.present[:, None], x.columns["responsibilities"], 0.0)
        gamma = gamma if self.own is None else gamma * jnp.asarray(self.trained)
        right = jnp.where(chosen > rejected, gamma, 0.0)
        sums = {"total": jnp.sum(right, axis=0), "count": jnp.sum(gamma, axis=0)}
        found: dict[str, Any] = {"group_accuracy_min": OfSums(sums, worst)}
        return found
