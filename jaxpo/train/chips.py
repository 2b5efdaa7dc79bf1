"""Chips by the name that JAX gives them: what they can compute, hold and move. Imports no jax.

FLOP/s are dense, without sparsity, with float32 accumulation, of one device as JAX counts them: of TPU7x (as of v2 and
v3) that is half a chip. "float32" is what a float32 product does at JAX's default precision: TF32 on NVIDIA since
Ampere, one bfloat16 pass on TPU. Chips without bfloat16 products compute them in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxpo.errors import ConfigError, did_you_mean

GB, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      bfloat16, float32: FLOP/s of products.
      memory: bytes, as the maker counts them.
      bandwidth: of that memory, bytes/s.
    """

    bfloat16: float
    float32: float
    memory: float
    bandwidth: float

    def peak(self, dtype: str) -> float:
        """FLOP/s of products of a type that a run can compute in."""
        return {"bfloat16": self.bfloat16, "float32": self.float32}[dtype]


def _chip(bfloat16: float, float32: float, memory: float, bandwidth: float) -> Chip:
    """From TFLOP/s, GB and GB/s."""
    return Chip(bfloat16 * TERA, float32 * TERA, memory * GB, bandwidth * GB)


# NVIDIA V100 data sheet (1165301, June 2019): FP32, as it has neither bfloat16 nor TF32.
_V100_SXM, _V100_PCIE = (15.7, 15.7), (14.0, 14.0)
# NVIDIA A100 data sheet (2188504, June 2021).
_A100 = (312.0, 156.0)
# NVIDIA H100 data sheet (2430615), which gives twice these for sparse matrices; the digits as in the white paper.
_H100_SXM, _H100_PCIE, _H100_NVL = (989.4, 494.7), (756.0, 378.0), (835.5, 417.5)

CHIPS: dict[str, Chip] = {
    "Tesla V100-SXM2-16GB": _chip(*_V100_SXM, 16, 900),
    "Tesla V100-SXM2-32GB": _chip(*_V100_SXM, 32, 900),
    "Tesla V100-PCIE-16GB": _chip(*_V100_PCIE, 16, 900),
    "Tesla V100-PCIE-32GB": _chip(*_V100_PCIE, 32, 900),
    # NVIDIA T4 data sheet (1029922): FP32, as the V100.
    "Tesla T4": _chip(8.1, 8.1, 16, 320),
    "NVIDIA A100-SXM4-40GB": _chip(*_A100, 40, 1555),
    "NVIDIA A100-SXM4-80GB": _chip(*_A100, 80, 2039),
    "NVIDIA A100-PCIE-40GB": _chip(*_A100, 40, 1555),
    "NVIDIA A100 80GB PCIe": _chip(*_A100, 80, 1935),
    # NVIDIA A10 data sheet (1628700), and AWS's of the A10G.
    "NVIDIA A10": _chip(125.0, 62.5, 24, 600),
    "NVIDIA A10G": _chip(70.0, 35.0, 24, 600),
    # NVIDIA L4 and L40S data sheets; that of the L4 gives twice these, for sparse matrices.
    "NVIDIA L4": _chip(121.0, 60.0, 24, 300),
    "NVIDIA L40S": _chip(362.05, 183.0, 48, 864),
    # NVIDIA Ada GPU Architecture and RTX Blackwell white papers: tensor cores with float32 sums.
    "NVIDIA GeForce RTX 4090": _chip(165.2, 82.6, 24, 1008),
    "NVIDIA GeForce RTX 5090": _chip(209.5, 104.8, 32, 1792),
    "NVIDIA H100 80GB HBM3": _chip(*_H100_SXM, 80, 3350),
    "NVIDIA H100 PCIe": _chip(*_H100_PCIE, 80, 2000),
    "NVIDIA H100 NVL": _chip(*_H100_NVL, 94, 3900),
    # NVIDIA H200 data sheet (3385120): the products of the H100.
    "NVIDIA H200": _chip(*_H100_SXM, 141, 4800),
    "NVIDIA H200 NVL": _chip(*_H100_NVL, 141, 4800),
    # NVIDIA Blackwell Architecture technical brief: HGX B200 and GB200, without sparsity; memory as they are sold.
    "NVIDIA B200": _chip(2250.0, 1100.0, 180, 8000),
    "NVIDIA GB200": _chip(2500.0, 1250.0, 186, 8000),
    # Google Cloud TPU documentation, a page per version; memory and bandwidth as in jax's `tpu_info`.
    "TPU v2": _chip(23.0, 23.0, 8, 358),
    "TPU v3": _chip(70.0, 70.0, 17.2, 412),
    "TPU v4": _chip(275.0, 275.0, 34.4, 1228),
    "TPU v5 lite": _chip(197.0, 197.0, 17.2, 819),
    "TPU v5": _chip(459.0, 459.0, 103, 2765),
    "TPU v6 lite": _chip(918.0, 918.0, 34.4, 1640),
    "TPU7x": _chip(1153.5, 1153.5, 103, 3690),
}
"""By `jax.Device.device_kind`, in full: another size or a part of a chip (MIG) is another device."""

_OTHER_NAMES = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite", "TPU7": "TPU7x"}

SHORT = {
    **{
        "v100": "Tesla V100-SXM2-32GB",
        "t4": "Tesla T4",
        "a10g": "NVIDIA A10G",
        "l4": "NVIDIA L4",
        "l40s": "NVIDIA L40S",
    },
    **{"a100": "NVIDIA A100-SXM4-80GB", "a100-40gb": "NVIDIA A100-SXM4-40GB", "h100": "NVIDIA H100 80GB HBM3"},
    **{"h200": "NVIDIA H200", "b200": "NVIDIA B200", "gb200": "NVIDIA GB200"},
    **{"rtx4090": "NVIDIA GeForce RTX 4090", "rtx5090": "NVIDIA GeForce RTX 5090"},
    **{"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite", "tpu7x": "TPU7x"},
}
"""What one calls a chip, of the size that is sold most."""


def named_chip(name: str) -> tuple[str, Chip]:
    """The chip that a user means by a short name or by JAX's; ConfigError lists the short ones."""
    kind = SHORT.get(name.lower(), name)
    chip = find_chip(kind)
    if chip is None:
        raise ConfigError(f"there is no chip {name!r}.{did_you_mean(name.lower(), SHORT)} Known: {', '.join(SHORT)}.")
    return kind, chip


def find_chip(device_kind: str) -> Chip | None:
    """The chip of that name; None of an unknown one."""
    return CHIPS.get(_OTHER_NAMES.get(device_kind, device_kind))


def peak_flops(device_kind: str, dtype: str, given: float | None = None) -> float | None:
    """Dense FLOP/s of one device in a type; None where neither the table nor the user says.

    Args:
      given: TFLOP/s from the user, which stand before the table's.
    """
    if given is not None:
        return given * TERA
    chip = find_chip(device_kind)
    return None if chip is None else chip.peak(dtype)
