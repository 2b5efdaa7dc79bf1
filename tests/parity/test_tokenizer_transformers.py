"""A saved tokenizer folder in transformers: same ids, same template, same special tokens."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers", reason="transformers comes with the parity extra")

from jaxpo.data.chat.chat import encode_spans, render  # noqa: E402
from jaxpo.data.tokenizer.tokenizer import train_tokenizer  # noqa: E402

TEXTS = [
    "I'll have 1234 apples,   please!\n\n\tIndented 84721\r\n",
    "Grüße aus Köln: naïve café, 東京 and 🎉.",
    "def f(x):\n    return x + 1  # done\n",
    " leading and trailing ",
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4, of course."},
    {"role": "tool", "content": {"x": "é"}},
    {"role": "user", "content": "  Thanks!\n"},
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    ours = train_tokenizer(TEXTS * 3, 400)
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save(folder)
    return ours, transformers.AutoTokenizer.from_pretrained(folder)


def test_same_ids(pair):
    ours, theirs = pair
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
        assert theirs(text)["input_ids"] == [ours.bos_id, *ours.encode(text)], "BOS is put in front, once"
        assert theirs.decode(ours.encode(text)) == text


def test_same_special_tokens(pair):
    ours, theirs = pair
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.bos_id, ours.eos_id, ours.pad_id)
    assert len(theirs) == ours.vocab_size


@pytest.mark.parametrize("generation", [False, True])
@pytest.mark.parametrize("tools", [None, [{"name": "f", "parameters": {"x": "é"}}]])
def test_same_conversation(pair, generation, tools):
    ours, theirs = pair
    found = theirs.apply_chat_template(MESSAGES, tools=tools, add_generation_prompt=generation, return_dict=True)
    ids, _ = encode_spans(ours, render(MESSAGES, tools=tools, add_generation_prompt=generation))
    assert found["input_ids"] == ids.tolist()
