"""Families of models: how they are found, what the house asks of them, and one that only the tests know."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contracts.batches import VOCAB, make_examples, packed, unpacked
from fakes.linear_rnn import ENTRY, LinearRNNConfig
from models.tiny import CONFIG, CONFIGS, params

from jaxpo.config import Pretrain
from jaxpo.convert.hf import export_hf
from jaxpo.convert.model_io import load_model, read_config, save_model
from jaxpo.data.packing.batch import Media
from jaxpo.data.tokens.per_token import KEY
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import FAMILIES, families, family, limits, output_matrix, param_table, preset
from jaxpo.models.language import Inputs
from jaxpo.models.lazy import named
from jaxpo.models.parts import Experts
from jaxpo.models.spec import abstract_params, init_params, param_count
from jaxpo.objectives.encode import Scorer, inputs_of
from jaxpo.objectives.families.tokens import next_token
from jaxpo.sampling.engine import Engine
from jaxpo.stages.assemble import make_objective
from jaxpo.train.flops import training_flops_per_token
from jaxpo.train.init import build_state
from jaxpo.train.step import make_step

RNN = LinearRNNConfig(vocab_size=VOCAB)


@pytest.fixture
def enrolled(monkeypatch):
    """The linear RNN is a family while a test runs."""
    monkeypatch.setitem(FAMILIES, *ENTRY)


def test_an_unknown_configuration_is_told_which_families_there_are():
    with pytest.raises(ConfigError, match=r"LinearRNNConfig is the configuration of no family .* are: LFM2Config"):
        family(RNN)


def test_what_a_family_loads_late_is_there():
    for each in families():
        parts = (each, each.decoder, each.towers)
        late = [value for part in parts if part is not None for value in vars(part).values() if hasattr(value, "func")]
        assert all(callable(named(*value.args)) for value in late)
        assert each.table in late


def test_every_entry_is_a_family_of_the_room_and_loads_without_jax():
    assert all(where.startswith("jaxpo.models.") for entry in FAMILIES.items() for where in entry)
    code = (
        "import sys; from jaxpo.models.family import families, preset, limits, family;"
        " c = preset('nano_moe'); print([f.name for f in families()], limits(c), family(c).experts(c));"
        " sys.exit(bool({'jax', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        "['lfm2', 'dit', 'unet', 'lfm2_vl', 'denscore', 'vae'] Limits(context=4096, vocabulary=4096, causal=True) "
        "Experts(count=8, chosen=2, biases=("
    ) in done.stdout


def test_the_biases_of_a_mixture_are_leaves_of_its_table():
    config = dataclasses.replace(preset("nano_moe"), num_dense_layers=4)
    found = family(config).experts(config)
    assert found == Experts(8, 2, tuple(f"layers/{i}/feed_forward/expert_bias/bias" for i in (4, 5)))
    for path in found.biases:
        leaf = param_table(config)
        for part in path.split("/"):
            leaf = leaf[part]
        assert leaf.buffer
    assert family(config).experts(dataclasses.replace(config, use_expert_bias=False)) == Experts(8, 2)
    assert family(CONFIG).experts(CONFIG) is None


def test_text_alone_is_read():
    batch = packed(make_examples("text", 16))
    grid = Media(jnp.zeros((8, 4, 3)), jnp.ones((8, 4), jnp.int32), jnp.zeros((8, 4, 4), jnp.int32))
    places = jnp.full(batch.tokens.shape, -1)
    seen = dataclasses.replace(batch, media={"images": grid}, per_token={**batch.per_token, "media": places})
    inputs = inputs_of(seen)
    assert inputs.media == {"images": grid}
    assert inputs.places is places
    assert inputs.blocks == 8
    assert inputs_of(batch).places is None
    with pytest.raises(ConfigError, match="the batch carries images, and lfm2 reads text alone"):
        Scorer(CONFIG).hidden({}, seen)


@pytest.fixture(scope="module")
def hidden_of():
    """`(config name, tokens, key_ids, causal) -> hidden states` of one segment of 8 and one of 4."""
    segments = jnp.asarray([[1] * 8 + [2] * 4])
    positions = jnp.asarray([[*range(8), *range(4)]])

    def run(params, tokens, key_ids, config):
        inputs = Inputs(tokens, segments, positions, key_ids)
        return family(config).forward(params, inputs, config=config)[0][0]

    program = jax.jit(run, static_argnames="config")

    def hidden(name, tokens, key_ids, causal):
        config = dataclasses.replace(CONFIGS[name], causal=causal)
        return np.asarray(program(params(config), tokens, key_ids, config))

    return hidden


@pytest.mark.parametrize("name", list(CONFIGS))
def test_pads_that_are_no_keys_ask_and_are_not_asked(hidden_of, name):
    """Positions 5 to 7 of the first segment, as in an expanded query."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(1, 31, (1, 12)))
    segments = np.asarray([[1] * 8 + [2] * 4])
    keys = jnp.asarray(np.where((np.arange(12) >= 5) & (np.arange(12) < 8), 0, segments))
    plain, masked = (hidden_of(name, tokens, k, True) for k in (None, keys))
    np.testing.assert_array_equal(plain, hidden_of(name, tokens, jnp.asarray(segments), True))
    np.testing.assert_allclose(masked[:5], plain[:5], atol=1e-6)  # later positions are seen by nobody anyway
    np.testing.assert_allclose(masked[8:], plain[8:], atol=1e-6)
    assert np.abs(masked[5:8] - plain[5:8]).max(-1).min() > 1e-4  # they see less


def test_convolutions_hear_what_attention_does_not(hidden_of):
    """In both directions: a pad among pads reaches the two positions beside it, one convolution after the other."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(1, 31, (1, 12)))
    keys = jnp.asarray([[1] * 5 + [0] * 3 + [2] * 4])
    other = tokens.at[:, 6].set((tokens[:, 6] + 1) % 31)
    moved = np.abs(hidden_of("lfm2", other, keys, False) - hidden_of("lfm2", tokens, keys, False)).max(-1)
    assert np.flatnonzero(moved).tolist() == [4, 5, 6, 7]


def test_a_batch_may_say_which_tokens_are_keys():
    scorer, batch = Scorer(CONFIG), packed(make_examples("text", 16))
    keys = jnp.asarray(batch.positions % 2 == 0, jnp.int32)
    marked = dataclasses.replace(batch, per_token={**batch.per_token, KEY: keys})
    weights = params(CONFIG)
    run = jax.jit(lambda b: scorer.hidden(weights, b))
    inputs = Inputs(batch.tokens, batch.segment_ids, batch.positions, jnp.where(keys > 0, batch.segment_ids, 0))
    np.testing.assert_allclose(run(marked), family(CONFIG).forward(weights, inputs, config=CONFIG)[0], atol=1e-5)
    assert np.abs(run(marked) - run(batch)).max() > 1e-3


# A family that only the tests know: everything that a text family needs is one file.


def test_a_further_family_is_trained(enrolled):
    objective = make_objective(Pretrain(), Scorer(RNN, remat="full"))
    optimizer, schedule = optax.adam(0.05), optax.constant_schedule(0.05)
    state = build_state(
        {"model": init_params(param_table(RNN), jax.random.key(0))}, optimizer, objective, jax.random.key(1)
    )
    batch = packed(make_examples("text", 16))
    step, losses = jax.jit(make_step(objective, optimizer, schedule, microbatches=2)), []
    for _ in range(8):
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics["loss"].value()))
    assert losses[0] == pytest.approx(np.log(VOCAB), rel=0.1)
    assert losses[-1] < losses[0] - 0.3
    assert state.step == 8


def test_a_further_family_is_scored_packed_as_alone(enrolled):
    scorer, weights = Scorer(RNN), init_params(param_table(RNN), jax.random.key(0))
    examples = make_examples("text", 16)
    stats = jax.jit(lambda b: next_token(scorer).encode({"model": weights}, {}, b, None)[0]["stats"])
    sums = []
    for batch in (packed(examples), unpacked(examples)):
        found = stats(batch)
        sums.append([float(jnp.sum(x * batch.masks["completion"])) for x in jax.tree.leaves(found)])
    np.testing.assert_allclose(*sums, rtol=1e-5)
    seen = scorer.taps(weights, packed(examples), lambda name, x: jnp.mean(x))
    assert list(seen) == ["out_proj"]


def test_a_further_family_is_counted(enrolled):
    shapes = abstract_params(param_table(RNN))
    assert output_matrix(shapes, RNN).shape == (VOCAB, 12)
    assert param_count(param_table(RNN)) == 12 * VOCAB + 12 + 144
    assert training_flops_per_token(RNN, 100.0) == 6 * (12 * VOCAB + 144)
    assert limits(RNN).context == 512
    assert [f.name for f in families()] == ["lfm2", "dit", "unet", "lfm2_vl", "denscore", "vae", "linear rnn"]
    assert preset("tiny_rnn") == LinearRNNConfig()


def test_a_further_family_lies_on_disk(enrolled, tmp_path, monkeypatch):
    weights = init_params(param_table(RNN), jax.random.key(0))
    save_model(tmp_path, {"model": weights}, RNN, {"stage": "test"})
    assert read_config(tmp_path) == RNN
    loaded = load_model(tmp_path)
    assert loaded.config == RNN
    jax.tree.map(np.testing.assert_array_equal, loaded.params["model"], weights)
    monkeypatch.delitem(FAMILIES, ENTRY[0])
    with pytest.raises(CheckpointError, match="not jaxpo's own, and loading it would execute foreign code"):
        read_config(tmp_path)


def test_what_a_further_family_cannot_do_is_refused(enrolled, tmp_path):
    weights = init_params(param_table(RNN), jax.random.key(0))
    with pytest.raises(ConfigError, match="the family 'linear rnn' cannot generate"):
        Engine(weights, RNN)
    with pytest.raises(ConfigError, match="the family 'linear rnn' has no form as a Hugging Face checkpoint"):
        export_hf(weights, RNN, tmp_path / "export")
    assert not (tmp_path / "export").exists()
