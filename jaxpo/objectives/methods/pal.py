"""Pluralistic alignment: ideal points of users, mixed of prototypes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.mixtures import MixtureMethod, mixture_problems, places_of

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.families.rewards import Reading, Rewards

START_LOG_SCALE = math.log(1 / 0.07)


@dataclass(frozen=True)
class PAL(MixtureMethod):
    """Reward model per user: the nearer an answer lies to the user's ideal point, the better.

    A user is a convex combination w = softmax(logits / tau) of K prototypes, one row of logits each; rows carry the
    column `user`. A new user is fitted by a stage that names them in `users` and trains "users/*" alone.

    Attributes:
      users: names, in the order of the rows of the table of logits; rows of others are refused, and of held-out files
        left out.
      prototypes: K.
      variant: "a": prototypes are points, the pair's loss is a hinge of two distances. "b": every prototype is a map of
        the state at the end of the prompt, the loss is logistic in s (cos - cos).
      ideal: of variant "a": u' = f(P^T w) ("mixed_first", the default), sum_k w_k f(p_k) ("mixed_last"), or P^T w
        ("free").
      size: d, of the space in which items and ideal points lie.
      weighting: of the positions from the first different token to the end: "cumulative", "mean", "last".
      user_temperature: tau.
      bound_coefficient: weight of max(|u'| - bound, 0); the authors name one and do not add it.
      bound: radius.
      mixture: whose reward a response has where no user is named, K weights; None = all prototypes alike.
    """

    users: tuple[str, ...] = ()
    prototypes: int = number(2, at_least=1)
    variant: Literal["a", "b"] = "a"
    ideal: Literal["mixed_first", "mixed_last", "free"] = "mixed_first"
    size: int = number(512, at_least=1)
    weighting: Literal["cumulative", "mean", "last"] = "cumulative"
    user_temperature: float = number(1.0, above=0)
    bound_coefficient: float = number(0.0, at_least=0)
    bound: float = number(23.0, at_least=0)
    mixture: tuple[float, ...] | None = None

    INFO = Info(
        name="pal",
        family="reward model",
        paper="PAL: Sample-Efficient Personalized Reward Modeling for Pluralistic Alignment",
        arxiv="2406.08469",
        certainty="authors' code; a response that has ended keeps its last state while the longer one goes on, and "
        "PAL-B reads the prompt at its end",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), columns=("user",), extra=("projector", "prototypes", "users"))
    NAMED: ClassVar[Mapping[str, str]] = {"user": "users"}
    PARTS_OF: ClassVar[Mapping[str, str]] = {"users": "users"}
    PER_TOKEN: ClassVar[tuple[str, ...]] = ("items",)

    def __post_init__(self) -> None:
        extra = (*type(self).NEEDS.extra, "scale") if self.variant == "b" else type(self).NEEDS.extra
        object.__setattr__(self, "NEEDS", replace(type(self).NEEDS, extra=extra, names=(("user", tuple(self.users)),)))

    @property
    def parts(self) -> int:
        return self.prototypes

    @property
    def READ_PER_ANSWER(self) -> tuple[str, ...]:  # type: ignore[override]
        """The last token's place in the space, and, of variant "b", the prototypes' for this prompt."""
        return ("item",) if self.variant == "a" else ("item", "points")

    def problems(self) -> list[str]:
        """Also a user who is named twice, and a mixture of other parts."""
        found = super().problems()
        if len(set(self.users)) < len(self.users):
            found.append("pal: users names somebody twice.")
        return found + mixture_problems("pal", self.mixture, self.parts)

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Everybody who is named has a row: one annotator alone is no population."""
        import numpy as np

        missing = sorted(set(range(len(self.users))) - set(np.asarray(columns.get("user", ())).tolist()))
        if "user" not in columns or not missing:
            return []
        some = ", ".join(self.users[i] for i in missing[:5])
        return [f"pal: {len(missing)} of the users have no row ({some}); leave them out of `users`, or add their rows."]

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """The item map f, the prototypes (points, or maps of the prompt), the users' logits, and of "b" log s."""
        from jaxpo.models.projectors import projector_table
        from jaxpo.models.spec import Param, normal

        d, k = config.hidden_size, self.prototypes
        found = {"projector": projector_table(d, self.size)}
        if self.variant == "a":
            width = self.size if self.ideal == "free" else d
            found["prototypes"] = {"weight": Param((k, width), (None, None), _unit_rows, decay=False)}
        else:
            found["prototypes"] = projector_table(d, self.size, stack=k)
            found["scale"] = {"log": Param((1,), (None,), _start_scale, decay=False)}
        found["users"] = {"logits": Param((max(len(self.users), 1), k), (None, None), normal(1.0), decay=False)}
        return found

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """ "items" `[R, S, d]` of every token, "item" of the last, "points" `[R, M, K, d]` (b), "score" `[R, M]`."""
        import jax
        import jax.numpy as jnp

        from jaxpo.data.packing.batch import read_at
        from jaxpo.models.projectors import project

        found = {"items": self._project(params, hidden), "item": self._project(params, read_at(hidden, ends))}
        if self.variant == "b":
            one = lambda p, x: project(p, x, activation="gelu", residual=False)  # noqa: E731
            each = jax.vmap(one, in_axes=(0, None), out_axes=-2)
            found["points"] = each(params["prototypes"], read_at(hidden, prompt_ends))
        weights = self.mixture or (1.0 / self.parts,) * self.parts
        everyone = jnp.broadcast_to(jnp.asarray(weights, jnp.float32), (*ends.shape, self.parts))
        return found | {"score": self.under(params, found, everyone)}

    def _project(self, params: Any, x: Array) -> Array:
        from jaxpo.models.projectors import project

        activation: Literal["relu", "gelu"] = "relu" if self.variant == "a" else "gelu"
        return project(params["projector"], x, activation=activation, residual=self.variant == "a")

    def ideals(self, params: Any, weights: Array, points: Array | None) -> Array:
        """u' of mixtures `[..., K]`, `[..., d]`; of variant "b" from the prototypes' points `[..., K, d]`."""
        import jax.numpy as jnp

        if points is not None:
            return jnp.einsum("...k,...kd->...d", weights, points)
        prototypes = params["prototypes"]["weight"].astype(jnp.float32)
        if self.ideal == "mixed_last":
            return weights @ self._project(params, prototypes)
        mixed = weights @ prototypes
        return mixed if self.ideal == "free" else self._project(params, mixed)

    def under(self, params: Any, values: Mapping[str, Array], weights: Array) -> Array:
        """-|x' - u'|, or s cos(x', u'), at the last token."""
        return self.nearness(values["item"], self.ideals(params, weights, values.get("points")), self._scale(params))

    def nearness(self, items: Array, ideal: Array, log_scale: Array | None) -> Array:
        """How near items are to an ideal point: minus the distance, or the scaled similarity."""
        from jaxpo.losses import pal_distance, pal_similarity

        return -pal_distance(items, ideal) if log_scale is None else pal_similarity(items, ideal, log_scale)

    def _scale(self, params: Any) -> Array | None:
        return params["scale"]["log"][0] if self.variant == "b" else None

    def mixtures(self, params: Any, users: Sequence[str]) -> Array:
        import jax.numpy as jnp

        from jaxpo.losses import pal_mixture

        places = places_of("pal", users, self.users)
        return pal_mixture(params["users"]["logits"][jnp.asarray(places)], temperature=self.user_temperature)

    def of_examples(self, params: Any, batch: Batch) -> dict[str, Array]:
        """The user's mixture, ideal point (a) or log s (b), and the span of positions in which the two differ."""
        import jax.numpy as jnp

        from jaxpo.losses import pal_mixture
        from jaxpo.objectives.families.spans import first_difference

        # A user that does not exist gives NaN, which stops the run, instead of another one's taste.
        who = batch.per_example["user"]
        who = jnp.where(who < 0, len(self.users), who)
        logits = params["users"]["logits"].at[who].get(mode="fill", fill_value=jnp.nan)
        mixture = pal_mixture(logits, temperature=self.user_temperature)
        first, ends = first_difference(batch)
        found = {"mixture": mixture, "first_difference": first, "ends": ends}
        if self.variant == "a":
            return found | {"ideal": self.ideals(params, mixture, None)}
        return found | {"log_scale": jnp.broadcast_to(params["scale"]["log"], mixture.shape[:1])}

    def reward(self, reading: Reading) -> Array:
        """Of the exported mixture."""
        return reading["score"]

    def rewards(self, features: Rewards) -> dict[str, Array]:
        """Of each pair's own user, at the last tokens."""
        x, ideal = features, self.own_ideals(features)
        scale = x.columns.get("log_scale")
        return {role: self.nearness(x.roles[role]["item"], ideal, scale) for role in ("chosen", "rejected")}

    def own_ideals(self, x: Rewards) -> Array:
        """u' of each pair's own user, `[N, d]`."""
        if self.variant == "a":
            return x.columns["ideal"]
        return self.ideals({}, x.columns["mixture"], x.roles["chosen"]["points"])

    def loss(self, x: Rewards) -> Array:
        """`[N]`, 0 where there is no pair or nothing in which the two differ."""
        import jax.numpy as jnp

        from jaxpo.losses import pal, pal_bound, pal_token_weights
        from jaxpo.objectives.families.spans import held

        ideal, scale, ends = self.own_ideals(x), x.columns.get("log_scale"), x.columns["ends"]
        wide = None if scale is None else scale[:, None]
        scores = [
            held(self.nearness(x.roles[role]["items"], ideal[:, None], wide), ends[:, side])
            for side, role in enumerate(("chosen", "rejected"))
        ]
        span = x.columns["first_difference"], jnp.max(ends, axis=1)
        weights = pal_token_weights(*span, scores[0].shape[1], weighting=self.weighting)
        form: Literal["hinge", "logistic"] = "hinge" if self.variant == "a" else "logistic"
        loss = pal(scores[0], scores[1], weights, form=form, where=x.present)
        if not self.bound_coefficient:
            return loss
        return loss + self.bound_coefficient * pal_bound(ideal, self.bound, where=x.present)


def _unit_rows(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Gaussian rows of length 1."""
    import jax
    import jax.numpy as jnp

    x = jax.random.normal(key, shape, jnp.float32)
    return (x / jnp.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype)


def _start_scale(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    import jax.numpy as jnp

    return jnp.full(shape, START_LOG_SCALE, dtype)
