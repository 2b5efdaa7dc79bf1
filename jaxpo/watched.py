"""A program within limits: what it prints is kept up to a bound, it is stopped in time, and how it ended is told.

`jaxpo.sandbox` puts the fence around it.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jaxpo.sandbox import Limits

Kind = Literal["ok", "raised", "timed out", "out of memory", "too much output"]
OUT_OF_MEMORY = re.compile(r"MemoryError|bad_alloc|annot allocate memory|out of memory", re.IGNORECASE)


@dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
      kind: "ok", it ended with 0 within its limits; "raised", with another code; "timed out" and "out of memory", it
        met that limit; "too much output", it ended, and what is kept is not all that it printed.
      output, errors: what it printed, cut at `Limits.output` bytes each.
      printed: bytes of both together, the dropped ones too.
      code: of its end; above 128 a signal's number + 128; None when it was stopped for its time.
      seconds: that it took.
    """

    kind: Kind
    output: str
    errors: str
    printed: int
    code: int | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it ended with 0 within every limit."""
        return self.kind == "ok"

    @property
    def why(self) -> str:
        """What went wrong, in one line; nothing when it is ok."""
        last = self.errors.strip().rpartition("\n")[2][:200]
        return {
            "ok": "",
            "raised": f"ended with {self.code}" + (f": {last}" if last else ""),
            "timed out": f"was stopped after {self.seconds:.1f} s",
            "out of memory": "asked for more memory than it may have",
            "too much output": f"printed {self.printed:,} bytes, more than are kept",
        }[self.kind]


def watched(command: Sequence[str], folder: Path, stdin: str, limits: Limits, home: str) -> Result:
    """Start a program, read what it prints, and stop it in time, with all that it started.

    Args:
      folder: where it runs; `home`, its own folder as it sees it.
      stdin: what it reads.
    """
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": home}
    environment |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    outputs = [_Kept(stream, limits.output) for stream in (process.stdout, process.stderr)]
    threading.Thread(target=_feed, args=(process.stdin, stdin.encode()), daemon=True).start()
    end = _End(process.pid)
    end.join(limits.seconds)
    timed_out = end.is_alive()
    # The whole session: behind bubblewrap all of it dies with its first process, elsewhere what it left running.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    end.join()
    process.returncode = end.code
    for kept in outputs:
        kept.join(1.0)
    seconds = time.monotonic() - began
    return _result(outputs, None if timed_out else end.code, seconds, end.peak, limits)


def _result(outputs: Sequence[_Kept], code: int | None, seconds: float, peak: int, limits: Limits) -> Result:
    output, errors = (kept.text() for kept in outputs)
    last = errors.strip().rpartition("\n")[2]
    kind: Kind
    if code is None:
        kind = "timed out"
    elif code and (OUT_OF_MEMORY.search(last) or peak > 0.9 * limits.memory):
        kind = "out of memory"
    elif code:
        kind = "raised"
    elif any(kept.count > limits.output for kept in outputs):
        kind = "too much output"
    else:
        kind = "ok"
    return Result(kind, output, errors, sum(kept.count for kept in outputs), code, seconds)


def _feed(stream: IO[bytes] | None, data: bytes) -> None:
    assert stream is not None
    # It need not read its input.
    with contextlib.suppress(BrokenPipeError):
        stream.write(data)
        stream.close()


class _Kept(threading.Thread):
    """Reads a stream to its end: keeps its beginning and counts the rest."""

    def __init__(self, stream: Any, most: int):
        super().__init__(daemon=True)
        self.count, self._parts, self._stream, self._most = 0, b"", stream, most
        self.start()

    def run(self) -> None:
        while part := self._stream.read1(1 << 16):
            self.count += len(part)
            self._parts += part[: self._most - len(self._parts)]
        self._stream.close()

    def text(self) -> str:
        """What is kept."""
        return self._parts.decode(errors="replace")


class _End(threading.Thread):
    """Waits for a process: its code, as a shell tells it, and the most memory that it or its children had.

    What the kernel counts begins with the memory of whoever started it: below the most that this process had it says
    nothing, and is 0 here.
    """

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.code, self.peak, self._pid = 0, 0, pid
        self.start()

    def run(self) -> None:
        _, status, used = os.wait4(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.code = 128 - code if code < 0 else code
        self.peak = used.ru_maxrss << 10 if used.ru_maxrss > inherited else 0
