"""What each backend of attention cannot do, and the remedy. Apart from the kernels, whose import takes time."""

from __future__ import annotations

import functools
import importlib.util

import jax.numpy as jnp

from jaxpo.ops.attention_choice import Asked

_AMPERE, _HOPPER = (8, 0), (9, 0)
_WIDEST = 256


def none(asked: Asked) -> str | None:
    """It does everything."""
    del asked
    return None


def xla(asked: Asked) -> str | None:
    """Plain XLA."""
    if asked.prefix and asked.window is not None:
        return "a window counts positions of the row, and segments that share a prefix do not lie directly behind it"
    if asked.prefix and asked.sequence > 1:
        return f"positions lie on {asked.sequence} devices, and segments that share a prefix want it on their own"
    return None


def splash(asked: Asked) -> str | None:
    """JAX's kernels for TPU."""
    return _prefix(asked)


def pallas(asked: Asked) -> str | None:
    """The kernels for NVIDIA."""
    if asked.prefix:
        return _prefix(asked)
    if not _has_triton():
        return 'this JAX has no Triton backend of Pallas any more; take "xla", or an older JAX'
    if asked.width > _WIDEST:
        return f'heads of {asked.width} do not fit a multiprocessor; take "xla" for more than {_WIDEST}'
    if asked.capability is not None and asked.capability < _AMPERE:
        return 'Triton needs a GPU of compute capability 8.0 (Ampere) or newer; take "xla"'
    return None


def pallas_cached(asked: Asked) -> str | None:
    """The kernel for NVIDIA that reads a cache where it lies, without room to pad its heads."""
    if asked.width < 16 or asked.width & (asked.width - 1):
        return f'heads of {asked.width}: their width must be a power of two from 16; take "xla"'
    return pallas(asked)


def cudnn(asked: Asked) -> str | None:
    """cuDNN over packed rows."""
    if asked.prefix:
        return _prefix(asked)
    name = jnp.dtype(asked.dtype).name
    if name not in ("bfloat16", "float16"):
        return f"cuDNN has bfloat16 and float16 alone, not {name}; set compute.dtype to bfloat16"
    if asked.width > _WIDEST or asked.width % 8:
        return f'heads of {asked.width} are not a multiple of 8 up to {_WIDEST}; take "pallas" or "xla"'
    if asked.capability is not None and asked.capability < _HOPPER:
        return 'packed rows need a GPU of compute capability 9.0 (Hopper) or newer; take "pallas" or "xla"'
    if asked.key_ids:
        return 'cuDNN takes segments whole, and here some positions are no keys; take "pallas" or "xla"'
    if asked.window is not None and not asked.causal:
        return 'its window looks back only, and here later positions are seen too; take "pallas" or "xla"'
    if asked.sequence > 1:
        return (
            f'it wants as many keys as queries, and here positions lie on {asked.sequence} devices; take "pallas" or '
            '"xla", or set mesh.sequence to 1'
        )
    return None


def _prefix(asked: Asked) -> str | None:
    return 'its keys are those of one segment, and here some share a prefix; take "xla"' if asked.prefix else None


@functools.cache
def _has_triton() -> bool:
    """JAX 0.12 announces that a later version will be without."""
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None
