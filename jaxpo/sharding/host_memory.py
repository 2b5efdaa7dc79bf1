"""The memory of the hosts, in which devices can keep arrays that they seldom need."""

from __future__ import annotations

import jax

from jaxpo.errors import ConfigError

HOST = "pinned_host"
"""The kind of memory of a host that its devices read and write by themselves."""


def memory_kinds() -> list[str]:
    """Kinds of memory that this process's devices can address."""
    return sorted({memory.kind for memory in jax.local_devices()[0].addressable_memories()})


def has_host_memory() -> bool:
    """Whether the host's is among them."""
    return HOST in memory_kinds()


def require_host_memory(what: str, remedy: str) -> None:
    """ConfigError where the devices cannot use the host's memory.

    Args:
      what: that keeps something there, as the message begins.
      remedy: what to do instead, as it ends.
    """
    if not has_host_memory():
        device = jax.local_devices()[0]
        raise ConfigError(
            f"{what} keeps arrays in memory of the kind {HOST!r}, and {device.device_kind} ({device.platform}) has "
            f"only {', '.join(memory_kinds())}; {remedy}"
        )
