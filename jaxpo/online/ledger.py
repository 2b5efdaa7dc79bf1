"""What a generation has come to, on disk before anything is trained on it: answers, rewards, recorded log-probs.

    stages/NAME/rollouts/00000012/answers-DIGEST.jsonl     a line per group, and a last one when all are there
                                  reward-NAME-DIGEST.jsonl a line per reward that was asked for
                                  trainer-DIGEST.jsonl     a line per slice: what the trainer says of tokens beforehand

The digest holds the weights and all settings, so that answers of other weights are never taken for these. Of several
processes that write answers together the first one keeps the ledgers, and the others are told what is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxpo.data.rows.json_lines import whole_lines
from jaxpo.errors import DataError
from jaxpo.judges.ledger import Ledger
from jaxpo.sharding.turns import by_first_process, works_alone

FOLDER, ANSWERS, DONE = "rollouts", "answers", "done"


class SharedLedger(Ledger):
    """A ledger of all processes of a run: the first one reads and writes it; every process calls, in the same order."""

    def read(self) -> list[dict[str, Any]]:
        return by_first_process(super().read)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        if jax.process_index() == 0 or works_alone():
            super().append(records)


@dataclass(frozen=True)
class Journal:
    """The folder of a stage's generations.

    Attributes:
      folder: the stage's `rollouts`.
      settings: everything that answers depend on besides the weights.
    """

    folder: Path
    settings: Mapping[str, Any]

    def of(self, generation: int) -> Path:
        """The folder of a generation."""
        return self.folder / f"{generation:08d}"

    def begin(self, generation: int, weights: str, first: int) -> Ledger:
        """The ledger of a generation's answers by these weights, new or as it was left.

        Args:
          weights: fingerprint of them.
          first: position of its first prompt.
        """
        about = {**self.settings, "generation": generation, "weights": weights, "first": first}
        return SharedLedger(self.of(generation), ANSWERS, about)

    def rewards(self, generation: int, weights: str, name: str, identity: Mapping[str, Any]) -> Ledger:
        """The ledger of one reward's values of a generation."""
        return SharedLedger(self.of(generation), f"reward-{name}", {"weights": weights, **identity})

    def finished(self, generation: int) -> tuple[Ledger, list[dict[str, Any]]]:
        """The whole ledger of a generation that earlier weights wrote, and its records.

        Raises:
          DataError: there is none, or more than one.
        """
        found = []
        for path in sorted(self.of(generation).glob(f"{ANSWERS}-*.jsonl")):
            ledger = opened(path)
            records = ledger.read()
            if records and DONE in records[-1]:
                found.append((ledger, records))
        if len(found) != 1:
            raise DataError(
                f"{'no' if not found else len(found)} whole ledger of generation {generation} is there, which the "
                "checkpoint's steps were to be trained on.",
                file=self.of(generation),
                remedy="Put it back, or go back to an earlier checkpoint (--resume STEP)."
                if not found
                else "Remove all but the one that belongs to this run.",
            )
        return found[0]


def opened(path: Path) -> SharedLedger:
    """A ledger as it lies, with the settings that its first line says.

    Raises:
      DataError: it has none.
    """
    first = next(iter(whole_lines(path)), None)
    try:
        settings = json.loads(first or b"")["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("is not as it was written.", file=path, row=1, remedy="Remove it and run again.") from error
    ledger = SharedLedger(path.parent, path.name.rpartition("-")[0], settings)
    if ledger.path != path:
        raise DataError("its settings are not those of its name.", file=path, row=1, remedy="Remove it and run again.")
    return ledger
