"""Find a Python, make the virtual environment, install jaxpo: what `scripts/quickstart` and `scripts/test` share.

Standard library only, and syntax that Python 3.7 can still read: the interpreter that starts a script may be an old one
whose only task is to find a newer.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Newest first; the versions for which every pinned dependency has wheels.
SUPPORTED = ((3, 14), (3, 13), (3, 12), (3, 11))
# Compressed wheels for Linux x86-64, measured; and what they unpack to.
DOWNLOAD = {"": "about 270 MB (1.1 GB on disk)", "dev": "about 30 MB", "parity": "about 100 MB"}
TORCH = "torch==2.13.0"
WITHOUT_DEPENDENCIES = ("liger-kernel==0.8.5", "mergekit==0.1.5")
TORCH_DOWNLOAD = (
    "about 200 MB as a CPU build, several GB where the package index offers a CUDA build first "
    "(JAXPO_TORCH_INDEX=URL names an extra index that has CPU builds)"
)
PROBE = (
    "import importlib.util as u, json, sys; "
    "print(json.dumps({'path': sys.executable, 'version': list(sys.version_info[:3]), "
    "'missing': [m for m in ('venv', 'ensurepip') if u.find_spec(m) is None]}))"
)


class BootstrapError(Exception):
    """What is wrong and what to do about it, for the person at the terminal."""


def unsupported_platform(system: str, machine: str) -> str | None:
    """One sentence if jax has no wheels for this platform, else None."""
    if system == "Windows":
        return "jaxpo does not run on native Windows: install WSL2 (wsl --install) and run this command inside it."
    if system == "Darwin" and machine == "x86_64":
        return (
            "jax has no wheels for Intel macOS: use a Mac with Apple silicon (and a native arm64 Python), or Linux, "
            "also in a container."
        )
    return None


def dotted(version: tuple[int, ...]) -> str:
    """(3, 12, 1) -> "3.12.1"."""
    return ".".join(str(part) for part in version)


def is_supported(version: tuple[int, ...]) -> bool:
    """True for the Python versions that the pinned dependencies support."""
    return tuple(version[:2]) in SUPPORTED


def candidates(this: str, path: str, pyenv_root: str) -> list[str]:
    """Interpreters worth asking, best first: this one, python3.14 .. 3.11 on `path`, pyenv's, then plain python3."""
    names = [f"python{major}.{minor}" for major, minor in SUPPORTED]
    found = [this]
    found += [p for p in (shutil.which(name, path=path) for name in names) if p]
    for major, minor in SUPPORTED:
        pattern = os.path.join(pyenv_root, "versions", f"{major}.{minor}.*", "bin", "python")
        found += sorted(glob.glob(pattern), reverse=True)
    found += [p for p in (shutil.which("python3", path=path),) if p]
    return list(dict.fromkeys(found))


def here() -> list[str]:
    """`candidates` of this machine."""
    pyenv_root = os.environ.get("PYENV_ROOT") or os.path.join(os.path.expanduser("~"), ".pyenv")
    return candidates(sys.executable, os.environ.get("PATH", os.defpath), pyenv_root)


def probe(python: str) -> dict | None:
    """`{"path", "version", "missing"}` of an interpreter; None if it does not start (a pyenv shim of no version)."""
    try:
        done = subprocess.run([python, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        return json.loads(done.stdout.decode()) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None


def choose(reports: list[dict]) -> dict:
    """The first supported interpreter that can make a virtual environment; BootstrapError says what is missing."""
    supported = [r for r in reports if is_supported(tuple(r["version"]))]
    for report in supported:
        if not report["missing"]:
            return report
    if supported:
        raise BootstrapError(missing_message(supported[0], os_release()))
    seen = ", ".join(sorted({dotted(r["version"]) for r in reports})) or "none"
    raise BootstrapError(
        f"jaxpo needs Python 3.11 to 3.14; found: {seen}. Install one (your system's package manager, pyenv or "
        "python.org), or name it with --python PATH."
    )


def missing_message(report: dict, release: dict) -> str:
    """Names the system package that provides the missing `venv` or `ensurepip`."""
    short = f"python{dotted(report['version'][:2])}"
    family = (release.get("ID", "") + " " + release.get("ID_LIKE", "")).split()
    if "debian" in family or "ubuntu" in family:
        remedy = f"Install the system package: sudo apt install {short}-venv"
    else:
        remedy = f"Install your distribution's package for them (on Debian and Ubuntu: {short}-venv)"
    modules = " and ".join(report["missing"])
    return (
        f"{short} ({report['path']}) lacks the module {modules}, so it cannot make a virtual environment. "
        f"{remedy}, then run this again."
    )


def os_release(path: str = "/etc/os-release") -> dict:
    """The fields of os-release, without quotes; empty where there is none."""
    try:
        with open(path, encoding="utf-8") as f:
            pairs = [line.strip().split("=", 1) for line in f if "=" in line]
    except OSError:
        return {}
    return {key: value.strip("\"'") for key, value in pairs}


def digest(root: str, version: tuple[int, ...], extra: str) -> str:
    """What an installed extra depends on: dependencies, pins, interpreter, and where the checkout lies."""
    h = hashlib.sha256(repr((root, tuple(version), extra)).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(root, name), "rb") as f:
            h.update(hashlib.sha256(f.read()).digest())
    return h.hexdigest()


def read_stamp(env: str) -> dict:
    """Digest of each installed extra; empty for an environment that no script has completed."""
    try:
        with open(os.path.join(env, "jaxpo-installed.json"), encoding="utf-8") as f:
            stamp = json.load(f)
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(env: str, stamp: dict) -> None:
    """Record the installed extras; replaced in one move so that a kill leaves the old or the new one."""
    path = os.path.join(env, "jaxpo-installed.json")
    with open(path + ".new", "w", encoding="utf-8") as f:
        json.dump(stamp, f, indent=1, sort_keys=True)
    os.replace(path + ".new", path)


def stale(root: str, version: tuple[int, ...], extras: tuple[str, ...], stamp: dict) -> list[str]:
    """The extras ("" is jaxpo itself) whose stamp does not match, in install order."""
    return [extra for extra in ("", *extras) if stamp.get(extra) != digest(root, version, extra)]


def pip_commands(python: str, missing: list[str], torch_index: str | None) -> list[list[str]]:
    """The pip calls that install `missing`. torch goes first, alone: with the rest it may resolve to CUDA."""
    pip = [python, "-m", "pip", "install", "-c", "constraints.txt"]
    if not sys.stdout.isatty():
        pip.append("--quiet")
    commands = []
    if "parity" in missing:
        commands.append([*pip, TORCH, *(["--extra-index-url", torch_index] if torch_index else [])])
    extras = ",".join(extra for extra in missing if extra)
    commands.append([*pip, "-e", f".[{extras}]" if extras else "."])
    if "parity" in missing:
        # Liger's kernels want triton (200 MB, CUDA), mergekit its own versions of what is here already.
        commands.append([*pip, "--no-deps", *WITHOUT_DEPENDENCIES])
    return commands


def announcement(env: str, missing: list[str]) -> str:
    """What is about to be downloaded and where it goes."""
    parts = [DOWNLOAD[extra] + (f" for [{extra}]" if extra else "") for extra in missing]
    if "parity" in missing:
        parts.append("torch: " + TORCH_DOWNLOAD)
    return f"Installing into {os.path.basename(env)}. Download, less what pip has cached: {'; '.join(parts)}."


def env_python(env: str) -> str:
    """The interpreter inside a virtual environment."""
    return os.path.join(env, "bin", "python")


def find_python(asked: str | None = None) -> dict:
    """The interpreter named by path, command or version ("3.12"); without a name the first candidate that serves."""
    if asked:
        found = probe(shutil.which(asked) or asked)
        reports = [found] if found else [r for r in map(probe, here()) if r and of_version(r, asked)]
        if not reports:
            raise BootstrapError(f"--python {asked}: no such interpreter, or it does not start.")
        return choose(reports)
    reports = []
    for path in here():
        report = probe(path)
        if report is not None:
            reports.append(report)
            if is_supported(tuple(report["version"])) and not report["missing"]:
                break
    return choose(reports)


def of_version(report: dict, asked: str) -> bool:
    """Whether `asked` ("3.12", "python3.12") names this version; pyenv's own shims do not always start."""
    return asked in (dotted(report["version"][:2]), "python" + dotted(report["version"][:2]))


def make_env(asked: str | None = None) -> tuple[str, tuple[int, ...]]:
    """The environment's folder and Python version, made if absent. A named interpreter gets a folder of its own."""
    env = os.path.join(ROOT, ".venv")
    base = None
    if asked:
        base = find_python(asked)
        env += "-" + dotted(base["version"][:2])
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


def call(command: list[str]) -> None:
    """Run a command in the repository root, its output on stderr; BootstrapError when it fails."""
    settings = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_USER="0")
    code = subprocess.call(command, cwd=ROOT, env=settings, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if code:
        raise BootstrapError(f"exit status {code} from: {' '.join(command)}")


def ensure(extras: tuple[str, ...] = (), asked: str | None = None) -> str:
    """Make and fill the environment unless it is up to date; returns its interpreter."""
    problem = unsupported_platform(platform.system(), platform.machine())
    if problem:
        raise BootstrapError(problem)
    env, version = make_env(asked)
    python, stamp = env_python(env), read_stamp(env)
    missing = stale(ROOT, version, extras, stamp)
    if missing:
        print(announcement(env, missing), file=sys.stderr, flush=True)
        if subprocess.call([python, "-c", "import pip"], stderr=subprocess.DEVNULL):
            call([python, "-m", "ensurepip"])
        for command in pip_commands(python, missing, os.environ.get("JAXPO_TORCH_INDEX")):
            call(command)
        write_stamp(env, dict(stamp, **{extra: digest(ROOT, version, extra) for extra in missing}))
    return python


def run_main(folder: str, module: str, argv: list[str]) -> int:
    """Exit status of `main(argv)` of a module below `folder`, run on the CPU with the test tools at hand."""
    python = ensure(("dev",))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(ROOT, ".cache", "jax"))
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    code = f"import sys; sys.path.insert(0, {folder!r}); from {module} import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.call([python, "-c", code, *argv], cwd=ROOT, env=environment)


def second_python(version: tuple[int, ...]) -> str | None:
    """Another supported interpreter than `version`, preferably one on the other side of jax's 3.12 border."""
    reports = [probe(path) for path in here()]
    usable = [
        r
        for r in reports
        if r and not r["missing"] and is_supported(tuple(r["version"])) and r["version"][:2] != list(version[:2])
    ]
    usable.sort(key=lambda r: ((r["version"][1] < 12) == (version[1] < 12), r["version"][1]))
    return usable[0]["path"] if usable else None


def take_option(argv: list[str], name: str) -> tuple[str | None, list[str]]:
    """Split `name VALUE` (or `name=VALUE`) off an argument list: `(value or None, the rest)`."""
    value, rest, i = None, [], 0
    while i < len(argv):
        if argv[i] == name:
            if i + 1 == len(argv):
                raise BootstrapError(f"{name} needs a value.")
            value, i = argv[i + 1], i + 1
        elif argv[i].startswith(name + "="):
            value = argv[i][len(name) + 1 :]
        else:
            rest.append(argv[i])
        i += 1
    return value, rest


def absolute_paths(argv: list[str], names: tuple[str, ...], folder: str) -> list[str]:
    """Make the values of the options `names` absolute, seen from `folder`: the run itself starts in the root."""
    out, inside = [], False
    for arg in argv:
        name, equals, value = arg.partition("=")
        if arg.startswith("--"):
            inside = arg in names
            out.append(name + "=" + os.path.join(folder, value) if equals and name in names else arg)
        else:
            out.append(os.path.join(folder, os.path.expanduser(arg)) if inside else arg)
    return out


def guarded(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run a script's main; a BootstrapError becomes its text and exit status 2."""
    try:
        return main(argv)
    except BootstrapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def main(argv: list[str]) -> int:
    """`env [EXTRA ...]` prints the interpreter of a ready environment, `second` another one on this machine."""
    parser = argparse.ArgumentParser(prog="scripts/bootstrap.py", description=main.__doc__)
    parser.add_argument("what", choices=("env", "second"))
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="dev, parity")
    parser.add_argument("--python", help="interpreter to build the environment from")
    options = parser.parse_args(argv)
    unknown = [extra for extra in options.extras if extra not in DOWNLOAD]
    if unknown:
        raise BootstrapError(f"unknown extra {', '.join(unknown)}; choose from dev, parity.")
    if options.what == "env":
        print(ensure(tuple(options.extras), options.python))
    else:
        inside = probe(env_python(os.path.join(ROOT, ".venv")))
        print(second_python(tuple(inside["version"]) if inside else sys.version_info[:3]) or "")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
