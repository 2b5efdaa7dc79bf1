"""Names of LFM2's tensors in files: as a model with its head saves them, and as others do."""

from __future__ import annotations

from collections.abc import Iterable

BARE, PREFIX = "embed_tokens.weight", "model."
PREFIXES = ("", "lfm2.")
"""What may stand before a tensor's name in place of `PREFIX`, in the order in which it is looked for."""


def renamed(names: Iterable[str]) -> dict[str, str | None]:
    """Name in a file -> that of a model with its head, whatever a file that was saved without one calls it."""
    found = list(names)
    other = next((each for each in PREFIXES if each + BARE in found), None)
    if other is None or PREFIX + BARE in found:
        return {name: name for name in found}
    return {name: PREFIX + name.removeprefix(other) if name.startswith(other) else name for name in found}
