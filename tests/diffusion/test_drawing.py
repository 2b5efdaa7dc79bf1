"""Images of captions: what guidance, a negative model, a user and a seed each do to them."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.batches import CONFIG, USERS

from jaxpo.config.text_adapter import TextAdapter
from jaxpo.corpora.scenes.corpus import tokenizer
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import ConfigError
from jaxpo.models.family import param_table
from jaxpo.models.spec import init_params
from jaxpo.sampling.images import ImageSampler, cut_captions, draw_images, grid_of

CAPTION = "red square top"


@functools.cache
def model(seed=1):
    """One in which every leaf has an effect."""
    drawn = init_params(param_table(CONFIG), jax.random.key(seed))
    return jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), drawn)


@functools.cache
def words():
    return Tokenizer(tokenizer())


def drawn(captions, guidance, *, seed=3, steps=2, guide_users=False, **options):
    sampler = ImageSampler(steps=steps, guidance=guidance, guide_users=guide_users)
    found = draw_images(model(), CONFIG, words(), captions, sampler, seed=seed, **options)
    return np.stack([each.pixels for each in found])


def test_guidance_of_0_is_the_empty_caption_and_of_1_the_caption_alone():
    without, alone, empty = drawn((CAPTION, ""), 0.0), drawn((CAPTION, ""), 1.0), drawn(("", ""), 1.0)
    np.testing.assert_allclose(without, empty, atol=1e-5)
    np.testing.assert_allclose(alone[1], empty[1], atol=1e-5)
    assert np.abs(alone[0] - empty[0]).max() > 1e-4
    assert np.abs(drawn((CAPTION, ""), 3.0)[0] - alone[0]).max() > 1e-4


def test_a_negative_model_is_asked_without_the_caption():
    plain = drawn((CAPTION, ""), 3.0)
    np.testing.assert_allclose(drawn((CAPTION, ""), 3.0, negative=model()), plain, atol=1e-5)
    pushed = drawn((CAPTION, ""), 3.0, negative=model(2))
    assert np.abs(pushed - plain).max() > 1e-4
    # What it is told is no caption, so that other captions are pushed away from the same.
    np.testing.assert_allclose(drawn(("", ""), 3.0, negative=model(2))[1], pushed[1], atol=1e-5)


def test_users_of_zeros_are_nobody_and_others_are_not():
    nobody = drawn((CAPTION,), 1.0, user=np.zeros(USERS, np.float32))
    np.testing.assert_allclose(nobody, drawn((CAPTION,), 1.0), atol=1e-5)
    assert np.abs(drawn((CAPTION,), 1.0, user=np.ones(USERS, np.float32)) - nobody).max() > 1e-4
    with pytest.raises(ConfigError, match="the user's tokens are 3 wide, and the model reads 8"):
        drawn((CAPTION,), 1.0, user=np.ones((2, 3), np.float32))


def test_guidance_is_about_the_user_where_that_is_asked_for():
    user = np.ones(USERS, np.float32)
    # Without the caption nobody is seen either, or the user is.
    nobody, seen = drawn(("",), 0.0, user=user, guide_users=True), drawn(("",), 0.0, user=user)
    np.testing.assert_allclose(nobody, drawn(("",), 1.0), atol=1e-5)
    np.testing.assert_allclose(seen, drawn(("",), 1.0, user=user), atol=1e-5)
    assert np.abs(drawn(("",), 3.0, user=user, guide_users=True) - drawn(("",), 3.0, user=user)).max() > 1e-4
    pushed = drawn(("",), 0.0, user=user, guide_users=True, negative=model())
    np.testing.assert_allclose(pushed, nobody, atol=1e-5)


def test_a_model_that_reads_a_second_encoder_draws_nothing_of_words():
    config = dataclasses.replace(CONFIG, text_adapter=TextAdapter(4, 4))
    with pytest.raises(ConfigError, match="reads the states of a second text encoder"):
        list(draw_images(model(), config, words(), (CAPTION,), ImageSampler(2, 1.0)))


def test_an_image_has_a_seed_with_which_it_is_drawn_again():
    found = list(draw_images(model(), CONFIG, words(), (CAPTION, ""), ImageSampler(2, 1.0), n=2, seed=7))
    assert [(each.number, each.sample, each.seed) for each in found] == [(0, 0, 7), (0, 1, 8), (1, 0, 9), (1, 1, 10)]
    np.testing.assert_allclose(drawn((CAPTION,), 1.0, seed=8)[0], found[1].pixels, atol=1e-5)
    assert np.abs(found[0].pixels - found[1].pixels).max() > 1e-3


def test_a_grid_has_a_row_of_every_caption():
    images = [np.full((2, 2, 3), 10 * i, np.uint8) for i in range(4)]
    whole = grid_of(images, 2, scale=2)
    assert whole.shape == (11, 11, 3)
    assert (whole[1:5, 6:10] == 10).all()
    assert (whole[6:10, 1:5] == 20).all()
    assert (whole[5] == 255).all()


def test_settings_out_of_range_are_told_together():
    with pytest.raises(ConfigError) as caught:
        drawn((CAPTION,), -1.0, steps=0)
    assert caught.value.problems == ["--steps is 0; it must be at least 1.", "--guidance is -1; it must be at least 0."]


def test_captions_longer_than_what_is_read_are_counted():
    captions = ("red. " * 2, "red " * 5, "red")
    assert cut_captions(captions, words(), 1, 4) == 1 + (len(words().encode(captions[0])) > 4)
    assert cut_captions(captions, words(), 2, 4) == 1
    assert cut_captions(("red. red. red.",), words(), 2, 4) == 1
