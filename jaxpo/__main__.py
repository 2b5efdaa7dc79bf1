"""`python -m jaxpo` is the `jaxpo` command."""

from jaxpo.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
