"""What a construction is: rows in, rows out, with the networks it may ask for."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.tools import tools_of
from jaxpo.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from jaxpo.data.rows.texts import Text
    from jaxpo.judges.asking import Item
    from jaxpo.judges.base import Judge
    from jaxpo.judges.network import Network
    from jaxpo.sampling.prompts import Conversation


NETWORKS = {
    "model": "a run, stage or export: scores, embeds or writes",
    "reference": "what log-ratios are taken against",
    "reward": "a reward stage's model",
}
"""The networks that a construction may ask for."""


@dataclass
class Tools:
    """What a construction may use besides the rows.

    Attributes:
      seed: of every draw.
      networks: those of `NETWORKS` that were given, by name.
      counts: what happened to the rows, by name; printed at the end.
      folder: for what a long construction keeps, so that the same command goes on where it was stopped; made on use.
      max_length: tokens of a text that a network reads.
      say: shows one line to the user.
      check: raises where the user or the scheduler asked the work to stop; called before a network is used.
    """

    seed: int = 0
    networks: dict[str, Network] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    folder: Path | None = None
    max_length: int = 1024
    say: Callable[[str], None] = print
    check: Callable[[], None] = lambda: None

    def count(self, name: str, n: int = 1) -> None:
        """Add to one of the counts."""
        self.counts[name] += n

    def has(self, which: str) -> bool:
        """Whether a network of that name was given."""
        return which in self.networks

    def network(self, which: str) -> Network:
        """The network of that name.

        Raises:
          ConfigError: it was not given; names the flag.
        """
        if which not in self.networks:
            raise ConfigError(_missing(which))
        self.check()
        return self.networks[which]

    def logps(self, prompts: Sequence[Text], completions: Sequence[Text], which: str = "model") -> np.ndarray:
        """log pi(completion | prompt), summed over its tokens (turn end included), nats, float64 `[n]`."""
        return self.network(which).logps(prompts, completions)

    def token_counts(self, prompts: Sequence[Text], completions: Sequence[Text], which: str = "model") -> np.ndarray:
        """Number of scored tokens of each completion, int64 `[n]`."""
        return self.network(which).token_counts(prompts, completions)

    def embed(self, prompts: Sequence[Text], which: str = "model") -> np.ndarray:
        """Mean final hidden state over each prompt's tokens, float32 `[n, D]`."""
        return self.network(which).embed(prompts)

    def rewards(self, prompts: Sequence[Text], completions: Sequence[Text]) -> np.ndarray:
        """Scores of a reward-stage model, float64 `[n]`."""
        return self.network("reward").rewards(prompts, completions)

    def judged(self, judge: Judge, items: Sequence[Item]) -> dict[str, float]:
        """The score of every item that all members of a judge gave one, by `Item.key(None)`.

        Raises:
          ConfigError, DataError: a judge that cannot work.
          RunError: a judge that fails all the time.
        """
        from jaxpo.judges.scoring import check_judge, plainly, score_all

        check_judge(judge, items, self.network)
        found = score_all(judge, items, self.network, self.folder, plainly(say=self.say, check=self.check))
        for why, n in Counter(found.failures.values()).most_common(3):
            self.say(f"{n} answers without a score: {why}")
        return found.values

    def generate(
        self,
        prompts: Sequence[Text | Conversation],
        n: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 128,
        which: str = "model",
        **sizes: Any,
    ) -> list[list[str]]:
        """n samples per prompt; a function of the prompt's number, the sample's number and the seed.

        Args:
          sizes: of what prompts show, see `Network.generate`.
        """
        how: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "max_new_tokens": max_new_tokens}
        return self.network(which).generate(prompts, n, seed=self.seed, **how, **sizes)


def _missing(which: str) -> str:
    return (
        f"this construction needs a {which}; give --{which} RUN, STAGE or EXPORT. In a recipe, name an earlier "
        "stage in Construct.networks."
    )


def _without_tools(row: Row, what: str) -> DataError:
    return row.error(
        what, field="tools", remedy="Remove rows with tools; what is made of them would be another prompt."
    )


@dataclass(frozen=True)
class Construction(ABC):
    """Base of the constructions: a frozen dataclass of options. `NAME` is what `jaxpo data construct` calls it.

    Attributes:
      NAME: the method's name in the catalogue.
      READS: what the input rows must have, one line.
      WRITES: what the output rows have, one line.
    """

    NAME: ClassVar[str]
    READS: ClassVar[str]
    WRITES: ClassVar[str]

    def problems(self) -> list[str]:
        """Options out of range, one sentence each; asked before any row is read."""
        return []

    def needed_networks(self) -> tuple[str, ...]:
        """The networks that it asks for whatever the rows are; asked before any row is read."""
        return ()

    def missing_networks(self, given: Collection[str]) -> list[str]:
        """One sentence for each network that it needs and that is not among those given."""
        return [_missing(which) for which in self.needed_networks() if which not in given]

    def run(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        """The new rows, in a fixed order.

        Raises:
          DataError: a row that cannot be used; names file, row, field and remedy.
          ConfigError: an option out of range, or a network that is missing.
        """
        if problems := self.problems():
            raise ConfigError(problems)
        tooled = next((row for row in rows if tools_of(row)), None)
        if tooled is not None and tools.networks:
            raise _without_tools(tooled, "a network would read its prompt without `tools`.")
        kept = tooled is None
        for new in self.construct(rows, tools):
            kept = kept or "tools" in new
            yield new
        if tooled is not None and not kept:
            raise _without_tools(tooled, f"{self.NAME} makes rows without `tools`.")

    @abstractmethod
    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        """As `run`; the options are in range."""


def not_positive(**options: float) -> list[str]:
    """One sentence for every option that is not above 0."""
    return [
        f"--{name.replace('_', '-')} is {value} but must be greater than 0."
        for name, value in options.items()
        if not value > 0
    ]


def constructions() -> dict[str, type[Construction]]:
    """Name -> class of every construction of this package."""
    import jaxpo.construct as package

    found: dict[str, type[Construction]] = {}
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Construction) and "NAME" in vars(value):
                found[value.NAME] = value
    return dict(sorted(found.items()))
