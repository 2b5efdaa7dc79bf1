"""The virtual environments: a checkout's own for its user, and those of the tests, which the checkouts share.

Standard library only, and syntax that Python 3.7 can still read, as in pythons.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import accelerators
from pythons import BootstrapError, dotted, find_python, is_supported, probe, unsupported_platform

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Compressed wheels for Linux x86-64, measured; and what they unpack to.
DOWNLOAD = {
    "": "about 270 MB (1.1 GB on disk)",
    "dev": "about 130 MB",
    "parity": "about 72 MB",
    "cuda13": "about 2.0 GB",
    "cuda12": "about 3.0 GB",
    "tpu": "about 220 MB",
}
TORCH = "torch==2.13.0"
# Liger's kernels want triton (200 MB, CUDA), mergekit its own versions of what is here already.
WITHOUT_DEPENDENCIES = ("liger-kernel==0.8.5", "mergekit==0.1.5")
TORCH_DOWNLOAD = (
    "about 200 MB as a CPU build, several GB where the package index offers a CUDA build first "
    "(JAXPO_TORCH_INDEX=URL names an extra index that has CPU builds)"
)
KEPT_DAYS = 14
REQUIREMENTS = (
    "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; "
    "print('\\n'.join(sum((p['optional-dependencies'][e] for e in sys.argv[1:]), p['dependencies'])))"
)


def requirements_digest(root: str, *more: object) -> str:
    """Hash of what is to be installed: the project's table, the pins, and `more`; not of how tools are set up."""
    h = hashlib.sha256(repr((more, TORCH, WITHOUT_DEPENDENCIES)).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(root, name), "rb") as f:
            h.update(hashlib.sha256(f.read().partition(b"\n[tool.")[0]).digest())
    return h.hexdigest()


def env_python(env: str) -> str:
    """The interpreter inside a virtual environment."""
    return os.path.join(env, "bin", "python")


def call(command: list[str]) -> None:
    """Run a command in the repository root, its output on stderr; BootstrapError when it fails."""
    settings = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_USER="0")
    code = subprocess.call(command, cwd=ROOT, env=settings, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if code:
        raise BootstrapError(f"exit status {code} from: {' '.join(command)}")


def pip_install(python: str) -> list[str]:
    """The pip command that keeps to the pins; quiet where nobody watches."""
    pip = [python, "-m", "pip", "install", "-c", "constraints.txt"]
    return pip if sys.stdout.isatty() else [*pip, "--quiet"]


def announce(env: str, extras: tuple[str, ...]) -> None:
    """Say what is about to be downloaded and where it goes."""
    parts = [DOWNLOAD[extra] + (f" for [{extra}]" if extra else "") for extra in ("", *extras)]
    if "parity" in extras:
        parts.append("torch: " + TORCH_DOWNLOAD)
    text = f"Installing into {env}. Download, less what pip has cached: {'; '.join(parts)}."
    print(text, file=sys.stderr, flush=True)


def refuse_unsupported_platform() -> None:
    """BootstrapError where jax has no wheels."""
    problem = unsupported_platform(platform.system(), platform.machine())
    if problem:
        raise BootstrapError(problem)


# A checkout's own environment: jaxpo itself, editable.


def ensure_own(asked: str | None = None, accelerator: str | None = None) -> str:
    """Make and fill the checkout's own environment unless it is up to date; returns its interpreter.

    An accelerator's environment is made only where the accelerator can be used (`accelerators.refuse`).
    """
    refuse_unsupported_platform()
    if accelerator is not None:
        accelerators.refuse(accelerator)
    extras = () if accelerator is None else (accelerator,)
    env, version = make_own(asked, accelerator)
    python, stamp = env_python(env), os.path.join(env, "jaxpo-installed")
    wanted = requirements_digest(ROOT, ROOT, version, *extras)
    if read(stamp) != wanted:
        announce(env, extras)
        if subprocess.call([python, "-c", "import pip"], stderr=subprocess.DEVNULL):
            call([python, "-m", "ensurepip"])
        call([*pip_install(python), "-e", f".[{accelerator}]" if accelerator else "."])
        replace(stamp, wanted)
    return python


def make_own(asked: str | None = None, accelerator: str | None = None) -> tuple[str, tuple[int, ...]]:
    """Folder and Python version of `.venv`, made if absent. A named interpreter, and an accelerator, get their own."""
    env = os.path.join(ROOT, ".venv")
    base = None
    if asked:
        base = find_python(asked)
        env += "-" + dotted(base["version"][:2])
    if accelerator:
        env += "-" + accelerator
    inside = probe(env_python(env))
    if inside is None or not is_supported(tuple(inside["version"])):
        if os.path.exists(env) and not os.path.exists(os.path.join(env, "pyvenv.cfg")):
            raise BootstrapError(f"{env} is in the way and is no virtual environment: move it, then run this again.")
        base = base or find_python()
        print(f"Making {os.path.basename(env)} with Python {dotted(base['version'])}.", file=sys.stderr, flush=True)
        call([base["path"], "-m", "venv", "--clear", env])
        inside = probe(env_python(env))
        if inside is None:
            raise BootstrapError(f"{base['path']} -m venv made an environment that does not start.")
    return env, tuple(inside["version"])


def read(path: str) -> str:
    """The text of a small file; empty where there is none."""
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except OSError:
        return ""


def replace(path: str, text: str) -> None:
    """Write a small file in one move, so that a kill leaves the old or the new one."""
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(path + ".new", path)


# The environments of the tests: everything but jaxpo, which comes from the checkout by PYTHONPATH (`with_checkout`).


def ensure_shared(extras: tuple[str, ...], asked: str | None = None) -> str:
    """Interpreter of the environment of these requirements, made by the first checkout of the machine that wants it.

    Its folder is named by a hash of everything that decides its contents and is never changed once it is complete.
    Those that nothing has used for `KEPT_DAYS` days go when another is made.
    """
    refuse_unsupported_platform()
    base = find_python(asked)
    env = os.path.join(shared_folder(), shared_name(base, extras))
    if not is_complete(env):
        with lock(shared_folder()):
            # Another checkout may have made it while this one waited.
            if not is_complete(env):
                prune(shared_folder(), time.time())
                make_shared(env, base, extras)
    os.utime(complete(env))
    return env_python(env)


def with_checkout(environment: dict[str, str]) -> dict[str, str]:
    """`environment` in which `import jaxpo` finds this checkout, in subprocesses and whatever their folder too."""
    rest = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    return dict(environment, PYTHONPATH=os.pathsep.join([ROOT, *rest]))


def with_bytecode(environment: dict[str, str], python: str) -> dict[str, str]:
    """`environment` in which Python keeps what it compiles, beside the environment of `python`.

    The tests start dozens of processes, and a shell that forbids bytecode beside the sources would have each of them
    compile 1,600 modules again: three seconds a process.
    """
    kept = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": os.path.join(os.path.dirname(os.path.dirname(python)), "bytecode")}


def shared_folder() -> str:
    """Where the tests' environments lie: $JAXPO_ENVS, or jaxpo/envs in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    named = os.environ.get("JAXPO_ENVS") or os.path.join(cache, "jaxpo", "envs")
    return os.path.abspath(os.path.expanduser(named))


def shared_name(base: dict, extras: tuple[str, ...]) -> str:
    """Folder name: extras and version for the reader, and a hash of requirements, pins, interpreter and machine."""
    where = (base["base"], platform.system(), platform.machine(), os.environ.get("JAXPO_TORCH_INDEX"))
    digest = requirements_digest(ROOT, extras, base["version"], where)
    return "-".join([*extras, dotted(base["version"][:2]), digest[:16]])


def complete(env: str) -> str:
    """The file that is written last; its time is that of the last use."""
    return os.path.join(env, "jaxpo-complete")


def is_complete(env: str) -> bool:
    """Whether all was installed and the interpreter that it was made from still exists."""
    return os.path.exists(complete(env)) and os.access(env_python(env), os.X_OK)


@contextlib.contextmanager
def lock(folder: str) -> Iterator[None]:
    """One maker at a time; the system lets go of the lock when its holder ends, however it ends."""
    import fcntl  # absent on Windows, which is told so before

    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def prune(folder: str, now: float) -> None:
    """Remove environments last used more than KEPT_DAYS days ago, and what killed makers left that long ago."""
    for name in os.listdir(folder):
        env = os.path.join(folder, name)
        used = complete(env) if os.path.exists(complete(env)) else env
        if os.path.isdir(env) and now - os.path.getmtime(used) > KEPT_DAYS * 86400:
            print(f"Removing {env}: not used for {KEPT_DAYS} days.", file=sys.stderr, flush=True)
            # Its mark first: half removed must not pass for complete.
            with contextlib.suppress(FileNotFoundError):
                os.remove(complete(env))
            shutil.rmtree(env)


# The environments of other programs that run what jaxpo exports: their own packages, neither jaxpo nor its pins.


def ensure_runtime(name: str, wanted: tuple[str, ...], asked: str | None = None) -> str:
    """Interpreter of the environment that holds `wanted` alone, made by the first checkout of the machine that asks.

    torch, where it is among them, is installed first and alone, as for the tests.
    """
    refuse_unsupported_platform()
    base = find_python(asked)
    where = (wanted, base["base"], base["version"], platform.machine(), os.environ.get("JAXPO_TORCH_INDEX"))
    digest = hashlib.sha256(repr(where).encode()).hexdigest()[:16]
    env = os.path.join(shared_folder(), "-".join([name, dotted(base["version"][:2]), digest]))
    if not is_complete(env):
        with lock(shared_folder()):
            if not is_complete(env):
                prune(shared_folder(), time.time())
                make_runtime(env, base, wanted, os.environ.get("JAXPO_TORCH_INDEX"))
    os.utime(complete(env))
    return env_python(env)


def make_runtime(env: str, base: dict, wanted: tuple[str, ...], torch_index: str | None) -> None:
    """Make such an environment where it will stay, and mark it complete at the end."""
    print(f"Installing {', '.join(wanted)} into {env}.", file=sys.stderr, flush=True)
    call([base["path"], "-m", "venv", "--clear", env])
    pip = [env_python(env), "-m", "pip", "install", "--no-compile", "--quiet"]
    if TORCH in wanted:
        call([*pip, TORCH, *(["--extra-index-url", torch_index] if torch_index else [])])
    call([*pip, *wanted])
    replace(complete(env), "")


def make_shared(env: str, base: dict, extras: tuple[str, ...]) -> None:
    """Make the environment anew where it will stay (its scripts hold its path), and mark it complete at the end."""
    announce(env, extras)
    call([base["path"], "-m", "venv", "--clear", env])
    python = env_python(env)
    wanted = subprocess.check_output([python, "-c", REQUIREMENTS, *extras], cwd=ROOT).decode().split("\n")
    for command in shared_commands(python, [w for w in wanted if w], extras, os.environ.get("JAXPO_TORCH_INDEX")):
        call(command)
    replace(complete(env), "")


def shared_commands(
    python: str, wanted: list[str], extras: tuple[str, ...], torch_index: str | None
) -> list[list[str]]:
    """The pip calls that install `wanted`. torch goes first, alone: with the rest it may resolve to CUDA."""
    # Python compiles the modules that are imported; pip would compile all of them, several times as many.
    pip = [*pip_install(python), "--no-compile"]
    if "parity" not in extras:
        return [[*pip, *wanted]]
    index = ["--extra-index-url", torch_index] if torch_index else []
    return [[*pip, TORCH, *index], [*pip, *wanted], [*pip, "--no-deps", *WITHOUT_DEPENDENCIES]]
