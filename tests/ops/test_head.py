"""The chunked vocabulary head against the dense one: values, gradients, memory, and collectives on a mesh."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxpo.losses import vocab
from jaxpo.ops import head
from jaxpo.ops.head import choose_chunk, map_vocab
from jaxpo.sharding import batch_sharding, make_mesh, replicated, use_mesh

R, S, D, V = 4, 37, 16, 101


def stats_term(logits, target):
    return {
        "logps": vocab.log_prob(logits, target),
        "entropy": vocab.entropy(logits),
        "correct": vocab.is_argmax(logits, target),
    }


def kl_term(logits, other, target):
    return vocab.kl_divergence(other, logits)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    target = jnp.asarray(rng.integers(0, V, (R, S)), jnp.int32)
    return draw(V, D), draw(R, S, D), draw(V, D), draw(R, S, D), target


def relative(a, b):
    return float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))


def weighted(chunk):
    """A scalar that reaches every output with its own weight, so that no gradient can hide behind another."""

    def f(weight, hidden, other_weight, other_hidden, target):
        stats = map_vocab(stats_term, ((weight, hidden),), target, chunk=chunk)
        kl = map_vocab(kl_term, ((weight, hidden), (other_weight, other_hidden)), target, chunk=chunk)
        scale = jnp.cos(jnp.arange(R * S, dtype=jnp.float32)).reshape(R, S)
        loss = jnp.sum(scale * (stats["logps"] + 0.3 * stats["entropy"] + 0.7 * kl))
        return loss, (stats, kl)

    return jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3), has_aux=True))


@pytest.mark.parametrize("chunk", [1, 8, 36])
def test_chunked_equals_dense_in_value_and_gradient(inputs, chunk):
    (_, dense_out), dense_grads = weighted(S)(*inputs)
    (_, out), grads = weighted(chunk)(*inputs)
    for a, b in zip(jax.tree.leaves((out, grads)), jax.tree.leaves((dense_out, dense_grads)), strict=True):
        assert relative(a, b) <= 1e-5


def test_terms_equal_float64_numpy(inputs):
    weight, hidden, other_weight, other_hidden, target = inputs
    (_, (stats, kl)), _ = weighted(8)(*inputs)
    log_p = log_softmax(np.float64(hidden) @ np.float64(weight).T, axis=-1)
    log_q = log_softmax(np.float64(other_hidden) @ np.float64(other_weight).T, axis=-1)
    picked = np.take_along_axis(log_p, np.asarray(target)[..., None], -1)[..., 0]
    np.testing.assert_allclose(stats["logps"], picked, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(stats["entropy"], -(np.exp(log_p) * log_p).sum(-1), rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(stats["correct"], log_p.argmax(-1) == np.asarray(target))
    np.testing.assert_allclose(kl, (np.exp(log_q) * (log_q - log_p)).sum(-1), rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_temp_memory_is_an_eighth_of_the_dense_head(dtype):
    """Compiled value-and-gradient of the head alone at [8, 2048], d 1024, V 65,536 (nothing is allocated or run)."""
    shapes = (
        jax.ShapeDtypeStruct((65536, 1024), jnp.float32),
        jax.ShapeDtypeStruct((8, 2048, 1024), jnp.dtype(dtype)),
        jax.ShapeDtypeStruct((8, 2048), jnp.int32),
    )

    def temp_bytes(chunk):
        def f(weight, hidden, target):
            return jnp.sum(map_vocab(stats_term, ((weight, hidden),), target, chunk=chunk)["logps"])

        compiled = jax.jit(jax.value_and_grad(f, argnums=(0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert choose_chunk(8, 2048, 65536) < 2048
    assert temp_bytes(None) <= temp_bytes(2048) / 8


def mesh_program(inputs):
    """The head's gradient on fsdp 4 x tensor 2: `(compiled, arguments, expected values)`."""
    weight, hidden, _, _, target = inputs
    hidden, target = jnp.tile(hidden, (4, 1, 1)), jnp.tile(target, (4, 1))
    weight = jnp.concatenate([weight, weight[:3]])  # 104 rows: divisible by tensor 2

    def f(weight, hidden, target):
        stats = map_vocab(stats_term, ((weight, hidden),), target, chunk=8)
        return jnp.sum(stats["logps"] * jnp.cos(jnp.arange(S))), stats

    grad = jax.value_and_grad(f, argnums=(0, 1), has_aux=True)
    expected = jax.jit(grad)(weight, hidden, target)
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    with use_mesh(mesh):
        args = (
            jax.device_put(weight, jax.sharding.NamedSharding(mesh, jax.P("tensor", "fsdp"))),
            jax.device_put(hidden, batch_sharding(mesh)),
            jax.device_put(target, batch_sharding(mesh)),
        )
        return jax.jit(grad, out_shardings=replicated(mesh)).lower(*args).compile(), args, expected


def test_mesh_gives_the_same_numbers_and_no_weight_collective_inside_the_loop(inputs):
    compiled, args, expected = mesh_program(inputs)
    for a, b in zip(jax.tree.leaves(compiled(*args)), jax.tree.leaves(expected), strict=True):
        assert relative(a, b) <= 1e-5
    assert not weight_collectives_in_loops(compiled.as_text(), (52, D))


def test_the_detector_finds_the_collectives_of_a_loop_left_to_the_partitioner(inputs, monkeypatch):
    monkeypatch.setattr(head, "_sharded_scan", lambda *args: head._scan(*args[:-1]))
    compiled, _, _ = mesh_program(inputs)
    assert weight_collectives_in_loops(compiled.as_text(), (52, D))


def weight_collectives_in_loops(hlo: str, shape: tuple[int, int]) -> list[str]:
    """Collectives on a weight-shaped array that lie inside a while body of the compiled program."""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", hlo))
    found, inside = [], False
    for line in hlo.splitlines():
        header = re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            inside = header.group(1) in bodies
        sizes = {str(n) for n in shape}
        collective = re.search(r"= .*\[(\d+),(\d+)\].* (all-reduce|all-gather|reduce-scatter)", line)
        if inside and collective and set(collective.groups()[:2]) & sizes == sizes:
            found.append(line.strip())
    return found
