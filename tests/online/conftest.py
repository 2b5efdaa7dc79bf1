"""Runs in this process may take one device."""

from stages.conftest import one_device

__all__ = ["one_device"]
