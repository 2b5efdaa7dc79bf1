"""The trained base: it is the one that was trained, small, and draws what held-out captions say."""

from __future__ import annotations

import jax.numpy as jnp
from diffusion.base import ASSET, base, followed, informed, words

from jaxpo.corpora.scenes import draw, render


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
