"""What the scripts share: an environment that is ready, a module run in it, and their options.

Standard library only, and syntax that Python 3.7 can still read, as in pythons.py.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable

from environments import DOWNLOAD, ROOT, ensure_shared, with_checkout
from pythons import BootstrapError, find_python, second_python


def run_main(folder: str, module: str, argv: list[str], extras: tuple[str, ...] = ("dev",)) -> int:
    """Exit status of `main(argv)` of a module below `folder`, run on the CPU with the tools of `extras` at hand."""
    python = ensure_shared(extras)
    environment = with_checkout({**os.environ, "JAX_PLATFORMS": "cpu"})
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(ROOT, ".cache", "jax"))
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    code = f"import sys; sys.path.insert(0, {folder!r}); from {module} import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.call([python, "-c", code, *argv], cwd=ROOT, env=environment)


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
    """`env EXTRA ...` prints the interpreter of a ready environment of the tests, `second` another Python's path."""
    parser = argparse.ArgumentParser(prog="scripts/bootstrap.py", description=main.__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    env = commands.add_parser("env")
    env.add_argument("extras", nargs="+", metavar="EXTRA", choices=[e for e in DOWNLOAD if e], help="dev, parity")
    env.add_argument("--python", help="interpreter to build the environment from")
    commands.add_parser("second")
    options = parser.parse_args(argv)
    if options.what == "env":
        print(ensure_shared(tuple(options.extras), options.python))
    else:
        print(second_python(tuple(find_python()["version"])) or "")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
