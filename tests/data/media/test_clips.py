"""Clips: in every form the images of their frames, evenly spaced where there are many; what is no clip is told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from data.media.shown_rows import DATA, IMAGES, TURNS, said

from jaxpo.data.packing.loader import Loader
from jaxpo.data.rows.clips import evenly
from jaxpo.data.tokens.media import MEDIA
from jaxpo.errors import ConfigError, DataError
from jaxpo.sampling.viewing import Viewer, conversation_of

FRAMES = ["a.png", "b.png", "c.png"]
ASK, ANSWER = TURNS


def clip_row(content="Which?", **more):
    return {"messages": [{"role": "user", "content": content}, ANSWER], **more}


def images_row(*names, text=None):
    parts = [{"type": "image", "image": name} for name in names]
    content = [*parts, {"type": "text", "text": "Which?"}] if text is None else text
    return {"messages": [{"role": "user", "content": content}, ANSWER]}


@pytest.mark.parametrize(
    ("length", "most", "chosen"),
    [(3, 16, [0, 1, 2]), (16, 16, list(range(16))), (4, 2, [1, 3]), (5, 2, [1, 3]), (10, 3, [1, 5, 8]), (7, 1, [3])],
)
def test_frames_are_those_in_the_middle_of_equal_stretches(length, most, chosen):
    """Frame k of n at the time (k + 1/2) / n of the clip."""
    assert evenly(length, most) == chosen
    if length > most:
        assert chosen == [int((k + 0.5) / most * length) for k in range(most)]


@pytest.mark.parametrize("row", [
    clip_row(video=FRAMES),
    clip_row(videos=[FRAMES]),
    clip_row("<video>Which?", video=FRAMES),
    clip_row([{"type": "video"}, {"type": "text", "text": "Which?"}], video=FRAMES),
    clip_row([{"type": "video", "video": FRAMES}, {"type": "text", "text": "Which?"}]),
    clip_row([{"type": "video", "video": FRAMES[:2]}, {"type": "image", "image": "c.png"}, "Which?"]),
    clip_row(video=[{"path": name} for name in FRAMES]),
    {"prompt": "Which?", "completion": "red", "video": FRAMES} | {"prompt": [ASK], "completion": [ANSWER]},
])  # fmt: skip
def test_a_clip_is_its_frames_in_order(load, write, row):
    dataset = load(write(row))
    wanted = load(write(images_row(*FRAMES), name="images.jsonl"))
    assert said(dataset) == said(wanted)
    (example,), (other,) = dataset.store.read([0]), wanted.store.read([0])
    assert [p.digest for p in example.pictures] == [p.digest for p in other.pictures]
    batches = [Loader(each, DATA, seed=0, rows_per_step=1).batch(0) for each in (dataset, wanted)]
    np.testing.assert_array_equal(*(batch.media["image"].values for batch in batches))


def test_two_clips_stand_where_they_are_written(load, write):
    row = clip_row("first <video> then <video>?", videos=[FRAMES[:2], FRAMES[2:]])
    wanted = images_row(text="first <image><image> then <image>?") | {"images": FRAMES}
    assert said(load(write(row))) == said(load(write(wanted, name="w.jsonl")))


def test_long_clips_lose_frames_evenly_and_are_counted(load, write):
    frames = [f"{'abcd'[i % 4]}.png" for i in range(10)]
    data = dataclasses.replace(DATA, images=dataclasses.replace(IMAGES, frames=3))
    row = clip_row([{"type": "video", "video": frames}, {"type": "image", "image": "d.png"}, "Which?"])
    dataset = load(write(row, images_row("a.png")), data=data)
    assert dataset.counts["left_out_frames"] == 7
    wanted = load(write(images_row(frames[1], frames[5], frames[8], "d.png"), name="w.jsonl"))
    assert said(dataset)[0] == said(wanted)[0]
    assert "left_out_frames" not in wanted.counts
    example = dataset.store.read([0])[0]
    assert (example.segments[0].per_token[MEDIA] >= 0).sum() == sum(sum(p.lengths) // 4 for p in example.pictures)
    # Images are no clip, however many there are.
    many = load(
        write(images_row(*frames), name="m.jsonl"), data=dataclasses.replace(data, max_length=256, row_length=256)
    )
    assert len(many.store.read([0])[0].pictures) == 10


def test_a_viewer_shows_the_same_frames(load, write, folder):
    frames = [{"path": f"{'abcd'[i % 4]}.png", "frame": i, "of": 10} for i in range(10)]
    data = dataclasses.replace(DATA, images=dataclasses.replace(IMAGES, frames=3))
    dataset = load(write(clip_row(video=[f["path"] for f in frames])), data=data)
    ids = dataset.tokenizer.special_ids["<image>"]
    viewer = Viewer(dataset.tokenizer, IMAGES.sizes, ids, root=folder, frames=3)
    messages = [{"role": "user", "content": "\ufdd0" * 10 + "Which?"}]
    asked = dataclasses.replace(conversation_of(messages), pictures=tuple(frames))
    read, shown = viewer.encode(asked)
    trained = dataset.store.read([0])[0].segments[0].tokens.tolist()
    assert trained[: len(read)] == read
    assert viewer.planned(asked) == read
    assert len(shown.media) == 3


@pytest.mark.parametrize(("row", "match"), [
    (clip_row(video="v.mp4"), "field 'video': 'video' holds what is no text.*the list of its frames"),
    (clip_row(videos=["v.mp4"]), "field 'videos'.*the list of its frames"),
    (clip_row([{"type": "video", "video": "v.mp4"}]), "field 'video': a clip is str.*list of its frames"),
    (clip_row([{"type": "video", "video": []}]), "a clip has no frames"),
    (clip_row(videos=[FRAMES, []]), "a clip has no frames"),
    (clip_row(video=["a.png", ""]), "frame 1 of a clip is empty"),
    (clip_row(video=["a.png", None]), "frame 1 of a clip is empty"),
    (clip_row(video=["a.png", "gone.png"]), "image 1: .*gone.png: there is no such file"),
    (clip_row(video=["a.png", "../x.png"]), "image 1: ../x.png: lies outside"),
    (clip_row(video=["https://host/x.png"]), "images are not fetched"),
    (clip_row("<video> or <video>?", video=FRAMES), "2 places for clips, and 1 are given"),
    (clip_row([{"type": "video"}, "Which?"]), "1 place for clips, and 0 are given"),
    (clip_row([{"type": "video", "video": FRAMES}], video=FRAMES), "0 places for clips, and 1 are given"),
    (clip_row(video=FRAMES, videos=[FRAMES]), "holds video and videos"),
    (clip_row(video=FRAMES, images=["a.png"]), "clips and images, whose order nobody says"),
    ({"messages": [ASK, {"role": "assistant", "content": [{"type": "video", "video": FRAMES}]}]}, "in an answer"),
])  # fmt: skip
def test_what_is_no_clip_is_told(load, write, row, match):
    with pytest.raises(DataError, match=match):
        load(write(row))


def test_a_model_that_reads_text_is_shown_no_clip_and_frames_are_at_least_one(load, write):
    path = write(clip_row(video=FRAMES))
    with pytest.raises(DataError, match="this model reads text"):
        load(path, data=dataclasses.replace(DATA, images=None))
    with pytest.raises(ConfigError, match=r"data.images.frames=0 must be at least 1"):
        load(path, data=dataclasses.replace(DATA, images=dataclasses.replace(IMAGES, frames=0)))
    text = load(write({"messages": [{"role": "user", "content": "what is <video>?"}, ANSWER]}, name="t.jsonl"))
    assert "what is <video>?" in said(text)[0]
