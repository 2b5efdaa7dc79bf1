"""Scenes: what is drawn is what is said, and what reads pictures reads that; rewards, pairs, people."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.corpora import scenes as s
from jaxpo.corpora.scenes.draw import clauses_of
from jaxpo.errors import ConfigError, DataError

RED = s.Thing("red", "square", "top left")
SCENE = s.Scene((RED,), "grey", 0.5)


@pytest.fixture(scope="module")
def drawn():
    return s.draw(400, 0, things=(1, 4), unplaced=0.2)


@pytest.mark.parametrize("size", [8, 16])
def test_real_pictures_are_read_right(drawn, size):
    images = s.render(drawn, size)
    assert images.dtype == np.float32
    assert images.shape == (400, size, size, 3)
    assert s.adherence(images, drawn).min() == s.exact(images, drawn).min() == 1
    noisy = images + 0.1 * np.random.default_rng(0).standard_normal(images.shape)
    assert s.adherence(noisy, drawn).min() == 1


def test_pixels():
    image = s.render([SCENE])[0]
    assert np.unique(image[3:]).tolist() == pytest.approx([0.35 * 0.5 * 2 - 1])
    assert image[0, 0].tolist() == [0.0, -1.0, -1.0]
    large = s.render([SCENE], 16)[0]
    np.testing.assert_array_equal(large[::2, ::2], image)
    moved = s.render([s.Scene((s.Thing("blue", "circle", "bottom right", (1, 0)),))])[0]
    rows, columns = np.nonzero(moved[..., 2] > 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 7, 4, 6)
    with pytest.raises(ConfigError, match="multiple of 8"):
        s.render([SCENE], 12)


def test_other_pictures_are_read_as_such():
    other = [replace(SCENE, things=(replace(RED, **x),)) for x in ({"colour": "blue"}, {"place": "top right"})]
    images = s.render(other)
    assert s.reading(images).tolist() == [[2, -1, -1, -1], [-1, 0, -1, -1]]
    assert s.adherence(images, [SCENE, SCENE]).tolist() == [0, 0]
    unplaced = replace(SCENE, things=(replace(RED, placed=False),))
    assert unplaced.caption == "red square. on grey"
    assert s.adherence(images, [unplaced, unplaced]).tolist() == [0, 1]
    both = s.render([s.Scene((RED, s.Thing("blue", "circle", "bottom left")))])
    assert s.adherence(both, [SCENE]).tolist() == [1]
    assert s.exact(both, [SCENE]).tolist() == [0]
    assert s.reading(np.full((1, 8, 8, 3), 0.3)).tolist() == [[s.NOTHING] * 4]


def test_held_out_clauses_are_never_trained_on():
    parts = [clauses_of(s.draw(600, 1, held_out=held_out, things=(1, 4))) for held_out in (False, True)]
    assert parts[1] == s.HELD_OUT
    assert len(parts[0]) == 36
    assert not parts[0] & parts[1]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len({(x[one], x[other]) for x in parts[0]}) == len({(x[one], x[other]) for x in parts[0] | parts[1]})
    assert s.draw(5, 3) == s.draw(5, 3) != s.draw(5, 4)
    with pytest.raises(ConfigError, match="one to four"):
        s.draw(1, 0, things=(1, 5))


def test_captions_as_numbers(drawn):
    tokens, mask = s.encode([SCENE.caption, ""], 9)
    assert [s.VOCABULARY[k] for k in tokens[0]] == ["red", "square", "top", "left", ".", "on", "grey", "", ""]
    assert mask.sum(1).tolist() == [7, 1]
    assert s.encode([SCENE.caption], 3)[0].shape == (1, 3)
    assert max(len(x.caption.replace(".", " .").split()) for x in drawn) <= 22
    with pytest.raises(DataError, match=r"row 1.*'purple'.*Known are: ., on, red"):
        s.encode(["red square.", "purple square."], 9)


def test_rewards_by_the_definition():
    images = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)
    x = images.astype(np.float64)
    weight, column = np.ptp(x, axis=-1), (np.arange(8) - 3.5) / 4
    left = -(weight * column).sum((1, 2)) / weight.sum((1, 2))
    expected = {
        "brightness": x.mean((1, 2, 3)),
        "darkness": -x.mean((1, 2, 3)),
        "left": left,
        "right": -left,
        "symmetry": -((x - x[:, :, ::-1]) ** 2).mean((1, 2, 3)),
        "red": (x[..., 0] - x[..., 1] - x[..., 2]).mean((1, 2)) / 3,
        "yellow": (x[..., 0] + x[..., 1] - x[..., 2]).mean((1, 2)) / 3,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(s.REWARDS[name](images), values, atol=1e-6)
    assert set(s.REWARDS) == {*expected, "green", "blue"}
    for reward in s.REWARDS.values():
        assert np.isfinite(jax.grad(lambda z, reward=reward: reward(z).sum())(jnp.zeros((1, 8, 8, 3)))).all()


@pytest.mark.parametrize("reward", ["brightness", "left"])
def test_pairs_differ_in_what_is_not_said(reward):
    judged = s.pairs(60, 0, reward, unplaced=0.5)
    assert (judged.rewards[:, 0] - judged.rewards[:, 1]).min() > 1e-3
    np.testing.assert_allclose(judged.rewards[:, 0], s.REWARDS[reward](judged.chosen), atol=1e-6)
    np.testing.assert_allclose(judged.rewards[:, 1], s.REWARDS[reward](judged.rejected), atol=1e-6)
    for side in (judged.chosen, judged.rejected):
        assert s.adherence(side, judged.scenes).min() == 1
    assert [x.caption for x in judged.scenes] == list(judged.captions)
    assert not clauses_of(judged.scenes) & s.HELD_OUT
    assert clauses_of(s.pairs(20, 0, reward, held_out=True).scenes) <= s.HELD_OUT


def test_near_ties_are_labelled_by_chance():
    judged = s.pairs(400, 0, "brightness", ties=0.3)
    wrong = judged.rewards[:, 0] < judged.rewards[:, 1]
    assert 0.1 < wrong.mean() < 0.2
    assert np.abs(np.diff(judged.rewards[wrong])).max() < 0.03
    with pytest.raises(DataError, match="'brightness' finds all pictures of 3 of 3 captions alike"):
        s.pairs(3, 0, "brightness", gains=(1.0, 1.0))


def test_people_are_told_apart_by_four_choices():
    people = [(taste, seed) for seed in range(40) for taste in s.TASTES]
    judged = [s.support(taste, 4 * seed + k % 4) for k, (taste, seed) in enumerate(people)]
    assert s.embeddings(judged[:3]).shape == (3, 8, 64)
    x = s.embeddings(judged, tokens=1)
    flat = np.concatenate([x.reshape(160, -1), np.ones((160, 1))], axis=1)
    labels = np.eye(4)[np.arange(160) % 4]
    weights = np.linalg.solve(flat[:120].T @ flat[:120] + 100 * np.eye(flat.shape[1]), flat[:120].T @ labels[:120])
    assert np.mean(np.argmax(flat[120:] @ weights, axis=1) == np.arange(40) % 4) >= 0.7
