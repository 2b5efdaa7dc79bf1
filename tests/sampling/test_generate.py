"""Generation against the uncached training forward: same tokens, same log-probs, whatever the batch looks like."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import param_shardings
from jaxpo.sampling import decode
from jaxpo.sampling.filters import filter_logits
from jaxpo.sampling.generate import generate
from jaxpo.sampling.sampler import GREEDY, Sampler
from jaxpo.sampling.slots import begin, half_steps, power_of_two, row_keys
from jaxpo.sharding import make_mesh, use_mesh

LENGTHS = (1, 2, 3, 9, 140)
NEW = 12
# 61 rows are not divisible by two devices.
SHARED_VOCABULARY = {"vocab": None}


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 61, n).tolist() for n in LENGTHS]


@pytest.fixture(scope="module")
def sampled(model, prompts):
    """Two samples of every prompt, under every filter at once."""
    sampler = Sampler(repetition_penalty=1.2, temperature=0.9, top_k=30, top_p=0.95, min_p=0.01)
    results = generate(model.params, model.config, prompts, max_new_tokens=NEW, sampler=sampler, n=2, seed=3)
    return sampler, results


def run(model, prompts, **options):
    options = {"max_new_tokens": NEW, "stop_ids": (), **options}
    return generate(model.params, model.config, prompts, **options)


def scored(model, prompt, tokens):
    """Teacher-forced logits `[len(tokens), V]` that predict each generated token."""
    return model.logits(prompt + tokens)[len(prompt) - 1 : -1]


def test_the_model_is_worth_testing_on(either, prompts):
    assert either.logits(prompts[-1]).std() > 1


def test_greedy_equals_the_uncached_argmax_loop(either, prompts):
    """With prompts and continuations below and above LFM3's window and kernel; log-probs are those of training."""
    for prompt, result in zip(prompts, run(either, prompts, sampler=GREEDY), strict=True):
        text = list(prompt)
        for _ in range(NEW):
            logits = either.logits(text)[-1]
            text.append(int(logits.argmax()))
            want = log_softmax(logits.astype(np.float64))[text[-1]]
            assert result.logps[len(text) - len(prompt) - 1] == pytest.approx(want, abs=1e-4)
        assert result.tokens == text[len(prompt) :]
        assert not result.finished


def test_log_probs_equal_teacher_forcing(model, prompts, sampled):
    for result in sampled[1]:
        logits = scored(model, prompts[result.prompt], result.tokens)
        want = log_softmax(logits.astype(np.float64), axis=-1)[np.arange(len(result.tokens)), result.tokens]
        np.testing.assert_allclose(result.logps, want, atol=1e-4)


def test_sampling_log_probs_are_those_of_the_filtered_distribution(model, prompts, sampled):
    sampler, results = sampled
    for result in results:
        prompt = prompts[result.prompt]
        logits = scored(model, prompt, result.tokens)
        seen = np.zeros_like(logits, bool)
        for t in range(len(result.tokens)):
            seen[t, prompt + result.tokens[:t]] = True
        z = np.asarray(filter_logits(jnp.asarray(logits), sampler, seen=jnp.asarray(seen)))
        want = log_softmax(z, axis=-1)[np.arange(len(result.tokens)), result.tokens]
        np.testing.assert_allclose(result.sampling_logps, want, atol=1e-3)


def test_results_come_prompt_by_prompt_and_sample_by_sample(prompts, sampled):
    assert [(r.prompt, r.sample) for r in sampled[1]] == [(p, s) for p in range(len(prompts)) for s in range(2)]


def same(a, b):
    assert a.tokens == b.tokens
    np.testing.assert_allclose(a.logps, b.logps, atol=1e-5)


@pytest.fixture(scope="module")
def together(model, prompts):
    return run(model, prompts)


def test_a_prompt_alone_equals_the_same_prompt_in_a_batch(either, prompts):
    together = run(either, prompts)
    for i in (0, 3):
        same(run(either, [prompts[i]], prompt_numbers=[i])[0], together[i])


def test_order_and_batch_size_change_nothing(model, prompts, together):
    two_by_two = run(model, prompts[:4], n=2, max_rows=2)
    numbers = [3, 2, 1, 0]
    backwards = run(model, prompts[3::-1], n=2, prompt_numbers=numbers)
    for result in two_by_two:
        same(result, backwards[numbers[result.prompt] * 2 + result.sample])
    for one_sample, first_of_two in zip(together[:4], two_by_two[::2], strict=True):
        same(one_sample, first_of_two)


def test_slots_that_are_given_on_change_nothing(model):
    """Rows end at different times: eleven prompts in four slots, in one wave, and with five samples in two slots."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(1, 61, int(n)).tolist() for n in rng.integers(1, 20, 11)]
    options = {"max_new_tokens": 16, "stop_ids": tuple(range(50, 61))}
    wave = run(model, prompts, **options)
    lengths = [len(r.tokens) for r in wave]
    assert min(lengths) <= 2
    assert max(lengths) >= 12
    assert len({r.finished for r in wave}) == 2 or max(lengths) < 16
    for one, other in zip(wave, run(model, prompts, max_rows=4, **options), strict=True):
        same(one, other)
        assert one.finished == other.finished
    five = run(model, prompts[:2], n=5, max_rows=2, **options)
    assert [(r.prompt, r.sample) for r in five] == [(p, s) for p in range(2) for s in range(5)]
    for p in range(2):
        same(five[5 * p], wave[p])


def test_a_slot_is_given_on_as_soon_as_its_row_is_done(model, prompts, monkeypatch):
    """Nine prompts that stop at once in four slots: no step is spent on rows that are done."""
    steps = []
    extend = decode.extend

    def counted(*args, **options):
        state = extend(*args, **options)
        steps.append(int(state.count))
        return state

    monkeypatch.setattr(decode, "extend", counted)
    first = run(model, prompts[:1], sampler=GREEDY, max_new_tokens=40)[0].tokens
    results = run(model, prompts[:1] * 9, sampler=GREEDY, max_new_tokens=40, stop_ids=(first[4],), max_rows=4)
    assert all(r.tokens == first[: first.index(first[4]) + 1] for r in results)
    assert steps[-1] <= 3 * 5


def test_samples_and_seeds_and_prompt_numbers_differ(model, prompts):
    first, second = run(model, prompts[:1], n=2, max_rows=2)
    other_seed, other_number = (run(model, prompts[:1], **o)[0] for o in ({"seed": 1}, {"prompt_numbers": [1]}))
    assert len({tuple(r.tokens) for r in (first, second, other_seed, other_number)}) == 4


def test_a_stop_id_ends_its_row_only(model, prompts):
    free = run(model, prompts, sampler=GREEDY)
    stop = free[2].tokens[4]
    stopped = run(model, prompts, sampler=GREEDY, stop_ids=(stop, 60))
    for before, after in zip(free, stopped, strict=True):
        ends = [i for i, token in enumerate(before.tokens) if token in (stop, 60)]
        want = before.tokens[: ends[0] + 1] if ends else before.tokens
        assert after.tokens == want
        assert after.finished is bool(ends)
        assert len(after.logps) == len(after.sampling_logps) == len(want)
    assert any(len(r.tokens) < NEW for r in stopped)


def test_decoding_stops_when_all_rows_have_finished(model, prompts):
    """A budget of 12 tokens costs only as many steps as the longest row needs."""
    third = run(model, prompts[:1])[0].tokens[2]
    state, options = begin(
        model.params,
        model.config,
        prompts[:1],
        max_new_tokens=NEW,
        sampler=Sampler(),
        n=1,
        stop_ids=(third,),
        keys=row_keys(0, [0], [0]),
        vocab_limit=None,
        dtype=jnp.float32,
    )
    assert int(decode.extend(model.params, state, NEW, **options).count) == 3


def test_one_token_and_no_more(model, prompts):
    assert [len(r.tokens) for r in run(model, prompts, max_new_tokens=1)] == [1] * len(prompts)


def test_ids_beyond_the_tokenizer_are_never_drawn_and_log_probs_stay_those_of_training(model, prompts):
    results = run(model, prompts[:1], vocab_limit=7, sampler=Sampler(temperature=3.0))
    assert max(max(r.tokens) for r in results) < 7
    want = log_softmax(scored(model, prompts[0], results[0].tokens), axis=-1)[np.arange(NEW), results[0].tokens]
    np.testing.assert_allclose(results[0].logps, want, atol=1e-4)


def test_interrupt_ends_rows_and_asking_changes_nothing(model, prompts):
    options = {"max_new_tokens": 40, "n": 1}
    asked = []
    quiet = run(model, prompts[:3], **options)
    watched = run(model, prompts[:3], interrupt=lambda rows: asked.append(len(rows)) or [False] * len(rows), **options)
    assert asked == [3, 3]
    for a, b in zip(quiet, watched, strict=True):
        same(a, b)
    ended = run(model, prompts[:3], interrupt=lambda rows: [r == quiet[1].tokens[:16] for r in rows], **options)
    assert [len(r.tokens) for r in ended] == [40, 16, 40]
    assert not ended[1].finished


def test_a_model_spread_over_a_mesh_says_the_same(model, prompts, together):
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    spread = jax.device_put(model.params, param_shardings(param_table(model.config), mesh, SHARED_VOCABULARY))
    with use_mesh(mesh, SHARED_VOCABULARY):
        results = generate(spread, model.config, prompts, max_new_tokens=NEW, stop_ids=())
    for a, b in zip(results, together, strict=True):
        same(a, b)


def test_one_program_serves_many_lengths(model):
    run(model, [[1] * 5])
    before = decode.start._cache_size(), decode.extend._cache_size()
    for length, new in ((1, 16), (16, 11), (9, 1)):
        run(model, [[1] * length], max_new_tokens=new, seed=length)
    assert (decode.start._cache_size(), decode.extend._cache_size()) == before


def test_bfloat16_stays_close_to_float32(model, prompts):
    (result,) = run(model, prompts[3:4], dtype=jnp.bfloat16)
    assert result.logps.dtype == np.float32
    want = log_softmax(scored(model, prompts[3], result.tokens), axis=-1)[np.arange(NEW), result.tokens]
    assert np.abs(result.logps - want).mean() < 0.15


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1], []], {}, "prompt 1 is empty; start it with the BOS id (1)"),
        ([[1] * 256], {}, "prompt 0 has 256 tokens and the model's context is 256; shorten it"),
        ([[1] * 250], {}, "set max_new_tokens to at most 6"),
        ([[1, 61]], {}, "prompt 0 holds the id 61, outside the model's vocabulary of 61"),
        ([[1, -1]], {}, "prompt 0 holds the id -1"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ([[1]], {"vocab_limit": 62}, "vocab_limit is 62; it must lie in 1..61"),
        ([[1]], {"prompt_numbers": [1, 2]}, "2 prompt_numbers for 1 prompts"),
    ],
)
def test_bad_requests_are_refused_before_any_work(model, monkeypatch, prompts, options, message):
    monkeypatch.setattr(decode, "start", lambda *a, **k: pytest.fail("started"))
    with pytest.raises(ConfigError) as caught:
        run(model, prompts, **options)
    assert message in str(caught.value)


def test_all_bad_prompts_are_named_at_once(model):
    with pytest.raises(ConfigError) as caught:
        run(model, [[], [1], []])
    assert len(caught.value.problems) == 2


def test_no_prompts_give_no_results(model):
    assert run(model, []) == []


def test_shapes_are_rounded_up_to_few_sizes():
    assert [power_of_two(x, 16) for x in (1, 16, 17, 100)] == [16, 16, 32, 128]
    assert [half_steps(x) for x in (1, 64, 65, 96, 97, 129, 193)] == [64, 64, 96, 96, 128, 192, 256]
