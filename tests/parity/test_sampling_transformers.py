"""Processed and filtered logits against transformers' processors and warpers, in their order."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sampling.rows import asks, settings_of

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch comes with the parity extra")
theirs = pytest.importorskip("transformers.generation.logits_process")

from jaxpo.sampling.draw import draw  # noqa: E402
from jaxpo.sampling.processors import keep_in_order, process  # noqa: E402

ROWS, V, PROMPT = 16, 50, 4
STOPS = [3, 11]
run = jax.jit(process)
in_order = jax.jit(keep_in_order, static_argnums=4)


def ours(logits, tokens, request):
    """Log-weights by id after everything, -inf = removed, and the logits before the temperature."""
    held = settings_of([request] * ROWS, V, stop_ids=STOPS).replace(start=np.full(ROWS, PROMPT, np.int32))
    held = held.replace(min_length=held.start + request.min_new_tokens)
    z = np.asarray(run(logits, held, tokens.astype(np.int32), np.full(ROWS, tokens.shape[1], np.int32)))
    order = np.argsort(-z, axis=1, kind="stable")
    scaled = np.exp((z - z.max(1, keepdims=True)) / request.sampler.temperature).sum(1)
    weights, _ = in_order(np.take_along_axis(z, order, 1), held, held.temperature, scaled, V)
    by_id = np.zeros((ROWS, V), np.float32)
    np.put_along_axis(by_id, order, np.asarray(weights), 1)
    with np.errstate(divide="ignore"):
        return np.log(by_id), z


def processors(request):
    """Theirs, in the order of `GenerationMixin`."""
    sampler, steps = request.sampler, []
    if request.logit_bias:
        steps.append(theirs.SequenceBiasLogitsProcessor({(i,): value for i, value in request.logit_bias.items()}))
    if sampler.repetition_penalty != 1:
        steps.append(theirs.RepetitionPenaltyLogitsProcessor(sampler.repetition_penalty))
    if request.banned_ids:
        steps.append(theirs.NoBadWordsLogitsProcessor([[i] for i in request.banned_ids]))
        steps.append(theirs.SuppressTokensLogitsProcessor(list(request.banned_ids)))
    if request.min_new_tokens:
        steps.append(theirs.MinNewTokensLengthLogitsProcessor(PROMPT, request.min_new_tokens, STOPS))
        steps.append(theirs.MinLengthLogitsProcessor(PROMPT + request.min_new_tokens, STOPS))
    warpers = [theirs.TemperatureLogitsWarper(float(sampler.temperature))]
    warpers += [theirs.TopKLogitsWarper(sampler.top_k)] if sampler.top_k else []
    warpers += [theirs.TopPLogitsWarper(sampler.top_p)] if sampler.top_p < 1 else []
    warpers += [theirs.MinPLogitsWarper(sampler.min_p)] if sampler.min_p else []
    return theirs.LogitsProcessorList(steps), theirs.LogitsProcessorList(warpers)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8, "temperature": 1.7},
        {"temperature": 0.6},
        {"top_k": 5},
        {"top_k": 500},
        {"top_p": 0.7},
        {"top_p": 1e-9},
        {"min_p": 0.1},
        {"temperature": 0.3, "min_p": 0.15},
        {"logit_bias": {4: 3.0, 9: -30.0}},
        {"banned_ids": (0, 7, 49)},
        {"min_new_tokens": 5},
        {"min_new_tokens": 6},
        {
            "repetition_penalty": 1.2,
            "temperature": 1.5,
            "top_k": 12,
            "top_p": 0.85,
            "min_p": 0.05,
            "logit_bias": {1: 2.0},
            "banned_ids": (2, 5),
            "min_new_tokens": 9,
        },
    ],
    ids=str,
)
def test_distributions_equal_transformers(options):
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=2.0, size=(ROWS, V)).astype(np.float32)
    tokens = rng.integers(0, V, (ROWS, PROMPT + 5))
    request = asks(prompt=[1] * PROMPT, **options)
    steps, warpers = processors(request)
    want_z = steps(torch.as_tensor(tokens), torch.as_tensor(logits))
    want = torch.log_softmax(warpers(torch.as_tensor(tokens), want_z), dim=-1).numpy()
    got, z = ours(logits, tokens, request)
    np.testing.assert_allclose(z, want_z.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_allclose(got - np.log(np.exp(got).sum(1, keepdims=True)), want, atol=1e-5)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_forced_tokens_equal_transformers(place):
    """Theirs forces one token at one length; ours come one after another from the beginning."""
    rng = np.random.default_rng(place)
    logits = rng.normal(size=(2, V)).astype(np.float32)
    forced = (7, 30)
    held = settings_of([asks(prompt=[1] * PROMPT, forced_ids=forced, temperature=0.0)] * 2, V)
    tokens = np.ones((2, 8), np.int32)
    got = jax.jit(draw)(logits, held, tokens, np.full(2, PROMPT + place, np.int32))
    z = torch.as_tensor(logits)
    ids = torch.as_tensor(tokens[:, : PROMPT + place])
    for i, token in enumerate(forced):
        # `ForcedEOS` forces at `max_length - 1`, which makes it a processor for any place.
        z = theirs.ForcedEOSTokenLogitsProcessor(PROMPT + i + 1, token)(ids, z)
    assert got.tokens.tolist() == z.argmax(-1).tolist()
