"""Images and pairs: published forms, bad rows by file and row, shared crops, order by position, damage on disk."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import io
import json
import re
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from jaxpo.cli.encode_images import written
from jaxpo.config import Data
from jaxpo.config.image_data import ImageData, Users
from jaxpo.corpora.scenes.corpus import tokenizer as scene_tokenizer
from jaxpo.data.images.captions import UNKNOWN, encoded, unknown
from jaxpo.data.images.dataset import ImageShape
from jaxpo.data.images.encode import encoded_rows
from jaxpo.data.images.formats import Item
from jaxpo.data.images.prepare import prepare_images
from jaxpo.data.images.source import ImageSource
from jaxpo.data.images.store import RECORDS
from jaxpo.data.images.users import embeddings, mixed, user_of
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.errors import ConfigError, DataError

SHAPE = ImageShape(8, 3, 6)
ONE, PAIR, ALONE = Needs(roles=("image",)), Needs(roles=("chosen", "rejected")), Needs(roles=("caption",))
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["red square top left. blue circle bottom right. on black"] * 4, 300)


def picture(height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def url(pixels):
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def rows(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def prepared(tmp_path, tokenizer):
    def make(*files, needs=ONE, shape=SHAPE, said=None, max_length=8, **given):
        names = {f.name for f in dataclasses.fields(Data)}
        data = Data(max_length=max_length, **{k: v for k, v in given.items() if k in names})
        images = ImageData(**{k: v for k, v in given.items() if k not in names and k != "reward_range"})
        return prepare_images(
            files,
            data=data,
            images=images,
            shape=shape,
            tokenizer=tokenizer,
            needs=needs,
            cache_dir=tmp_path / "cache",
            log=(said.append if said is not None else lambda line: None),
            reward_range=given.get("reward_range"),
        )

    return make


def pair_row(a, b, **more):
    return {
        "prompt": "red square",
        "chosen_image": url(picture(seed=a)),
        "rejected_image": url(picture(seed=b)),
        **more,
    }


def everything(source):
    return jax.tree.map(lambda *x: np.concatenate(x), *source.one_pass())


def shown(pixels):
    return pixels.astype(np.float32) / 127.5 - 1


def test_single_images_of_rows_and_folders_are_the_same_examples(tmp_path, prepared):
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(png(picture(seed=i)))
        (folder / f"{i}.txt").write_text("red square\n")
    file = rows(tmp_path, *({"image": f"folder/{i}.png", "caption": "red square"} for i in range(3)))
    of_rows, of_folder = (ImageSource(prepared(x), seed=0, rows_per_step=3) for x in (file, str(folder)))
    a, b = everything(of_rows), everything(of_folder)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    np.testing.assert_array_equal(a.images[:, 0], np.stack([shown(picture(seed=i)) for i in range(3)]))
    assert a.images.dtype == np.float32
    assert a.present.all()
    assert of_rows.hash != of_folder.hash


def test_pick_a_pic_puts_the_chosen_image_first_and_counts_ties(tmp_path, prepared):
    labels = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    table = {
        "caption": ["red square"] * 4,
        "jpg_0": [png(picture(seed=2 * i)) for i in range(4)],
        "jpg_1": [png(picture(seed=2 * i + 1)) for i in range(4)],
        "label_0": [a for a, _ in labels],
        "label_1": [b for _, b in labels],
        "has_label": [True, True, True, False],
        "user_id": [7, 7, 7, 7],
        "num_example_per_prompt": [2, 4, 1, 1],
    }
    path = tmp_path / "train.parquet"
    pa.parquet.write_table(pa.table(table), path)
    dataset = prepared(str(path), needs=PAIR, per_prompt=True)
    assert {k: dataset.counts[k] for k in ("read", "kept", "ties", "dropped_unlabelled")} == {
        **{"read": 4, "kept": 2},
        **{"ties": 1, "dropped_unlabelled": 1},
    }
    batch = everything(ImageSource(dataset, seed=0, rows_per_step=2))
    for row, (chosen, rejected) in enumerate(((0, 1), (3, 2))):
        np.testing.assert_array_equal(batch.images[row], np.stack([shown(picture(seed=s)) for s in (chosen, rejected)]))
    np.testing.assert_array_equal(batch.columns["weight"], np.float32([0.5, 0.25]))
    assert len(prepared(str(path), needs=PAIR, ties="keep")) == 3
    with pytest.raises(DataError, match=r"train.parquet, row 3: nobody prefers one"):
        prepared(str(path), needs=PAIR, ties="error")


def test_all_ties_leave_no_example(tmp_path, prepared):
    file = rows(tmp_path, *(pair_row(i, i + 1, tie=tie) for i, tie in enumerate((True, 1, 1.0))))
    with pytest.raises(DataError, match=r"no example is left. Counts: read 3, kept 0, ties 3"):
        prepared(file, needs=PAIR)


def test_kohya_folders_are_pairs_by_name(tmp_path, prepared):
    for part, seeds in (("w", (0, 1)), ("l", (2, 3))):
        (tmp_path / "k" / part).mkdir(parents=True)
        for i, seed in enumerate(seeds):
            (tmp_path / "k" / part / f"{i}.png").write_bytes(png(picture(seed=seed)))
            (tmp_path / "k" / part / f"{i}.caption").write_text("blue circle")
    batch = everything(ImageSource(prepared(str(tmp_path / "k"), needs=PAIR), seed=0, rows_per_step=2))
    np.testing.assert_array_equal(batch.images[1], np.stack([shown(picture(seed=s)) for s in (1, 3)]))
    (tmp_path / "k" / "l" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1 lies in w/ alone"):
        prepared(str(tmp_path / "k"), needs=PAIR)


def test_pairs_of_folders_below_are_told_by_their_whole_names(tmp_path, prepared):
    for part in "wl":
        for below in ("a", "b"):
            (tmp_path / "k" / part / below).mkdir(parents=True)
            (tmp_path / "k" / part / below / "0.png").write_bytes(png(picture(seed=ord(part) + ord(below))))
            (tmp_path / "k" / part / below / "0.txt").write_text("red")
    batch = everything(ImageSource(prepared(str(tmp_path / "k"), needs=PAIR), seed=0, rows_per_step=2))
    seeds = [[ord(part) + ord(below) for part in "wl"] for below in "ab"]
    np.testing.assert_array_equal(batch.images, [[shown(picture(seed=s)) for s in row] for row in seeds])
    (tmp_path / "k" / "w" / "a" / "0.jpg").write_bytes(png(picture()))
    with pytest.raises(DataError, match=r"0\.png: has the name of 0\.jpg beside it"):
        prepared(str(tmp_path / "k"), needs=PAIR)


def test_scored_lists_become_extremes_or_all_pairs(tmp_path, prepared):
    row = {"caption": "red", "images": [url(picture(seed=i)) for i in range(3)], "scores": [0.1, 0.9, 0.5]}
    needs = dataclasses.replace(PAIR, columns=("rewards",))
    batch = everything(ImageSource(prepared(rows(tmp_path, row), needs=needs), seed=0, rows_per_step=1))
    np.testing.assert_array_equal(batch.images[0], np.stack([shown(picture(seed=s)) for s in (1, 0)]))
    np.testing.assert_allclose(batch.columns["rewards"], [[1.0, 0.0]])
    every = everything(ImageSource(prepared(rows(tmp_path, row), needs=needs, lists="all"), seed=0, rows_per_step=3))
    np.testing.assert_allclose(every.columns["rewards"], [[1.0, 0.5], [1.0, 0.0], [0.5, 0.0]], rtol=1e-6)


def test_rewards_are_relative_to_the_training_rows(tmp_path, prepared):
    needs = dataclasses.replace(PAIR, columns=("rewards",))
    file = rows(tmp_path, pair_row(0, 1, score_0=3.0, score_1=1.0), pair_row(2, 3, score_0=5.0, score_1=2.0))
    train = prepared(file, needs=needs)
    assert train.reward_range == (1.0, 5.0)
    held_out = rows(tmp_path, pair_row(0, 1, score_0=7.0, score_1=1.0), name="held.jsonl")
    batch = everything(ImageSource(prepared(held_out, needs=needs, reward_range=(1.0, 5.0)), seed=0, rows_per_step=1))
    np.testing.assert_allclose(batch.columns["rewards"], [[1.5, 0.0]])
    with pytest.raises(DataError, match=r"row 1, field 'rewards': is not there.*score_0"):
        prepared(rows(tmp_path, pair_row(0, 1), name="bare.jsonl"), needs=needs)


def test_crops_and_mirrors_are_shared_by_a_pair_and_drawn_anew_in_every_epoch(tmp_path, prepared):
    wide = [picture(8, 20, seed=i) for i in range(2)]
    mirrored = {"prompt": "x", "chosen_image": url(wide[0]), "rejected_image": url(wide[0])}
    dataset = prepared(rows(tmp_path, mirrored), needs=PAIR, crop="random", flip=True)
    source = ImageSource(dataset, seed=3, rows_per_step=1)
    seen = {source.batch(n).images.tobytes() for n in range(12)}
    assert len(seen) > 6
    for n in range(12):
        chosen, rejected = source.batch(n).images[0]
        np.testing.assert_array_equal(chosen, rejected)
        windows = [shown(wide[0][:, i : i + 8]) for i in range(13)]
        assert any(np.array_equal(chosen, w) or np.array_equal(chosen, w[:, ::-1]) for w in windows)
    np.testing.assert_array_equal(source.batch(5).images, source.batch(5).images)


def test_batches_depend_on_their_position_alone(tmp_path, prepared):
    file = rows(tmp_path, *({"image": url(picture(seed=i)), "caption": "red " * (i % 3)} for i in range(5)))
    dataset = prepared(file, crop="random", flip=True)
    source = ImageSource(dataset, seed=1, rows_per_step=4)
    with_feed = source.open(8, 3)
    for i in range(3):
        jax.tree.map(np.testing.assert_array_equal, with_feed.next(None), source.batch(8 + 4 * i))
    with_feed.close()
    ids = np.concatenate([source.batch(n).example_id for n in range(0, 20, 4)])
    assert all(sorted(ids[i : i + 5]) == list(range(5)) for i in range(0, 20, 5))
    shares = [ImageSource(dataset, seed=1, rows_per_step=4, process_index=i, process_count=2) for i in range(2)]
    whole = jax.tree.map(lambda *x: np.concatenate(x), *(s.batch(4) for s in shares))
    jax.tree.map(np.testing.assert_array_equal, whole, source.batch(4))
    assert source.epoch_of(10) == 2.0


def test_microbatches_take_every_second_example_and_padding_is_absent(tmp_path, prepared):
    file = rows(tmp_path, *({"image": url(picture(seed=i)), "caption": "red"} for i in range(3)))
    last = ImageSource(prepared(file), seed=0, rows_per_step=4).one_pass()[-1]
    np.testing.assert_array_equal(last.present, [True, True, True, False])
    np.testing.assert_array_equal(last.split(2).example_id, [[0, 2], [1, -1]])
    tally = {k: int(v) for k, v in last.tally().items()}
    assert tally["samples"] == 3
    assert tally["trained"] == 0
    assert tally["tokens"] > 0


def test_a_long_caption_is_cut_and_counted_left_out_or_refused(tmp_path, prepared):
    file = rows(
        tmp_path,
        {"image": url(picture()), "caption": "x y " * 2500},
        {"image": url(picture(seed=1)), "caption": ""},
    )
    assert len(json.loads(Path(file).read_text().splitlines()[0])["caption"]) == 10_000
    cut = prepared(file)
    assert cut.counts["truncated_caption"] == 1
    assert len(cut) == 2
    batch = everything(ImageSource(cut, seed=0, rows_per_step=2))
    np.testing.assert_array_equal(batch.text_mask.sum((1, 2)), [8, 1])
    assert len(prepared(file, truncation="drop")) == 1
    with pytest.raises(DataError, match=r"row 1: the caption has \d+ tokens, and the text tower reads 1 of 8"):
        prepared(file, truncation="error")


def test_segments_lie_in_rows_of_their_own(tmp_path, prepared, tokenizer):
    file = rows(tmp_path, {"image": url(picture()), "caption": "red. blue."})
    batch = everything(ImageSource(prepared(file, segments=3), seed=0, rows_per_step=1))
    assert batch.tokens.shape == (1, 3, 8)
    for i, part in enumerate(("red.", "blue.", None)):
        ids = [] if part is None else tokenizer.encode(part)
        np.testing.assert_array_equal(batch.tokens[0, i, batch.text_mask[0, i]], ids)


LATENT = np.random.default_rng(1).standard_normal((4, 8, 8)).round(3)


def test_latents_and_text_states(tmp_path, prepared):
    states = RNG.standard_normal((2, 6)).round(3)
    row = {"latent_w": LATENT.tolist(), "latent_l": (-LATENT).tolist(), "scale": 0.18215, "states": states.tolist()}
    dataset = prepared(rows(tmp_path, row), needs=PAIR, shape=ImageShape(8, 4, 6))
    batch = everything(ImageSource(dataset, seed=0, rows_per_step=1))
    np.testing.assert_allclose(batch.images[0, 0], LATENT.transpose(1, 2, 0), atol=2e-3)
    np.testing.assert_allclose(batch.states[0], states, atol=2e-3)
    np.testing.assert_array_equal(batch.text_mask, [[[True, True]]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"scale": 0.13025}, r"field 'scale': its latents were multiplied with 0.13025, and .* as 0.18215"),
        ({"scale": None}, r"field 'scale': does not say"),
        ({"latent": np.where(LATENT > 2, np.nan, LATENT).tolist()}, r"row 1.*field 'latent'"),
        ({"latent": (LATENT * 1e6).tolist()}, r"field 'latent': .*not finite, or too large"),
        ({"latent": LATENT[:3].tolist()}, r"has 3 channels, and the model reads 4"),
        ({"latent": LATENT[:, :4].tolist()}, r"is 4 x 8, and the model reads 8 x 8"),
    ],
)
def test_bad_latents(tmp_path, prepared, row, message):
    row = {"latent": LATENT.tolist(), "scale": 0.18215, "caption": "red", **row}
    with pytest.raises(DataError, match=message):
        prepared(rows(tmp_path, {k: v for k, v in row.items() if v is not None}), shape=ImageShape(8, 4, 6))


def broken_jpeg():
    stream = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(stream, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()[:500]).decode()


@pytest.mark.parametrize(
    ("row", "needs", "message"),
    [
        (
            pair_row(0, 1) | {"rejected_image": url(picture(8, 12))},
            PAIR,
            "row 1: the images .* two sizes",
        ),
        (
            {"image": broken_jpeg(), "caption": "x"},
            ONE,
            r"rows.jsonl, row 1, field 'image': the image .*(broken|read)",
        ),
        ({"image": "no.png", "caption": "x"}, ONE, r"row 1, field 'image': .*there is no such file"),
        ({"image": url(picture())}, ONE, "row 1: has no caption"),
        ({"image": url(picture()), "caption": 3}, ONE, "field 'caption': is a int, not a string"),
        ({"picture": 1}, ONE, "those of no form of images"),
        (
            {"picture": 1, "caption": "x"},
            ONE,
            r"holds captions alone \(captions\), .*reads single images.*images: image",
        ),
        ({"prompt": "x"}, PAIR, r"holds captions alone \(captions\), and the method reads pairs.*pairs: chosen_image"),
        (pair_row(0, 1), ALONE, r"holds pairs \(pairs\), and the method reads captions alone or single images"),
        ({"states": [[1, 2]]}, ALONE, r"field 'states': is no finite array \[L\]\[6\]"),
        (pair_row(0, 1), ONE, r"holds pairs \(pairs\), and the method reads single images"),
        ({"image": url(picture()), "caption": "x"}, PAIR, "holds single images .*method reads pairs"),
        ({"caption": "x", "images": ["a", "b"], "scores": [1]}, PAIR, "as many numbers as images"),
        (pair_row(0, 1, tie="yes"), PAIR, "row 1, field 'tie': is 'yes', not true or false. Use true/false or 1/0"),
        (pair_row(0, 1, tie=0.5), PAIR, "field 'tie': is 0.5"),
    ],
)
def test_bad_rows_name_file_row_and_field(tmp_path, prepared, row, needs, message):
    with pytest.raises(DataError, match=message):
        prepared(rows(tmp_path, row), needs=needs)


def test_bad_rows_may_be_left_out_and_are_listed(tmp_path, prepared):
    said = []
    file = rows(tmp_path, {"image": broken_jpeg(), "caption": "x"}, {"image": url(picture()), "caption": "x"})
    dataset = prepared(file, on_bad_row="skip", said=said)
    assert len(dataset) == 1
    assert dataset.counts["dropped_bad_rows"] == 1
    assert any("left out" in line and "row 1" in line for line in said)


def test_users_are_known_by_pairs_that_are_set_aside(tmp_path, prepared):
    users = Users(support=2, tokens=3, width=4)
    needs = dataclasses.replace(PAIR, columns=("user",))
    given = [pair_row(2 * i, 2 * i + 1, user=("ann", "bob")[i % 2]) for i in range(8)]
    dataset = prepared(rows(tmp_path, *given), needs=needs, users=users)
    assert len(dataset) == 4
    assert dataset.counts["set_aside_for_users"] == 4
    differences = [shown(picture(seed=2 * i)) - shown(picture(seed=2 * i + 1)) for i in range(8)]
    expected = embeddings([np.stack(differences[0:4:2]), np.stack(differences[1:4:2])], users)
    batch = everything(ImageSource(dataset, seed=0, rows_per_step=4))
    np.testing.assert_allclose(batch.columns["user_tokens"], expected[[0, 1, 0, 1]], rtol=1e-5)
    mean = np.mean(differences[0:4:2], axis=0).ravel()
    matrix = np.random.default_rng(0).standard_normal((192, 12))
    np.testing.assert_allclose(expected[0].ravel(), mean / np.linalg.norm(mean) @ matrix, rtol=1e-4)
    with pytest.raises(DataError, match=r"1 users have no example left beside the 2 pairs.*'eve'"):
        prepared(rows(tmp_path, *given, pair_row(90, 91, user="eve"), name="eve.jsonl"), needs=needs, users=users)


def test_a_user_is_known_by_the_pairs_of_a_file_that_have_a_winner(tmp_path):
    users = Users(support=2, tokens=3, width=4)
    plain = user_of(Path(rows(tmp_path, pair_row(0, 1), pair_row(2, 3))), users, 8, 3)
    ties = rows(tmp_path, pair_row(0, 1), pair_row(4, 5, tie=True), pair_row(2, 3), name="ties.jsonl")
    np.testing.assert_array_equal(user_of(Path(ties), users, 8, 3), plain)
    nothing = rows(tmp_path, pair_row(4, 5, tie=1), name="nothing.jsonl")
    with pytest.raises(DataError, match=r"nothing.jsonl: holds no pair with a winner"):
        user_of(Path(nothing), users, 8, 3)


def test_a_user_is_the_direction_of_what_they_chose_and_users_are_mixed():
    rng = np.random.default_rng(3)
    apart = rng.standard_normal((3, 4, 5, 5, 2))
    users = Users(tokens=2, width=8)
    known = embeddings(list(apart), users)
    # Neither the order of the pairs nor how far they lie apart matters; the opposite taste is the opposite vector.
    np.testing.assert_allclose(embeddings(list(-3 * apart[:, ::-1]), users), -known, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(embeddings([np.zeros((4, 5, 5, 2))], users), 0.0)
    np.testing.assert_allclose(mixed(known, [1, 0, 0]), known[0])
    np.testing.assert_allclose(mixed(known, [2, 1, 1]), known.transpose(1, 2, 0) @ [0.5, 0.25, 0.25], rtol=1e-5)
    # One token adds u W_v at every query, which is linear: the mix of the outputs is the output of the mix.
    one, values = known[:, :1], rng.standard_normal((8, 4))
    wanted = np.tensordot([0.2, 0.3, 0.5], one @ values, 1)
    np.testing.assert_allclose(mixed(one, [0.2, 0.3, 0.5]) @ values, wanted, atol=1e-4)


def test_users_may_bring_the_tokens_of_another_encoder(tmp_path, prepared):
    users, needs = Users(tokens=2, width=3), dataclasses.replace(PAIR, columns=("user",))
    own = pair_row(0, 1, user="ann", user_tokens=[[1, 2, 3], [4, 5, 6]])
    batch = everything(ImageSource(prepared(rows(tmp_path, own), needs=needs, users=users), seed=0, rows_per_step=1))
    np.testing.assert_array_equal(batch.columns["user_tokens"][0], own["user_tokens"])
    wide = dataclasses.replace(users, width=4)
    with pytest.raises(DataError, match=r"field 'user_tokens': is no finite array of 2 x 4"):
        prepared(rows(tmp_path, own), needs=needs, users=wide)


def test_tokens_of_users_are_their_own_whatever_rows_are_left_out(tmp_path, prepared):
    users, needs = Users(tokens=1, width=1), dataclasses.replace(PAIR, columns=("user",))
    given = [("ann", float("nan")), ("bob", 2.0), ("ann", 1.0), ("bob", 2.0)]
    file = rows(tmp_path, *(pair_row(i, i + 1, user=name, user_tokens=[[x]]) for i, (name, x) in enumerate(given)))
    dataset = prepared(file, needs=needs, users=users, on_bad_row="skip")
    batch = everything(ImageSource(dataset, seed=0, rows_per_step=3))
    np.testing.assert_array_equal(batch.columns["user_tokens"].ravel(), [2.0, 1.0, 2.0])
    ragged = pair_row(0, 1, user="ann", user_tokens=[[1], [2, 3]])
    two = [pair_row(i, i + 1, user="ann", user_tokens=[[i]]) for i in range(2)]
    for more, message in (
        ([ragged], "row 1, field 'user_tokens': is no finite array of 1 x 1"),
        (two, "row 2, field 'user_tokens': is not what an earlier row has for the user 'ann'"),
    ):
        with pytest.raises(DataError, match=message):
            prepared(rows(tmp_path, *more, name="more.jsonl"), needs=needs, users=users)


def test_captions_alone_do_for_what_draws_its_own_images(tmp_path, prepared):
    said = []
    given = ({"prompt": "red"}, {"caption": "", "image": broken_jpeg()}, {"text": "blue circle"})
    dataset = prepared(rows(tmp_path, *given), needs=ALONE, said=said)
    assert dataset.counts["images_not_read"] == 1
    assert said[-1] == "3 captions (read 3, kept 3, images_not_read 1)"
    batch = everything(ImageSource(dataset, seed=0, rows_per_step=3))
    np.testing.assert_array_equal(batch.images, np.zeros((3, 1, 8, 8, 3)))
    np.testing.assert_array_equal(batch.text_mask.sum((1, 2)) > 1, [False, False, True])
    states = prepared(rows(tmp_path, {"states": [[0.5] * 6] * 2}, name="states.jsonl"), needs=ALONE)
    assert everything(ImageSource(states, seed=0, rows_per_step=1)).states.shape == (1, 2, 6)


def test_a_file_gives_the_states_of_the_empty_caption(tmp_path, prepared):
    row = {"image": url(picture()), "caption": "red"}
    shape, states = ImageShape(8, 4, 6), {"latent": LATENT.tolist(), "scale": 0.18215, "states": [[0.5] * 6] * 3}
    empty = rows(tmp_path, {"caption": "", "states": [[2.0] * 6, [3.0] * 6]}, name="empty.jsonl")
    with pytest.raises(DataError, match=r"has captions and no states of texts.*text tower reads the empty"):
        prepared(rows(tmp_path, row), empty_states=empty)
    file = rows(tmp_path, states)
    dataset, plain = prepared(file, shape=shape, empty_states=empty), prepared(file, shape=shape)
    assert dataset.hash != plain.hash
    batch = everything(ImageSource(dataset, seed=0, rows_per_step=1))
    np.testing.assert_array_equal(batch.empty_states[0, :, 0], [2, 3, 0])
    np.testing.assert_array_equal(batch.empty_mask, [[True, True, False]])
    assert everything(ImageSource(plain, seed=0, rows_per_step=1)).empty_states is None
    for bad, message in (
        ({"caption": "red", "states": [[1.0] * 6]}, "field 'caption': is not the empty caption"),
        ({"caption": ""}, "has no row with states of the empty caption.*encode-images"),
        ({"caption": "", "states": [[1.0] * 5]}, r"field 'states': is no finite array \[L\]\[6\]"),
    ):
        with pytest.raises(DataError, match=message):
            prepared(file, shape=shape, empty_states=rows(tmp_path, bad, name="bad.jsonl"))


def test_states_of_a_second_encoder_are_read_by_a_model_that_has_an_adapter(tmp_path, prepared):
    shape, row = ImageShape(8, 3, 6, adapter=2), {"image": url(picture()), "caption": "red"}
    more = row | {"adapter_states": [[1, 2], [3, 4]]}
    file = rows(tmp_path, more, row | {"adapter_states": [[5, 6]]})
    batch = everything(ImageSource(prepared(file, shape=shape), seed=0, rows_per_step=2))
    np.testing.assert_array_equal(batch.adapter_states, [[[1, 2], [3, 4]], [[5, 6], [0, 0]]])
    np.testing.assert_array_equal(batch.adapter_mask, [[True, True], [True, False]])
    plain = prepared(file)
    assert plain.counts["adapter_states_not_read"] == 2
    with pytest.raises(DataError, match="row 2, field 'adapter_states': is not there, and the model's text adapter"):
        prepared(rows(tmp_path, more, row), shape=shape)
    with pytest.raises(DataError, match=r"field 'adapter_states': is no finite array \[L\]\[2\]"):
        prepared(rows(tmp_path, row | {"adapter_states": [[1]]}), shape=shape)


def test_all_rows_have_captions_or_all_have_states(tmp_path, prepared):
    latent = {"latent": LATENT.tolist(), "scale": 0.18215}
    said, told = latent | {"caption": "red"}, latent | {"states": [[0.5] * 6]}
    for number, given in enumerate(((said, told), (told, said))):
        file = rows(tmp_path, *given, name=f"{number}.jsonl")
        with pytest.raises(DataError, match=r"row 2: its text is .*, and the first rows have (captions|states)\."):
            prepared(file, shape=ImageShape(8, 4, 6))
        assert len(prepared(file, shape=ImageShape(8, 4, 6), on_bad_row="skip")) == 1
    with pytest.raises(DataError, match="field 'states': holds a number that is too large for 16 bits"):
        prepared(rows(tmp_path, latent | {"states": [[1e6] * 6]}), shape=ImageShape(8, 4, 6))


def test_a_weight_is_read_where_rows_have_one(tmp_path, prepared):
    given = [pair_row(2 * i, 2 * i + 1, weight=w) for i, w in enumerate((2, 0.5))]
    batch = everything(ImageSource(prepared(rows(tmp_path, *given), needs=PAIR), seed=0, rows_per_step=2))
    np.testing.assert_array_equal(batch.columns["weight"], np.float32([2.0, 0.5]))
    for more, message in (
        ([pair_row(4, 5)], "row 3, field 'weight': is not there, and the first row has it"),
        ([pair_row(4, 5, weight=0)], "row 3, field 'weight': is 0; it must be above 0"),
    ):
        with pytest.raises(DataError, match=message):
            prepared(rows(tmp_path, *given, *more, name="more.jsonl"), needs=PAIR)
    with pytest.raises(DataError, match="row 2, field 'weight': the first row has no weight"):
        prepared(rows(tmp_path, pair_row(4, 5), given[0], name="late.jsonl"), needs=PAIR)


def test_columns_that_no_method_reads_may_hold_anything(tmp_path, prepared):
    single = {"image": url(picture()), "caption": "red", "label": 3}
    assert len(prepared(rows(tmp_path, single))) == 1
    with pytest.raises(DataError, match="row 1, field 'label': is 3, not true or false"):
        prepared(rows(tmp_path, single), needs=dataclasses.replace(ONE, columns=("label",)))
    bare = pair_row(0, 1, score_0=None, score_1=None, user=None, weight=None)
    assert prepared(rows(tmp_path, bare, name="bare.jsonl"), needs=PAIR).columns == ()
    with pytest.raises(DataError, match="field 'user': is not there"):
        prepared(rows(tmp_path, bare, name="bare.jsonl"), needs=dataclasses.replace(PAIR, columns=("user",)))


def test_words_that_a_tokenizer_does_not_know_are_counted(tmp_path, prepared):
    words = Tokenizer(scene_tokenizer())
    assert unknown(np.asarray(words.encode("purple square")))
    assert not unknown(np.asarray(words.encode("red square")))
    assert not len(words.encode(""))
    counts = Counter()
    for caption in ("purple square", "red square", ""):
        item = Item(tmp_path, 1, (), (), caption)
        encoded(item, words, Data(max_length=8), 1, counts)
    assert counts == {UNKNOWN: 1}


def test_a_narrow_image_does_not_fill_the_memory(tmp_path, prepared):
    file = rows(tmp_path, {"image": url(picture(1, 60_000)), "caption": "x"})
    message = r"row 1, field 'image': is 60000 x 1, of which a short side of 512 makes 15,728,640,000 pixels"
    with pytest.raises(DataError, match=message):
        prepared(file, shape=ImageShape(512, 3, 6))


def test_the_cache_serves_again_and_damage_is_noticed(tmp_path, prepared):
    file, said = rows(tmp_path, {"image": url(picture()), "caption": "red"}), []
    prepared(file, said=said)
    prepared(file, said=said)
    assert sum(line.startswith("reading images") for line in said) == 1
    record = next((tmp_path / "cache").glob(f"*/{RECORDS}"))
    record.write_bytes(record.read_bytes()[:-1] + b"x")
    prepared(file, said=said)
    assert any(re.search("is damaged .*building it again", line) for line in said)
    assert Counter(line.startswith("reading images") for line in said)[True] == 2


class Halves:
    """An encoder that halves every side, and counts letters of captions."""

    scale = 0.5

    def latents(self, images):
        blocks = images.reshape(len(images), images.shape[1] // 2, 2, images.shape[2] // 2, 2, 3).mean((2, 4))
        return self.scale * np.concatenate([blocks, blocks[..., :1]], -1).transpose(0, 3, 1, 2)

    def states(self, captions):
        return np.stack([np.full((2, 6), len(caption), np.float32) for caption in captions])

    def more_states(self, captions):
        return None


class Pixels(Halves):
    """One that has nothing to say of captions."""

    def states(self, captions):
        return None


def test_a_caption_alone_is_not_encoded_where_states_are_not_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"row 1: is a caption alone.*--states"):
        list(encoded_rows([rows(tmp_path, {"caption": ""})], Pixels(), size=8))
    given = rows(tmp_path, {"states": [[0.5] * 6]}, name="states.jsonl")
    with pytest.raises(DataError, match=r"row 1, field .states.: has states of a text already"):
        list(encoded_rows([given], Halves(), size=8))


def test_images_are_encoded_once_and_read_as_latents(tmp_path, prepared):
    given = [pair_row(2 * i, 2 * i + 1, user="ann", score_0=2.0, score_1=float(i)) for i in range(3)]
    file = rows(tmp_path, *given, pair_row(8, 9, tie=True, score_0=1.0, score_1=1.0))
    said, args = [], argparse.Namespace(size=8, batch=2, lists="extremes")
    assert len(list(encoded_rows([file], Halves(), size=8, say=said.append))) == 3
    assert said == ["1 ties are left out"]
    out = tmp_path / "latents.parquet"
    assert written([file], out, Halves(), args) == 3
    needs = dataclasses.replace(PAIR, columns=("rewards",))
    dataset = prepared(str(out), needs=needs, shape=ImageShape(4, 4, 6), latent_scale=0.5)
    batch = everything(ImageSource(dataset, seed=0, rows_per_step=3))
    expected = Halves().latents(shown(picture(seed=2))[None])[0].transpose(1, 2, 0)
    np.testing.assert_allclose(batch.images[1, 0], expected, atol=1e-3)
    np.testing.assert_array_equal(batch.states[:, 0, 0], [len("red square")] * 3)
    np.testing.assert_allclose(batch.columns["rewards"][:, 1], [0.0, 0.5, 1.0])
    with pytest.raises(DataError, match="holds latents already"):
        list(encoded_rows([str(out)], Halves(), size=8))


def test_nothing_of_encoded_rows_is_lost_without_a_word(tmp_path, prepared):
    def encoded_of(*given, **options):
        return list(encoded_rows([rows(tmp_path, *given)], Halves(), size=8, batch=1, **options))

    kept = {"user": "ann", "user_tokens": [[1.0]], "num_example_per_prompt": 4, "weight": 0.5}
    (row,) = encoded_of(pair_row(0, 1, **kept))
    assert {name: row[name] for name in kept} == kept
    with pytest.raises(DataError, match=r"row 2: its columns .* are none, and those of the first row, .* user\."):
        encoded_of(pair_row(0, 1, user="ann"), pair_row(2, 3))
    with pytest.raises(DataError, match="row 2: pairs, single images and captions alone lie in the same files"):
        encoded_of(pair_row(0, 1), {"image": url(picture()), "caption": "x"})
    assert encoded_of({"prompt": "red"}) == [{"caption": "red", "states": [[3.0] * 6] * 2}]
    beside = encoded_of({"prompt": "red", "adapter_states": [[0.5]]})
    assert beside[0]["adapter_states"] == [[0.5]]
    said, judged = [], {"caption": "x", "jpg_0": url(picture()), "jpg_1": url(picture()), "label_0": 1, "label_1": 0}
    assert encoded_of(judged | {"has_label": False}, say=said.append) == []
    assert said == ["1 pairs without a label are left out"]
    scored = {"caption": "red", "images": [url(picture(seed=i)) for i in range(3)], "scores": [0.1, 0.9, 0.5]}
    assert [len(encoded_of(scored, lists=lists)) for lists in ("extremes", "all")] == [1, 3]
    broken, out = rows(tmp_path, pair_row(0, 1), pair_row(2, 3, user="x")), tmp_path / "out.parquet"
    with pytest.raises(DataError):
        written([broken], out, Halves(), argparse.Namespace(size=8, batch=1, lists="all"))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parity
def test_the_encoders_of_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    from jaxpo.convert.image_encoder import DiffusersEncoder

    sizes = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 4, "layers_per_block": 1}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = diffusers.AutoencoderKL(**sizes, **blocks)
    vae.save_pretrained(tmp_path / "vae")
    encoder = DiffusersEncoder(tmp_path, text=False)
    images = np.stack([shown(picture(seed=i)) for i in range(2)])
    import torch

    with torch.no_grad():
        expected = vae.encode(torch.from_numpy(images.transpose(0, 3, 1, 2))).latent_dist.mean.numpy()
    np.testing.assert_allclose(encoder.latents(images), expected * 0.18215, atol=1e-5)
    assert encoder.states(["x"]) is None
    with pytest.raises(ConfigError, match="has no text_encoder, tokenizer"):
        DiffusersEncoder(tmp_path, text=True)


@pytest.mark.parity
def test_captions_of_any_length_by_clip(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    import torch
    import transformers

    from jaxpo.convert.image_encoder import DiffusersEncoder

    words = tmp_path / "words"
    words.mkdir()
    vocabulary = ["<|startoftext|>", "<|endoftext|>", "r</w>", "s</w>", "b</w>", ".</w>"]
    (words / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=6)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": 6, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    clip = transformers.CLIPTextModel(transformers.CLIPTextConfig(max_position_embeddings=6, **ids, **sizes)).eval()
    clip.save_pretrained(tmp_path / "text_encoder")
    blocks = {"block_out_channels": (4,), "norm_num_groups": 2, "latent_channels": 4, "layers_per_block": 1}
    diffusers.AutoencoderKL(**blocks).save_pretrained(tmp_path / "vae")

    def states(*ids):
        with torch.no_grad():
            return clip(torch.tensor([[*ids, *[1] * (6 - len(ids))]])).last_hidden_state[0].numpy()

    plain = DiffusersEncoder(tmp_path, text=True)
    np.testing.assert_allclose(plain.states(["r s.", "r s. b s. r"])[0], states(0, 2, 3, 5, 1), atol=1e-5)
    assert plain.cut == 1
    encoder = DiffusersEncoder(tmp_path, text=True, length=10)
    found = encoder.states(["r s. b s. r", ""])
    expected = np.concatenate([states(0, 2, 3, 5, 1)[:4], states(0, 4, 3, 5, 1)[:4], states(0, 2, 1)[:2]])
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    np.testing.assert_allclose(found[1], np.broadcast_to(states(0, 1).mean(0), (10, 8)), atol=1e-5)
    assert encoder.cut == 0
    short = DiffusersEncoder(tmp_path, text=True, length=5)
    short.states(["r s. b s. r", "b"])
    assert short.cut == 1


@pytest.mark.parity
def test_captions_by_a_second_encoder_of_t5s_form(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    import tokenizers
    import torch
    import transformers

    from jaxpo.convert.image_encoder import DiffusersEncoder

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "r": 1, "s": 2, "b": 3}, unk_token="<pad>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", model_max_length=4)
    tokenizer.save_pretrained(tmp_path / "second" / "tokenizer")
    sizes = {"vocab_size": 4, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    t5 = transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval()
    t5.save_pretrained(tmp_path / "second" / "text_encoder")
    blocks = {"block_out_channels": (4,), "norm_num_groups": 2, "latent_channels": 4, "layers_per_block": 1}
    diffusers.AutoencoderKL(**blocks).save_pretrained(tmp_path / "vae")
    encoder = DiffusersEncoder(tmp_path, text=False, second=tmp_path / "second")
    found = encoder.more_states(["r s b", "s"])
    for own, ids in zip(found, ([1, 2, 3], [2]), strict=True):
        with torch.no_grad():
            expected = t5(torch.tensor([ids])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(own, expected, atol=1e-5)
    assert encoder.cut == 0
    assert len(encoder.more_states(["r s b r s"])[0]) == 4
    assert encoder.cut == 1
    assert DiffusersEncoder(tmp_path, text=False).more_states(["r"]) is None
