"""Every family in the table: accumulated, sharded and resumed it trains the same, packed and cut it reads the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import VOCAB, make_examples, packed, unpacked
from contracts.families import EXAMPLES
from contracts.harness import DESCENT, SCHEDULE, STEPS, assert_learned, assert_same, drive, steps
from fakes.linear_rnn import ENTRY, LinearRNNConfig

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import Pretrain
from jaxpo.models.family import FAMILIES, _load, family, output_matrix, param_table, reads_no_tokens, type_key
from jaxpo.models.spec import init_params, leaves
from jaxpo.objectives.encode import Scorer, inputs_of
from jaxpo.sharding import batch_sharding, make_mesh, replicated, use_mesh
from jaxpo.stages.assemble import make_objective
from jaxpo.train.init import abstract_state, build_state
from jaxpo.train.step import make_step

# The one that only the tests know has to pass them too.
CONFIGS = [*EXAMPLES.values(), LinearRNNConfig(vocab_size=VOCAB)]
every_family = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)


@pytest.fixture
def enrolled(monkeypatch):
    monkeypatch.setitem(FAMILIES, *ENTRY)


def test_every_family_is_enrolled():
    # What reads no tokens is in tests/diffusion.
    assert set(EXAMPLES) == {name for name, where in FAMILIES.items() if _load(where).forward is not reads_no_tokens}
    assert all(type_key(config) == name for name, config in EXAMPLES.items())


@functools.cache
def weights(config):
    return init_params(param_table(config), jax.random.key(1))


@every_family
def test_in_microbatches_on_devices_and_resumed_on_fewer_it_trains_as_in_one_go(config, enrolled, tmp_path):
    objective = make_objective(Pretrain(), Scorer(config))
    start = build_state({"model": weights(config)}, DESCENT, objective, jax.random.key(3))
    batches = [packed(make_examples("text", 16, seed)) for seed in (0, 1)]
    plain = jax.jit(make_step(objective, DESCENT, SCHEDULE))
    expected = drive(plain, start, {}, batches)
    assert_learned(expected, start)

    mesh = make_mesh({"fsdp": 2}, jax.devices()[:2])
    with use_mesh(mesh):
        abstract = abstract_state({"model": param_table(config)}, DESCENT, objective, mesh)
        where = jax.tree.map(lambda a: a.sharding, abstract)
        halves = jax.jit(
            make_step(objective, DESCENT, SCHEDULE, microbatches=2), out_shardings=(where, replicated(mesh))
        )
        placed = [jax.device_put(batch, batch_sharding(mesh)) for batch in batches]
        halfway, first = steps(halves, jax.device_put(start, where), {}, placed, 0, 2)
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(2, halfway, {})
    whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), start)
    resumed, rest = steps(plain, store.restore(None, whole)[0], {}, batches, 2, STEPS)
    assert_same((resumed, first + rest), expected, start)


@every_family
def test_it_is_what_it_says_of_itself(config, enrolled):
    found, limits = family(config), family(config).limits(config)
    assert limits.vocabulary == config.vocab_size == VOCAB
    paths, work = {path for path, _ in leaves(param_table(config))}, found.flops(config, 8.0)
    assert work.matrices > 0
    if work.parts:
        assert sum(sum(part.matrices.values()) for part in work.parts) == pytest.approx(work.matrices)
        assert sum(part.mixing for part in work.parts) == pytest.approx(work.mixing)
        assert {path for part in work.parts for path in part.matrices} <= paths
    experts = found.experts(config)
    assert experts is None or set(experts.biases) <= paths


@functools.partial(jax.jit, static_argnums=1)
def hidden_of(params, config, batch):
    return family(config).forward(params, inputs_of(batch), config=config)


@every_family
def test_a_segment_is_read_beside_others_as_alone(config, enrolled):
    examples, sums = make_examples("text", 16), []
    for batch in (packed(examples), unpacked(examples)):
        hidden, aux = hidden_of(weights(config), config, batch)
        assert hidden.shape == (*batch.tokens.shape, output_matrix(weights(config), config).shape[1])
        assert all(len(x) == len(hidden) for name in aux.keys() - {"taps"} for x in jax.tree.leaves(aux[name]))
        real = batch.segment_ids > 0
        sums.append([np.asarray(hidden)[real & (batch.positions == at)].sum(0) for at in range(4)])
    np.testing.assert_allclose(*sums, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [c for c in EXAMPLES.values() if family(c).decoder], ids=lambda c: type(c).__name__)
def test_step_by_step_it_continues_what_it_reads_at_once(config):
    batch = unpacked(make_examples("text", 16))
    whole, real = np.asarray(hidden_of(weights(config), config, batch)[0]), jnp.asarray(batch.segment_ids > 0)
    decoder = family(config).decoder
    step = jax.jit(functools.partial(decoder.step, config=config, dtype=jnp.float32))
    cache, got = decoder.cache(config, *batch.tokens.shape, jnp.float32), []
    for tokens, valid in zip(*(jnp.split(x, 3, axis=1) for x in (batch.tokens, real)), strict=True):
        hidden, cache = step(weights(config), tokens, cache, valid=valid)
        got.append(hidden)
    np.testing.assert_allclose(np.concatenate(got, axis=1)[real], whole[real], atol=2e-5)
