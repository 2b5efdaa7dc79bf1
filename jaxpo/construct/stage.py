"""Any construction as a stage of a recipe: rows and the models of earlier stages in, files for later stages out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.construct.base import NETWORKS, Construction, Tools
from jaxpo.data.cleaning.heldout import is_held_out
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.data.rows.rows import detect, read_record
from jaxpo.errors import ConfigError, DataError, did_you_mean
from jaxpo.judges.ledger import digest

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext
    from jaxpo.judges.network import Network

ROWS, HELD_OUT, PARTS = "rows.jsonl", "heldout_rows.jsonl", "parts"


@dataclass(frozen=True)
class Construct(Work):
    """Run a construction between two stages; the same options as `jaxpo data construct` has.

    Writes `rows.jsonl` and, with `heldout_one_in`, `heldout_rows.jsonl`; no prompt is in both.

    Attributes:
      construction: a dataclass of `jaxpo.construct`, such as `RSO(beta=0.5)`.
      rows: data files; "corpus:FILE" and "stage:NAME/FILE" too.
      networks: (which, stage) pairs: which of the construction's networks ("model", "reference", "reward") is the model
        of which earlier stage; "previous" is the last one that has a model.
      heldout_one_in: about one prompt in so many is held out, and at least one; None = none.
      max_length: tokens of a text that a network reads.
    """

    name: str = "construct"
    construction: Any = None
    rows: tuple[OtherFile, ...] = ()
    networks: tuple[tuple[str, str], ...] = ()
    heldout_one_in: int | None = None
    max_length: int = 1024

    def outputs(self) -> tuple[str, ...]:
        return (ROWS,) if self.heldout_one_in is None else (ROWS, HELD_OUT)

    def inputs(self) -> tuple[str, ...]:
        return self.rows

    def needed_models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(stage for _, stage in self.networks))

    def problems(self) -> list[str]:
        found = super().problems()
        if not isinstance(self.construction, Construction):
            found.append(f"construction is {self.construction!r}; give a dataclass of jaxpo.construct, such as RSO().")
        else:
            given = [which for which, _ in self.networks]
            faults = self.construction.problems() + self.construction.missing_networks(given)
            found += [f"construction: {fault}" for fault in faults]
        if not self.rows:
            found.append("rows names no file.")
        if self.heldout_one_in is not None and self.heldout_one_in < 2:
            found.append(f"heldout_one_in is {self.heldout_one_in} but must be at least 2; None holds nothing out.")
        if self.max_length < 2:
            found.append(f"max_length is {self.max_length} but must be at least 2.")
        names = [which for which, _ in self.networks]
        for which in dict.fromkeys(names):
            if which not in NETWORKS:
                known = f"there are {', '.join(NETWORKS)}.{did_you_mean(which, NETWORKS)}"
                found.append(f"networks: no construction has a network {which!r}; {known}")
            if names.count(which) > 1:
                found.append(f"networks: {which!r} is given {names.count(which)} times; name one stage.")
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        if not list(read_rows(files)):
            raise DataError("holds no rows.", file=files[0], remedy="Give rows to construct from.")

    def run(self, context: WorkContext) -> dict[str, Any]:
        networks = {which: self._network(context, which, stage) for which, stage in self.networks}
        tools = Tools(
            context.seed,
            networks,
            folder=context.folder / PARTS,
            max_length=self.max_length,
            say=context.say,
            check=context.check,
        )
        rows = list(read_rows(context.files(self.rows)))
        made = list(self.construction.run(rows, tools))
        trained, held_out = (made, []) if self.heldout_one_in is None else split(made, self.heldout_one_in)
        report = {"rows_read": len(rows), "rows": len(trained), "heldout_rows": len(held_out), **tools.counts}
        if not trained or (self.heldout_one_in is not None and not held_out):
            said = ", ".join(f"{name} {n}" for name, n in report.items())
            raise DataError(f"stage {self.name}: too few rows are left to train on and to hold out: {said}.")
        write_jsonl(context.folder / ROWS, trained)
        if self.heldout_one_in is not None:
            write_jsonl(context.folder / HELD_OUT, held_out)
        return report

    def _network(self, context: WorkContext, which: str, stage: str) -> Network:
        from jaxpo.convert.reader import why_no_reward

        found = context.network(stage, self.max_length)
        if which == "reward" and (lacking := why_no_reward(found.params, found.about)):
            raise ConfigError(f"{self.name}.networks: {stage!r} {lacking}; name a reward stage for 'reward'.")
        return found


def split(rows: Iterable[dict[str, Any]], one_in: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on, and those of about one prompt in `one_in` (of the first prompt if that would be none)."""
    named = [(digest(prompt_of(row, number)), row) for number, row in enumerate(rows, start=1)]
    held = {name for name, _ in named if is_held_out(name, one_in)} or {name for name, _ in named[:1]}
    return [row for name, row in named if name not in held], [row for name, row in named if name in held]


def prompt_of(row: dict[str, Any], number: int) -> Any:
    """What a row's responses answer: its prompt, or the turns before its last; the whole row where there is neither."""
    if "prompt" in row:
        return row["prompt"]
    source = Row(Path("(construction)"), number, row)
    return read_record(source, detect(source)).sides[0].prompt or row
