"""Rows with images, in every form that users write them: read, rendered, planned from headers, decoded into batches."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
import pyarrow as pa
import pytest
from data.feeds import fed
from data.media.shown_rows import DATA, IMAGES, ONE, SHAPES, SIZES, TURNS, said
from data.written import as_parquet
from PIL import Image

from jaxpo.config import Fim
from jaxpo.data.media.decode import ImageLimits, pixels
from jaxpo.data.media.geometry import geometry
from jaxpo.data.media.marks import NAMES, find_marks
from jaxpo.data.media.patches import patches_of
from jaxpo.data.packing.loader import Loader
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import read_record
from jaxpo.data.tokens.media import MEDIA
from jaxpo.errors import ConfigError, DataError


def url(path):
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def forms(folder):
    """The same row, an image, a question and an answer, in every form."""
    part = lambda **more: [{"role": "user", "content": [more, {"type": "text", "text": "Which?"}]}, TURNS[1]]  # noqa: E731
    marked = [{"role": "user", "content": "<image>Which?"}, TURNS[1]]
    data = url(folder / "a.png")
    return {
        "TRL, string": {"messages": TURNS, "images": ["a.png"]},
        "TRL, one image": {"messages": TURNS, "image": "a.png"},
        "TRL, parts": {"messages": part(type="image"), "images": ["a.png"]},
        "TRL, prompt": {"prompt": TURNS[:1], "completion": TURNS[1:], "images": ["a.png"]},
        "leap": {"messages": part(type="image", image="a.png")},
        "sharegpt": {
            "conversations": [{"from": "human", "value": "<image>Which?"}, {"from": "gpt", "value": "red"}],
            "images": ["a.png"],
        },
        "LLaMA-Factory": {"messages": marked, "images": ["a.png"]},
        "OpenAI": {"messages": part(type="image_url", image_url={"url": data})},
        "OpenAI, path": {"messages": part(type="image_url", image_url={"url": "a.png"})},
        "data URL": {"messages": TURNS, "images": [data]},
        "with a system column": {"system": "", "prompt": "Which?", "completion": "red", "tools": [], "image": "a.png"},
    }


def test_every_form_gives_the_same_example(folder, load, write):
    found = {name: load(write(row, name=f"{i}.jsonl")) for i, (name, row) in enumerate(forms(folder).items())}
    bytes_of = (folder / "a.png").read_bytes()
    turns = [{"role": m["role"], "content": m["content"]} for m in TURNS]
    table = pa.Table.from_pylist([{"messages": turns, "images": [{"bytes": bytes_of, "path": "elsewhere.png"}]}])
    (folder / "rows.parquet").write_bytes(as_parquet(table))
    found["Parquet"] = load(folder / "rows.parquet")
    want = f"<|startoftext|><|im_start|>user\n{ONE}Which?<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n"
    sides = {}
    for name, dataset in found.items():
        text, learnt = said(dataset)
        if name != "with a system column":
            assert text == want, name
            assert learnt == "red<|im_end|>\n", name
        loader = Loader(dataset, DATA, seed=0, rows_per_step=1)
        sides[name] = loader.batch(0).media["image"].values
        np.testing.assert_array_equal(sides[name], sides["TRL, string"], name)
    assert sides["Parquet"].shape == (1, 16, 48)


def test_captions_and_pairs_show_their_images_too(folder, load, write):
    caption = load(write({"text": "<image> a red square", "images": ["a.png"]}, name="t.jsonl"), "language")
    text, learnt = said(caption, "text")
    assert text == f"<|startoftext|>{ONE} a red square<|im_end|>"
    assert learnt.endswith(" a red square<|im_end|>")
    assert not any(name in learnt for name in NAMES)
    pair = {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [{"role": "assistant", "content": "blue"}]}
    whole = {side: [*TURNS[:1], *pair[side]] for side in ("chosen", "rejected")}
    shown = [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Which?"}]}]
    for i, row in enumerate(
        [
            pair | {"images": ["a.png"]},
            whole | {"images": ["a.png"]},
            {side: [*shown, *pair[side]] for side in ("chosen", "rejected")},
            {"prompt": "Which?", "chosen": "red", "rejected": "blue", "image": "a.png"},
        ]
    ):
        dataset = load(write(row, name=f"{i}.jsonl"), "preference", roles=("chosen", "rejected"))
        for role in ("chosen", "rejected"):
            assert said(dataset, role)[0].count(ONE) == 1, (i, role)
        (example,) = dataset.store.read([0])
        assert len(example.pictures) == 1


def test_several_images_stand_where_their_marks_are(load, write, folder, sees):
    content = [{"type": "text", "text": "x "}, {"type": "image"}, {"type": "text", "text": " y "}, {"type": "image"}]
    row = {"messages": [{"role": "user", "content": content}, TURNS[1]], "images": ["b.png", "c.png"]}
    dataset = load(write(row))
    plans = [geometry(*SHAPES[name], SIZES) for name in ("b.png", "c.png")]
    assert [(p.rows, p.columns, p.tokens) for p in plans] == [(1, 1, 3), (2, 1, 10)]
    (example,) = dataset.store.read([0])
    marks = find_marks(sees.special_ids)
    ids, column = example.segments[0].tokens, example.segments[0].per_token[MEDIA]
    at = [int(np.flatnonzero(ids == marks.start)[k]) for k in (0, 1)]
    for start, plan in zip(at, plans, strict=True):
        np.testing.assert_array_equal(ids[start : start + len(marks.of(plan))], marks.of(plan))
    assert column[column >= 0].tolist() == list(range(13))
    assert example.media_lengths == (12, 16, 16, 8)
    batch = Loader(dataset, DATA, seed=0, rows_per_step=1).batch(0)
    flat = batch.media["image"].values.reshape(-1, 4, 48)
    found = flat[batch.per_token[MEDIA][batch.per_token[MEDIA] >= 0]].reshape(-1, 48)
    limits = ImageLimits(folder)
    pieces = [
        p for n, plan in zip("bc", plans, strict=True) for p in patches_of(pixels(f"{n}.png", limits), plan, SIZES)
    ]
    np.testing.assert_array_equal(found, np.concatenate([piece.values for piece in pieces]))


def ask(*images, text="Which?", **more):
    return {"messages": [{"role": "user", "content": text}, TURNS[1]], "images": list(images), **more}


BLUE, SHOWN = {"role": "assistant", "content": "blue"}, {"type": "image", "image": "a.png"}
PAIR = {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [BLUE]}


@pytest.mark.parametrize(("row", "match"), [
    (ask("a.png", "b.png", text="<image> Which?"), r"row 1, field 'images': the text has 1 place for images, and 2"),
    (ask("a.png", text="<image> or <image>?"), "the text has 2 places for images, and 1 are given"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}, TURNS[1]]}, "1 place for images, and 0 are given"),
    (ask("gone.png"), r"row 1, field 'images': image 0: .*gone.png: there is no such file"),
    (ask("../x.png"), "image 0: ../x.png: lies outside"),
    (ask("link.png"), "image 0: link.png: lies outside"),
    (ask("https://host/x.png"), "images are not fetched"),
    (ask("empty.png"), r"the image is empty \(0 bytes\)"),
    (ask("rows.jsonl"), "this is none of PNG, JPEG"),
    (ask("long.png"), "too long for its breadth"),
    (ask(""), "image 0 is empty"),
    (ask(3), "an image is a path, bytes"),
    (ask("a.png", image="b.png"), "both `images` and `image`"),
    (ask("a.png", videos=["v.mp4"]), "field 'videos'.*this model reads text"),
    ({"messages": [TURNS[0], {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}]}, "in an answer"),
    (PAIR | {"chosen": [{"role": "assistant", "content": [SHOWN, "red"]}]}, "'chosen': an image stands in an answer"),
    (PAIR | {"rejected": [{"role": "user", "content": [SHOWN]}]}, "field 'rejected': an image stands in an answer"),
    ({"chosen": TURNS, "rejected": [{"role": "user", "content": [SHOWN, "Which?"]}, BLUE]}, "show different images"),
    ({"instruction": "q", "input": "i <image>", "output": "a", "image": "a.png"}, "'input': <image> stands in input"),
    ({"text": "<|im_start|>user\nq<|im_end|>\n", "image": "a.png"}, "field 'text': the text is rendered with the chat"),
    ({"input_ids": [1, 2], "images": ["a.png"]}, "no text that it could stand in"),
    ({"query": "a", "positive": "b", "images": ["a.png"]}, "no text that it could stand in"),
    (ask("a.png", text="a \ufdd0"), "U\\+FDD0"),
])  # fmt: skip
def test_what_cannot_be_shown_is_told(load, write, folder, row, match):
    (folder / "empty.png").write_bytes(b"")
    (folder / "outside").mkdir()
    (folder.parent / f"{folder.name}.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "link.png").symlink_to(folder.parent / f"{folder.name}.png")
    Image.new("RGB", (1, 3000)).save(folder / "long.png")
    with pytest.raises(DataError, match=match):
        load(write(row))


def test_a_model_that_reads_text_refuses_images_and_a_tokenizer_without_marks_cannot_show_them(load, write, tokenizer):
    path = write(ask("a.png"))
    with pytest.raises(DataError, match=r"field 'images': 'images' holds what is no text: this model reads text"):
        load(path, data=dataclasses.replace(DATA, images=None))
    with pytest.raises(ConfigError, match="the tokenizer has no token <image> and 103 more"):
        load(path, tokenizer=tokenizer)
    text = load(write({"messages": TURNS}, name="t.jsonl"), tokenizer=tokenizer)
    assert text.media == {}, "rows of text ask nothing of it"


def test_what_a_user_writes_is_no_place(load, write):
    text, _ = said(load(write({"messages": [{"role": "user", "content": "what is <image>?"}, TURNS[1]]})))
    assert "what is <image>?" in text
    row = {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, "<image>?"]}, TURNS[1]]}
    dataset = load(write(row, name="b.jsonl"))
    (example,) = dataset.store.read([0])
    assert (example.segments[0].per_token[MEDIA] >= 0).sum() == 4
    assert "<image>?" in said(dataset)[0]


@pytest.mark.parametrize("truncation", ["response_right", "prompt_left", "error", "drop"])
def test_truncation_never_cuts_an_image(load, write, truncation):
    long = "word " * 40
    data = dataclasses.replace(DATA, max_length=48, truncation=truncation)
    early = {
        "messages": [*ask(text="Which?")["messages"][:1], {"role": "assistant", "content": long}],
        "image": "a.png",
    }
    late = ask(text=long + "<image>") | {"images": ["a.png"]}
    short = ask("a.png")
    if truncation == "error":
        with pytest.raises(DataError, match="max_length is 48"):
            load(write(short, early), data=data)
        return
    if truncation == "drop":
        dataset = load(write(short, early, late), data=data)
        assert (len(dataset), dataset.counts["dropped_longer_than_max_length"]) == (1, 2)
        return
    if truncation == "response_right":
        assert said(load(write(early), data=data))[0].count(ONE) == 1
    else:
        assert said(load(write(late), data=data))[0].count(ONE) == 1
        late = ask("a.png", text="<image>" + long)
    with pytest.raises(DataError, match="row 2, field 'images': an image would be cut"):
        load(write(short, late, name="late.jsonl"), data=data)


def test_documents_are_cut_behind_their_images(load, write):
    data = dataclasses.replace(DATA, max_length=24, row_length=24)
    dataset = load(write({"text": "a <image> " + "word " * 40, "images": ["a.png"]}), "language", data=data)
    examples = dataset.store.read(range(len(dataset)))
    assert [len(example.pictures) for example in examples] == [1, *[0] * (len(examples) - 1)]
    with pytest.raises(DataError, match="an image would be cut"):
        load(write({"text": "word " * 40 + "<image>", "images": ["a.png"]}, name="l.jsonl"), "language", data=data)


def test_documents_with_images_are_not_rearranged_and_mismatched_answers_cut_no_image(load, write):
    rows = [{"text": "one two three <image> four", "images": ["a.png"]}, {"text": "one two three four"}]
    dataset = load(write(*rows, name="t.jsonl"), "language", data=dataclasses.replace(DATA, fim=Fim(rate=1.0)))
    assert dataset.counts["fim_documents"] == 1
    assert ONE in said(dataset, "text")[0]
    seen = {"prompt": "Which?", "completion": "a", "label": True, "images": ["a.png"]}
    long = {"prompt": "?", "completion": "word " * 18, "label": False}
    data = dataclasses.replace(DATA, max_length=40, truncation="prompt_left")
    needs = {"roles": ("completion", "kl"), "columns": ("label",)}
    dataset = load(write(seen, long, name="k.jsonl"), "preference", data=data, **needs)
    examples = [example for example in dataset.store.read(range(2)) if example.pictures]
    assert [(segment.per_token[MEDIA] >= 0).sum() for segment in examples[0].segments] == [4, 4]


def test_phrases_are_marked_behind_the_frames_of_a_video(load, write):
    """RRPO: frames are images of one turn, and answers carry their marks, whatever stands before them."""
    pair = {"prompt": "Which?", "chosen": "it is red", "rejected": "it is blue"}
    pair |= {"chosen_spans": [[6, 9]], "rejected_spans": [[6, 10]]}
    needs = {"roles": ("chosen", "rejected"), "per_token": ("phrase",)}
    found = {}
    for name, row in (("text", pair), ("frames", pair | {"images": ["a.png", "b.png", "a.png"]})):
        (example,) = load(write(row, name=f"{name}.jsonl"), "preference", **needs).store.read([0])
        for role in ("chosen", "rejected"):
            segment = example.segments[example.roles[role]]
            found[name, role] = segment.tokens[segment.per_token["phrase"] == 1].tolist()
            learnt = segment.tokens[segment.supervised].tolist()
            assert found.setdefault(("learnt", role), learnt) == learnt
    for role in ("chosen", "rejected"):
        assert found["text", role] == found["frames", role] != []


def mixed():
    """Rows with images, several and none."""
    rows = [ask(*["abcd"[i % 4] + ".png"] * (i % 3), text=f"{'<image>' * (i % 3)}{i}?") for i in range(12)]
    return [row if row["images"] else {"messages": row["messages"]} for row in rows]


def test_batches_depend_on_the_position_alone_and_keep_both_capacities(load, write):
    dataset = load(write(*mixed()))
    make = lambda: Loader(dataset, DATA, seed=3, rows_per_step=4)  # noqa: E731
    first, again = fed(make(), 0, 4), fed(make(), 8, 2)
    for a, b in zip(first[2:], again, strict=True):
        np.testing.assert_array_equal(a.media["image"].values, b.media["image"].values)
        np.testing.assert_array_equal(a.per_token[MEDIA], b.per_token[MEDIA])
    caps = make().caps
    assert first[0].media["image"].values.shape == (4 // caps.block_rows * caps.media_rows, caps.media_length, 48)
    assert first[0].media["image"].values.dtype == np.uint8
    with pytest.raises(DataError, match=r"row \d+, field 'media': its media need \d rows of 16"):
        Loader(dataset, dataclasses.replace(DATA, media_rows=1, media_length=16), seed=0, rows_per_step=4)


def test_bad_images_stop_or_are_left_out_and_counted(load, write, folder):
    rows = mixed()
    rows[4]["images"] = ["gone.png"]
    path = write(*rows)
    with pytest.raises(DataError, match=r"rows.jsonl, row 5, field 'images': image 0"):
        load(path)
    skipping = dataclasses.replace(DATA, images=dataclasses.replace(IMAGES, on_bad_image="skip"))
    lines = []
    dataset = load(path, data=skipping, log=lines.append)
    assert f"1 of them for an image; to look for those again, delete {dataset.store.directory}" in "\n".join(lines)
    assert (len(dataset), dataset.counts["dropped_bad_images"]) == (11, 1)
    assert dataset.store.meta["bad_rows"][0]["row"] == 5
    # Broken behind its header, which alone was read.
    whole = (folder / "c.png").read_bytes()
    (folder / "c.png").write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    loader = Loader(dataset, skipping, seed=0, rows_per_step=4)
    ids = np.concatenate([batch.example_id for batch in loader.one_pass()])
    # Of c.png (i % 4 == 2) those with images, i = 2 and 10.
    rows_left = sorted(e.row - 1 for e in dataset.store.read(ids[ids >= 0].tolist()))
    assert rows_left == [i for i in range(12) if i not in (2, 4, 10)]
    assert loader.figures_of(0) == {"bad_images": 2}
    # One by its header and two by their pixels.
    few = load(path, data=dataclasses.replace(skipping, max_bad_rows=2))
    with pytest.raises(
        DataError, match=r"3 rows cannot be used, and data.max_bad_rows is 2. The last: .*, row (3|11),"
    ):
        list(Loader(few, skipping, seed=0, rows_per_step=4).one_pass())
    nothing = load(write(ask("c.png"), ask("c.png"), name="nothing.jsonl"), data=skipping)
    with pytest.raises(
        DataError, match=r"no example is left: all 2 have a broken image. The last: .*nothing.jsonl, row"
    ):
        list(Loader(nothing, skipping, seed=0, rows_per_step=4).one_pass())
    strict = load(write(*mixed()[:3], name="strict.jsonl"))
    with pytest.raises(DataError, match=r"strict.jsonl, row 3, field 'images': image 0: the image is broken"):
        list(Loader(strict, DATA, seed=0, rows_per_step=4).one_pass())
    Image.new("RGB", (16, 16)).save(folder / "c.png")
    with pytest.raises(DataError, match="another than when its row was tokenised"):
        list(Loader(strict, DATA, seed=0, rows_per_step=4).one_pass())
    # Of as many pixels and bytes, and another all the same.
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "e.bmp")
    bitmap, size = load(write(ask("e.bmp"), name="bitmap.jsonl")), (folder / "e.bmp").stat().st_size
    Image.fromarray(np.ones((8, 8, 3), np.uint8)).save(folder / "e.bmp")
    assert (folder / "e.bmp").stat().st_size == size
    with pytest.raises(DataError, match="another than when its row was tokenised"):
        list(Loader(bitmap, DATA, seed=0, rows_per_step=4).one_pass())


def test_an_image_of_more_tiles_than_marks_is_bad_and_a_column_may_be_an_array(load, write, folder):
    Image.new("RGB", (16 * 12, 16)).save(folder / "wide.png")
    many = dataclasses.replace(IMAGES, on_bad_image="skip", sizes=dataclasses.replace(SIZES, max_tiles=12))
    path = write(ask("wide.png"), ask("a.png"))
    dataset = load(path, data=dataclasses.replace(DATA, images=many))
    assert dataset.counts["dropped_bad_images"] == 1
    row = Row(path, 1, {"messages": TURNS, "images": np.array(["a.png", "b.png"])})
    assert list(read_record(row, "messages", pictures=True).pictures) == ["a.png", "b.png"]


def test_a_root_of_its_own_is_where_images_lie(load, write, folder):
    (folder / "pictures").mkdir()
    (folder / "a.png").rename(folder / "pictures" / "e.png")
    rooted = dataclasses.replace(DATA, images=dataclasses.replace(IMAGES, root=str(folder / "pictures")))
    path = write(ask("e.png"))
    assert len(load(path, data=rooted)) == 1
    with pytest.raises(DataError, match="lies outside"):
        load(write(ask("../b.png"), name="b.jsonl"), data=rooted)


def test_headers_are_read_and_no_more_of_a_file(load, write, folder, monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded while rows are tokenised")

    monkeypatch.setattr("jaxpo.data.tokens.pictures.pixels", refuse)
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "PNG")
    (folder / "head.png").write_bytes(out.getvalue()[:60])
    assert len(load(write(ask("a.png"), ask("head.png")))) == 2
