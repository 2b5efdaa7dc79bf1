"""A content hash of arrays that does not depend on how they are sharded, computed where they are."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from jaxpo.checkpoint.leaves import named_leaves, to_arrays
from jaxpo.sharding import settle, to_host

Tree = Any


def _mix(x: Array) -> Array:
    # The finaliser of MurmurHash3 (Appleby, public domain): every input bit reaches every output bit.
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _bits(x: Array) -> UInt32[Array, "..."]:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    if x.dtype.itemsize > 4:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)


@jax.jit
def _words(x: Array) -> UInt32[Array, "2"]:
    """`h_k = sum_i mix(bits_i + k) * w_i mod 2^32`, odd `w_i` from the index: integer sums, hence equal on any mesh."""
    bits = _bits(jax.device_put(x, jax.memory.Space.Device))  # it may lie in the host's memory
    index = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        index = _mix(index * jnp.uint32(0x9E3779B1) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis))
    weight = index | jnp.uint32(1)
    # `mix` is a bijection and `weight` is odd: a change of any single entry changes both sums.
    sums = [jnp.sum(_mix(bits + jnp.uint32(salt)) * weight, dtype=jnp.uint32) for salt in (0x1B873593, 0x38B34AE5)]
    return jnp.stack(sums)


def leaf_fingerprints(tree: Tree) -> dict[str, str]:
    """Leaf name -> 16 hexadecimal digits of its bits; typed PRNG keys by their words."""
    words = {name: settle(_words(x)) for name, x in to_arrays(named_leaves(tree)).items()}
    return {name: "".join(f"{int(w):08x}" for w in np.asarray(x)) for name, x in to_host(words).items()}


def fingerprint(tree: Tree) -> str:
    """Hash of names, shapes, dtypes and bits (64 bits per leaf, then SHA-256); the same on any mesh."""
    digest = hashlib.sha256()
    prints = leaf_fingerprints(tree)
    for name, leaf in sorted(named_leaves(tree).items()):
        digest.update(f"{name} {leaf.dtype}{list(leaf.shape)} {prints[name]}\n".encode())
    return digest.hexdigest()
