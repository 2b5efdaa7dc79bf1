"""`jaxpo selftest`: does this installation work on this machine?"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import jaxpo
from jaxpo.cli.args import Parser

FAILED = 1
Check = Callable[[Path], str]


def main(argv: Sequence[str]) -> int:
    Parser("selftest", "Check this installation on this machine: recipes, devices, losses, a minute training.").parse(
        argv
    )
    from jaxpo.selftest import Broken, installation, losses, training

    checks: dict[str, Check] = {
        "recipes": installation.recipes,
        "devices": installation.devices,
        "losses": losses.check,
        "training": training.check,
    }
    print(f"jaxpo {jaxpo.__version__} in {Path(jaxpo.__file__).parent}")
    began = time.perf_counter()
    passed = [passes(name, check, Broken) for name, check in checks.items()]
    print(f"{'all checks passed' if all(passed) else 'FAILED'} in {time.perf_counter() - began:.0f} s")
    return 0 if all(passed) else FAILED


def passes(name: str, check: Check, known: type[Exception]) -> bool:
    """Run one check in an empty folder and say how it went; what it printed is shown when it fails.

    Args:
      known: of failures that say all themselves; others are shown with their traceback.
    """
    printed = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="jaxpo-selftest-") as folder:
        try:
            with contextlib.redirect_stdout(printed):
                detail = check(Path(folder))
        except Exception as error:
            print(printed.getvalue(), end="")
            if not isinstance(error, known):
                traceback.print_exc()
            print(f"  FAILED  {name}: {error}")
            return False
    print(f"  ok      {name}: {detail}", flush=True)
    return True
