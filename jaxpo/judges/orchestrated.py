"""Several judges, weighed for each prompt by an orchestrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.base import Judge, Networks, score_reply


@dataclass(frozen=True)
class OrchestratedJudge(Judge):
    """`w(x) . R~(x, y)`: normalised scores of K judges, weighed as the adapter says for the prompt.

    The ledger of scores has the weights of every prompt, and the judges' own scores, in `parts`.

    Attributes:
      judges: one for each objective of the adapter, in its order.
      weights_of: a stage with the loss pro_orchestrator.
      normalise: weigh scores by the statistics beside the adapter; False = as they are, where they have one scale.
      share: how much a user's own weights count, `w <- (1 - share) w(x) + share own`.
      own: these, one for each judge; () = none.
    """

    judges: tuple[Judge, ...] = ()
    weights_of: str = "reward"
    normalise: bool = True
    share: float = 0.0
    own: tuple[float, ...] = ()

    NAME: ClassVar[str] = "orchestrated"
    BATCH: ClassVar[int] = 64

    @property
    def MAIN_THREAD(self) -> bool:  # type: ignore[override]
        """Whether one of the judges does."""
        return any(judge.MAIN_THREAD for judge in self.judges)

    def models(self) -> tuple[str, ...]:
        return (self.weights_of, *(name for judge in self.judges for name in judge.models()))

    def reward_models(self) -> tuple[str, ...]:
        return tuple(name for judge in self.judges for name in judge.reward_models())

    def check(self, rows: Sequence[Row]) -> None:
        if not self.judges:
            raise ConfigError("an orchestrated judge has no judges; give one for each objective.")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share}; it must lie between 0 and 1.")
        if (self.share > 0 or self.own) and len(self.own) != len(self.judges):
            raise ConfigError(f"own has {len(self.own)} weights for {len(self.judges)} judges; give one for each.")
        if self.own and not self.share:
            raise ConfigError("own: a user's weights do not count while share is 0; give share, or leave own out.")
        for judge in self.judges:
            if len(judge.members()) > 1:
                raise ConfigError("a jury cannot be weighed by an orchestrator; give its members.")
            judge.check(rows)

    def columns(self) -> tuple[str, ...] | None:
        own = [judge.columns() for judge in self.judges]
        if any(columns is None for columns in own):
            return None
        return tuple(dict.fromkeys(name for columns in own for name in columns or ()))

    def identity(self, networks: Networks) -> dict[str, Any]:
        weights = networks(self.weights_of).fingerprint()
        how: dict[str, Any] = {} if self.normalise else {"normalise": False}
        how |= {"share": self.share, "own": list(self.own)} if self.share else {}
        judges = [judge.identity(networks) for judge in self.judges]
        return {"judge": self.NAME, "weights": weights, "judges": judges, **how}

    def open(self, networks: Networks) -> Ask:
        import jax.numpy as jnp

        from jaxpo.losses import interpolated_weights, orchestrated_reward

        network = networks(self.weights_of)
        if "orchestrator" not in network.params:
            raise ConfigError(f"{self.weights_of!r} has no adapter; name a stage with the loss pro_orchestrator.")
        names = network.reader.method.head_names()
        if len(names) != len(self.judges):
            raise ConfigError(
                f"the adapter of {self.weights_of!r} weighs {', '.join(names)}, and there are {len(self.judges)} "
                "judges; give one for each, in its order."
            )
        asks = [judge.open(networks) for judge in self.judges]
        own = network.params["orchestrator"]

        def ask(items: Sequence[Item]) -> list[Reply]:
            replies = [one(items) for one in asks]
            _, weights = network.heads([item.prompt for item in items], None)
            if self.share:
                weights = interpolated_weights(weights, jnp.asarray(self.own), share=self.share)
            found = []
            for i in range(len(items)):
                failed = next((reply[i].failed for reply in replies if reply[i].failed), "")
                if failed:
                    found.append(Reply(failed=failed))
                    continue
                if any(reply[i].value is None for reply in replies):
                    found.append(Reply())  # a judge says nothing of the answer
                    continue
                scores = [float(reply[i].value) for reply in replies]
                each = jnp.asarray(scores)
                paid = (
                    orchestrated_reward(weights[i], each, own["offset"], own["scale"])
                    if self.normalise
                    else jnp.sum(weights[i] * each)
                )
                parts = {
                    "weights": dict(zip(names, map(float, weights[i]), strict=True)),
                    "scores": dict(zip(names, scores, strict=True)),
                }
                found.append(replace(score_reply(paid), parts=parts))
            return found

        return ask
