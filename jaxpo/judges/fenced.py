"""Judges that run code which nobody vouches for: each answer in a sandbox, several at a time."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.base import Judge, Networks
from jaxpo.sandbox import Limits, Sandbox


@dataclass(frozen=True)
class FencedJudge(Judge):
    """A judge that runs a program per answer.

    How a program ended is kept in the ledger beside its value, and counted: it raised, timed out, ran out of memory, or
    printed too much.

    Attributes:
      seconds, memory_mb, output_kb: of each program; see `jaxpo.sandbox.Limits`.
      unsandboxed: run it with these limits alone where bubblewrap does not work.
      workers: programs at a time; 0 = one per processor.
    """

    seconds: float = 10.0
    memory_mb: int = 512
    output_kb: int = 64
    unsandboxed: bool = False
    workers: int = 0

    BATCH: ClassVar[int] = 64

    def sandbox(self) -> Sandbox:
        """Where programs run."""
        return Sandbox(Limits(self.seconds, self.memory_mb << 20, self.output_kb << 10), self.unsandboxed)

    def identity(self, networks: Networks) -> dict[str, Any]:
        return {name: x for name, x in super().identity(networks).items() if name not in ("unsandboxed", "workers")}

    def check(self, rows: Sequence[Row]) -> None:
        self.sandbox().check()

    @abstractmethod
    def reply(self, sandbox: Sandbox, item: Item) -> Reply:
        """Run what is to be run about one answer."""

    def open(self, networks: Networks) -> Ask:
        sandbox = self.sandbox()
        sandbox.check()

        def ask(items: Sequence[Item]) -> list[Reply]:
            with ThreadPoolExecutor(self.workers or os.cpu_count() or 1) as pool:
                return list(pool.map(lambda item: self.reply(sandbox, item), items))

        return ask
