"""The engine's laws: what a request gives depends on the weights and the request, and on nothing else that runs."""

import dataclasses
import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import param_shardings
from jaxpo.sampling import programs, row_settings
from jaxpo.sampling.engine import Engine
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import GREEDY, Sampler
from jaxpo.sharding import make_mesh, use_mesh

LENGTHS = (1, 2, 3, 9, 33, 60, 17, 40)
NEW = 12
# 61 rows are not divisible by two devices.
SHARED_VOCABULARY = {"vocab": None}
# Of all engines in pages but the one that shares much: a store's size is part of the compiled programs.
FEW = 20
SMALL = {"slots": 4, "context": 96, "page": 8, "together": 32, "rounds": 4, "one_shape": True}


def engine(model, **options):
    return Engine(model.params, model.config, **{**SMALL, **options})


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 61, n).tolist() for n in LENGTHS]


SAMPLERS = (
    GREEDY,
    Sampler(),
    Sampler(repetition_penalty=1.2, temperature=0.9, top_k=30, top_p=0.95, min_p=0.01),
    Sampler(temperature=1.5, frequency_penalty=0.5, presence_penalty=0.3),
)


@pytest.fixture(scope="module")
def requests(prompts):
    return [
        Request(p, n=2, sampler=s, max_new_tokens=NEW, stop_ids=(60,) if i % 2 else (), number=i)
        for i, (p, s) in enumerate(zip(prompts, itertools.cycle(SAMPLERS), strict=False))
    ]


@pytest.fixture(scope="module")
def together(model, requests):
    return engine(model).generate(requests)


def equal(a, b):
    """To the bit."""
    assert (a.tokens, a.reason, a.sample) == (b.tokens, b.reason, b.sample)
    np.testing.assert_array_equal(a.logps, b.logps)
    np.testing.assert_array_equal(a.sampling_logps, b.sampling_logps)


def close(a, b):
    assert (a.tokens, a.reason, a.sample) == (b.tokens, b.reason, b.sample)
    np.testing.assert_allclose(a.logps, b.logps, atol=1e-5)


def teacher_forced(model, prompt, tokens):
    logits = model.logits(prompt + tokens)[len(prompt) - 1 : -1].astype(np.float64)
    return log_softmax(logits, axis=-1)[np.arange(len(tokens)), tokens]


def test_the_model_is_worth_testing_on(either, prompts):
    assert either.logits(prompts[5]).std() > 1


def test_greedy_equals_the_uncached_argmax_loop(either, prompts):
    """With prompts and continuations below and above LFM3's window and kernel."""
    asked = [Request(p, sampler=GREEDY, max_new_tokens=NEW, stop_ids=()) for p in prompts[:5]]
    for prompt, found in zip(prompts, engine(either).generate(asked), strict=False):
        text = list(prompt)
        for _ in range(NEW):
            text.append(int(either.logits(text)[-1].argmax()))
        assert found.tokens == text[len(prompt) :]
        assert found.reason == "length"


def test_log_probs_equal_teacher_forcing(model, prompts, together):
    assert [(g.request, g.sample) for g in together] == [(p, s) for p in range(len(prompts)) for s in range(2)]
    for found in together:
        np.testing.assert_allclose(found.logps, teacher_forced(model, prompts[found.request], found.tokens), atol=1e-4)


@pytest.mark.parametrize("name", ["lfm3", "moe"])
def test_log_probs_equal_teacher_forcing_with_windows_and_with_experts(request, requests, name):
    other = request.getfixturevalue(name)
    for found in engine(other).generate(requests[:6]):
        want = teacher_forced(other, list(requests[found.request].prompt), found.tokens)
        np.testing.assert_allclose(found.logps, want, atol=1e-4)


def test_pages_slots_prefixes_and_neighbours_change_no_bit(model, requests, together):
    """In few pages, without a store to speak of, in another order, a prompt at a time."""
    for options in ({"cache": "pages", "prefix_pages": FEW}, {"prefix_pages": 1}):
        for a, b in zip(engine(model, **options).generate(requests), together, strict=True):
            equal(a, b)
    backwards = engine(model).generate(requests[::-1])
    for a in backwards:
        equal(a, together[2 * (len(requests) - 1 - a.request) + a.sample])


def test_shapes_by_the_number_of_rows_change_rounding_alone(model, requests, together):
    for a, b in zip(engine(model, one_shape=False).generate(requests), together, strict=True):
        close(a, b)


def test_further_samples_change_no_bit_and_read_nothing(model, requests, together):
    few = engine(model)
    more = few.generate([dataclasses.replace(requests[5], n=9)])
    for a, b in zip(more, together[10:12], strict=False):
        equal(a, b)
    assert few.load.read == LENGTHS[5] - 1
    assert few.load.shared == 8 * (LENGTHS[5] - 1)
    assert len({tuple(g.tokens) for g in more}) > 5


@pytest.mark.parametrize("cache", ["dense", "pages"])
def test_further_samples_begin_in_the_step_that_reads_their_prompt(model, requests, cache):
    few = engine(model, cache=cache, prefix_pages=300 if cache == "pages" else None)
    number = few.submit(dataclasses.replace(requests[5], n=few.load.slots))
    few.step()
    assert [len(found.tokens) for found in few.so_far(number)] == [SMALL["rounds"]] * few.load.slots


def test_who_writes_waits_for_one_part_of_the_others_prompts(model, requests, prompts):
    """Though other samples of the shorter of two prompts begin when its only part is read."""
    few = engine(model, slots=6)
    long = few.submit(dataclasses.replace(requests[0], n=3, max_new_tokens=60, stop_ids=()))
    few.step()
    short = few.submit(Request(prompts[3], n=2, max_new_tokens=8, stop_ids=()))
    few.submit(Request(prompts[4], max_new_tokens=8))
    before = few.load.read, [len(found.tokens) for found in few.so_far(long)]
    few.step()
    assert all(found.tokens for found in few.so_far(short))
    assert few.load.read - before[0] == 2 * SMALL["page"]
    assert [len(found.tokens) for found in few.so_far(long)] == [n + SMALL["rounds"] for n in before[1]]


@pytest.mark.parametrize("cancelled", [True, False])
def test_an_interrupt_while_rows_get_their_slots_changes_no_other(model, requests, together, monkeypatch, cancelled):
    """What was not placed is placed in the next step, or gone where it was cancelled."""
    few = engine(model)
    first = few.submit(requests[5])
    got = few.step()

    def interrupted(*_):
        raise KeyboardInterrupt

    second = few.submit(requests[6])
    with monkeypatch.context() as patched:
        patched.setattr(row_settings, "fill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            few.step()
    if cancelled:
        few.cancel(second)
    third = few.submit(requests[7])
    while few.busy:
        got += few.step()
    found = {(g.request, g.sample): g for g in got}
    for number, i in ((first, 5), (third, 7), *(() if cancelled else ((second, 6),))):
        for sample in range(2):
            equal(found[number, sample], together[2 * i + sample])
    assert few.load.running == 0
    assert cancelled == all(found[second, sample].reason == "cancelled" for sample in range(2))


@pytest.mark.parametrize("cache", ["dense", "pages"])
def test_prompts_share_their_beginnings_at_every_border(model, prompts, cache):
    """Prompts that part after 8, 16, ... tokens read what is new, and give what they give alone."""
    base, tail = prompts[5], prompts[6][:5]
    asked = [Request(base[:k] + tail, max_new_tokens=5, number=k) for k in range(60)]
    shared = engine(model, cache=cache, prefix_pages=300)
    list(shared.run([Request(base, max_new_tokens=1)]))
    before = shared.load.shared
    found = shared.generate(asked)
    alone = engine(model, prefix_pages=1)
    for a, b in zip(found, alone.generate(asked), strict=True):
        equal(a, b)
    assert shared.load.shared - before >= sum(k // 8 * 8 for k in range(60))


def test_what_is_named_least_lately_is_forgotten_first(model, prompts):
    small = engine(model, prefix_pages=13)
    ask = [Request(p, max_new_tokens=1) for p in (prompts[5], prompts[7])]
    for request in (ask[0], ask[1], ask[0]):
        list(small.run([request]))
    read = small.load.read
    list(small.run([Request([5] * 40, max_new_tokens=1)]))
    list(small.run([ask[0]]))
    assert small.load.read == read + 39
    assert small.load.pages_used <= small.load.pages == 13


def test_a_stop_id_ends_its_row_and_least_tokens_keep_it_away(model, prompts):
    free = engine(model).generate([Request(p, sampler=GREEDY, max_new_tokens=NEW, stop_ids=()) for p in prompts])
    stop = free[2].tokens[4]
    asked = [Request(p, sampler=GREEDY, max_new_tokens=NEW, stop_ids=(stop, 60)) for p in prompts]
    for before, after in zip(free, engine(model).generate(asked), strict=True):
        ends = [i for i, token in enumerate(before.tokens) if token in (stop, 60)]
        assert after.tokens == (before.tokens[: ends[0] + 1] if ends else before.tokens)
        assert after.reason == ("stop_id" if ends else "length")
    late = [dataclasses.replace(r, min_new_tokens=8) for r in asked]
    assert all(len(g.tokens) >= 8 for g in engine(model).generate(late))


def test_ids_that_are_banned_allowed_and_forced(model, prompts):
    few, forced = (3, 5, 7), (9, 8, 7)
    banned, allowed, begun = engine(model).generate(
        [
            Request(prompts[3], sampler=Sampler(temperature=3.0), max_new_tokens=20, stop_ids=(), banned_ids=range(20)),
            Request(prompts[3], sampler=Sampler(temperature=3.0), max_new_tokens=20, stop_ids=(), allowed_ids=few),
            Request(prompts[3], max_new_tokens=NEW, stop_ids=(), forced_ids=forced),
        ]
    )
    assert min(banned.tokens) >= 20
    assert set(allowed.tokens) <= set(few)
    assert begun.tokens[:3] == list(forced)
    assert not begun.sampling_logps[:3].any()
    for found in (banned, allowed, begun):
        np.testing.assert_allclose(found.logps, teacher_forced(model, prompts[3], found.tokens), atol=1e-4)


def test_log_probs_of_prompts_and_of_the_most_probable(model, prompts):
    asked = [
        Request(p, max_new_tokens=new, stop_ids=(), prompt_logps=True, top_logps=3, number=i)
        for i, (p, new) in enumerate(zip(prompts, itertools.cycle([0, 4]), strict=False))
    ]
    few = engine(model)
    list(few.run(asked[5:]))  # what is in the store is read again by who wants to know
    for found, request in zip(few.generate(asked), asked, strict=True):
        prompt = list(request.prompt)
        everything = log_softmax(model.logits(prompt + found.tokens).astype(np.float64), axis=-1)
        assert np.isnan(found.prompt_logps[0])
        want = everything[np.arange(len(prompt) - 1), prompt[1:]]
        np.testing.assert_allclose(found.prompt_logps[1:], want, atol=1e-4)
        best = np.sort(everything, axis=-1)[:, ::-1][:, :3]
        np.testing.assert_allclose(found.prompt_top.logps[1:], best[: len(prompt) - 1], atol=1e-4)
        np.testing.assert_allclose(found.top.logps, best[len(prompt) - 1 :][: len(found.tokens)], atol=1e-4)
        got = np.take_along_axis(everything[: len(prompt) - 1], found.prompt_top.ids[1:], axis=1)
        np.testing.assert_allclose(got, best[: len(prompt) - 1], atol=1e-4)
        assert found.reason == "length"
        assert len(found.tokens) == request.max_new_tokens


def test_requests_join_and_leave_and_can_be_watched(model, requests, together):
    busy = engine(model)
    first = busy.submit(requests[0])
    ended = busy.step()
    later = [busy.submit(r) for r in requests[1:4]]
    seen = [len(g.tokens) for g in busy.so_far(first)]
    assert any(0 < n < NEW for n in seen)
    busy.cancel(later[1])
    while busy.busy:
        ended += busy.step()
    by_request = {(g.request, g.sample): g for g in ended}
    for number, i in ((first, 0), (later[0], 1), (later[2], 3)):
        for sample in range(2):
            equal(by_request[number, sample], together[2 * i + sample])
    assert {by_request[later[1], s].reason for s in range(2)} == {"cancelled"}
    assert (busy.load.running, busy.load.waiting, busy.load.ended) == (0, 0, 8)
    assert busy.so_far(first) == []


def test_a_row_whose_logits_are_not_finite_ends_alone(lfm3, prompts):
    """One token's embedding is NaN, and no other's output: who has it in the prompt fails, the others do not notice."""
    bad = 59
    embedding = lfm3.params["embed_tokens"]["weight"].at[bad].set(jnp.nan)
    broken = {**lfm3.params, "embed_tokens": {"weight": embedding}}
    common = {"max_new_tokens": NEW, "stop_ids": (), "banned_ids": (bad,)}
    asked = [
        Request([t for t in p if t != bad] + [bad if i == 2 else 1], number=i, **common)
        for i, p in enumerate(prompts[:4])
    ]
    found = Engine(broken, lfm3.config, **SMALL).generate(asked)
    assert [g.reason for g in found] == ["length", "length", "error", "length"]
    assert "not finite" in found[2].error
    healthy = engine(lfm3).generate(asked)
    for i in (0, 1, 3):
        equal(found[i], healthy[i])


@pytest.mark.parametrize(
    ("cache", "attention"),
    [("dense", "blocks"), ("pages", "blocks"), pytest.param("pages", "xla", marks=pytest.mark.slow)],
)
def test_what_is_not_finite_stays_behind_in_no_slot_and_no_page(lfm3, cache, attention):
    """Who comes after it where it was is not touched by it."""
    bad = 59
    embedding = lfm3.params["embed_tokens"]["weight"].at[bad].set(jnp.nan)
    broken = {**lfm3.params, "embed_tokens": {"weight": embedding}}
    small = {**SMALL, "slots": 1, "context": 24, "together": 8, "prefix_pages": 1}
    one = Engine(broken, lfm3.config, cache=cache, attention=attention, **small)
    common = {"stop_ids": (), "banned_ids": (bad,)}
    for first in range(4):
        (failed,) = one.generate([Request([first] + [bad] * 20, max_new_tokens=2, **common)])
        short = Request([1, 2, first], max_new_tokens=10, **common)
        (long,) = one.generate([dataclasses.replace(short, prompt=[1, 2, first] * 5, max_new_tokens=1)])
        (found,) = one.generate([short])
        assert [g.reason for g in (failed, found, long)] == ["error", "length", "length"]
        np.testing.assert_allclose(found.logps, teacher_forced(lfm3, [1, 2, first], found.tokens), atol=1e-4)


def test_prompts_are_scored_by_any_page(model, prompts):
    """Pages whose columns are no multiple of those that are scored together."""
    request = Request(prompts[5], max_new_tokens=0, prompt_logps=True)
    (found,) = engine(model, page=12, together=36).generate([request])
    want = log_softmax(model.logits(prompts[5]).astype(np.float64), axis=-1)[np.arange(59), prompts[5][1:]]
    np.testing.assert_allclose(found.prompt_logps[1:], want, atol=1e-4)


def test_who_stops_listening_leaves_the_engine_free(model, requests, together):
    few = engine(model)
    for _ in few.run(requests):
        break
    for a, b in zip(few.generate(requests[:2]), together, strict=False):
        equal(a, b)
    assert few.load.running == few.load.waiting == 0
    number = few.submit(requests[0])
    with pytest.raises(ConfigError, match="busy"):
        few.generate(requests[:1])
    few.cancel(number)
    assert len(few.generate(requests[:1])) == 2


def test_nothing_is_compiled_after_warm_up(model):
    """500 mixed requests, in slots of a number that no other test has."""
    warm = engine(model, one_shape=False, slots=5)
    warm.warm_up()
    rng = np.random.default_rng(3)

    def mixed(i):
        sampler = Sampler(
            temperature=float(rng.choice([0, 0.7, 1.3])),
            top_k=int(rng.choice([0, 5])),
            top_p=float(rng.choice([1.0, 0.9])),
            min_p=float(rng.choice([0, 0.05])),
            repetition_penalty=float(rng.choice([1.0, 1.3])),
            frequency_penalty=float(rng.choice([0, 0.4])),
        )
        return Request(
            rng.integers(1, 61, int(rng.integers(1, 60))).tolist(),
            n=int(rng.choice([1, 1, 3])),
            sampler=sampler,
            max_new_tokens=int(rng.integers(1, 9)),
            stop_ids=tuple(rng.integers(0, 61, int(rng.integers(0, 4))).tolist()),
            logit_bias={int(k): 1.5 for k in rng.integers(0, 61, int(rng.integers(0, 3)))},
            prompt_logps=bool(rng.random() < 0.1),
            top_logps=int(rng.choice([0, 5])),
            seed=i,
        )

    with jax.log_compiles(True), Compilations() as compiled:
        found = list(warm.run([mixed(i) for i in range(500)]))
    assert len(found) >= 500
    assert compiled.names == []


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere products are not written as convolutions")
def test_no_product_becomes_a_convolution(model, monkeypatch):
    """See `jaxpo.ops.eigen`: in a loop one would be a hundred times as slow."""
    texts = []

    def seen(program):
        def run(*arrays, **options):
            texts.append(program.lower(*arrays, **options).compile().as_text())
            return program(*arrays, **options)

        return run

    for name in ("read", "write"):
        monkeypatch.setattr(programs, name, seen(getattr(programs, name)))
    engine(model, one_shape=False).generate([Request([1, 2, 3], max_new_tokens=2, stop_ids=())])
    assert len(texts) == 2
    assert not any(" convolution(" in text for text in texts)


class Compilations:
    """Names of what jax compiles meanwhile."""

    def __enter__(self):
        self.names, self._handler = [], logging.Handler()
        self._handler.emit = lambda record: (
            self.names.append(record.getMessage()[:90]) if "Compiling" in record.getMessage() else None
        )
        self._logger = logging.getLogger("jax")
        self._logger.addHandler(self._handler)
        return self

    def __exit__(self, *error):
        self._logger.removeHandler(self._handler)


@pytest.mark.parametrize("cache", ["dense", "pages"])
def test_weights_are_swapped_between_steps_and_every_token_says_of_which_it_is(model, prompts, cache):
    others = model.randomised(model.config, seed=5)
    swapped = engine(model, cache=cache, prefix_pages=FEW if cache == "pages" else None)
    asked = [Request(p, sampler=GREEDY, max_new_tokens=20, stop_ids=(), n=2) for p in prompts[3:7]]
    for request in asked:
        swapped.submit(request)
    ended = swapped.step()
    assert swapped.update(others) == swapped.version == 1
    while swapped.busy:
        ended += swapped.step()
    fresh = Engine(others, model.config, **SMALL)
    assert len(ended) == 8
    for found in ended:
        prompt = prompts[3 + found.request]
        kept = int((found.versions == 0).sum())
        assert list(found.versions) == [0] * kept + [1] * (20 - kept)
        (want,) = fresh.generate(
            [Request(prompt + found.tokens[:kept], sampler=GREEDY, max_new_tokens=20 - kept, stop_ids=())]
        )
        assert found.tokens[kept:] == want.tokens
        np.testing.assert_allclose(found.logps[kept:], want.logps, atol=1e-5)
    assert {int(g.versions[0]) for g in ended} == {0, 1}


def test_weights_that_were_given_away_are_an_error_that_says_so(model):
    given = jax.tree.map(jnp.copy, model.params)
    robbed = engine(model)
    robbed.update(given)
    robbed.submit(Request([1, 2], max_new_tokens=1))
    jax.tree.leaves(given)[-1].delete()
    with pytest.raises(ConfigError, match=r"donated to a program.* copies"):
        robbed.step()


def test_a_swap_that_fails_leaves_the_old_weights_and_says_so(model, requests, together):
    steady = engine(model)
    nan = jax.tree.map(lambda x: x, model.params)
    nan["embedding_norm"] = {"weight": model.params["embedding_norm"]["weight"].at[3].set(jnp.nan)}
    missing = {k: v for k, v in model.params.items() if k != "embedding_norm"}
    wide = {**model.params, "embedding_norm": {"weight": jnp.ones(17)}}
    for weights, said in (
        (nan, "not finite in embedding_norm/weight"),
        (missing, "another form"),
        (wide, "do not fit"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            steady.update(weights)
        assert "old ones stay" in str(caught.value)
    assert steady.version == 0
    for a, b in zip(steady.generate(requests[:2]), together, strict=False):
        equal(a, b)


def test_a_model_spread_over_a_mesh_says_the_same(model, requests, together):
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    spread = jax.device_put(model.params, param_shardings(param_table(model.config), mesh, SHARED_VOCABULARY))
    with use_mesh(mesh, SHARED_VOCABULARY):
        shared = Engine(spread, model.config, **SMALL)
        found = shared.generate(requests)
    for a, b in zip(found, together, strict=True):
        close(a, b)
    assert shared.update(model.params) == 1


def test_bfloat16_stays_close_to_float32(model, prompts):
    (found,) = engine(model, dtype=jnp.bfloat16).generate([Request(prompts[3], max_new_tokens=NEW, stop_ids=())])
    assert found.logps.dtype == np.float32
    assert np.abs(found.logps - teacher_forced(model, prompts[3], found.tokens)).mean() < 0.15


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": []}, "the prompt is empty; start it with the BOS id (1)"),
        ({"prompt": [1] * 96}, "the prompt has 96 tokens and the context is 96; shorten it"),
        ({"prompt": [1] * 90}, "set max_new_tokens to at most 6"),
        ({"prompt": [1, 61]}, "the prompt holds the id 61, outside the model's vocabulary of 61"),
        ({"prompt": [1, -1]}, "the prompt holds the id -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"max_new_tokens": 10**9}, "set max_new_tokens to at most 95"),
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"number": "a"}, "number is 'a'; it must be a whole number"),
        ({"top_logps": 21}, "top_logps is 21; it must lie in 0..20"),
        ({"min_new_tokens": 13}, "min_new_tokens is 13; it must lie in 0..max_new_tokens (12)"),
        ({"stop": ("x",)}, "stop needs a tokenizer"),
        ({"stop_ids": (99,)}, "holds the id 99"),
        ({"allowed_ids": (3,), "banned_ids": (3,)}, "leave no id to draw"),
    ],
)
def test_bad_requests_are_refused_before_any_work(model, fields, message):
    idle = engine(model)
    request = Request(**{"prompt": [1], "max_new_tokens": NEW, **fields})
    for ask in (lambda: idle.submit(request), lambda: list(idle.run([request, request]))):
        with pytest.raises(ConfigError) as caught:
            ask()
        assert message in str(caught.value)
    assert not idle.busy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots is 0"),
        ({"cache": "rows"}, 'cache is \'rows\'; it must be "dense" or "pages"'),
        ({"together": 4}, "together is 4; it must be at least 8"),
        ({"page": 0}, "page is 0; it must be at least 1"),
        ({"context": -5}, "context is -5; it must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(model, options, message):
    with pytest.raises(ConfigError) as caught:
        engine(model, **options)
    assert message in str(caught.value)


def test_no_requests_give_nothing(model):
    assert engine(model).generate([]) == []
