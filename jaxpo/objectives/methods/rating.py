"""Pointwise reward model on ratings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rewards import RewardMethod

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.rewards import Reading, Rewards


@dataclass(frozen=True)
class Rating(RewardMethod):
    """Reward model on ratings of single responses, or of prompts: one score per aspect, or one class of several.

    Attributes:
      aspects: names of the ratings, in alphabetical order; each has its column of the head.
      weights: what each aspect counts in the reward of a response; None = their mean, of "softmax" the last class.
      form: "mse" predicts the rating; "bce" the logit of its place between `low` and `high`; "softmax" which of the
        aspects it is: classes that exclude each other, rated 1 and 0.
      low: end of the scale; ratings below are refused. None = none is, but "bce" needs both ends.
      high: its other end.
      tolerance: a rating is met where the prediction is at most this far from it; 0.5 = the nearest whole number is it.
      pooling: what of a text is read: "last" token, "cls" (BOS; of a model that looks both ways), or the "mean".
    """

    aspects: tuple[str, ...] = ("rating",)
    weights: tuple[float, ...] | None = None
    form: Literal["mse", "bce", "softmax"] = "mse"
    low: float | None = number(None)
    high: float | None = number(None)
    tolerance: float = number(0.5, above=0)
    pooling: Literal["last", "mean", "cls"] = "last"

    INFO = Info(
        name="rating",
        family="reward model",
        paper="HelpSteer2: Open-source dataset for training top-performing reward models",
        arxiv="2406.08673",
        certainty="regression as in the paper, section 3.1; cross-entropy is the textbook's",
        aliases=("regression",),
    )
    NEEDS = Needs(roles=("completion",), columns=("ratings",), extra=("ratings",))
    NAMED: ClassVar[Mapping[str, str]] = {"ratings": "aspects"}
    PARTS_OF: ClassVar[Mapping[str, str]] = {"ratings": "aspects"}
    METRICS = ("rmse", "correlation")
    UNMEASURED = ("margin",)

    def problems(self) -> list[str]:
        """Fields out of range; names that are not as the data's will be."""
        found, name = super().problems(), self.INFO.name
        if not self.aspects or list(self.aspects) != sorted(set(self.aspects)):
            found.append(f"{name}: aspects is {self.aspects!r} but must be different names in alphabetical order.")
        if self.weights is not None and len(self.weights) != len(self.aspects):
            found.append(f"{name}: weights has {len(self.weights)} entries for {len(self.aspects)} aspects.")
        if self.form == "softmax" and len(self.aspects) < 2:
            found.append(f"{name}: softmax needs two aspects or more, the classes; there is {len(self.aspects)}.")
        if self.form == "bce" and None in (self.low, self.high):
            found.append(f"{name}: bce needs low and high, the ends of the scale of the ratings.")
        if self.low is not None and self.high is not None and not self.low < self.high:
            found.append(f"{name}: low is {self.low:g} and high is {self.high:g}; the first must be smaller.")
        return found

    def check_names(self, names: Mapping[str, tuple[str, ...]]) -> list[str]:
        """The rows rate the aspects that the head has columns for."""
        given = names.get("ratings", self.aspects)
        if given == self.aspects:
            return []
        return [
            f"rating: the rows rate {', '.join(given)}, but aspects is {', '.join(self.aspects)}; give their names "
            "there, in alphabetical order."
        ]

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """As many ratings as aspects, and none beyond the scale."""
        import numpy as np

        ratings = np.asarray(columns.get("ratings", ()), np.float64)
        if ratings.ndim == 2 and ratings.shape[1] != len(self.aspects):
            return [
                f"rating: column 'ratings' holds {ratings.shape[1]} rating(s), but aspects has {len(self.aspects)} "
                "entries; give their names there, in alphabetical order."
            ]
        if self.form == "softmax" and (bad := _shares_problem(ratings)):
            return [bad]
        ratings = ratings[~np.isnan(ratings)]
        low, high = (-np.inf if self.low is None else self.low), (np.inf if self.high is None else self.high)
        if ratings.size == 0 or (ratings.min() >= low and ratings.max() <= high):
            return []
        return [
            f"rating: ratings lie between {ratings.min():g} and {ratings.max():g}, but low is {self.low} and high is "
            f"{self.high}; correct the rows, or the scale."
        ]

    def read_states(self, scorer: Scorer, params: Any, hidden: Array, batch: Batch) -> dict[str, Array]:
        if self.pooling == "last":
            return super().read_states(scorer, params, hidden, batch)
        from jaxpo.models.heads import biased_head
        from jaxpo.objectives.families.pooled import pooled_segments

        return {"aspects": biased_head(params["ratings"], pooled_segments(hidden, batch, self.pooling))}

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {"ratings": (len(self.aspects),)}

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """A column of weights and a bias per aspect."""
        from jaxpo.models.heads import biased_table

        return {"ratings": biased_table(config, len(self.aspects))}

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """ "aspects" `[R, M, C]`, at each last token."""
        from jaxpo.data.packing.batch import read_at
        from jaxpo.models.heads import biased_head

        return {"aspects": biased_head(params["ratings"], read_at(hidden, ends))}

    def head_names(self) -> tuple[str, ...]:
        """The aspects."""
        return self.aspects

    def head_values(self, reading: Reading) -> Array:
        """Each aspect's; of classes their probabilities."""
        return self.of_heads(reading["aspects"])

    def of_heads(self, aspects: Array) -> Array:
        """What the head's numbers are shown as."""
        import jax

        return jax.nn.softmax(aspects, axis=-1) if self.form == "softmax" else aspects

    def reward(self, reading: Reading) -> Array:
        """The weighted sum of the aspects, or their mean; of classes that of their probabilities, or the last one's."""
        import jax.numpy as jnp

        aspects = self.of_heads(reading["aspects"])
        if self.weights is None:
            return aspects[..., -1] if self.form == "softmax" else jnp.mean(aspects, axis=-1)
        return aspects @ jnp.asarray(self.weights, jnp.float32)

    def counts(self, batch: Batch) -> dict[str, Array]:
        """Also "ratings", those that there are."""
        import jax.numpy as jnp

        from jaxpo.objectives.families.rewards import examples_present

        here = self.rated(batch.per_example["ratings"], examples_present(batch, self.NEEDS))
        return super().counts(batch) | {"ratings": jnp.sum(here.astype(jnp.float32))}

    def rated(self, ratings: Array, present: Array) -> Array:
        """Where there is a rating, `[N, C]`."""
        import jax.numpy as jnp

        return ~jnp.isnan(ratings) & present[:, None]

    def loss(self, x: Rewards) -> dict[str, Array]:
        """`[N]`, summed over each row's ratings; of classes a term for each row."""
        from jaxpo.losses import rating

        ratings = x.columns["ratings"]
        ends = {} if None in (self.low, self.high) else {"low": self.low, "high": self.high}
        scale: dict[str, Any] = {"form": self.form, **ends}
        counted = "examples" if self.form == "softmax" else "ratings"
        return {counted: rating(x.roles["completion"]["aspects"], ratings, self.rated(ratings, x.present), **scale)}

    def predicted(self, x: Rewards) -> Array:
        """In units of the ratings, `[N, C]`."""
        import jax

        aspects = self.of_heads(x.roles["completion"]["aspects"])
        if self.form == "bce" and self.low is not None and self.high is not None:
            return self.low + (self.high - self.low) * jax.nn.sigmoid(aspects)
        return aspects

    def common_metrics(self, features: Rewards) -> dict[str, Metric]:
        """TRL's metrics of a reward trainer, and the share of ratings that are met."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        right, where = self.right(features)
        return super().common_metrics(features) | {"accuracy": masked_mean(right.astype(jnp.float32), where)}

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """Error in units of the ratings, and Pearson's correlation, the mean of the aspects'."""
        from jaxpo.objectives.families.ratings import agreement

        ratings = x.columns["ratings"]
        return agreement(self.predicted(x), ratings, self.rated(ratings, x.present))

    def right(self, features: Rewards) -> tuple[Array, Array]:
        """Ratings that are met, of those that there are; of classes whether the likeliest is right, `[N, 1]`."""
        import jax.numpy as jnp

        ratings = features.columns["ratings"]
        where = self.rated(ratings, features.present)
        if self.form == "softmax":
            found, given = (jnp.argmax(jnp.where(where, a, -jnp.inf), -1) for a in (self.predicted(features), ratings))
            return (found == given)[:, None], jnp.any(where, axis=-1, keepdims=True)
        return jnp.abs(self.predicted(features) - jnp.where(where, ratings, 0.0)) <= self.tolerance, where


def _shares_problem(ratings: np.ndarray) -> str:
    """Why ratings are no shares of classes; nothing where they are."""
    import numpy as np

    known = np.where(np.isnan(ratings), 0.0, ratings)
    if known.size and known.min() < 0:
        return f"rating: softmax reads ratings as shares of classes, which {known.min():g} is not; give 0 or more."
    if known.size and (known.sum(axis=-1) <= 0).any():
        return "rating: of softmax one class at least must be rated above 0; a row has none."
    return ""
