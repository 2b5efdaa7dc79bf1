"""The `gguf` package, which not everybody has."""

from __future__ import annotations

from typing import Any

from jaxpo.errors import ConfigError


def gguf() -> Any:
    """The package; ConfigError that says how to get it."""
    try:
        import gguf as package

        return package
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"GGUF files need {error.name}, which is not installed: pip install 'jaxpo[gguf]', or 'jaxpo[llama]' to "
            "have them run and compared in llama.cpp as well."
        ) from error
