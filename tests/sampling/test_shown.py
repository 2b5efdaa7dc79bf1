"""Prompts with images through the engine: log-probs are those of training, and no image is taken for another."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.vision.seeing import config, png, tokenizer, viewer, weights

from jaxpo.data.packing.batch import Batch
from jaxpo.errors import ConfigError
from jaxpo.objectives.encode import Scorer
from jaxpo.sampling.engine import Engine
from jaxpo.sampling.prompts import Conversation
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.shown import Shown, rows_of
from jaxpo.sampling.viewing import conversation_of, question

LENGTH, PATCHES = 128, 128
OPTIONS = {"slots": 4, "context": LENGTH, "page": 8, "together": 32, "rounds": 4, "patches": 16, "one_shape": True}
SMALL, LARGE, OTHER = png(8, 8), png(12, 24, seed=1), png(8, 8, seed=2)
"""One piece of four vectors; two tiles and a thumbnail."""


def asked(text, *images, **options):
    ids, shown = viewer().encode(conversation_of([question(text, images)]))
    return Request(ids, shown=shown, max_new_tokens=6, sampler=Sampler(1.0), **options)


@functools.cache
def scored():
    """What training computes of a segment: log p of every token."""

    @jax.jit
    def run(params, tokens, length, media, places):
        segments = (jnp.arange(LENGTH) < length).astype(jnp.int32)[None]
        batch = Batch(
            tokens[None], segments, jnp.arange(LENGTH)[None], {}, {"media": places[None]}, {}, {}, {},
            jnp.zeros(1, jnp.int32), 1, 1, LENGTH, {"image": media},
        )  # fmt: skip
        return Scorer(config()).logps(params, batch)[0]

    return run


def of_training(request, found, params):
    tokens = [*request.prompt, *found.tokens]
    places = np.full(LENGTH, -1, np.int32)
    if request.shown is None:
        media = next(rows_of(asked("", SMALL).shown.media, (PATCHES,)))[0]
    else:
        places[: len(request.prompt)] = request.shown.places
        ((media, _),) = rows_of(request.shown.media, (PATCHES,))
    padded = np.zeros(LENGTH, np.int32)
    padded[: len(tokens)] = tokens
    return np.asarray(scored()(params, padded, len(tokens), media, places))[: len(tokens)]


def assert_as_trained(requests, answers, params):
    for found in answers:
        request = requests[found.request]
        logps = of_training(request, found, params)
        np.testing.assert_allclose(found.logps, logps[len(request.prompt) :], atol=1e-4)
        if request.prompt_logps:
            np.testing.assert_allclose(found.prompt_logps[1:], logps[1 : len(request.prompt)], atol=1e-4)


@pytest.mark.parametrize("cache", ["dense", pytest.param("pages", marks=pytest.mark.slow)])
def test_log_probs_are_those_of_training(cache):
    engine = Engine(weights(), config(), tokenizer=tokenizer(), cache=cache, **OPTIONS)
    engine.warm_up()
    requests = [
        asked("what is this?", LARGE, n=2, prompt_logps=True),
        asked("what is this?", SMALL),
        asked("what is this?", OTHER),
        asked("what is this?"),
        asked("the quick", SMALL, LARGE, seed=3),
    ]
    assert requests[1].prompt == requests[2].prompt  # but for what they show
    answers = engine.generate(requests)
    assert [len(found.tokens) > 0 for found in answers] == [True] * 6
    assert_as_trained(requests, answers, weights())
    shared = engine.load.shared
    again = engine.generate(requests[:3])
    assert engine.load.shared > shared + 3 * 8  # images among it
    for one, other in zip(again, answers, strict=False):
        np.testing.assert_allclose(one.logps, other.logps, atol=1e-5)
    # Other weights see otherwise, also for who is under way.
    number = engine.submit(dataclasses.replace(requests[4], max_new_tokens=12, stop_ids=()))
    engine.step()
    engine.update(weights(1))
    ended = []
    while engine.busy:
        ended += engine.step()
    (found,) = ended
    assert found.request == number
    new = found.versions == 1
    assert new.any()
    logps = of_training(requests[4], found, weights(1))[len(requests[4].prompt) :]
    np.testing.assert_allclose(found.logps[new], logps[new], atol=1e-4)


def test_what_the_engine_cannot_see_is_refused():
    engine = Engine(weights(), config(), tokenizer=tokenizer(), **OPTIONS)
    good = asked("what is this?", SMALL)
    places = good.shown.places
    for shown, message in (
        (Shown(good.shown.media * 2, places), "4 places for the 8 vectors"),
        (Shown(good.shown.media, places[:-1]), "4 places for the 4 vectors"),
        (Shown(good.shown.media, np.where(places < 0, -1, 3 - places)), "in order"),
    ):
        with pytest.raises(ConfigError, match=message):
            engine.submit(dataclasses.replace(good, shown=shown))
    cut = int(places.argmax()) + 1
    with pytest.raises(ConfigError, match="ends in an image"):
        engine.submit(dataclasses.replace(good, prompt=good.prompt[:cut], shown=Shown(good.shown.media, places[:cut])))
    few = Engine(weights(), config(), **OPTIONS | {"patches": 8})
    with pytest.raises(ConfigError, match="a piece of 16 patches, and the engine encodes 8"):
        few.submit(good)
    text = Engine({n: x for n, x in weights().items() if n not in ("vision", "connector")}, config().text, **OPTIONS)
    with pytest.raises(ConfigError, match="family 'lfm2' reads text alone"):
        text.submit(good)


def test_a_conversation_shows_images_in_any_turn():
    turns = [question("what is this?", [SMALL]), {"role": "assistant", "content": "a fox"}, question("and?", [OTHER])]
    ids, shown = viewer().encode(conversation_of(turns))
    assert (shown.places >= 0).sum() == 8
    # The store knows the first image again in a longer conversation.
    first, before = viewer().encode(conversation_of(turns[:1]))
    assert shown.names[:4] == before.names
    assert shown.names[4:] != before.names
    assert ids[: len(first) - 3] == first[:-3]
    assert viewer().planned(conversation_of(turns)) == ids
    assert viewer().encode(Conversation([{"role": "user", "content": "hi"}]))[1] is None
