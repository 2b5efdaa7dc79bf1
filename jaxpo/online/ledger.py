"""What a generation has come to, on disk before anything is trained on it: answers, rewards, recorded log-probs.

    stages/NAME/rollouts/00000012/answers-DIGEST.jsonl     a line per group, and a last one when all are there
                                  reward-NAME-DIGEST.jsonl a line per reward that was asked for
                                  old_logps-DIGEST.jsonl   a line per group, where answers serve several steps

The digest holds the weights and all settings, so that answers of other weights are never taken for these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.data.rows.json_lines import whole_lines
from jaxpo.errors import DataError
from jaxpo.judges.ledger import Ledger

FOLDER, ANSWERS, DONE = "rollouts", "answers", "done"


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
        return Ledger(self.of(generation), ANSWERS, about)

    def rewards(self, generation: int, weights: str, name: str, identity: Mapping[str, Any]) -> Ledger:
        """The ledger of one reward's values of a generation."""
        return Ledger(self.of(generation), f"reward-{name}", {"weights": weights, **identity})

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


def opened(path: Path) -> Ledger:
    """A ledger as it lies, with the settings that its first line says.

    Raises:
      DataError: it has none.
    """
    first = next(iter(whole_lines(path)), None)
    try:
        settings = json.loads(first or b"")["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("is not as it was written.", file=path, row=1, remedy="Remove it and run again.") from error
    ledger = Ledger(path.parent, path.name.rpartition("-")[0], settings)
    if ledger.path != path:
        raise DataError("its settings are not those of its name.", file=path, row=1, remedy="Remove it and run again.")
    return ledger
