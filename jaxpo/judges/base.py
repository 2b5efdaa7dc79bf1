"""What a judge is."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Ask, Item, Reply

Networks = Callable[[str], Any]
"""A name -> `jaxpo.judges.network.Network`."""

Asked = Mapping[str, Item]
Earlier = Mapping[str, Sequence[tuple[str, Item]]]
"""By prompt, answers of before with their names, the newest last."""


@dataclass(frozen=True)
class Made:
    """Values of answers by name, and what is worth knowing of how they came about.

    Attributes:
      values: None where nothing is said of an answer; what is not here has failed.
      figures: by name.
      warning: said once; "" = none.
    """

    values: Mapping[str, Any]
    figures: Mapping[str, float] = field(default_factory=dict)
    warning: str = ""


@dataclass(frozen=True)
class Judge(ABC):
    """Scores answers to prompts one by one: larger is better, the scale is the judge's own.

    Attributes:
      NAME: in file names and messages.
      BATCH: answers per call; all that a kill at the wrong moment can lose.
      MAIN_THREAD: whether it works in the main thread alone; a judge that asks others says what they do.
    """

    NAME: ClassVar[str]
    BATCH: ClassVar[int] = 16
    MAIN_THREAD: ClassVar[bool] = False

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse what cannot work before anything expensive; ConfigError or DataError."""
        return

    def problems(self) -> list[str]:
        """What is wrong with its settings, to be said before a run begins."""
        try:
            self.check(())
        except ConfigError as error:
            return error.problems
        return []

    def columns(self) -> tuple[str, ...] | None:
        """Columns of the rows that scores depend on besides prompt and answer; None = all."""
        return ()

    def identity(self, networks: Networks) -> dict[str, Any]:
        """Everything that scores depend on besides the items; other identities keep their scores in other files."""
        return {"judge": self.NAME, **dataclasses.asdict(self)}

    def models(self) -> tuple[str, ...]:
        """Names of the networks that it asks for."""
        return ()

    def reward_models(self) -> tuple[str, ...]:
        """Those of `models` that are to give every answer a reward by itself."""
        return ()

    def members(self) -> tuple[Judge, ...]:
        """The judges that are asked."""
        return (self,)

    def weights(self) -> tuple[float, ...]:
        """What each member's score counts."""
        return (1.0,)

    @property
    def remembers(self) -> int:
        """Earlier answers to each prompt that values depend on."""
        return 0

    def asked(self, items: Mapping[str, Item], earlier: Earlier) -> Asked:
        """What is asked about, so that these answers have values: they themselves, unless they are compared."""
        return items

    def made(self, items: Mapping[str, Item], earlier: Earlier, values: Mapping[str, Any]) -> Made:
        """The answers' values, out of those of what was asked about."""
        return Made({key: values[key] for key in items if key in values})

    @abstractmethod
    def open(self, networks: Networks) -> Ask:
        """The scorer. A value that is no finite number is made a failure by `score_reply`."""


def score_reply(value: Any) -> Reply:
    """A judge's value as a reply: a finite number, or a failure that says what came instead."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return Reply(failed=f"the score is no number but {value!r:.80}")
    number = float(value)
    if not math.isfinite(number):
        return Reply(failed=f"the score is {number}")
    return Reply(number)
