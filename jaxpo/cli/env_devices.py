"""What `jaxpo env` says of the devices, and of what runs on them take by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jaxpo.config import Compute
from jaxpo.ops import attention, grouped
from jaxpo.ops.attention_choice import Choice
from jaxpo.recipe.platform import dtype_of
from jaxpo.train.chips import find_chip
from jaxpo.train.measured_peak import measured_peak

DTYPES = ("bfloat16", "float32")


def device_facts(*, measure: bool) -> dict[str, str]:
    """Name -> value: devices, memory and peak of each, and the defaults of this platform."""
    try:
        found = jax.devices()
    except RuntimeError as error:
        return {"devices": f"none: {error}"}
    facts = {"devices": listed(found), "memory of each": memory(found[0]), "peak of each": peak(found[0])}
    if measure:
        facts["measured of one"] = measured()
    backend = jax.default_backend()
    dtype = dtype_of(Compute(), backend)
    return facts | {
        "compute.dtype": f"{dtype} ({backend})",
        "attention": reasoned(attention.chosen(dtype=dtype), attention.available()),
        "cached attention": reasoned(attention.chosen_cached(dtype=dtype), ()),
        "experts": reasoned(Choice(*grouped.chosen()), grouped.available()),
    }


def listed(devices: Sequence[jax.Device]) -> str:
    """Number and kind of the devices."""
    kinds = [f"{d.platform} {d.device_kind}" for d in devices]
    return ", ".join(f"{kinds.count(k)} x {k}" for k in dict.fromkeys(kinds))


def memory(device: jax.Device) -> str:
    """What JAX may take of a device's memory, and the whole of it by the table."""
    limit, chip = (device.memory_stats() or {}).get("bytes_limit"), find_chip(device.device_kind)
    told = [f"{limit / 2**30:.1f} GiB for jax"] if limit else []
    told += [f"{chip.memory / 1e9:.0f} GB by its data sheet, {chip.bandwidth / 1e12:.2f} TB/s"] if chip else []
    return ", ".join(told) or ("the machine's" if device.platform == "cpu" else "unknown")


def peak(device: jax.Device) -> str:
    """Dense products of the table, or how to get a peak."""
    chip = find_chip(device.device_kind)
    if chip is not None:
        return ", ".join(f"{chip.peak(dtype) / 1e12:g} TFLOP/s in {dtype}" for dtype in DTYPES)
    return "unknown, so that runs log no mfu: `jaxpo env --measure` measures it, --compute.peak-tflops names it"


def measured() -> str:
    """Products of growing size, in each type."""
    found = {dtype: measured_peak(dtype) / 1e12 for dtype in DTYPES}
    told = ", ".join(f"{rate:.3g} TFLOP/s in {dtype}" for dtype, rate in found.items())
    dtype = dtype_of(Compute(), jax.default_backend())
    return f"{told}; for mfu: --compute.peak-tflops {found[dtype]:.3g}"


def reasoned(choice: Choice, available: Sequence[str]) -> str:
    """The implementation that is taken and why, and the others that could be named."""
    others = [name for name in available if name != choice.name]
    return f"{choice.name}: {choice.why}" + (f"; also: {', '.join(others)}" if others else "")
