"""The folders of a stage's checkpoints: one per step, what counts of them, what is left over, what goes.

A folder whose name is a number is complete. Deletion renames first, so that it is so at any moment.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import jax

from jaxpo.checkpoint.commit import UNSYNCED
from jaxpo.data.durable import sync
from jaxpo.errors import writing

_DAMAGED, _DELETING = ".damaged", ".deleting"
_LEFTOVERS = ("*.orbax-checkpoint-tmp*", f"*{UNSYNCED}", f"*{_DELETING}")


class StepFolders:
    """`directory/00000012` for step 12, and its neighbours.

    Attributes:
      limit: the step that is gone back to (`back_to`); those after it do not count. None = all count.
    """

    def __init__(self, directory: Path | str):
        self.directory = Path(directory).absolute()
        self.limit: int | None = None
        self._clean = False

    def path(self, step: int) -> Path:
        """Directory of the checkpoint of `step`."""
        return self.directory / f"{step:08d}"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        found = self.directory.iterdir() if self.directory.is_dir() else ()
        steps = sorted(int(p.name) for p in found if p.name.isdigit() and p.is_dir())
        return [step for step in steps if self.limit is None or step <= self.limit]

    def latest(self) -> int | None:
        """Newest complete step, or None."""
        steps = self.steps()
        return steps[-1] if steps else None

    def back_to(self, step: int) -> None:
        """The run goes on from an earlier checkpoint; those after it do not count, and go when it has been read."""
        self.limit = step

    def set_aside(self, step: int) -> Path:
        """Take a damaged checkpoint out of the count, under a name that is returned; nothing of it is lost."""
        path = self.path(step)
        if jax.process_index() == 0:
            names = (path.with_name(path.name + _DAMAGED + end) for end in ("", *(f".{n}" for n in range(1, 1000))))
            path.rename(moved := next(name for name in names if not name.exists()))
            sync(self.directory)
            return moved
        return path.with_name(path.name + _DAMAGED)

    def clean_up(self) -> None:
        """Remove leftovers once, and see that a folder can be made: Orbax's threads would wait minutes for one."""
        if jax.process_index() != 0:
            return
        if not self._clean:
            self.directory.mkdir(parents=True, exist_ok=True)
            for leftover in [found for pattern in _LEFTOVERS for found in self.directory.glob(pattern)]:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            self._clean = True
        probe = self.directory / f".{os.getpid()}{_DELETING}"
        with writing(self.directory, probe):
            probe.mkdir()
            probe.rmdir()

    def remove(self, step: int) -> None:
        """The checkpoint of a step, for good."""
        doomed = self.path(step).with_name(self.path(step).name + _DELETING)
        self.path(step).rename(doomed)
        shutil.rmtree(doomed)
