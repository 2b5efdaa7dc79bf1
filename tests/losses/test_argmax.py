"""Whether the target is the likeliest token, against numpy's argmax, ties included."""

import jax.numpy as jnp
import numpy as np

from jaxpo.losses.vocab import is_argmax


def test_the_first_of_the_largest_counts():
    rng = np.random.default_rng(0)
    logits = rng.integers(-2, 3, (500, 7)).astype(np.float32)
    logits[::10, 3] = -np.inf
    logits[::25] = -np.inf
    target = rng.integers(0, 7, 500)
    found = is_argmax(jnp.asarray(logits), jnp.asarray(target))
    assert 50 < found.sum() < 450
    np.testing.assert_array_equal(found, np.argmax(logits, axis=-1) == target)


def test_ids_outside_the_vocabulary_are_never_right():
    assert not is_argmax(-jnp.ones((3, 7)), jnp.array([-1, -100, 7])).any()
