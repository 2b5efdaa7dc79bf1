"""`python -m jaxpo` is the `jaxpo` command."""

import sys

from jaxpo.cli.allocator import restart
from jaxpo.cli.compile_cache import keep_programs
from jaxpo.cli.main import main


def command() -> int:
    """The command of this process's own words."""
    restart(sys.argv[1:], sys.orig_argv)
    keep_programs(sys.argv[1:])
    return main()


if __name__ == "__main__":
    raise SystemExit(command())
