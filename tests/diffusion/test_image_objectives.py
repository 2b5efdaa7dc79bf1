"""Objectives on images: exact in microbatches and on devices, drawn by example, and what each method adds."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.harness import DESCENT, SCHEDULE, STEPS, assert_learned, assert_same, drive
from diffusion.batches import CONFIG, JUDGE, SCORER, batch

from jaxpo.config.noise import NoiseSchedule
from jaxpo.config.text_adapter import TextAdapter
from jaxpo.diffusion.parameterisation import target
from jaxpo.models.family import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.denoising import Denoiser, Draws, Text, another_example
from jaxpo.objectives.families.image_pairs import compared, forward_noise, inverted
from jaxpo.objectives.methods import METHODS
from jaxpo.sharding import batch_sharding, make_mesh, replicated, use_mesh
from jaxpo.train.init import abstract_state, build_state
from jaxpo.train.step import make_step

TABLES = {"model": param_table(CONFIG)}
SETTINGS = {
    "denoising": {"snr_limit": 5.0, "caption_dropout": 0.3},
    "diffusion_dpo": {"beta": 20.0},
    "diffusion_npo": {"beta": 20.0},
    "diffusion_kto": {"beta": 20.0},
    "inpo_ddim": {"beta": 20.0, "inversion_steps": 4, "grid": "code", "inversion_eta": 0.1},
    "smpo_diffusion": {"beta": 20.0, "inversion_steps": 2},
    "self_npo": {"truncation": 2, "sampler_steps": 5, "teacher_w": 1.0},
    "ppd": {"beta": 20.0, "user_dropout": 0.3},
    "denscore": {},
    "longalign": {"sampler_steps": 4, "kept_steps": 2, "guidance": 2.0},
}
CASES = [
    *((name, 2) for name in ("denoising", "smpo_diffusion")),
    *(pytest.param(name, 8, marks=[pytest.mark.slow]) for name in SETTINGS),  # programs for eight take longest
]
JUDGED = {"model": param_table(JUDGE)}


def config_of(name):
    return JUDGE if METHODS[name].MODEL == "towers" else CONFIG


def objective_of(name, **changes):
    method = METHODS[name](**SETTINGS[name] | changes)
    return method.build(Scorer(config_of(name)), scorers={"reward": Scorer(JUDGE)})


@functools.cache
def initial(seeds=(1, 2), tables=None):
    """Parameters in which every leaf has an effect, gates and the values of users too."""
    drawn = [init_params(JUDGED["model"] if tables else TABLES["model"], jax.random.key(seed)) for seed in seeds]
    return [jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), each) for each in drawn]


def state_of(name, objective):
    """A state, and the networks beside it: a reference that differs, and a judge."""
    towers = config_of(name) == JUDGE
    (model, reference), (judge,) = initial(tables=towers), initial((4,), tables=True)
    frozen = {"reference": reference, "reward": {"model": judge}}
    beside = {network: frozen[network] for network, _ in objective.needs.networks}
    return build_state({"model": model}, DESCENT, objective, jax.random.key(3)), beside


def images_of(name):
    return 2 if "chosen" in METHODS[name].NEEDS.roles else 1


@pytest.mark.parametrize(("name", "devices"), CASES)
def test_in_microbatches_on_devices_as_in_one_go(name, devices):
    objective, batches = objective_of(name), [batch(images=images_of(name), seed=seed) for seed in (0, 1)]
    state, frozen = state_of(name, objective)
    whole = drive(jax.jit(make_step(objective, DESCENT, SCHEDULE)), state, frozen, batches)
    assert_learned(whole, state)
    mesh, tables = make_mesh({"fsdp": devices}, jax.devices()[:devices]), {"model": param_table(config_of(name))}
    with use_mesh(mesh):
        where = jax.tree.map(lambda a: a.sharding, abstract_state(tables, DESCENT, objective, mesh))
        spread = [jax.device_put(b, batch_sharding(mesh)) for b in batches]
        step = make_step(objective, DESCENT, SCHEDULE, microbatches=2)
        jitted = jax.jit(step, out_shardings=(where, replicated(mesh)))
        placed = jax.device_put(state, where), jax.device_put(frozen, replicated(mesh))
        assert_same(drive(jitted, *placed, spread), whole, state, tolerance=1e-4)
    assert len(batches) < STEPS


@functools.cache
def evaluated(name, **changes):
    """`(features, loss, metrics)` of `(params, frozen, batch, rng)`, compiled once."""
    objective = objective_of(name, **changes)

    def run(model, reference, batch, rng):
        features, _ = objective.encode({"model": model}, {"reference": reference}, batch, rng)
        out = objective.loss(features, batch, {}, objective.counts(batch))
        return features, out.loss, {k: m.value() for k, m in out.metrics.items()}

    return jax.jit(run)


def permuted(given, order):
    return jax.tree.map(lambda x: x[order], given)


def test_draws_belong_to_examples_whatever_else_is_in_the_batch():
    given, (model, reference) = batch(), initial()
    features, loss, _ = evaluated("diffusion_dpo")(model, reference, given, jax.random.key(5))
    order = np.random.default_rng(0).permutation(16)
    other, again, _ = evaluated("diffusion_dpo")(model, reference, permuted(given, order), jax.random.key(5))
    np.testing.assert_array_equal(np.asarray(other.times), np.asarray(features.times)[order])
    np.testing.assert_allclose(other.errors, np.asarray(features.errors)[order], rtol=2e-5)
    np.testing.assert_allclose(loss, again, rtol=1e-5)
    later, *_ = evaluated("diffusion_dpo")(model, reference, given, jax.random.key(6))
    assert not np.array_equal(later.times, features.times)


def test_absent_examples_and_weights():
    given, (model, reference) = batch(), initial()
    features, loss, _ = evaluated("diffusion_dpo")(model, reference, given, jax.random.key(5))
    e_w, e_l, r_w, r_l = (np.asarray(x, np.float64) for x in features.sides)
    terms = np.log1p(np.exp(0.5 * 20.0 * ((e_w - r_w) - (e_l - r_l))))
    weight = np.where(given.example_id >= 0, given.columns["weight"], 0.0)
    np.testing.assert_allclose(loss, np.sum(weight * terms) / np.sum(weight), rtol=1e-5)
    assert np.all(np.asarray(features.errors)[3] == 0)


def test_policy_equal_to_reference_costs_log_2():
    given, (model, _) = batch(), initial()
    for name in ("diffusion_dpo", "smpo_diffusion"):
        _, loss, metrics = evaluated(name)(model, model, given, jax.random.key(5))
        np.testing.assert_allclose(loss, math.log(2), rtol=1e-6)
        assert abs(float(metrics["rewards/margins"])) < 1e-5


def test_smpo_is_the_same_for_a_pair_turned_round_with_its_rewards_and_ties_teach_nothing():
    given, (model, reference) = batch(), initial()
    run = evaluated("smpo_diffusion")
    _, loss, _ = run(model, reference, given, jax.random.key(5))
    columns = given.columns | {"rewards": given.columns["rewards"][:, ::-1]}
    _, turned, _ = run(
        model, reference, given.replace(images=given.images[:, ::-1], columns=columns), jax.random.key(5)
    )
    np.testing.assert_allclose(loss, turned, rtol=1e-5)
    tied = given.replace(columns=given.columns | {"rewards": np.full((16, 2), 0.3, np.float32)})
    grad = jax.grad(lambda model: run(model, reference, tied, jax.random.key(5))[1])(model)
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(grad))


def test_equal_images_have_equal_latents_and_cost_log_2():
    given, (model, reference) = batch(), initial()
    same = given.replace(images=np.repeat(given.images[:, :1], 2, axis=1))
    features, loss, _ = evaluated("smpo_diffusion")(model, reference, same, jax.random.key(5))
    np.testing.assert_allclose(features.errors[:, 0], features.errors[:, 1], rtol=1e-5)
    np.testing.assert_allclose(loss, math.log(2), rtol=1e-5)


def test_evaluation_draws_the_same_every_time_and_measures_what_captions_are_worth():
    given, (model, reference) = batch(images=1), initial()
    run = evaluated("denoising")
    _, first, metrics = run(model, reference, given, None)
    _, second, _ = run(model, reference, given, None)
    assert first == second
    assert metrics["shuffled_error"] != metrics["denoising_error"]
    _, _, training = run(model, reference, given, jax.random.key(0))
    assert "shuffled_error" not in training


def test_a_dropped_caption_is_the_empty_one():
    given, (model, _) = batch(images=1), initial()
    how = Denoiser.of(SCORER)
    drop = jnp.arange(16) % 2 == 0
    text, empty = how.text(model, given, drop), how.empty(model, given)
    np.testing.assert_array_equal(text.states[::2], empty.states[::2])
    np.testing.assert_array_equal(text.states[1::2], how.text(model, given).states[1::2])
    assert not np.array_equal(text.states[1], empty.states[1])


def test_segments_are_read_alone_and_what_fills_them_up_is_not_seen():
    given, (model, _) = batch(images=1), initial()
    how, mask = Denoiser.of(SCORER), np.ones((16, 2, 3), bool)
    mask[:, 1, 2] = False
    tokens = np.concatenate([given.tokens, given.tokens[::-1]], axis=1)
    text = how.text(model, given.replace(tokens=tokens, text_mask=mask))
    alone = how.text(model, given).states
    np.testing.assert_allclose(text.states[:, :3], alone, rtol=1e-6)
    np.testing.assert_allclose(text.states[:, 3:], alone[::-1], rtol=1e-6)
    np.testing.assert_array_equal(text.mask, mask.reshape(16, 6))


def test_the_empty_caption_is_what_the_data_have_of_it():
    given, how = batch(count=4, images=1, absent=()), Denoiser.of(SCORER)
    states = np.random.default_rng(1).standard_normal((4, 3, 16)).astype(np.float32)
    mask = np.array([[True, True, False]] * 4)
    texts = given.replace(states=states, states_mask=mask)
    drop = np.array([True, False, True, False])
    zeros = how.text({}, texts, drop)
    np.testing.assert_array_equal(zeros.states[0], np.zeros((3, 16)))
    np.testing.assert_array_equal(zeros.mask[0], [True, False, False])
    empty = np.ones((4, 3, 16), np.float32)
    told = how.text({}, texts.replace(empty_states=empty, empty_mask=np.ones((4, 3), bool)), drop)
    np.testing.assert_array_equal(told.states, np.where(drop[:, None, None], empty, states))
    np.testing.assert_array_equal(told.mask, np.where(drop[:, None], True, mask))


def adapted_reference(p, x, eps=1e-5):
    """LN -> gated layer -> LN -> gated layer in float64."""
    for i in ("0", "1"):
        layer = {name: {k: np.asarray(v, np.float64) for k, v in part.items()} for name, part in p["layers"][i].items()}
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        x = x * layer["norm"]["weight"] + layer["norm"]["bias"]
        u, g = np.split(x @ layer["proj"]["weight"] + layer["proj"]["bias"], 2, axis=-1)
        gelu = 0.5 * g * (1 + np.vectorize(math.erf)(g / math.sqrt(2)))
        x = (u * gelu) @ layer["out"]["weight"] + layer["out"]["bias"]
    return x


def test_states_of_a_second_encoder_stand_behind_those_of_the_first():
    config = dataclasses.replace(CONFIG, text_adapter=TextAdapter(channels=5, intermediate_size=7))
    params = init_params(param_table(config), jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), params)
    more = np.random.default_rng(2).standard_normal((4, 3, 5)).astype(np.float32)
    there = np.array([[True, True, True], [True, True, False]] * 2)
    given, how = batch(count=4, images=1, absent=()), Denoiser.of(Scorer(config))
    given = given.replace(adapter_states=more, adapter_mask=there)
    text = how.text(params, given)
    alone = Denoiser.of(SCORER).text(params, given).states
    np.testing.assert_array_equal(text.states[:, :3], alone)
    np.testing.assert_allclose(
        text.states[:, 3:], adapted_reference(params["text_adapter"], more), rtol=2e-4, atol=2e-5
    )
    np.testing.assert_array_equal(text.mask, np.concatenate([np.ones((4, 3), bool), there], axis=1))
    dropped = how.text(params, given, np.array([True, False, False, False]))
    np.testing.assert_array_equal(dropped.mask[:, 3:], there & np.array([[False], [True], [True], [True]]))
    # What fills states up changes nothing, and the gradient is that of finite differences.
    x, t = np.cos(np.arange(192.0)).reshape(4, 4, 4, 3), np.full(4, 300)
    spoiled = given.replace(adapter_states=np.where(there[..., None], more, 9.0).astype(np.float32))

    @jax.jit
    def total(adapter, given):
        whole = params | {"text_adapter": adapter}
        return jnp.sum(jnp.square(how.predict(whole, x, t, how.text(whole, given))))

    own = params["text_adapter"]
    np.testing.assert_allclose(total(own, spoiled), total(own, given), rtol=1e-6)
    slopes = jax.grad(total)(own, given)
    direction = jax.tree.map(
        lambda s: s / jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(slopes))), slopes
    )
    ahead, behind = (total(jax.tree.map(lambda w, d: w + h * d, own, direction), given) for h in (1e-2, -1e-2))  # noqa: B023
    length = sum(jnp.sum(s * d) for s, d in zip(jax.tree.leaves(slopes), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose((ahead - behind) / 2e-2, length, rtol=2e-2)


@pytest.mark.slow  # a program of its own
def test_self_npo_from_noise_reads_no_pixels():
    given, (model, reference) = batch(images=1), initial()
    run = evaluated("self_npo", start="noise")
    _, loss, _ = run(model, reference, given, jax.random.key(1))
    _, other, _ = run(model, reference, given.replace(images=-given.images), jax.random.key(1))
    assert loss == other


@pytest.mark.slow  # a program of its own
def test_users_change_what_the_trained_model_predicts_and_not_the_reference():
    given, (model, reference) = batch(), initial()
    run = evaluated("ppd")
    features, *_ = run(model, reference, given, None)
    nobody = given.replace(columns=given.columns | {"user_tokens": np.zeros_like(given.columns["user_tokens"])})
    other, *_ = run(model, reference, nobody, None)
    np.testing.assert_array_equal(features.ref_errors, other.ref_errors)
    assert not np.allclose(features.errors, other.errors, rtol=1e-4)
    base = evaluated("diffusion_dpo")(model, reference, given, None)[0]
    np.testing.assert_allclose(other.errors, base.errors, rtol=1e-4)


class Linear(Denoiser):
    """A model whose noise is `w x`, in whatever parameterisation."""

    def text(self, model, batch, drop=None):
        return Text(jnp.zeros((batch.rows, 1, 1)))

    def predict(self, model, x, t, text, user=None):
        a, s = (level[:, None, None, None] for level in self.schedule.levels(t))
        return target(self.schedule, (x - s * model * x) / a, model * x, t)


def linear(kind, **others):
    config = dataclasses.replace(CONFIG, schedule=NoiseSchedule(steps=10, beta_end=0.5, parameterisation=kind))
    return Linear(config, jnp.float32, False, others)


def drawn_at(times, given):
    noise = np.random.default_rng(1).standard_normal(given.images.shape[:1] + given.images.shape[2:])
    return Draws(jnp.asarray(times), jnp.asarray(noise, jnp.float32), jax.random.split(jax.random.key(0), len(times)))


def test_errors_at_inverted_latents_are_of_noise_whatever_the_model_predicts():
    given, times, own, fixed = batch(4, absent=()), np.asarray([1, 4, 7, 9]), 0.3, 0.2
    bars = np.asarray(linear("noise").schedule.alpha_bars, np.float64)
    wanted = np.zeros((2, 4, 2))
    for i, t in enumerate(times):
        x0 = np.asarray(given.images[i], np.float64)
        x, (a, s) = x0, (1.0, 0.0)
        for end in (4, 9):  # the ends of two segments of ten times
            b, r = (np.sqrt(v) for v in (bars[min(end, t)], 1 - bars[min(end, t)]))
            x, a, s = (b * (x - s * own * x) / a + r * own * x), b, r
        tau = (x - a * x0) / s
        wanted[:, i] = [np.mean((tau - w * x) ** 2, axis=(1, 2, 3)) for w in (own, fixed)]
    for kind, other in (("noise", "noise"), ("velocity", "noise"), ("noise", "velocity"), ("x0", "x0")):
        how = linear(kind, reference=linear(other).config)
        draws = drawn_at(times, given)
        noisy = inverted(how, own, given, draws, 0.0, n=2)
        found = compared(how, {"model": own}, {"reference": fixed}, given, draws, noisy)
        np.testing.assert_allclose((found.errors, found.ref_errors), wanted, rtol=2e-3)


def test_a_reference_that_predicts_something_else_is_read_as_what_it_is():
    given, times = batch(4, absent=()), np.asarray([1, 4, 7, 9])
    how, draws = linear("velocity"), drawn_at(times, given)
    frozen, noisy = {"reference": 0.2}, forward_noise(how, given, draws)
    same = compared(how, {"model": 0.3}, frozen, given, draws, noisy)
    for kind in ("noise", "x0"):
        other = linear("velocity", reference=linear(kind).config)
        found = compared(other, {"model": 0.3}, frozen, given, draws, noisy)
        np.testing.assert_allclose(found.ref_errors, same.ref_errors, rtol=2e-4)


def test_metrics_are_about_what_the_loss_prefers():
    given, (model, reference) = batch(), initial()
    features, _, metrics = evaluated("diffusion_dpo")(model, reference, given, jax.random.key(5))
    accuracy, npo, smpo = metrics["rewards/accuracies"], METHODS["diffusion_npo"](), METHODS["smpo_diffusion"]()
    found = {k: m.value() for k, m in npo.common_metrics(features).items()}
    np.testing.assert_allclose(found["rewards/accuracies"], 1 - accuracy, rtol=1e-5)
    np.testing.assert_allclose(found["errors/chosen"], metrics["errors/rejected"], rtol=1e-5)
    e_w, e_l, r_w, r_l = (np.asarray(x) for x in features.sides)
    better, here = given.columns["rewards"][:, 0] > given.columns["rewards"][:, 1], given.example_id >= 0
    right = ((r_w - e_w) > (r_l - e_l)) == better
    found = smpo.common_metrics(features)["rewards/accuracies"].value()
    np.testing.assert_allclose(found, right[here].mean(), rtol=1e-5)


def test_a_shuffled_caption_is_that_of_an_example():
    present = jnp.asarray([True, False, True, True, False])
    np.testing.assert_array_equal(np.asarray(another_example(present))[[0, 2, 3]], [3, 0, 2])
