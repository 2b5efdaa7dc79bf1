"""The guards of the matrix see what they are for; and what JAX refuses of a mesh whose axes are Explicit."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import guards

from jaxpo.config.axes import AXES
from jaxpo.errors import ConfigError
from jaxpo.sharding import use_mesh
from jaxpo.sharding.collectives import Collective, collectives

LIMITS = {"parameters": 4 * 12288, "largest": 12288, "activations": 4 * 1024}


def gather(*sizes, axes=("fsdp",), count=1):
    return Collective("all-gather", axes, (("f32", sizes),), 8, count)


@pytest.mark.parametrize(("found", "word"), [
    ([gather(8, 32, 384)], "more than the largest parameter"),
    ([gather(384, 32, count=2)], "bytes along"),
    ([gather(384, 32, axes=("replica",))], "along replica"),
])  # fmt: skip
def test_what_should_not_be_sent_is_found(found, word):
    assert any(word in problem for problem in guards.problems(found, **LIMITS))


def test_every_parameter_once_is_allowed():
    assert not list(guards.problems([gather(384, 32), gather(2, 32, 8, axes=("sequence",))], **LIMITS))


def test_logits_that_are_gathered_are_seen_in_a_compiled_program():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
    x = jax.ShapeDtypeStruct((8, 32, 32), jnp.float32, sharding=rows)
    w = jax.ShapeDtypeStruct((384, 32), jnp.float32, sharding=rows)

    def step(x, w, out):
        return jax.lax.with_sharding_constraint(jnp.einsum("rsd,vd->rsv", x, w), out)

    def sent(out):
        found = collectives(jax.jit(step, static_argnums=2).lower(x, w, out).compile().as_text(), mesh.shape)
        return list(guards.problems(found, **LIMITS))

    assert not sent(rows)
    assert sent(whole)


def explicit_mesh():
    return jax.make_mesh((2, 1, 1, 1, 4), AXES, axis_types=(AxisType.Explicit,) * 5)


def test_explicit_axes_are_refused_before_anything_is_traced():
    with (
        pytest.raises(ConfigError, match="replica, fsdp, expert, sequence, tensor are not of the type Auto"),
        use_mesh(explicit_mesh()),
    ):
        pass


def test_what_jax_refuses_of_explicit_axes():
    """Should JAX come to guess here, the refusal can go."""
    mesh = explicit_mesh()
    table = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(mesh, P("tensor", "replica")))
    tokens = jax.ShapeDtypeStruct((8, 32), jnp.int32, sharding=NamedSharding(mesh, P("replica")))
    with jax.set_mesh(mesh):
        with pytest.raises(Exception, match="out_sharding"):
            jax.eval_shape(lambda w, t: jnp.take(w, t, axis=0, mode="clip"), table, tokens)
        # What `constrain` is made of no longer moves a value: it asserts where that lies.
        with pytest.raises(AssertionError):
            jax.eval_shape(lambda w: jax.lax.with_sharding_constraint(w, NamedSharding(mesh, P())), table)
