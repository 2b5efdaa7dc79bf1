"""Reward models of several tastes: K parts, and weights of them for every prompt, user or example.

No jax here at the top level, as in `jaxpo.objectives.methods.base`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.objectives.methods.rewards import RewardMethod

if TYPE_CHECKING:
    from jax import Array


@dataclass(frozen=True)
class MixtureMethod(RewardMethod):
    """A reward model whose reward of a response depends on a mixture of K parts: whose taste is asked about.

    Attributes:
      READ_PER_ANSWER: what `under` needs of what `read` gives, per segment.
    """

    READ_PER_ANSWER: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def parts(self) -> int:
        """K."""

    @abstractmethod
    def under(self, params: Any, values: Mapping[str, Array], weights: Array) -> Array:
        """Rewards of responses under mixtures.

        Args:
          params: as of `read`.
          values: name -> `[n, ...]`, those of READ_PER_ANSWER.
          weights: `[n, K]` on the simplex.

        Returns:
          `[n]`.
        """

    def mixtures(self, params: Any, users: Sequence[str]) -> Array:
        """The mixture of each user, `[n, K]`.

        Raises:
          ConfigError: nobody knows a user; names who, and who is known.
        """
        raise ConfigError(f"{self.INFO.name}: its mixtures belong to no users; give mixtures instead.")


def mixture_problems(name: str, mixture: tuple[float, ...] | None, parts: int) -> list[str]:
    """A mixture that is none of K parts."""
    if mixture is None:
        return []
    fine = len(mixture) == parts and all(math.isfinite(w) and w >= 0 for w in mixture)
    if fine and abs(sum(mixture) - 1.0) <= 1e-6:
        return []
    return [f"{name}: mixture is {mixture!r} but must be {parts} numbers of at least 0 whose sum is 1."]


def places_of(name: str, users: Sequence[str], known: Sequence[str]) -> list[int]:
    """The numbers of users among those that a model knows; ConfigError names the first that it does not."""
    numbers = {user: i for i, user in enumerate(known)}
    for user in users:
        if user not in numbers:
            some = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            raise ConfigError(
                f"{name}: there is no user {user!r}; the model knows {len(known)}: {some}.{did_you_mean(user, known)} "
                "Fit a new user to some of their pairs (docs/reward_models.md), or give a mixture."
            )
    return [numbers[user] for user in users]
