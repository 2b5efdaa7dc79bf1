"""Which backend is taken, which are refused and why, and what cuDNN is handed."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.config.run import ATTENTION
from jaxpo.errors import BackendError
from jaxpo.ops import attention_cudnn, attention_refusals
from jaxpo.ops.attention import BACKENDS, CACHED_BACKENDS, attention, available, cached_attention, chosen, chosen_cached
from jaxpo.ops.attention_choice import Asked
from jaxpo.ops.attention_cudnn import cudnn_attention, sequences
from jaxpo.ops.backends import choose, names_on
from jaxpo.sharding import make_mesh, use_mesh


def test_a_configuration_knows_every_name():
    assert sorted(ATTENTION) == sorted(b.name for b in BACKENDS)
    assert available() == ("xla",)
    assert names_on(BACKENDS, "gpu") == ("pallas", "xla", "cudnn")
    assert names_on(BACKENDS, "tpu") == ("splash", "xla")
    assert names_on(CACHED_BACKENDS, "gpu") == ("xla", "pallas")


CHOSEN = {
    "cpu": ({"platform": "cpu"}, "xla", "the best on cpu"),
    "gpu": ({"platform": "gpu"}, "pallas", "the best on gpu: fused"),
    "gpu, float32": ({"platform": "gpu", "dtype": "float32"}, "pallas", "fused"),
    "gpu, wide heads": ({"platform": "gpu", "head_dim": 512}, "xla", "not pallas: heads of 512 do not fit"),
    "gpu, positions spread": (
        {"platform": "gpu", "sequence": 2},
        "pallas",
        "the best on gpu: fused",
    ),
    "gpu, named": (
        {"platform": "gpu", "implementation": "cudnn"},
        "cudnn",
        "asked for: cuDNN over packed rows; unv",
    ),
    "tpu": ({"platform": "tpu"}, "splash", "the best on tpu"),
    "tpu, positions spread": ({"platform": "tpu", "sequence": 4}, "splash", "the best on tpu"),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_choice_and_its_reason(name):
    asked, expected, why = CHOSEN[name]
    choice = chosen(**asked)
    assert choice.name == expected
    assert why in choice.why


REFUSED = {
    "cudnn has no float32": ({"implementation": "cudnn", "dtype": "float32"}, "not float32; set compute.dtype to bf"),
    "cudnn has no key ids": ({"implementation": "cudnn", "key_ids": True}, "some positions are no keys; take"),
    "cudnn looks back only": ({"implementation": "cudnn", "causal": False, "window": 4}, "its window looks back only"),
    "cudnn wants eights": ({"implementation": "cudnn", "head_dim": 20}, "heads of 20 are not a multiple of 8"),
    "cudnn wants whole rows": ({"implementation": "cudnn", "sequence": 2}, "on 2 devices; take .* mesh.sequence to 1"),
    "splash is for TPU": ({"implementation": "splash"}, "available: pallas, xla, cudnn. It runs on tpu. Leave"),
    "no such name": ({"implementation": "flash"}, "'flash' is not available here; available: pallas, .* cudnn. Leave"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_named_backend_is_refused_with_the_remedy(name):
    asked, message = REFUSED[name]
    with pytest.raises(BackendError, match=message):
        chosen(platform="gpu", **asked)


def test_old_gpus_and_caches_are_refused():
    asked = functools.partial(Asked, "gpu", "bfloat16")
    assert "Hopper" in attention_refusals.cudnn(asked(64, capability=(8, 9)))
    assert "Ampere" in attention_refusals.pallas(asked(64, capability=(7, 5)))
    assert attention_refusals.cudnn(asked(64, capability=(9, 0))) is None
    assert choose("attention", BACKENDS, None, asked(64, capability=(7, 5))).name == "xla"
    assert chosen_cached(platform="gpu").name == "xla"
    assert chosen_cached("pallas", platform="gpu").name == "pallas"
    with pytest.raises(BackendError, match="heads of 80: their width must be a power of two"):
        chosen_cached("pallas", platform="gpu", head_dim=80)
    x = jnp.ones((1, 1, 1, 16))
    with pytest.raises(BackendError, match="cached_attention implementation 'pallas' is not available here"):
        cached_attention(x, x, x, jnp.zeros((1, 1), int), implementation="pallas")


def test_a_jax_without_triton_falls_to_xla_and_says_so(monkeypatch):
    monkeypatch.setattr(attention_refusals, "_has_triton", lambda: False)
    assert chosen(platform="gpu").name == "xla"
    with pytest.raises(BackendError, match="'pallas' refuses: this JAX has no Triton backend"):
        chosen("pallas", platform="gpu")


def test_a_mesh_that_spreads_positions_is_seen_by_the_call():
    """The default on a CPU does it; cuDNN would be refused."""
    q, ids = jax.ShapeDtypeStruct((2, 8, 2, 8), jnp.float32), jax.ShapeDtypeStruct((2, 8), jnp.int32)
    with use_mesh(make_mesh({"fsdp": 2, "sequence": 4})):
        assert jax.eval_shape(attention, q, q, q, ids).shape == q.shape
        with pytest.raises(BackendError, match="on 4 devices"):
            chosen("cudnn", platform="gpu")


def test_segments_are_lengths_and_first_positions_to_cudnn():
    """Against a walk along each row: gaps, ids out of order, an empty row, more segments than there is room for."""
    rows = [
        [5, 5, 0, 2, 2, 2, 9, 0],
        [0, 0, 1, 1, 1, 1, 1, 1],
        [0] * 8,
        [1, 2, 3, 4, 5, 6, 7, 8],
        [3, 3, 1, 0, 0, 2, 0, 4],
    ]
    most = 4
    lengths, offsets = np.full((5, most), -1), np.full((5, most + 1), -1)
    for r, row in enumerate(rows):
        for m, number in enumerate([n for n in dict.fromkeys(row) if n][:most]):
            offsets[r, m], lengths[r, m] = row.index(number), row.count(number)
    got = jax.jit(functools.partial(sequences, most=most))(jnp.asarray(rows, jnp.int32))
    for ours, theirs in zip(got, (lengths, offsets), strict=True):
        assert ours.dtype == jnp.int32
        np.testing.assert_array_equal(ours, theirs)


def test_what_cudnn_is_called_with(monkeypatch):
    """A stand-in that attends by xla sees zeros and sequences; padding returns zero, too many segments NaN."""
    kernel, kinds = attention_cudnn._private()
    seen = {}

    def stand_in(q, k, v, **options):
        seen.update(options)
        seen["padding"] = jnp.stack([jnp.any(x[0, 5:] != 0) for x in (q, k, v)])
        return jnp.full(q.shape, jnp.inf, q.dtype).at[:, :5].set(1)

    assert set(inspect.signature(kernel).parameters) > {"q_seqlen", "kv_seqlen", "q_offsets", "kv_offsets", "mask_type"}
    monkeypatch.setattr(attention_cudnn, "_private", lambda: (stand_in, kinds))
    q, k = jnp.ones((2, 8, 4, 16), jnp.bfloat16), jnp.ones((2, 8, 2, 16), jnp.bfloat16)
    ids = jnp.asarray([[1, 1, 1, 2, 2, 0, 0, 0], [1, 2, 3, 4, 5, 0, 0, 0]])
    out = cudnn_attention(q, k, k, ids, window=3, most=4)
    assert not seen["padding"].any()
    assert seen["scale"] == 0.25
    assert seen["mask_type"] is kinds.PADDING_CAUSAL
    assert seen["sliding_window_length"] == 3
    np.testing.assert_array_equal(seen["q_offsets"][0], [0, 3, -1, -1, -1])
    np.testing.assert_array_equal(seen["kv_seqlen"][0], [3, 2, -1, -1])
    np.testing.assert_array_equal(out[0, :5], 1)
    np.testing.assert_array_equal(out[0, 5:], 0)
    assert jnp.isnan(out[1]).all()
    jax.eval_shape(lambda: cudnn_attention(q, k, k, ids, causal=False))
    assert seen["mask_type"] is kinds.PADDING
