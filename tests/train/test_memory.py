"""The estimate of a step's memory against what compiled steps need, and what is chosen by it."""

import dataclasses
import os

import jax
import pytest
from fakes.linear_rnn import ENTRY, LinearRNNConfig

from jaxpo.config import Compute, Data, Pretrain
from jaxpo.errors import ConfigError
from jaxpo.models.family import FAMILIES, preset
from jaxpo.sharding import make_mesh, use_mesh
from jaxpo.stages.abstract_step import abstract_step, text_batch
from jaxpo.stages.assemble import make_scorer
from jaxpo.stages.remat import estimates, fitted, load_of, loop_lines
from jaxpo.train.memory import CANDIDATES, Load, choose, device_memory, estimate

CONFIG = dataclasses.replace(
    preset("nano"), layer_types=("conv", "full_attention") * 3, vocab_size=512, intermediate_size=1024
)
STAGE = Pretrain(rows_per_step=8, data=Data(train=("rows.jsonl",), row_length=256), max_steps=10)


BOUND = 1.5
LEAST = dataclasses.replace(CONFIG, layer_types=("conv",) * 3)
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 512, "num_dense_layers": 1}
MOE = dataclasses.replace(CONFIG, layer_types=("conv",) * 4, **EXPERTS)
TWO = {"fsdp": 2}


@pytest.mark.parametrize(
    ("config", "compute", "axes"),
    [
        pytest.param(config, compute, axes, marks=[] if n == 0 else pytest.mark.slow)
        for n, (config, compute, axes) in enumerate(
            [
                (LEAST, Compute(remat="full"), {}),
                *((CONFIG, Compute(remat=remat), {}) for remat in ("none", "dots", "mixer")),
                (LEAST, Compute(remat="full", scan=False), {}),
                (LEAST, Compute(remat="full", dtype="bfloat16"), {}),
                (LEAST, Compute(dtype="bfloat16"), {}),
                (LEAST, Compute(remat="full"), TWO),
                (MOE, Compute(remat="full"), {}),
            ]
        )
    ],
    ids=["full", "none", "dots", "mixer", "in no loop", "bfloat16 full", "bfloat16", "two devices", "experts"],
)
def test_the_estimate_is_near_a_compiled_step(config, compute, axes):
    mesh = make_mesh(axes, jax.devices()[: 2 if axes else 1])
    with use_mesh(mesh):
        step = abstract_step(STAGE, config, compute, mesh, {}, text_batch(STAGE, max_segment=128))
        compiled = step.lower().compile().memory_analysis()
    load = load_of(STAGE, step.assembly, {}, mesh)
    found = estimates(make_scorer(config, compute), load, mesh)[compute.remat]
    assert load.state == pytest.approx(compiled.argument_size_in_bytes, rel=0.05)
    assert 1 / BOUND < compiled.temp_size_in_bytes / found.temporary < BOUND


LOAD = Load(state=3e9, frozen=0.0, trained=1e9, weights=2.5e8, tokens=4096.0)


def of_all(config):
    return {name: estimate(config, LOAD, name, itemsize=2) for name in CANDIDATES}


def test_candidates_need_ever_less():
    for name in ("lfm2_1_2b", "lfm2_24b_a2b", "lfm3_1_7b"):
        totals = [found.total for found in of_all(preset(name)).values()]
        assert totals == sorted(totals, reverse=True), name
        assert len(set(totals)) == len(totals)


def test_the_fastest_that_fits_is_chosen_and_what_has_worked_stays():
    found = of_all(preset("lfm2_1_2b"))
    for name, each in found.items():
        assert choose(found, each.total / 0.9) == name
    plenty = found["none"].total * 2
    assert choose(found, plenty, before="full") == "full"
    assert choose(found, found["mixer"].total / 0.9, before="dots") == "mixer"
    with pytest.raises(
        ConfigError, match=r"even 'offload' needs \d+\.\d+ GiB per device, and there are 1\.00 GiB; use more"
    ):
        choose(found, 2**30)


def test_one_layer_by_hand():
    """A convolution of width 192 and a feed-forward of 1,024, in float32, on 100 positions."""
    config = dataclasses.replace(CONFIG, layer_types=("conv",))
    load = Load(state=7.0, frozen=5.0, trained=3.0, weights=2.0, tokens=100.0, microbatches=2)
    found = estimate(config, load, "full", itemsize=4)
    everything = 3 * 192 + 6 * 192 + 4 * 1024
    assert found.activations == 400 * (192 + 2 * everything)
    assert (found.state, found.frozen, found.gradients, found.copies) == (7.0, 5.0, 6.0, 0.0)
    assert found.head == 3 * 4 * 100 * 512
    assert estimate(config, load, "full", itemsize=4, looped=True).copies == 16.0
    split = estimate(config, load, "none", itemsize=4, tensor=2)
    assert split.activations == 400 * 2 * (3 * 192 + (6 * 192 + 4 * 1024) / 2)


def test_what_is_chosen_is_said():
    mesh = make_mesh({}, jax.devices()[:1])
    scorer, compute = make_scorer(preset("lfm2_1_2b"), Compute(remat="auto")), Compute(remat="auto", memory_gib=16.0)
    assert scorer.remat == "none"
    scorer, [line] = fitted(scorer, compute, LOAD, mesh)
    assert scorer.remat in ("dots", "mixer", "full")
    assert line.startswith(f"compute.remat auto: {scorer.remat!r}; estimated ")
    assert " of 16.00 GiB per device: state 2.79 GiB" in line


def test_a_family_that_does_not_say_what_it_keeps_is_refused(monkeypatch):
    monkeypatch.setitem(FAMILIES, *ENTRY)
    with pytest.raises(ConfigError, match=r"compute.remat auto: a model of the family 'linear rnn' does not say"):
        estimate(LinearRNNConfig(), LOAD, "none", itemsize=4)


def test_the_memory_of_a_cpu_is_shared_by_its_simulated_devices():
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert device_memory() == pages / len(jax.devices())


def test_a_chip_that_does_not_say_its_memory_is_refused():
    class Silent:
        platform, device_kind = "tpu", "a chip"
        memory_stats = staticmethod(lambda: None)

    with pytest.raises(ConfigError, match=r"a chip does not say how much memory it has; give compute.memory_gib"):
        device_memory(Silent())


def test_loops_are_said():
    config = preset("lfm2_24b_a2b")
    assert loop_lines(make_scorer(config, Compute())) == []  # on CPU
    [line] = loop_lines(make_scorer(config, Compute(scan=True)))
    assert line == "layers: 40, of which the program holds 8 and repeats the others in loops (compute.scan)"
    [line] = loop_lines(make_scorer(config, Compute(remat="full")))
    assert line.endswith("in loops (chosen by compute.remat; compute.scan False runs them one by one)")


def test_recomputation_in_no_loop_saves_nothing_on_cpu(monkeypatch):
    """Nor does the estimate say so; XLA for accelerators keeps it behind its barriers."""
    config, mesh = preset("lfm2_1_2b"), make_mesh({}, jax.devices()[:1])
    one_by_one = make_scorer(config, Compute(remat="full", scan=False))
    found = estimates(one_by_one, LOAD, mesh)
    assert found["full"] == found["none"]
    assert estimates(make_scorer(config, Compute()), LOAD, mesh)["full"].total < found["none"].total / 2
    [line] = loop_lines(one_by_one)
    assert line == "compute.remat full: costs time and saves no memory on CPU, as the layers are in no loop"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert loop_lines(one_by_one) == []
    assert estimates(one_by_one, LOAD, mesh)["full"].activations < found["none"].activations / 2
