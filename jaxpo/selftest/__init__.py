"""What an installed jaxpo checks of itself on the machine that it is on: `jaxpo selftest`."""


class Broken(Exception):
    """Something does not work here; the text says what."""


def require(holds: bool, otherwise: str) -> None:
    """Raise Broken unless it holds; `assert` would be silent under `python -O`."""
    if not holds:
        raise Broken(otherwise)
