"""Foreign code behind a fence: a process with limits, without network, that sees no files but its own.

    result = Sandbox().python("print(6 * 7)")        # Result(kind="ok", output="42\n", ...)

Whatever a model wrote, or a tool or checker that somebody else wrote, runs here and nowhere else. bubblewrap makes the
fence; the limits are the kernel's. Imports no jax.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from jaxpo.errors import ConfigError

Kind = Literal["ok", "raised", "timed out", "out of memory", "too much output"]
ROOT = "/sandbox"
WORK, INPUT = "work", "input"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
"""What a program needs of the machine, read-only, where it exists."""
FIRST_UID = 1 << 30
"""Users that nobody is: each sandbox of a root's process has one of its own, by which the kernel counts processes."""
OUT_OF_MEMORY = re.compile(r"MemoryError|bad_alloc|annot allocate memory|out of memory", re.IGNORECASE)
# Runs inside: what it lowers here holds for the foreign program and all that it starts.
LAUNCHER = """
import json, os, resource, sys
limits, uid = json.loads(sys.argv[1]), int(sys.argv[2])
for name, value in limits.items():
    resource.setrlimit(getattr(resource, name), (value, value))
if uid:
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
os.execvp(sys.argv[3], sys.argv[3:])
"""


@dataclass(frozen=True)
class Limits:
    """What a program may take.

    Attributes:
      seconds: of wall time, and of each process's processor time.
      memory: bytes of address space of each process.
      output: bytes that are kept of each of its two outputs; the rest is read, counted and dropped.
      processes: alive at once, threads counted too. Without bubblewrap Linux does not hold root to it.
      disk: bytes that it may write: all files together behind bubblewrap, each file without it.
    """

    seconds: float = 10.0
    memory: int = 512 << 20
    output: int = 64 << 10
    processes: int = 16
    disk: int = 64 << 20

    def __post_init__(self) -> None:
        problems = [
            f"sandbox: {name} is {value} but must be above 0." for name, value in vars(self).items() if not value > 0
        ]
        if problems:
            raise ConfigError(problems)


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


@dataclass(frozen=True)
class Sandbox:
    """Runs programs that nobody vouches for.

    Attributes:
      limits: of each of them.
      unsandboxed: run them with the limits alone where bubblewrap does not work: they have the network, and every file
        that this process may read or write. `--unsandboxed` of a command.
      readable: further files and folders of this machine that they may read, at the same path.
    """

    limits: Limits = Limits()
    unsandboxed: bool = False
    readable: tuple[str, ...] = ()

    def check(self) -> None:
        """ConfigError where there is no fence and nobody has asked to go without."""
        if not self.unsandboxed and (why := why_no_fence()):
            raise ConfigError(
                f"foreign code cannot be run safely here: {why}. Install bubblewrap (apt-get install bubblewrap), or "
                "give --unsandboxed (unsandboxed=True): then it has the network and all of your files."
            )

    def python(self, code: str, *, stdin: str = "", files: Mapping[str, str] | None = None) -> Result:
        """Run a Python program with this interpreter and the packages beside it."""
        command = [sys.executable, "-I", "-B", f"../{INPUT}/main.py"]
        return self.run(command, stdin=stdin, files={**(files or {}), "main.py": code})

    def run(self, command: Sequence[str], *, stdin: str = "", files: Mapping[str, str] | None = None) -> Result:
        """Run a program in an empty folder of its own.

        Args:
          stdin: what it reads.
          files: name -> text; it finds them in `../input`.

        Raises:
          ConfigError: as `check`; a file's name that is a path.
        """
        self.check()
        fenced = not why_no_fence()
        with tempfile.TemporaryDirectory(prefix="jaxpo-sandbox-") as name:
            folder = Path(name)
            _write_inputs(folder, files or {})
            uid = FIRST_UID + secrets.randbelow(FIRST_UID) if fenced and os.geteuid() == 0 else 0
            launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, json.dumps(self._rlimits(fenced)), str(uid), *command]
            fence = self._fence(folder) if fenced else []
            return _watched([*fence, *launch], folder / WORK, stdin, self.limits, ROOT if fenced else name)

    def _fence(self, folder: Path) -> list[str]:
        """bubblewrap's command line."""
        limits = self.limits
        visible = [*SYSTEM, sys.prefix, sys.base_prefix, *self.readable]
        # bubblewrap makes the folders on the way for root alone.
        above = dict.fromkeys(str(folder) for path in visible for folder in reversed(Path(path).parents[:-1]))
        binds = [word for path in above for word in ("--perms", "0755", "--dir", path)]
        binds += [word for path in visible for word in ("--ro-bind-try", path, path)]
        work, read = f"{ROOT}/{WORK}", f"{ROOT}/{INPUT}"
        space = ["--perms", "0777", "--size", str(limits.disk), "--tmpfs", work, "--ro-bind", str(folder / INPUT), read]
        return [*_bubblewrap(), *binds, "--proc", "/proc", "--dev", "/dev", *space, "--chdir", work]

    def _rlimits(self, fenced: bool) -> dict[str, int]:
        limits = self.limits
        # Outside a namespace the kernel counts all that the user runs, not what this program started.
        others = 0 if fenced else _tasks_of(os.getuid())
        return {
            "RLIMIT_CPU": math.ceil(limits.seconds) + 1,
            "RLIMIT_AS": limits.memory,
            "RLIMIT_NPROC": limits.processes + others,
            "RLIMIT_FSIZE": limits.disk,
            "RLIMIT_CORE": 0,
        }


@functools.cache
def why_no_fence() -> str:
    """Why bubblewrap does not work here; nothing if it does."""
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    try:
        words = [word for path in SYSTEM for word in ("--ro-bind-try", path, path)]
        space = ["--perms", "0777", "--size", "65536", "--tmpfs", ROOT]
        done = subprocess.run(
            [*_bubblewrap(), *words, *space, "--proc", "/proc", "--dev", "/dev", "true"],
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not run ({error})"
    told = done.stderr.decode(errors="replace").strip()
    return f"bubblewrap does not work ({told})" if done.returncode else ""


def _bubblewrap() -> list[str]:
    """Its command with namespaces of its own for everything.

    Root needs none for users, and keeps the right to become the user whose processes are counted; it is gone after.
    """
    spaces = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    users = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if os.geteuid() == 0 else ["--unshare-user"]
    return ["bwrap", *spaces, *users, "--die-with-parent"]


def _write_inputs(folder: Path, files: Mapping[str, str]) -> None:
    for part in (WORK, INPUT):
        (folder / part).mkdir()
    for name, text in files.items():
        if Path(name).name != name:
            raise ConfigError(f"sandbox: a file's name is {name!r} but must be a plain one, without folders.")
        (folder / INPUT / name).write_text(text, encoding="utf-8")
        (folder / INPUT / name).chmod(0o444)
    (folder / INPUT).chmod(0o755)


def _tasks_of(uid: int) -> int:
    """Threads that a user's processes have now."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += len(list((process / "task").iterdir())) if process.stat().st_uid == uid else 0
        except OSError:  # It has ended meanwhile.
            continue
    return found


def _watched(command: Sequence[str], folder: Path, stdin: str, limits: Limits, home: str) -> Result:
    """Start it, read what it prints, and stop it in time."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": f"{home}/{WORK}"}
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
