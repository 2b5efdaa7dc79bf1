"""Classes of words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.tagged import marks_entities
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rewards import RewardMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rewards import Rewards


@dataclass(frozen=True)
class TokenClassification(RewardMethod):
    """Classifier of words: which of several classes, such as the kinds of names, each word of a text belongs to.

    Attributes:
      classes: their names, in the order in which the rows number them; rows that give names may have them in any order.
      pieces: what is learnt of a word that is several tokens: its "first" one, by which it is told, or "all" of them;
        the further ones of B-X are then I-X, where there is such a class.
      label_smoothing: share of the target that is spread over all classes.
    """

    classes: tuple[str, ...] = ()
    pieces: Literal["first", "all"] = "first"
    label_smoothing: float = number(0.0, at_least=0, at_most=0.999)

    INFO = Info(
        name="token_classification",
        family="reward model",
        paper="BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        arxiv="1810.04805",
        certainty="paper, section 5.3; a linear layer with bias, as transformers' ForTokenClassification",
        aliases=("ner",),
    )
    NEEDS = Needs(roles=("completion",), extra=("classes",), per_token=("tag",))
    PER_TOKEN: ClassVar[tuple[str, ...]] = ("classes",)
    PARTS_OF: ClassVar[Mapping[str, str]] = {"classes": "classes"}
    NAMED: ClassVar[Mapping[str, str]] = {"tags": "classes"}
    METRICS = ("macro_f1",)
    UNMEASURED = ("margin", "min_reward", "mean_reward", "max_reward")
    NO_REWARD = (
        "a model trained by token_classification tells the classes of words and gives texts no rewards; "
        "`jaxpo data construct tag` asks it for classes."
    )

    def __post_init__(self) -> None:
        entities = ("entity_f1",) if marks_entities(self.classes) else ()
        each = tuple(f"f1/{name}" for name in self.classes)
        object.__setattr__(self, "METRICS", (*type(self).METRICS, *entities, *each))
        object.__setattr__(self, "NEEDS", replace(type(self).NEEDS, classes=self.classes))

    def problems(self) -> list[str]:
        """Also classes that are fewer than two, or two of one name; a stage asks for them where there is none."""
        found = super().problems()
        if not self.classes:
            return found
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes) or "" in self.classes:
            found.append(
                f"{self.INFO.name}: classes is {self.classes!r} but must be two different names or more: those that "
                "the rows have, in the order of their numbers where rows have numbers."
            )
        return found

    def check_names(self, names: Mapping[str, tuple[str, ...]]) -> list[str]:
        """The rows' classes are among those that the head has columns for."""
        given = names.get("tags", ())
        strange = [name for name in given if name not in self.classes and not name.isdecimal()]
        if not strange:
            return []
        return [f"{self.INFO.name}: the rows have the class {strange[0]!r}, which classes does not name; add it there."]

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {"classes": (len(self.classes),)}

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """A column of weights and a bias per class."""
        from jaxpo.models.heads import biased_table

        return {"classes": biased_table(config, len(self.classes))}

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """ "classes" `[R, S, C]`, logits at every token; of a word those at its first one count."""
        return {"classes": self.logits(params, hidden)}

    def logits(self, params: Any, hidden: Array) -> Array:
        """`W^T h + b`, `[..., C]`."""
        from jaxpo.models.heads import biased_head

        return biased_head(params["classes"], hidden)

    def counts(self, batch: Batch) -> dict[str, Array]:
        """Also "words", those that are trained on."""
        import jax.numpy as jnp

        from jaxpo.objectives.families.rewards import examples_present, rows_at

        tags = rows_at(batch.per_token["tag"], batch.roles["completion"], batch)
        _, where = self.labelled(tags, examples_present(batch, self.NEEDS))
        return super().counts(batch) | {"words": jnp.sum(where.astype(jnp.float32))}

    def labelled(self, tags: Array, present: Array) -> tuple[Array, Array]:
        """Class of each token, and where there is one that is trained on, both `[N, T]`."""
        import jax.numpy as jnp

        from jaxpo.objectives.families.classes import going_on

        label = jnp.maximum(jnp.abs(tags) - 1, 0)
        if self.pieces == "first":
            return label, (tags > 0) & present[:, None]
        further = jnp.asarray(going_on(self.classes))[label]
        return jnp.where(tags < 0, further, label), (tags != 0) & present[:, None]

    def loss(self, x: Rewards) -> dict[str, Array]:
        """`[N]`, summed over each text's labelled tokens."""
        from jaxpo.losses import token_classification

        role = x.roles["completion"]
        label, where = self.labelled(role.columns["tag"], x.present)
        smoothing = self.label_smoothing
        return {"words": token_classification(role["classes"], label, where, label_smoothing=smoothing)}

    def common_metrics(self, features: Rewards) -> dict[str, Metric]:
        """Share of words whose class is right."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        right, where = self.right(features)
        return {"accuracy": masked_mean(right.astype(jnp.float32), where)}

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """F1 of every class, their mean, and that of entities where classes are named B-X and I-X; of words."""
        import jax.numpy as jnp

        from jaxpo.objectives.families.classes import class_metrics, entity_f1

        role = x.roles["completion"]
        tags = role.columns["tag"]
        label, where = jnp.maximum(jnp.abs(tags) - 1, 0), (tags > 0) & x.present[:, None]
        predicted = jnp.argmax(role["classes"], axis=-1)
        found = class_metrics(predicted, label, where, self.classes)
        entities = (
            {"entity_f1": entity_f1(predicted, label, where, self.classes)} if marks_entities(self.classes) else {}
        )
        return {**found, **entities}

    def right(self, features: Rewards) -> tuple[Array, Array]:
        """Words whose likeliest class is the given one, `[N, T]`."""
        import jax.numpy as jnp

        role = features.roles["completion"]
        tags = role.columns["tag"]
        return jnp.argmax(role["classes"], axis=-1) == jnp.abs(tags) - 1, (tags > 0) & features.present[:, None]
