"""The kernels as the compilers of GPU and TPU are handed them, from a machine that has neither."""

import importlib.util
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from ops.aot import device

from jaxpo.ops.attention_cudnn import cudnn_attention
from jaxpo.ops.attention_decode import pallas_cached
from jaxpo.ops.attention_pallas import pallas_attention
from jaxpo.ops.attention_splash import splash_attention

TRITON = "__gpu$xla.gpu.triton"


def _shapes(dtype, width=64):
    shape = lambda *s: jax.ShapeDtypeStruct(s, dtype)  # noqa: E731
    return (
        shape(2, 300, 4, width),
        shape(2, 300, 2, width),
        shape(2, 300, 2, width),
        jax.ShapeDtypeStruct((2, 300), jnp.int32),
    )


def _gradient(attend, **options):
    def loss(q, k, v, segment_ids):
        return attend(q, k, v, segment_ids, **options).astype(jnp.float32).sum()

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))


def _exported(f, args, platform, *targets):
    """The module for a platform; newer versions of JAX ask which GPU it is for."""
    gpu = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    mesh = AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=gpu)
    checks = [jax.export.DisabledSafetyCheck.custom_call(t) for t in targets]
    with jax.sharding.use_abstract_mesh(mesh) if platform == "cuda" else nullcontext():
        return jax.export.export(f, platforms=[platform], disabled_checks=checks)(*args).mlir_module()


LOWERED = {
    "pallas": (pallas_attention, "cuda", TRITON, 3, {}),
    "pallas, window on both sides": (pallas_attention, "cuda", TRITON, 3, {"causal": False, "window": 9}),
    "splash": (splash_attention, "tpu", "tpu_custom_call", 3, {"max_segment": 100}),
}


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LOWERED)
def test_kernels_lower_for_their_platform(name, dtype):
    """Output, gradient of the queries, gradient of keys and values: three kernels, whatever the machine here is."""
    attend, platform, target, count, options = LOWERED[name]
    module = _exported(_gradient(attend, **options), _shapes(dtype), platform, target)
    assert module.count(f"custom_call @{target}(") == count


def test_the_kernel_of_the_cache_lowers_for_cuda():
    q, k = jax.ShapeDtypeStruct((2, 1, 4, 64), jnp.bfloat16), jax.ShapeDtypeStruct((2, 300, 2, 64), jnp.bfloat16)
    f = jax.jit(lambda q, k, v, positions: pallas_cached(q, k, v, positions, None))
    module = _exported(f, (q, k, k, jax.ShapeDtypeStruct((2, 1), jnp.int32)), "cuda", TRITON)
    assert module.count(f"custom_call @{TRITON}(") == 1


def test_cudnn_lowers_for_cuda(monkeypatch):
    """With the version and the GPU that it asks for pretended: its call takes the packed sequences, both ways."""
    from jax._src.cudnn import fused_attention_stablehlo as private

    monkeypatch.setattr(private, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(private, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(private, "is_cuda_compute_capability_equal", lambda capability: False)
    targets = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
    module = _exported(_gradient(cudnn_attention, window=50), _shapes("bfloat16"), "cuda", *targets)
    for target in targets:
        assert module.count(f"custom_call @{target}(") == 1
    assert module.count("sliding_window_length") == 2


TPU = {
    "8 of 16 heads, 64 wide": (4096, 16, 8, 64, "bfloat16", {"max_segment": 512}),
    "float32, a window, no multiple of a block": (1000, 16, 8, 64, "float32", {"window": 100}),
    "both sides, 128 wide": (1024, 8, 8, 128, "bfloat16", {"causal": False}),
    "odd sizes": (300, 4, 1, 80, "bfloat16", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TPU)
def test_splash_compiles_for_a_tpu_that_is_not_there(name):
    """libtpu compiles ahead of time: the kernels fit a v5e, and no scores are ever in its memory."""
    length, heads, groups, width, dtype, options = TPU[name]
    place = jax.sharding.SingleDeviceSharding(device("tpu"))
    shape = lambda *s: jax.ShapeDtypeStruct(s, dtype, sharding=place)  # noqa: E731
    q, k = shape(2, length, heads, width), shape(2, length, groups, width)
    ids = jax.ShapeDtypeStruct((2, length), jnp.int32, sharding=place)
    memory = _gradient(splash_attention, **options).lower(q, k, k, ids).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2 * heads * length * max(length, 1024) * 4 / 4


def _triton_calls(module):
    """Name, readable code, warps and stages of every Triton kernel in a lowered module."""
    from jaxlib.mlir import ir
    from jaxlib.triton import dialect

    def calls(op):
        for inner in (o.operation for region in op.regions for block in region for o in block):
            if inner.name == "stablehlo.custom_call" and inner.attributes["call_target_name"].value == TRITON:
                yield inner.attributes["mhlo.backend_config"]
            yield from calls(inner)

    for config in calls(module.operation):
        with ir.Context() as context:
            dialect.register_dialect(context)
            context.load_all_available_dialects()
            code = ir.Module.parse(config["ir"].value_bytes).operation.get_asm(enable_debug_info=False)
        yield config["name"].value, code, config["num_warps"].value, config["num_stages"].value


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs pip install 'triton==3.9.*'")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("dtype", "width"), [("bfloat16", 64), ("bfloat16", 128), ("float32", 64)])
def test_triton_compiles_the_kernels_for_a_gpu_that_is_not_there(tmp_path, dtype, width, capability):
    """To machine code that fits a multiprocessor; bfloat16 is multiplied on tensor cores."""
    import triton
    from triton.backends.compiler import GPUTarget

    module = _gradient(pallas_attention).trace(*_shapes(dtype, width)).lower(lowering_platforms=("cuda",))
    kernels = list(_triton_calls(module.compiler_ir("stablehlo")))
    assert len(kernels) == 3
    for name, code, warps, stages in kernels:
        file = tmp_path / f"{name}.ttir"
        file.write_text(code)
        options = {"num_warps": warps, "num_stages": stages}
        built = triton.compile(str(file), target=GPUTarget("cuda", capability, 32), options=options)
        assert built.asm["cubin"]
        assert built.metadata.shared <= 100 * 1024
        assert ("mma" in built.asm["ptx"]) == (dtype == "bfloat16")
