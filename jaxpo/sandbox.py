"""Foreign code behind a fence: a process with limits, without network, that sees no files but its own.

    result = Sandbox().python("print(6 * 7)")        # Result(kind="ok", output="42\n", ...)

Whatever a model wrote, or a tool or checker that somebody else wrote, runs here and nowhere else. bubblewrap makes the
fence; the limits are the kernel's. Imports no jax.
"""

from __future__ import annotations

import functools
import json
import math
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxpo.errors import ConfigError
from jaxpo.watched import Result, watched

ROOT = "/sandbox"
WORK, INPUT = "work", "input"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
"""What a program needs of the machine, read-only, where it exists."""
FIRST_UID = 1 << 30
"""Users that nobody is: each sandbox of a root's process has one of its own, by which the kernel counts processes."""
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
            home = f"{ROOT if fenced else name}/{WORK}"
            return watched([*fence, *launch], folder / WORK, stdin, self.limits, home)

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
