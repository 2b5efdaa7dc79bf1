"""What a reward is: a judge that sees a whole generation's answers at once, with their tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.data.rows.texts import Text
from jaxpo.errors import JaxpoError, RunError
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.base import Judge, Networks, score_reply
from jaxpo.online.talk import Talk

ALL = 1 << 30


@dataclass(frozen=True)
class Response(Item):
    """An answer as rewards see it.

    Attributes:
      ids: its tokens, the end included.
      finished: it ended by itself.
      talk: what came of it in an environment; None without one.
    """

    ids: Sequence[int] = ()
    finished: bool = True
    talk: Talk | None = None

    @property
    def completion(self) -> Text:
        """The answer in the form of the prompt: a string, an assistant's turn, or all turns with an environment."""
        if self.talk is not None:
            return [dict(message) for message in self.talk.messages]
        return self.answer if isinstance(self.prompt, str) else [{"role": "assistant", "content": self.answer}]


@dataclass(frozen=True)
class RewardFunction(Judge):
    """Gives a number per answer, or None where it says nothing about one; `values` is what subclasses write.

    Attributes:
      label: the name in metrics, `rewards/LABEL/mean`; "" = the kind's.
    """

    label: str = ""

    NAME: ClassVar[str] = "reward"
    BATCH: ClassVar[int] = ALL

    @abstractmethod
    def values(self, answers: Sequence[Response]) -> Sequence[float | None]:
        """One value per answer."""

    def open(self, networks: Networks) -> Ask:
        def ask(items: Sequence[Any]) -> list[Reply]:
            try:
                return self._replies(items)
            except JaxpoError:
                raise
            except Exception as error:
                # One answer may be to blame: each is asked about alone.
                return [self._alone(item) for item in items] if len(items) > 1 else [failure(error)]

        return ask

    def _alone(self, item: Any) -> Reply:
        try:
            return self._replies([item])[0]
        except JaxpoError:
            raise
        except Exception as error:
            return failure(error)

    def _replies(self, items: Sequence[Any]) -> list[Reply]:
        return self.replies(items, self.values(items))

    def replies(self, items: Sequence[Any], found: Any) -> list[Reply]:
        """What was given for these answers, as replies; true and false are 1 and 0, as in TRL.

        Raises:
          RunError: it is not one value for each.
        """
        if not hasattr(found, "__len__") or len(found) != len(items):
            what = f"{len(found)} values" if hasattr(found, "__len__") else f"a {type(found).__name__}"
            raise RunError(
                f"the reward {self.label or self.NAME} gave {what} for {len(items)} answers; give one for each."
            )
        numbers = [float(value) if isinstance(value, bool) else value for value in found]
        return [Reply(None) if value is None else score_reply(value) for value in numbers]


def failure(error: Exception) -> Reply:
    """What a reward raised, as the reason that there is no value."""
    return Reply(failed=f"{type(error).__name__}: {error}"[:300])
