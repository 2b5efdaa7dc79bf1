"""RRPO's clips made worse: masked and shuffled frames as its paper has them, and the pairs that come of them."""

from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pytest
from models.vision.seeing import config, tokenizer, weights
from PIL import Image

from jaxpo.cli.main import main
from jaxpo.construct.base import Tools
from jaxpo.construct.frames import perturbed
from jaxpo.construct.rrpo import RRPO
from jaxpo.convert.model_io import save_model
from jaxpo.data.rows.formats import Row
from jaxpo.errors import BadImage, ConfigError, DataError

FRAMES = 12


@pytest.fixture
def folder(tmp_path):
    for i in range(FRAMES):
        Image.new("RGB", (8, 4 + i), (i, 2 * i, 200)).save(tmp_path / f"{i}.png")
    return tmp_path


def clip(n=FRAMES):
    return [{"path": f"{i}.png", "frame": i, "of": n} for i in range(n)]


def seen(picture):
    """Which frame a picture is; None of a grey one, whose height is kept."""
    content = picture["path"] if "path" in picture else io.BytesIO(picture["bytes"])
    image = np.asarray(Image.open(content))
    if (image == 127).all():
        return None, image.shape
    return int(image[0, 0, 0]), image.shape


def worse(folder, n=FRAMES, *, seed=0, most=16, share=0.25, shuffle=False):
    given = clip(n)
    found = perturbed(given, np.random.default_rng(seed), most=most, share=share, shuffle=shuffle, root=folder)
    assert [(x["frame"], x["of"]) for x in found] == [(x["frame"], x["of"]) for x in given]
    return [seen(x) if "path" not in x or x["path"].startswith("/") else x["path"] for x in found]


@pytest.mark.parametrize(("share", "hidden"), [(0.25, 3), (0.5, 6), (0.01, 1), (1.0, 12), (0.0, 0)])
def test_a_share_of_the_frames_is_grey_and_the_others_stay(folder, share, hidden):
    found = worse(folder, share=share)
    assert sum(frame is None for frame, _ in found) == hidden
    for i, (frame, shape) in enumerate(found):
        assert frame in (i, None)
        assert shape == (4 + i, 8, 3)


def test_shuffled_frames_are_the_same_in_another_order(folder):
    orders = [[frame for frame, _ in worse(folder, seed=seed, share=0.0, shuffle=True)] for seed in range(6)]
    for order in orders:
        assert sorted(order) == list(range(FRAMES)) != order
    assert len({tuple(order) for order in orders}) > 4
    for seed in range(20):  # of two frames there is one other order
        assert [frame for frame, _ in worse(folder, 2, seed=seed, share=0.0, shuffle=True)] == [1, 0]
    assert worse(folder, 1, share=0.0, shuffle=True)[0][0] == 0
    both = [frame for frame, _ in worse(folder, share=0.5, shuffle=True)]
    assert both.count(None) == 6
    kept = [frame for frame in both if frame is not None]
    assert len(set(kept)) == 6


def test_only_frames_that_are_shown_are_touched(folder):
    """Of twelve four: frames 1, 4, 7 and 10."""
    found = worse(folder, most=4, share=1.0)
    assert [i for i, x in enumerate(found) if x == (None, (4 + i, 8, 3))] == [1, 4, 7, 10]
    assert found[0] == "0.png"


def test_clips_are_perturbed_one_by_one_and_images_as_one(folder):
    two = [*clip(4), *clip(4)]
    found = perturbed(two, np.random.default_rng(0), most=16, share=0.5, shuffle=False, root=folder)
    assert [sum("bytes" in x for x in half) for half in (found[:4], found[4:])] == [2, 2]
    plain = perturbed(["0.png", "1.png", "2.png", "3.png"], np.random.default_rng(0), most=2, share=0.5,
                      shuffle=False, root=folder)  # fmt: skip
    assert sum("bytes" in x for x in plain) == 2
    with pytest.raises(BadImage, match="lies outside"):
        perturbed(["../x.png"], np.random.default_rng(0), most=2, share=0.5, shuffle=False, root=folder)


class Writer(Tools):
    """Tools whose model gives one answer, and that remember what was asked."""

    def __init__(self, *answers, seed=0):
        super().__init__(seed=seed)
        self.answers, self.asked, self.sizes = answers, [], {}

    def generate(self, prompts, n, **options):
        self.asked += prompts
        self.sizes = {name: options[name] for name in ("frames", "image_tokens")}
        return [list(self.answers)] * len(prompts)


def rows(folder, *data):
    return [Row(folder / "rows.jsonl", i, d) for i, d in enumerate(data, start=1)]


def turn(role, content):
    return [{"role": role, "content": content}]


VIDEO = {"video": [f"{i}.png" for i in range(FRAMES)]}


def test_the_pair_has_the_clean_clip_and_the_answer_to_the_perturbed_one(folder):
    given = rows(
        folder,
        {"prompt": "First it is red. What happens?", "completion": "It turns red.", **VIDEO, "annotator": "a"},
        {"prompt": turn("user", "What?"), "completion": turn("assistant", "It turns red."), "images": ["1.png"] * 4},
        {"prompt": "Which?", "chosen": "it is red", "rejected": "it is blue", **VIDEO},
    )
    tools = Writer("It turns red.", "It turns blue.")
    new = list(RRPO(frames=8, image_tokens=4).run(given, tools))
    assert tools.sizes == {"frames": 8, "image_tokens": 4}
    clips = [prompt.pictures for prompt in tools.asked]
    assert [len(pictures) for pictures in clips] == [12, 4]  # the pair keeps its own answer
    assert "First it is red." in tools.asked[0].messages[0]["content"], "words stay as they are"
    assert 2 <= sum("bytes" in x for x in clips[0]) <= 4  # 25 to 50% of eight
    assert 1 <= sum("bytes" in x for x in clips[1]) <= 2
    assert new[0] == {
        **{k: v for k, v in given[0].data.items() if k != "completion"},
        "chosen": "It turns red.", "rejected": "It turns blue.", "chosen_spans": [[9, 12]], "rejected_spans": [[9, 13]],
    }  # fmt: skip
    assert new[1]["images"] == ["1.png"] * 4
    assert new[1]["rejected"] == turn("assistant", "It turns blue.")
    assert new[2]["video"] == VIDEO["video"]
    json.dumps(new)
    assert list(RRPO().run(given[:1], Writer("It turns red."))) == []


def test_seed_and_row_decide(folder):
    data = {"prompt": "What?", "completion": "red", **VIDEO}

    def hidden(seed):
        tools = Writer("blue", seed=seed)
        list(RRPO(shuffle=True).run(rows(folder, data, data), tools))
        return [tuple(seen(x)[0] for x in prompt.pictures) for prompt in tools.asked]

    assert hidden(0) == hidden(0)
    assert len(set(itertools.chain(hidden(0), hidden(1), hidden(2)))) == 6


def test_shares_are_those_of_the_paper(folder):
    """Drawn between a quarter and a half of the frames, both of which occur."""
    tools = Writer("blue")
    list(RRPO().run(rows(folder, *[{"prompt": "What?", "completion": "red", **VIDEO}] * 60), tools))
    counts = [sum("bytes" in x for x in prompt.pictures) for prompt in tools.asked]
    assert {min(counts), max(counts)} == {3, 6}


@pytest.mark.parametrize(("options", "said"), [
    ({"mask_low": 0.0, "mask_high": 0.0}, "above 0 unless --shuffle"),
    ({"mask_low": 0.6}, "0 <= low <= high <= 1"),
    ({"frames": 0}, "--frames is 0"),
    ({"image_tokens": 0}, "--image-tokens is 0"),
])  # fmt: skip
def test_bad_options(folder, options, said):
    with pytest.raises(ConfigError, match=said):
        list(RRPO(**options).run(rows(folder, {"prompt": "p", "chosen": "a", "rejected": "b"}), Tools()))
    assert RRPO(mask_low=0, mask_high=0, shuffle=True).problems() == []


@pytest.mark.parametrize(("data", "said"), [
    ({"prompt": "p", "completion": "c", "video": ["gone.png"]}, "row 1, field 'images': .*gone.png: there is no such"),
    ({"prompt": "p", "completion": "c", "video": "v.mp4"}, "list of its frames"),
    ({"prompt": "p", "completion": "c", "images": ["../0.png"]}, "lies outside"),
    ({"instruction": "i", "output": "o", "images": ["0.png"]}, "prompt of another form"),
])  # fmt: skip
def test_bad_rows(folder, data, said):
    with pytest.raises(DataError, match=said):
        list(RRPO().run(rows(folder, data), Writer("x")))


def test_a_model_that_sees_writes_them_and_one_that_reads_text_does_not(folder, capsys):
    """Through the command, with a model of random weights; twice the same."""
    model = folder / "model"
    save_model(model, {"model": weights()}, config(), {"stage": "test"})
    tokenizer().save(model / "tokenizer")
    data = [{"prompt": f"what {i}?", "completion": "a b", "video": VIDEO["video"][i:]} for i in range(3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    command = ["data", "construct", "rrpo", str(folder / "rows.jsonl")]
    how = ["--model", str(model), "--max-new-tokens", "4", "--frames", "4", "--image-tokens", "2"]
    assert main([*command, str(folder / "one.jsonl"), *how]) == 0
    assert main([*command, str(folder / "two.jsonl"), *how]) == 0
    assert (folder / "one.jsonl").read_bytes() == (folder / "two.jsonl").read_bytes()
    made = [json.loads(line) for line in (folder / "one.jsonl").read_text().splitlines()]
    assert [row["video"] for row in made] == [row["video"] for row in data]
    assert "rejected_answers_written 3" in capsys.readouterr().out
    text = folder / "text"
    save_model(text, {"model": {k: v for k, v in weights().items() if k not in ("vision", "connector")}},
               config().text, {"stage": "test"})  # fmt: skip
    tokenizer().save(text / "tokenizer")
    assert main([*command, str(folder / "three.jsonl"), "--model", str(text)]) == 2
    assert "the model reads text alone; give one that sees" in " ".join(capsys.readouterr().err.split())
