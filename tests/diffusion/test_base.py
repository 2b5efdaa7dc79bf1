"""The trained base: it is the one that was trained, small, and draws what held-out captions say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from diffusion.base import ASSET, base, followed, informed, predict, words
from diffusion.base_folder import model, write

from jaxpo.convert.model_io import load_model
from jaxpo.corpora.scenes import draw, render
from jaxpo.data.images.batch import ImageBatch
from jaxpo.objectives.families.denoising import Denoiser
from jaxpo.recipes.diffusion import MODEL


def test_captions_that_were_held_out_are_followed():
    assert ASSET.stat().st_size < 2_000_000
    unseen = draw(48, 1, held_out=True)
    clauses, alone = followed(base(), unseen, guidance=1.0)
    assert clauses >= 0.9
    assert alone >= 0.9


def test_captions_are_read_where_there_is_much_noise():
    unseen = draw(48, 2, held_out=True)
    images, tokens = jnp.asarray(render(unseen)), words([x.caption for x in unseen])
    own, other = informed(base(), images, tokens)
    assert own < 0.06
    assert other > 4 * own


def test_as_the_recipe_s_model_it_predicts_the_same():
    params, config = model(users=4)
    unseen = draw(4, 3, held_out=True)
    images, tokens, t = jnp.asarray(render(unseen)), words([x.caption for x in unseen]), jnp.full(4, 500)
    how = Denoiser(config, jnp.float32, False)
    batch = ImageBatch(images[:, None], tokens[:, None], tokens[:, None] > 0, {}, jnp.arange(4))
    user = jnp.ones((4, 2, 4))
    output = how.predict(params, images, t, how.text(params, batch), user)
    np.testing.assert_allclose(output, predict(base(), images, t, tokens), atol=1e-5)


def test_as_a_folder_it_is_read_like_any_model(tmp_path):
    write(tmp_path)
    read = load_model(tmp_path)
    assert read.config == MODEL
    jax.tree.map(np.testing.assert_array_equal, read.params, {"model": model()[0]})
