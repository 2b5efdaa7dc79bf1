"""`chat`, `generate` and their files of answers with images."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from models.vision.seeing import config, png, tokenizer, weights

from jaxpo.convert.model_io import save_model

Command = Callable[..., tuple[int, str, str]]
NEW = ("--max-new-tokens", "3", "--context", "192", "--slots", "1")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeing") / "model"
    save_model(folder, {"model": weights()}, config(), {"stage": "sft", "trained_on": "pictures"})
    tokenizer().save(folder / "tokenizer")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "one.png").write_bytes(png(8, 8))
    (tmp_path / "two.png").write_bytes(png(12, 24, seed=1))
    (tmp_path / "bad.png").write_bytes(png(8, 8)[:80])
    return tmp_path


def answers(out: str) -> list[list[int]]:
    return [json.loads(line)["tokens"] for line in out.splitlines()]


def test_generate_shows_images_from_the_command_line_and_from_rows(run: Command, seeing: Path, images: Path) -> None:
    one, two = images / "one.png", images / "two.png"
    code, out, err = run("generate", seeing, "what is this?", "the fox", "--image", one, "--image", two, "--json", *NEW)
    assert code == 0, err
    first = answers(out)
    url = "data:image/png;base64," + base64.b64encode(two.read_bytes()).decode()
    part = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is this?"}]
    rows = [
        {"prompt": "what is this?", "images": ["one.png", "two.png"]},
        {"prompt": [{"role": "user", "content": part}]},
        {"prompt": "the <image> fox"},
    ]
    file = images / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = run("generate", seeing, "--file", file, "--json", *NEW)
    assert code == 0, err
    assert answers(out)[0] == first[0]
    code, _, err = run("generate", seeing, "--file", file, "--out", images / "out.jsonl", "--logps", *NEW)
    assert code == 0, err
    written = [json.loads(line) for line in (images / "out.jsonl").read_text().splitlines()]
    assert [row["tokens"] for row in written] == answers(out)
    assert written[0]["images"] == ["one.png", "two.png"]
    (images / "bad.jsonl").write_text(json.dumps(rows[0]) + "\n" + json.dumps({**rows[0], "images": ["no.png"]}) + "\n")
    code, _, err = run("generate", seeing, "--file", images / "bad.jsonl", *NEW)
    assert (code, "bad.jsonl, row 2, field 'images': image 0: " in err) == (2, True)
    # Options that would change nothing.
    code, _, err = run("generate", seeing, "--file", file, "--image", one, *NEW)
    assert (code, "rows of --file name their own" in err) == (2, True)
    code, _, err = run("generate", seeing, "what?", "--image-root", images, *NEW)
    assert (code, "give --file, or leave it out" in err) == (2, True)
    # Sizes are part of what answers depend on.
    (images / "out.jsonl").unlink()
    again = ("generate", seeing, "--file", file, "--out", images / "out.jsonl", "--logps", *NEW, "--max-tiles", "1")
    code, _, err = run(*again)
    assert code == 2
    assert "images.max_tiles: was 4, is 1" in err


def test_a_bad_image_is_told_with_its_row_or_is_that_rows_error(run: Command, seeing: Path, images: Path) -> None:
    file, out = images / "rows.jsonl", images / "out.jsonl"
    rows = [{"prompt": "what?", "images": ["one.png"]}, {"prompt": "what?", "images": ["bad.png"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = run("generate", seeing, "--file", file, "--out", out, *NEW)
    assert code == 0, err
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert first["completion"] is not None
    assert second["completion"] is None
    assert "image 0: the image is broken" in second["error"]
    file.write_text(json.dumps({"prompt": "what?", "images": ["../one.png"]}) + "\n")
    (images.parent / "one.png").write_bytes(png())
    code, _, err = run("generate", seeing, "--file", file, "--out", images / "other.jsonl", *NEW)
    assert code == 2
    assert "row 1" in err
    assert "lies outside" in err
    judged = ("--best-of", "2", "--judge", "verifier", "--temperature", "1")
    file.write_text(json.dumps({"prompt": "what?", "answer": "a", "images": ["one.png"]}) + "\n")
    code, _, err = run(
        "generate", seeing, "--file", file, "--out", images / "best.jsonl", *judged, "--answer", "answer"
    )
    assert code == 2
    assert "judges read text alone" in err


def test_chat_shows_images(
    run: Command, seeing: Path, images: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    typed: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt: typed.pop(0))
    chat = ("chat", seeing, "--temperature", "0", "--min-p", "0", "--repetition-penalty", "1", *NEW)
    generate = ("generate", seeing, "what is this?", "--image", images / "one.png", *NEW)
    alone = run(*generate)[1]
    typed += ["what is this?", "/reset", f"/image {images / 'one.png'}", "what is this?", "/image nowhere.png", "/exit"]
    code, out, err = run(*chat, "--image", images / "one.png")
    assert code == 0, err
    assert "/image FILE shows an image" in out
    lines = out.split("with the next message.\n")[1]
    assert lines.startswith(alone * 2)
    assert "no such file" in lines.removeprefix(alone * 2)
    code, _, err = run(*chat, "--image", images / "bad.png")
    assert code == 2
    assert "image 0: the image is broken" in err
    # A model that reads text alone.
    for command in (("chat", model), ("generate", model, "what?")):
        code, _, err = run(*command, "--image", images / "one.png")
        assert code == 2
        assert "reads text alone" in err
    assert run("generate", model, "what?", "--max-tiles", "1")[0] == 2
