"""How a finished model is read as a reward model: by the method that trained it, which its folder names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jaxpo.config.serialise import from_jsonable, to_jsonable
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.heads import lacks_value
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.methods.bradley_terry import BradleyTerry
from jaxpo.objectives.methods.rewards import RewardMethod

REWARD = "reward"
"""Where a model says of itself how its rewards are read."""
_TYPES = frozenset(f"{method.__module__}:{method.__qualname__}" for method in METHODS.values())


@dataclass(frozen=True)
class Reader:
    """What is to be known of a reward model besides its weights.

    Attributes:
      method: reads its heads, and makes one number of what they say.
      embedding_dropout, pooled_dropout: the rates that it was trained with.
    """

    method: RewardMethod
    embedding_dropout: float = 0.0
    pooled_dropout: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For the metadata of a model."""
        return {**asdict(self), "method": to_jsonable(self.method)}

    @property
    def is_scalar(self) -> bool:
        """Whether a reward is a value head's number at the last token, which a sequence classifier can give."""
        own = self.method
        plain = type(own).reward is RewardMethod.reward and not own.PER_TOKEN and not own.NO_REWARD
        return plain and getattr(own, "yes_no", None) is None and "value" in own.NEEDS.extra


def reader_of(params: Mapping[str, Any], about: Mapping[str, Any], where: object = "the model") -> Reader | None:
    """How a model's rewards are read; one that does not say it, with a value head, as a Bradley-Terry model is.

    Returns:
      None where it is no reward model.

    Raises:
      CheckpointError: it says it in a way that this version does not know.
    """
    found = about.get(REWARD)
    if found is None:
        return Reader(BradleyTerry()) if "value" in params else None
    try:
        method = from_jsonable(found["method"], known_types=_TYPES)
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: does not say in a known way how its rewards are read: {error}") from error
    if not isinstance(method, RewardMethod):
        raise CheckpointError(f"{where}: its rewards are read by {type(method).__name__}, which is no reward model.")
    return Reader(method, float(found.get("embedding_dropout", 0.0)), float(found.get("pooled_dropout", 0.0)))


def why_no_reward(params: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Why constructions cannot take a model for a reward model; nothing if they can."""
    return lacks_value(params) if reader_of(params, about) is None else ""


def check_gives_rewards(params: Mapping[str, Any], about: Mapping[str, Any], judge: str, remedy: str) -> None:
    """A judge's model gives every answer a reward by itself; ConfigError names the judge where it does not."""
    reader = reader_of(params, about)
    if reader is None:
        raise ConfigError(f"the judge {judge!r} {lacks_value(params)}; {remedy}.")
    if reader.method.NO_REWARD:
        raise ConfigError(f"the judge {judge!r} gives answers no rewards: {reader.method.NO_REWARD}")
