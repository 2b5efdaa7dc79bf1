"""Which Python: the interpreters of this machine, and the first one that jaxpo can use.

Standard library only, and syntax that Python 3.7 can still read: the interpreter that starts a script may be an old one
whose only task is to find a newer.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys

# Newest first; the versions for which every pinned dependency has wheels.
SUPPORTED = ((3, 14), (3, 13), (3, 12), (3, 11))
PROBE = (
    "import importlib.util as u, json, sys; "
    "print(json.dumps({'path': sys.executable, 'base': sys.base_prefix, 'version': list(sys.version_info[:3]), "
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
    """`{"path", "base", "version", "missing"}` of an interpreter; None if it does not start."""
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
