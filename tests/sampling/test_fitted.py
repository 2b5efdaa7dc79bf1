"""Engines made to measure: what is asked once, whatever the size that was chosen for it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import param_shardings
from jaxpo.objectives.encode import Scorer
from jaxpo.sampling.fitted import as_scored, fitted, window
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import GREEDY, Sampler
from jaxpo.sharding import make_mesh, use_mesh

NEW = 12


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    # The long one makes the windows of most tests one size, and their programs the same.
    return [rng.integers(1, 61, n).tolist() for n in (1, 70, 2, 3, 9)]


def run(model, prompts, slots=4, **fields):
    fields = {"max_new_tokens": NEW, "stop_ids": (), **fields}
    requests = [Request(prompt, **{"number": i, **fields}) for i, prompt in enumerate(prompts)]
    engine = fitted(model.params, model.config, requests, slots=slots)
    return engine.generate(requests)


def same(a, b):
    assert (a.tokens, a.reason) == (b.tokens, b.reason)
    np.testing.assert_allclose(a.logps, b.logps, atol=1e-5)


def filtered(logits, seen, sampler):
    """One row, float64, from the definitions of the filters."""
    z = np.asarray(logits, np.float64).copy()
    z[seen] = np.where(z[seen] > 0, z[seen] / sampler.repetition_penalty, z[seen] * sampler.repetition_penalty)
    z /= sampler.temperature
    z[z < np.sort(z)[-sampler.top_k]] = -np.inf
    p = np.exp(log_softmax(z))
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    z[order[before >= sampler.top_p]] = -np.inf
    p = np.exp(log_softmax(z))
    z[p < sampler.min_p * p.max()] = -np.inf
    return log_softmax(z)


def test_sampling_log_probs_are_those_of_the_filtered_distribution(model, prompts):
    """Along whole answers, under every filter at once, the penalty of all that came before among them."""
    sampler = Sampler(repetition_penalty=1.2, temperature=0.9, top_k=30, top_p=0.95, min_p=0.01)
    for found in run(model, prompts, sampler=sampler, n=2, seed=3):
        text = list(prompts[found.request])
        for token, logp in zip(found.tokens, found.sampling_logps, strict=True):
            want = filtered(model.logits(text)[-1], sorted(set(text)), sampler)
            assert logp == pytest.approx(want[token], abs=1e-3)
            text.append(token)


@pytest.mark.slow
def test_sizes_change_nothing(model, prompts):
    """One slot and four, a window for these prompts and for longer ones, five samples in four slots."""
    together = run(model, prompts)
    for a, b in zip(run(model, prompts, slots=1), together, strict=True):
        same(a, b)
    for a, b in zip(run(model, [*prompts, [1] * 200])[:-1], together, strict=True):
        same(a, b)
    five = run(model, prompts[:2], n=5)
    assert [(g.request, g.sample) for g in five] == [(p, s) for p in range(2) for s in range(5)]
    for p in range(2):
        same(five[5 * p], together[p])


def test_samples_and_seeds_and_numbers_differ(model, prompts):
    first, second = run(model, prompts[1:2], n=2)
    others = (run(model, prompts[1:2], n=2, **fields)[0] for fields in ({"seed": 1}, {"number": 1}))
    assert len({tuple(g.tokens) for g in (first, second, *others)}) == 4


def test_one_token_and_no_more(model, prompts):
    assert [len(g.tokens) for g in run(model, prompts, max_new_tokens=1)] == [1] * len(prompts)


def test_a_slot_is_given_on_as_soon_as_its_row_is_done(model, prompts):
    """Nine prompts that stop at once in four slots: their budget of 26 tokens is not waited for."""
    first = run(model, prompts[1:2], sampler=GREEDY, max_new_tokens=26)[0].tokens
    stop = (first[4],)
    requests = [Request(prompts[1], sampler=GREEDY, max_new_tokens=26, stop_ids=stop, number=i) for i in range(9)]
    engine = fitted(model.params, model.config, requests, slots=4)
    for request in requests:
        engine.submit(request)
    ended, steps = [], 0
    while engine.busy:
        ended += engine.step()
        steps += 1
    assert [g.tokens for g in ended] == [first[: first.index(first[4]) + 1]] * 9
    assert steps <= 4


def spread(model):
    """The model on a mesh, and the mesh."""
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    params = jax.device_put(model.params, param_shardings(param_table(model.config), mesh, {"vocab": None}))
    return SimpleNamespace(params=params, config=model.config), mesh


def test_slots_are_shared_out_among_devices(model):
    on_mesh, mesh = spread(model)
    with use_mesh(mesh, {"vocab": None}):
        assert fitted(on_mesh.params, model.config, [Request([1])]).load.slots == 4


@pytest.mark.slow
def test_a_mesh_is_that_of_the_parameters(model, prompts):
    """As test_engine.py has it, in the sizes chosen here."""
    together = run(model, prompts)
    on_mesh, mesh = spread(model)
    with use_mesh(mesh, {"vocab": None}):
        for a, b in zip(run(on_mesh, prompts), together, strict=True):
            same(a, b)


def test_sizes_are_rounded_up_to_few():
    assert [window(x) for x in (1, 64, 65, 96, 97, 129, 193)] == [64, 64, 96, 96, 128, 192, 256]
    assert len({window(x) for x in range(1, 10_000)}) < 20


def test_engines_compute_as_scorers_do():
    assert as_scored(Scorer(None, "bfloat16", attention="xla", experts="xla")) == {
        "dtype": jnp.bfloat16,
        "attention": "xla",
        "experts": "xla",
    }
    # Attention over a cache has no such implementation.
    assert as_scored(Scorer(None, attention="splash"))["attention"] is None


def test_nothing_asked_gives_nothing(model):
    assert run(model, []) == []
