"""A program that somebody else wrote as a judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Item, Reply
from jaxpo.judges.base import Networks, score_reply
from jaxpo.judges.fenced import FencedJudge
from jaxpo.sandbox import Sandbox


@dataclass(frozen=True)
class ProgramJudge(FencedJudge):
    """The number on the last line that a Python program prints about an answer; in a sandbox.

    It reads one line of JSON, {"prompt": ..., "answer": ..., "row": {all columns}}. One that does not end well, or ends
    with something else than a number, is a failure of that answer.

    Attributes:
      program: a file that ends in .py.
    """

    program: str = ""

    NAME: ClassVar[str] = "program"

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        self._source()

    def columns(self) -> None:
        return None

    def identity(self, networks: Networks) -> dict[str, Any]:
        source = hashlib.sha256(self._source().encode()).hexdigest()[:16]
        return {**super().identity(networks), "source": source}

    def reply(self, sandbox: Sandbox, item: Item) -> Reply:
        about = {"prompt": item.prompt, "answer": item.answer, "row": dict(item.row.data)}
        result = sandbox.python(self._source(), stdin=json.dumps(about, default=str) + "\n")
        if not result.ok:
            return Reply(failed=f"the program {result.why}", note=result.kind)
        last = result.output.strip().rpartition("\n")[2]
        try:
            return score_reply(float(last))
        except ValueError:
            return Reply(failed=f"the last line that the program printed is no number but {last!r:.80}")

    def _source(self) -> str:
        try:
            return Path(self.program).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{self.program}: cannot be read ({error.strerror}).") from error
