"""Every optimiser against float64 numpy, its masks from the parameter table, on a mesh, and across a resume."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import Adafactor, Muon, Optimizer
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import Param, abstract_params, leaves, normal
from jaxpo.objectives.base import Objective
from jaxpo.sharding import make_mesh, use_mesh
from jaxpo.train.init import abstract_state, init_state
from jaxpo.train.optimizer import make_optimizer, make_schedule

DRAW = normal(0.5)
# A wide, a tall and a gated projection, and what Muon must leave alone: a norm, taps, an embedding, a head.
TABLE = {
    "wide": Param((4, 6), ("embed", "mlp"), DRAW, muon=((0,), (1,))),
    "tall": Param((6, 4), ("mlp", "embed"), DRAW, muon=((0,), (1,))),
    "gates": Param((4, 3, 6), ("embed", None, "conv"), DRAW, muon=((0,), (2,))),
    "norm": Param((4,), ("norm",), DRAW, decay=False),
    "taps": Param((3, 4), (None, "conv"), DRAW),
    "embedding": Param((10, 4), ("vocab", "embed"), DRAW),
    "head": Param((4, 1), ("embed", None), DRAW, decay=False),
}
COMMON = {"learning_rate": 0.03, "final_learning_rate": 0.003, "warmup_steps": 2, "weight_decay": 0.2}
CASES = {
    "adamw": Optimizer(**COMMON, max_grad_norm=2.0),
    "muon": Muon(**COMMON, max_grad_norm=2.0),
    "muon-by-width": Muon(**COMMON, consistent_rms=None, nesterov=False, ns_steps=3, max_grad_norm=np.inf),
    "adafactor": Adafactor(**COMMON, min_dim_size_to_factor=3, max_grad_norm=2.0),
    "adafactor-plain": Adafactor(
        **COMMON,
        min_dim_size_to_factor=4,
        multiply_by_parameter_scale=False,
        clipping_threshold=None,
        momentum=0.9,
        max_grad_norm=np.inf,
    ),
}
STEPS = 4
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def rms(x):
    return np.sqrt(np.mean(x**2))


def newton_schulz(x, steps):
    """Jordan's quintic iteration on one matrix."""
    a, b, c = COEFFICIENTS
    x = x / np.linalg.norm(x)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Reference:
    """The equations of the docstrings, leaf by leaf, in float64."""

    def __init__(self, config, params):
        self.config, self.memory, self.t = config, {name: {} for name in params}, 0

    def step(self, params, grads, rate):
        self.t += 1
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        scale = min(1.0, self.config.max_grad_norm / norm)
        out = {}
        for name, p in params.items():
            decay = self.config.weight_decay * TABLE[name].decay
            out[name] = p - rate * (self.direction(name, p, grads[name] * scale) + decay * p)
        return out

    def direction(self, name, p, g):
        if isinstance(self.config, Adafactor):
            return self.adafactor(self.memory[name], p, g)
        if isinstance(self.config, Muon) and TABLE[name].muon:
            return self.muon(self.memory[name], name, g)
        return self.adam(self.memory[name], g)

    def adam(self, m, g):
        c = self.config
        m["mu"] = c.adam_beta1 * m.get("mu", 0) + (1 - c.adam_beta1) * g
        m["nu"] = c.adam_beta2 * m.get("nu", 0) + (1 - c.adam_beta2) * g**2
        mu, nu = m["mu"] / (1 - c.adam_beta1**self.t), m["nu"] / (1 - c.adam_beta2**self.t)
        return mu / (np.sqrt(nu) + c.adam_epsilon)

    def muon(self, m, name, g):
        c, b = self.config, self.config.muon_beta
        m["mu"] = b * m.get("mu", 0) + (1 - b) * g
        moved = m["mu"] / (1 - b**self.t)
        if c.nesterov:
            moved = b * m["mu"] / (1 - b ** (self.t + 1)) + (1 - b) * g / (1 - b**self.t)
        matrices = [moved] if moved.ndim == 2 else [moved[:, i] for i in range(moved.shape[1])]
        n_in, n_out = matrices[0].shape
        size = (
            np.sqrt(max(1, n_out / n_in)) if c.consistent_rms is None else c.consistent_rms * np.sqrt(max(n_in, n_out))
        )
        found = [size * newton_schulz(x, c.ns_steps) for x in matrices]
        return found[0] if moved.ndim == 2 else np.stack(found, axis=1)

    def adafactor(self, m, p, g):
        c = self.config
        keep = 1 - float(self.t) ** -c.decay_rate
        square = g**2 + c.adafactor_epsilon
        order = np.argsort(g.shape, kind="stable")
        if g.ndim >= 2 and g.shape[order[-2]] >= c.min_dim_size_to_factor:
            rows, columns = order[-2], order[-1]
            m["r"] = keep * m.get("r", 0) + (1 - keep) * square.mean(axis=columns, keepdims=True)
            m["c"] = keep * m.get("c", 0) + (1 - keep) * square.mean(axis=rows, keepdims=True)
            v = m["r"] * m["c"] / m["r"].mean(axis=rows, keepdims=True)
        else:
            m["v"] = v = keep * m.get("v", 0) + (1 - keep) * square
        u = g / np.sqrt(v)
        if c.clipping_threshold is not None:
            u = u / max(1.0, rms(u) / c.clipping_threshold)
        if c.multiply_by_parameter_scale:
            u = u * max(1e-3, rms(p))
        if c.momentum is None:
            return u
        m["u"] = c.momentum * m.get("u", 0) + (1 - c.momentum) * u
        return m["u"]


def draws(seed):
    """Random values for every leaf of the table."""
    rng = np.random.default_rng(seed)
    return {"model": {k: (0.5 * rng.standard_normal(p.shape)).astype(np.float32) for k, p in TABLE.items()}}


@pytest.mark.parametrize("name", CASES)
def test_four_steps_are_those_of_the_equations(name):
    config = CASES[name]
    schedule = make_schedule(config, 8)
    optimizer = make_optimizer(config, {"model": TABLE}, schedule)
    params = draws(0)
    expected = {k: np.asarray(v, np.float64) for k, v in params["model"].items()}
    reference, state = Reference(config, expected), optimizer.init(params)
    update = jax.jit(optimizer.update)
    with jax.default_matmul_precision("highest"):
        for i in range(STEPS):
            grads = draws(i + 1)
            updates, state = update(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
            rate = float(schedule(i))
            expected = reference.step(expected, {k: g.astype(np.float64) for k, g in grads["model"].items()}, rate)
    for leaf, value in expected.items():
        np.testing.assert_allclose(params["model"][leaf], value, rtol=3e-5, atol=3e-6, err_msg=leaf)


def test_a_muon_step_is_nearly_orthogonal_and_as_large_as_adamw_makes_it():
    config = Muon(learning_rate=1.0, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=np.inf)
    optimizer = make_optimizer(config, {"model": TABLE}, make_schedule(config, 8))
    params = draws(0)
    updates, _ = jax.jit(optimizer.update)(draws(1), optimizer.init(params), params)
    for leaf in ("wide", "tall"):
        update = np.asarray(updates["model"][leaf])
        singular = np.linalg.svd(update, compute_uv=False) / (0.2 * np.sqrt(6))
        assert np.all((singular > 0.5) & (singular < 1.3)), (leaf, singular)
        assert 0.1 < rms(update) < 0.25
    for gate in range(3):  # each gate is a matrix of its own
        singular = np.linalg.svd(np.asarray(updates["model"]["gates"][:, gate]), compute_uv=False) / (0.2 * np.sqrt(6))
        assert np.all((singular > 0.5) & (singular < 1.3)), (gate, singular)


MODEL = LFM2Config(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    layer_types=("conv", "full_attention"),
)
TABLES = {"model": TABLE}
NOTHING = Objective("nothing", counts=lambda b: {}, encode=lambda *a: {}, loss=lambda *a: None)


def test_of_a_model_muon_moves_the_projections_alone():
    config = Muon(weight_decay=0.1)
    table = param_table(MODEL)
    optimizer = make_optimizer(config, {"model": table}, make_schedule(config, 8))
    state = jax.eval_shape(optimizer.init, {"model": abstract_params(table)})
    halves = state[1].inner_states
    owned = {
        half: {
            "/".join(k.key for k in path[1:])
            for path, x in jax.tree_util.tree_flatten_with_path(halves[half].inner_state[0].mu)[0]
        }
        for half in ("muon", "adam")
    }
    names = dict(leaves(table))
    assert owned["muon"] | owned["adam"] == set(names)
    assert not owned["muon"] & owned["adam"]
    modules = {name.split("/")[-2] for name in owned["muon"]}
    assert modules == {"in_proj", "out_proj", "q_proj", "k_proj", "v_proj", "w1", "w2", "w3"}
    assert {name.split("/")[-2] for name in owned["adam"]} >= {"embed_tokens", "conv", "operator_norm", "q_layernorm"}


def placed(config, sizes, devices):
    """`(abstract state, first state, compiled update)` on a mesh."""
    mesh = make_mesh(sizes, jax.devices()[:devices])
    optimizer = make_optimizer(config, TABLES, make_schedule(config, 8))
    abstract = abstract_state(TABLES, optimizer, NOTHING, mesh, average=True)
    state = init_state(abstract, draws(0), optimizer, NOTHING, seed=0)

    def update(state, grads):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        return dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)

    where = jax.tree.map(lambda a: a.sharding, abstract)
    with use_mesh(mesh):
        return abstract, state, jax.jit(update, out_shardings=where)


@pytest.mark.parametrize(
    "config", [Muon(), Adafactor(min_dim_size_to_factor=3, momentum=0.9)], ids=["muon", "adafactor"]
)
def test_state_lives_with_its_parameters_and_a_resume_on_the_mesh_is_bitwise(config, tmp_path):
    grads = [draws(i + 1) for i in range(STEPS)]
    _, single, update = placed(config, {"fsdp": 1}, 1)
    for g in grads:
        single = update(single, g)
    abstract, state, update = placed(config, {"fsdp": 4, "tensor": 2}, 8)
    where = jax.tree.map(lambda p: p.sharding, abstract.params)
    for g in grads[:2]:
        state = update(state, jax.device_put(g, where))
    store = CheckpointStore(tmp_path / "store", keep=1)
    store.save(2, state, {})
    resumed, _ = store.restore(2, abstract)
    store.close()
    for g in grads[2:]:
        state, resumed = (update(s, jax.device_put(g, where)) for s in (state, resumed))
    for (path, a), b, c in zip(
        jax.tree_util.tree_flatten_with_path((state.params, state.opt_state))[0],
        jax.tree.leaves((resumed.params, resumed.opt_state)),
        jax.tree.leaves((single.params, single.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
        np.testing.assert_allclose(a, c, rtol=2e-4, atol=2e-6, err_msg=jax.tree_util.keystr(path))
    largest = max(jax.tree.leaves(state.opt_state), key=lambda x: x.size)
    assert largest.addressable_shards[0].data.size == largest.size // 8
    assert all(
        a.sharding == e.sharding for a, e in zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.params), strict=True)
    )


def test_the_schedule_of_the_reports_fine_tuning():
    """500 steps of warm-up to 3e-5, then a cosine to 1e-7 (LFM2 Technical Report, fine-tuning)."""
    config = Optimizer(learning_rate=3e-5, final_learning_rate=1e-7, warmup_steps=500, lr_scheduler_type="cosine")
    rate = make_schedule(config, 10_500)
    assert float(rate(0)) == pytest.approx(3e-5 / 500, rel=1e-5)
    assert float(rate(249)) == pytest.approx(1.5e-5, rel=1e-5)
    assert float(rate(499)) == float(rate(500)) == pytest.approx(3e-5, rel=1e-6)
    assert float(rate(5_500)) == pytest.approx((3e-5 + 1e-7) / 2, rel=1e-4)  # half way down
    assert float(rate(3_000)) == pytest.approx(1e-7 + (3e-5 - 1e-7) * (1 + np.cos(np.pi / 4)) / 2, rel=1e-4)
    assert float(rate(10_500)) == pytest.approx(1e-7, rel=1e-3)
    rates = np.asarray(rate(np.arange(0, 10_501, 100)))
    assert rates.max() == pytest.approx(3e-5, rel=1e-6)
    assert np.all(np.diff(rates[5:]) < 0)
