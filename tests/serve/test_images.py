"""Images over HTTP: in OpenAI's form, as data or as files under a root, and everything else refused."""

import base64
import dataclasses
import os

import openai
import pytest
from models.vision.seeing import config, png, tokenizer, viewer, weights
from serve.running import running

from jaxpo.sampling.engine import Engine
from jaxpo.sampling.viewing import conversation_of, question
from jaxpo.serve.errors import ApiError
from jaxpo.serve.messages import read_messages

ANSWER = {"model": "tiny", "max_tokens": 4, "temperature": 0, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images") / "root"
    root.mkdir()
    (root / "one.png").write_bytes(png(8, 8))
    (root.parent / "out.png").write_bytes(png(8, 8))
    os.symlink(root.parent / "out.png", root / "link.png")
    return root


@pytest.fixture(scope="module")
def server(folder):
    engine = Engine(weights(), config(), tokenizer=tokenizer(), slots=2, page=16, together=64, patches=16)
    eyes = dataclasses.replace(viewer(), root=folder, together=20_000)
    with running(engine, tokenizer(), context=engine.context, viewer=eyes) as found:
        yield found


def url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def asked(client, *urls, text="what is this?", **more):
    parts = [{"type": "image_url", "image_url": {"url": each}} for each in urls]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
    return client.chat.completions.create(messages=messages, **ANSWER | more)


def test_an_image_is_seen_as_data_and_as_a_file(server):
    found = [asked(server.client, each) for each in (url(png(8, 8)), "one.png", "file://one.png")]
    ids, _ = viewer().encode(conversation_of([question("what is this?", [png(8, 8)])]))
    assert {one.usage.prompt_tokens for one in found} == {len(ids)}
    assert len({one.choices[0].message.content for one in found}) == 1
    two = asked(server.client, url(png(8, 8)), url(png(12, 24)))
    assert two.usage.prompt_tokens > len(ids)
    pieces = asked(server.client, "one.png", stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == found[0].choices[0].message.content


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("https://example.org/a.png", "images are not fetched"),
        ("../out.png", "lies outside"),
        ("link.png", "lies outside"),
        ("/etc/passwd", "lies outside"),
        ("absent.png", "no such file"),
        ("data:image/png;base64,@@@", "no base64"),
        (url(b"no image"), "none of PNG"),
        (url(png(8, 8)[:80]), "is broken"),
        (url(png(1, 400)), "too long for its breadth"),
        (url(png(200, 200)), "pixels, more than 20,000"),
    ],
    ids=["remote", "outside", "link", "absolute", "absent", "no base64", "no image", "cut", "long", "together"],
)
def test_what_cannot_be_seen_is_a_bad_request(server, image, message):
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        asked(server.client, image)
    assert caught.value.param == "messages"


def test_a_clip_is_sent_as_images():
    part = {"type": "video", "video": ["one.png", "two.png"]}
    with pytest.raises(ApiError, match="has the type 'video'; an image's is 'image_url'"):
        read_messages([{"role": "user", "content": [part]}])


def test_too_many_images_are_too_long_before_any_is_decoded(server):
    with pytest.raises(openai.BadRequestError, match="the window has 192") as caught:
        asked(server.client, *[url(png(8, 8))] * 30)
    assert caught.value.code == "context_length_exceeded"


def test_without_a_root_files_are_not_read_and_text_models_see_nothing(server, served, monkeypatch):
    seen = server.desk.served
    closed = dataclasses.replace(seen.viewer, files=False)
    monkeypatch.setattr(server.desk, "served", dataclasses.replace(seen, viewer=closed))
    with pytest.raises(openai.BadRequestError, match="files are not read here"):
        asked(server.client, "one.png")
    asked(server.client, url(png(8, 8)))
    with pytest.raises(openai.BadRequestError, match="the model reads text alone"):
        asked(served.client, url(png(8, 8)))
