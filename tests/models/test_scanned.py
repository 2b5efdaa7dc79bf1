"""Layers in loops: the same values, sums, taps and gradients as one after another, in a program that does not grow."""

import collections
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny, tiny_moe
from models.tiny import assert_trees_close
from ops.jaxprs import equations

from jaxpo.config import Compute, Data, LoRA, Pretrain
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2 import recompute
from jaxpo.models.lfm2.forward import forward
from jaxpo.models.lfm2.grouping import Group, bodies, grouped
from jaxpo.models.lfm2.layers import in_loops
from jaxpo.models.lfm2.presets import PRESETS, preset
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, attach
from jaxpo.models.spec import abstract_params, map_table
from jaxpo.sharding import make_mesh, use_mesh
from jaxpo.stages.abstract_step import abstract_step, text_batch

WIDTH = 12
DENSE = dataclasses.replace(tiny.CONFIG, layer_types=("conv", "full_attention") * 3)
LEAST = dataclasses.replace(tiny.CONFIG, layer_types=("conv",) * 3)
MOE = dataclasses.replace(tiny_moe.CONFIG, layer_types=("conv", *("conv", "full_attention") * 2))
LEAST_MOE = dataclasses.replace(tiny_moe.CONFIG, layer_types=("conv",) * 4)
LFM3 = dataclasses.replace(tiny.LFM3, layer_types=("conv", "full_attention", "sliding_attention") * 2)


def pattern(name):
    config = preset(name)
    return tuple((kind, config.is_mixture(i)) for i, kind in enumerate(config.layer_types))


@pytest.mark.parametrize("name", list(PRESETS))
def test_groups_cover_every_layer_once_and_repeat_what_they_say(name):
    layers = pattern(name)
    groups = grouped(layers)
    assert [i for g in groups for i in range(g.start, g.stop)] == list(range(len(layers)))
    for group in groups:
        for place in range(group.period):
            assert len({layers[i] for i in group.layers(place)}) == 1


def cheapest(layers, start=0):
    """Of all cuts, by trying each."""
    if start == len(layers):
        return 0
    costs = [1 + cheapest(layers, start + 1)]
    for period in range(1, (len(layers) - start) // 2 + 1):
        unit, repeats = layers[start : start + period], 2
        while layers[start : start + period * repeats] == unit * repeats:
            costs.append(period + 1 + cheapest(layers, start + period * repeats))
            repeats += 1
            if start + period * repeats > len(layers):
                break
    return min(costs)


def test_no_cut_is_cheaper():
    rng = np.random.default_rng(0)
    drawn = [tuple(rng.integers(0, 2, n).tolist()) for n in range(1, 11) for _ in range(5)]
    for layers in [*drawn, pattern("lfm2_350m")[:14]]:
        found = grouped(layers)
        assert bodies(found) + sum(g.repeats > 1 for g in found) == cheapest(layers), layers


@pytest.mark.parametrize(
    ("name", "loops", "size"),
    [
        ("lfm2_1_2b", (Group(0, 3, 3), Group(9, 2, 3)), 6),
        ("lfm2_2_6b", (Group(3, 4, 5), Group(23, 3, 2)), 11),
        ("lfm2_24b_a2b", (Group(2, 4, 9),), 8),
    ],
)
def test_loops_of_the_released_patterns(name, loops, size):
    groups = grouped(pattern(name))
    assert tuple(g for g in groups if g.repeats > 1) == loops
    assert bodies(groups) == size


def test_what_two_layers_would_save_is_not_worth_a_loop():
    assert grouped(("a", "a")) == (Group(0), Group(1))
    assert grouped(("a", "a", "a")) == (Group(0, 1, 3),)


def test_depth_and_platform_choose(monkeypatch):
    def looped(remat):
        return {name for name, config in PRESETS.items() if in_loops(config, None, remat)}

    assert (looped("none"), looped("full")) == (set(), set(PRESETS))  # on CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert looped("none") == looped("full") == {"lfm2_2_6b", "lfm2_24b_a2b"}
    assert in_loops(tiny.CONFIG, True, "none")
    assert not in_loops(preset("lfm2_2_6b"), False, "full")


def place():
    segments = np.array([[1] * 5 + [2] * 6 + [0]])
    return tiny.random_tokens(1, WIDTH), segments, np.array([[*range(5), *range(6), 0]])


@functools.partial(jax.jit, static_argnames=("config", "scan", "remat", "dtype", "watched"))
def everything(params, adapter, config, scan, remat="none", dtype=jnp.float32, watched=()):
    """Hidden states, router sums, taps, and the gradient of a sum to which all of them add, by every parameter."""

    def tap(name, x):
        return jnp.mean(jnp.square(x), axis=(1, 2)) if name in watched else None

    def f(params, adapter):
        whole = params if adapter is None else attach(params, adapter, 2.0)
        hidden, aux = forward(
            whole, *place(), config=config, scan=scan, remat=remat, dtype=dtype, tap=tap if watched else None
        )
        parts = [hidden, *jax.tree.leaves(aux)]
        keys = jax.random.split(jax.random.key(0), len(parts))
        terms = [jnp.sum(x * jax.random.normal(key, x.shape)) for x, key in zip(parts, keys, strict=True)]
        return sum(terms), (hidden, aux)

    return jax.value_and_grad(f, argnums=(0, 1), has_aux=True)(params, adapter)


def adapter(config):
    """Of the first five layers, so that the sixth is another kind of layer."""
    rng = np.random.default_rng(3)
    table = adapter_table(param_table(config), LoRA(rank=2, target_modules=("layers/[0-3]/*proj/weight",)))
    return map_table(lambda p: jnp.asarray(0.3 * rng.standard_normal(p.shape), jnp.float32), table)


@pytest.mark.parametrize(
    ("config", "params", "options"),
    [
        (DENSE, tiny.params, {"watched": ("layers/5/mixer/out", "layers/5", "embedding_norm"), "remat": "mixer"}),
        (LEAST_MOE, tiny_moe.params, {}),
        pytest.param(MOE, tiny_moe.params, {}, marks=pytest.mark.slow),
        pytest.param(LFM3, tiny.params, {}, marks=pytest.mark.slow),
    ],
    ids=["lora", "moe", "moe with attention", "lfm3"],
)
def test_loops_compute_what_layers_one_by_one_compute(config, params, options):
    low_rank = adapter(config) if config is DENSE else None
    (loss, (hidden, aux)), gradients = everything(
        params(config), low_rank, config, False, **options | {"remat": "none"}
    )
    (again, (looped, also)), theirs = everything(params(config), low_rank, config, True, **options)
    np.testing.assert_allclose(again, loss, rtol=1e-4)
    assert aux.keys() == also.keys()
    assert set(aux["taps"]) == set(options.get("watched", ()))
    assert_trees_close((looped, also), (hidden, aux), 1e-5)
    assert_trees_close(theirs, gradients, 1e-5)


def test_loops_round_bfloat16_as_layers_one_by_one_do():
    """Bit for bit, where XLA may not keep what it fuses in float32: which that is differs from program to program."""

    def gradient(params, scan):
        hidden, _ = forward(params, *place(), config=LEAST, scan=scan, dtype=jnp.bfloat16)
        return jnp.sum(hidden * jax.random.normal(jax.random.key(0), hidden.shape, hidden.dtype))

    strict = {"xla_allow_excess_precision": False}
    one_by_one, looped = (
        jax.jit(jax.value_and_grad(functools.partial(gradient, scan=scan)), compiler_options=strict)(tiny.params(LEAST))
        for scan in (False, True)
    )
    assert_trees_close(looped, one_by_one, 0.0)
    assert np.asarray(looped[1]["layers"]["2"]["feed_forward"]["w1"]["weight"]).std() > 0.1


def traced(config, **options):
    """The jaxpr of a forward pass, from shapes alone."""
    whole = jax.ShapeDtypeStruct((1, 64), jnp.int32)
    run = functools.partial(forward, config=config, **options)
    return jax.make_jaxpr(run)(abstract_params(param_table(config)), whole, whole, whole).jaxpr


def test_the_program_does_not_grow_with_depth():
    """Beside what stacks a leaf: a cast and a new axis for each layer."""
    period, stacking = ("conv", "conv", "full_attention"), {"broadcast_in_dim", "convert_element_type", "concatenate"}

    def count(repeats, scan):
        config = dataclasses.replace(preset("lfm2_1_2b"), layer_types=period * repeats)
        names = collections.Counter(e.primitive.name for e in equations(traced(config, scan=scan)))
        return sum(n for name, n in names.items() if name not in stacking)

    assert count(6, True) == count(3, True) < count(3, False) / 2


def test_stacks_are_of_the_compute_type_but_for_what_is_read_in_float32():
    [loop] = [e for e in traced(MOE, scan=True, dtype=jnp.bfloat16).eqns if e.primitive.name == "scan"]
    stacks = loop.invars[loop.params["num_consts"] + loop.params["num_carry"] :]
    kept = sorted(x.aval.shape[1:] for x in stacks if x.aval.dtype == jnp.float32)
    # taps, the router with its bias, and norms of layers, queries and keys
    assert kept == sorted([(3, 16), (16, 8), (8,), (16,), (16,), (16, 8), (8,), (16,), (16,), (8,), (8,)])
    assert any(x.aval.shape == (2, 8, 16, 12) and x.aval.dtype == jnp.bfloat16 for x in stacks)


@pytest.mark.parametrize("remat", ["offload", "offload_dots"])
def test_what_is_offloaded_lies_in_host_memory(remat):
    """From the program: where an array lies is said there, and CPU has one memory for both."""

    def moved(remat):
        config = dataclasses.replace(tiny.CONFIG, layer_types=("conv", "full_attention"))
        run = lambda p: jnp.sum(forward(p, *place(), config=config, scan=False, remat=remat)[0])  # noqa: E731
        found = equations(jax.make_jaxpr(jax.grad(run))(abstract_params(param_table(config))).jaxpr)
        puts = [e for e in found if e.primitive.name == "device_put"]
        shapes = [e.invars[0].aval.shape for e in puts if "host" in str(e.outvars[0].aval).lower()]
        return collections.Counter(shapes), len(puts)

    there, puts = moved(remat)
    assert there, puts
    if remat == "offload":
        assert there == {(1, WIDTH, 16): 2}
    assert puts == 2 * sum(there.values())  # and back
    assert moved("full") == ({}, 0)


def test_offloading_needs_host_memory(monkeypatch):
    class Device:
        platform, device_kind = "tiny", "toy chip"
        addressable_memories = staticmethod(lambda: [type("Memory", (), {"kind": "device"})])

    monkeypatch.setattr(jax, "local_devices", lambda: [Device])
    with pytest.raises(
        ConfigError, match=r"compute.remat 'offload' keeps .* toy chip \(tiny\) has only device; choose 'full'"
    ):
        recompute.recomputed(lambda p, x: x, "offload", looped=False)
    with pytest.raises(ConfigError, match="there is no policy 'everything'; known: none, dots"):
        recompute.recomputed(lambda p, x: x, "everything", looped=False)


@pytest.mark.slow
def test_no_stack_is_gathered_on_a_mesh():
    """Every layer gathers its own slice, in the loop; nothing with the stack's axis travels."""
    config = dataclasses.replace(DENSE, vocab_size=32, hidden_size=32)
    stage = Pretrain(rows_per_step=8, data=Data(train=("rows.jsonl",), row_length=32), max_steps=10)
    mesh = make_mesh({"fsdp": 4, "tensor": 2}, jax.devices()[:8])
    with use_mesh(mesh):
        step = abstract_step(stage, config, Compute(scan=True), mesh, {}, text_batch(stage))
        program = step.lower().compile().as_text()
    moved = re.findall(r"= (.*) (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", program)
    assert any("[32,3,16]" in shape for shape in moved)  # a convolution's gates, whole along the model's width
    assert not [shape for shape in moved if "f32[3,32" in shape]


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"sequence": 2, "fsdp": 2}, {"replica": 2, "tensor": 2}])
def test_loops_compute_the_same_on_a_mesh(axes):
    """As one device does with layers one by one: values, and gradients where the parameters lie."""
    config = dataclasses.replace(tiny.CONFIG, layer_types=("conv", "full_attention") * 2)
    segments, positions = (np.repeat(x, 4, axis=0) for x in place()[1:])
    tokens, weight = tiny.random_tokens(4, WIDTH), np.random.default_rng(1).standard_normal((4, WIDTH, 16))

    def f(params, scan):
        hidden, _ = forward(params, tokens, segments, positions, config=config, scan=scan)
        return jnp.sum(hidden * weight), hidden

    run, params = jax.value_and_grad(f, has_aux=True), tiny.params(config)
    (_, hidden), gradient = jax.jit(lambda p: run(p, False))(params)
    with use_mesh(make_mesh(axes, jax.devices()[:4])):
        (_, looped), theirs = jax.jit(lambda p: run(p, True))(params)
    assert len(looped.sharding.device_set) == 4
    assert_trees_close((looped, theirs), (hidden, gradient), 1e-5)
