"""Where faults are played: the undisturbed run, copies of it, and the judgement over a run that was disturbed."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from campaign import recipe
from campaign.child import INJECTED, ROOT, Child, Ended
from campaign.outcome import Outcome, Position, differences, outcome, position, steps_lost
from jaxpo.errors import JaxpoError


@dataclass
class Tally:
    """What came of a fault: how often it was tried and survived, the most steps that one of them cost, and why not."""

    tried: int = 0
    survived: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, wrong: list[str], lost: int = 0) -> None:
        """One more trial."""
        self.tried += 1
        self.survived += not wrong
        self.lost = max(self.lost, lost)
        self.wrong += wrong


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
      name: what happens.
      holds: what must hold besides the equal end.
      play: `(scene, trials) -> Tally`.
      trials: in the short form and in the full one; 0 = left to the full one.
      needs: says why it cannot be tried here, or None.
    """

    name: str
    holds: str
    play: Callable[[Scene, int], Tally]
    trials: tuple[int, int] = (0, 1)
    needs: Callable[[], str | None] = lambda: None


class Scene:
    """A folder with the recipe and its undisturbed run, beside which others are disturbed.

    Args:
      folder: for everything; the caller removes it.
      seed: of the instants.
    """

    def __init__(self, folder: Path, seed: int = 0):
        self.folder, self.rng = folder, random.Random(seed)
        self.recipe = recipe.write(folder)
        self.environ = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "JAXPO_COMPILE_CACHE": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        self.whole, self.expected, self.seconds = Path(), Outcome((), {}, ""), 0.0

    def prepare(self, *, twice: bool) -> None:
        """The undisturbed run, whose programs serve all others; RuntimeError where it fails, or a second one differs.

        What it took gives the instants: half of it without a second one, for its programs are compiled.
        """
        self.whole, taken = self.run("undisturbed"), self.folder / "seconds.json"
        if not taken.is_file():
            began = time.monotonic()
            self._undisturbed(self.whole)
            seconds = (time.monotonic() - began) / 2
            if twice:
                began, again = time.monotonic(), self.run("once-more")
                self._undisturbed(again)
                seconds = time.monotonic() - began
                if found := differences(outcome(again), outcome(self.whole)):
                    raise RuntimeError(f"two undisturbed runs do not end alike: {found}")
            taken.write_text(json.dumps(seconds))
        self.expected, self.seconds = outcome(self.whole), json.loads(taken.read_text())

    def _undisturbed(self, run: Path) -> None:
        ended = self.finish(run.name)
        if ended.code != 0:
            raise RuntimeError(f"an undisturbed run ended with {ended.code}:\n{ended.text}")

    def run(self, name: str) -> Path:
        """Directory of a run."""
        return self.folder / "runs" / name

    def start(
        self,
        name: str,
        *words: str,
        fault: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
        recipe: Path | None = None,
    ) -> Child:
        """`jaxpo run RECIPE --run NAME WORDS`, with a fault inside where one is given (`injected`)."""
        injected = {}
        if fault is not None:
            injected = {"PYTHONPATH": f"{INJECTED}{os.pathsep}{ROOT}", "JAXPO_FAULT": json.dumps(fault)}
        command = ["run", str(recipe or self.recipe), "--run", name, *words]
        output = self.folder / f"{name}-{time.monotonic_ns()}.txt"
        return Child(command, output, {**self.environ, **injected, **(environ or {})}, before)

    def finish(self, name: str, *words: str, **named: object) -> Ended:
        """`start`, and wait for the end."""
        return self.start(name, *words, **named).ended()  # type: ignore[arg-type]

    def away(self, name: str) -> Path:
        """A copy of the undisturbed run that was killed when the last checkpoint of its last stage was written."""
        copy = self.run(name)
        shutil.rmtree(copy, ignore_errors=True)  # of an earlier campaign in this folder
        shutil.copytree(self.whole, copy)
        (copy / "finished.json").unlink()
        shutil.rmtree(copy / "stages" / recipe.STAGES[-1] / "model")
        shutil.rmtree(copy / "export")
        return copy

    def same(self, run: Path) -> list[str]:
        """Where a finished run differs from the undisturbed one."""
        try:
            return differences(outcome(run), self.expected)
        except (JaxpoError, OSError, ValueError) as error:
            return [f"{type(error).__name__}: {error}"]

    def judged(self, run: Path, ended: Ended, before: Position, *said: str) -> tuple[list[str], int]:
        """`(what is wrong, steps taken again)` of a restart that should have ended as the undisturbed run did.

        Args:
          before: `position` of the run when it was disturbed, with what is intact (`intact`).
          said: what the restart has to say.
        """
        if ended.code != 0:
            return [f"the restart ended with {ended.code}: {ended.last}"], 0
        lost, wrong = steps_lost(before, ended.text)
        return [*wrong, *unsaid(ended, *said), *self.same(run)], lost

    def again(
        self, run: Path, *said: str, words: tuple[str, ...] = (), intact: Mapping[str, int] | None = None
    ) -> tuple[list[str], int]:
        """Run the same command again, to its end, and judge."""
        before = position(run)
        if intact is not None:
            before = dataclasses.replace(before, committed={**before.committed, **intact})
        return self.judged(run, self.finish(run.name, *words), before, *said)


def unsaid(ended: Ended, *said: str) -> list[str]:
    """What a run should have said and did not."""
    return [f"it did not say {words!r}, but: {ended.last}" for words in said if words not in ended.text]


def refused(ended: Ended, code: int, *said: str) -> list[str]:
    """What is wrong with an end that should have been this one."""
    wrong = [] if ended.code == code else [f"it ended with {ended.code} instead of {code}: {ended.last}"]
    return [*wrong, *unsaid(ended, *said)]
