"""Questions about images: which are answered right, by kind, and what a report shows of them."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from contracts.families import EXAMPLES
from PIL import Image

from jaxpo.config import Data, Images, ImageSettings
from jaxpo.data.packing.loader import Loader
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.data.tokens.seeing import seeing, with_images
from jaxpo.errors import ConfigError
from jaxpo.evaluate import visual_questions
from jaxpo.evaluate.context import ProbeContext
from jaxpo.evaluate.report.read import RunData
from jaxpo.evaluate.report.shown import shown
from jaxpo.evaluate.visual_questions import SHOWN, VisualQuestions
from jaxpo.models.family import param_table, preset
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer

SIZES = ImageSettings(encoder_patch_size=2, tile_size=8, min_image_tokens=1, max_image_tokens=4)
TOKENIZER = with_images(train_tokenizer(["a b"], 270), SIZES)
EXAMPLE = EXAMPLES["jaxpo.models.lfm2_vl.config:LFM2VLConfig"]
CONFIG = dataclasses.replace(
    EXAMPLE, text=dataclasses.replace(EXAMPLE.text, vocab_size=TOKENIZER.vocab_size), image_token_id=270
)


@pytest.fixture
def context(tmp_path):
    params = init_params(param_table(CONFIG), jax.random.key(3))
    return ProbeContext(params, Scorer(CONFIG), TOKENIZER, "answers", tmp_path)


@pytest.fixture
def rows(tmp_path):
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    return tmp_path / "rows.jsonl"


def asked(answers, path):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{i}?"}],
            "completion": [{"role": "assistant", "content": answer}],
            "images": [f"{i % 3}.png"],
            "kind": "even" if i % 2 == 0 else "odd",
        }
        for i, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def by_hand(context, path):
    """Of every row the likeliest token at each place of its answer, and the answer: one row of one segment each."""
    data = seeing(Data(max_length=64, row_length=64, packing="none"), TOKENIZER, CONFIG)
    made = prepare([path], data=data, tokenizer=TOKENIZER, purpose="sft", cache_dir=path.parent / "alone", log=str)
    (batch,) = Loader(made, data, seed=0, rows_per_step=8).one_pass()
    hidden = context.scorer.hidden(context.params, batch)
    likeliest = np.argmax(hidden @ context.scorer.unembedding(context.params).T, -1)[:, :-1]
    answer = batch.masks["completion"][:, 1:]
    return {
        int(n): (likeliest[r][answer[r]], batch.tokens[r, 1:][answer[r]])
        for r, n in enumerate(batch.example_id)
        if n >= 0
    }


def test_answers_are_right_whose_every_token_is_the_likeliest(context, rows, monkeypatch):
    asked(["a", "b", "ab", "a", "b"], rows)
    wanted = by_hand(context, rows)
    data = seeing(Data(max_length=64, row_length=128), TOKENIZER, CONFIG)
    made = prepare([rows], data=data, tokenizer=TOKENIZER, purpose="sft", cache_dir=context.run_dir / "data", log=str)
    found = visual_questions._likeliest(context, Loader(made, data, seed=0, rows_per_step=8))
    assert found.keys() == wanted.keys()
    for number, (likeliest, _) in wanted.items():
        np.testing.assert_array_equal(found[number], likeliest)
    # What would be right of another model: the second and the last row, whole.
    said = {n: answer if n in (1, 4) else np.append(answer[:-1], 0) for n, (_, answer) in wanted.items()}
    monkeypatch.setattr(visual_questions, "_likeliest", lambda *_: said)
    measured = VisualQuestions((str(rows),), by="kind", rows=8, show=3).measure(context)
    assert (measured["exact_match"].value, measured["exact_match"].n) == (0.4, 5)
    assert (measured["exact_match_even"].value, measured["exact_match_odd"].value) == (1 / 3, 0.5)
    document = json.loads((context.run_dir / SHOWN / "answers-exact_match.json").read_text())
    assert [each["question"] for each in document[SHOWN]] == ["0?", "2?", "4?"]
    assert [each["right"] for each in document[SHOWN]] == [False, False, True]
    assert [each["answer"] for each in document[SHOWN]] == ["a", "ab", "b"]
    assert all(each["image"].startswith("data:image/png;base64,") for each in document[SHOWN])


def test_a_report_shows_pictures_with_what_was_said():
    image = "data:image/png;base64,AAAA"
    good = {"image": image, "question": "how <many>?", "answer": "2", "said": "2", "right": True}
    bad = {"image": 'javascript:"x', "question": "?", "answer": "3", "said": "<b>", "right": False}
    run = RunData(path=None, name="run", shown=[{"stage": "s", "name": "exact_match", SHOWN: [good, bad]}])
    (page,) = shown(run)
    assert f'<img alt="" src="{image}">' in page
    assert "how &lt;many&gt;?" in page
    assert "javascript" not in page
    assert "&lt;b&gt;" in page
    assert page.count("<small>") == 1


def test_settings_come_from_the_stage_the_tokenizer_or_the_model_and_must_fit_it():
    assert seeing(Data(), TOKENIZER, CONFIG).images.sizes == SIZES
    plain = train_tokenizer(["a b"], 270)
    assert seeing(Data(), plain, CONFIG).images.sizes.encoder_patch_size == 2
    assert seeing(Data(), plain, preset("nano")).images is None
    with pytest.raises(ConfigError, match="encoder_patch_size is 16, and the model's patches have 2"):
        seeing(Data(), with_images(plain, ImageSettings()), CONFIG)
    said = []
    fewer = dataclasses.replace(SIZES, max_image_tokens=2)
    assert seeing(Data(images=Images(sizes=fewer)), TOKENIZER, CONFIG, said.append).images.sizes == fewer
    seeing(Data(images=Images(sizes=SIZES)), TOKENIZER, CONFIG, said.append)
    assert len(said) == 1
    assert f"max_image_tokens 2 (files: {SIZES.max_image_tokens})" in said[0]
    other = dataclasses.replace(SIZES, image_mean=(0.4, 0.5, 0.5))
    with pytest.raises(ConfigError, match=r"image_mean of the tokenizer's image processor is \[0.4, .*model's.*\[0.5"):
        seeing(Data(), with_images(plain, other), CONFIG)
    with pytest.raises(ConfigError, match=r"data.images.sizes.image_mean is \[0.4, 0.5, 0.5\], and the model's"):
        seeing(Data(images=Images(sizes=other)), TOKENIZER, CONFIG)
    with pytest.raises(ConfigError, match="image_token_id of the model is 271, but <image> is 270"):
        seeing(Data(), TOKENIZER, dataclasses.replace(CONFIG, image_token_id=271))
    data = seeing(Data(), TOKENIZER, CONFIG)
    with pytest.raises(ConfigError, match="family 'lfm2' sees no images"):
        seeing(data, plain, preset("nano"))
