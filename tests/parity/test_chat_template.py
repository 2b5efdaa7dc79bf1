"""A checkpoint's own chat template: the same text, the same ids and the same mask as transformers gives."""

from __future__ import annotations

import json

import pytest
from fakes.chat_templates import DEFAULT_SYSTEM, NEWER, UNMARKED

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers", reason="transformers comes with the parity extra")

from jaxpo.data.chat.chat import encode_spans, text_of  # noqa: E402
from jaxpo.data.chat.template_choice import CONVERSATIONS, template_of  # noqa: E402
from jaxpo.data.tokenizer.lfm2_template import CHAT_TEMPLATE  # noqa: E402
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer  # noqa: E402
from jaxpo.errors import DataError  # noqa: E402

TEMPLATES = {"ours": CHAT_TEMPLATE, "newer": NEWER, "unmarked": UNMARKED, "default system": DEFAULT_SYSTEM}
# Marks inside a text become control tokens there, and stay text here.
CLEAN = [c for c in CONVERSATIONS if c[0] != "marks in a text"]


@pytest.fixture(scope="module", params=list(TEMPLATES))
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["I'll have 1234 apples,   please!\n\n", "Grüße aus Köln 東京"] * 3, 400).save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATES[request.param]}))
    (folder / "chat_template.jinja").unlink()
    return Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)


def openai(messages):
    """Messages as transformers' users write them."""
    return [
        m
        | ({"tool_calls": [{"type": "function", "function": c} for c in m["tool_calls"]]} if "tool_calls" in m else {})
        for m in messages
    ]


@pytest.mark.parametrize("generation", [False, True])
@pytest.mark.parametrize(("name", "messages", "tools"), CLEAN, ids=[c[0] for c in CLEAN])
def test_same_text_and_ids(pair, name, messages, tools, generation):
    ours, theirs = pair
    own = template_of(ours)
    left_out = getattr(own.render, "lacks", frozenset())
    if any(word in left_out and word in json.dumps(messages) for word in ("tool_calls", "reasoning_content")):
        pytest.skip("transformers leaves out what is written into the content here")
    dicts = [t if isinstance(t, dict) else json.loads(t) for t in tools or ()] or None
    given = {"tools": dicts, "add_generation_prompt": generation}
    if tools and "tools" in left_out:
        with pytest.raises(DataError, match="leaves out `tools`"):
            own.render(messages, **given)
        return
    spans = own.render(messages, train_on="none", **given)
    assert text_of(spans) == theirs.apply_chat_template(openai(messages), tokenize=False, **given)
    found = theirs.apply_chat_template(openai(messages), return_dict=True, **given)["input_ids"]
    assert encode_spans(ours, spans)[0].tolist() == found


@pytest.mark.parametrize("pair", ["newer"], indirect=True)
@pytest.mark.parametrize(("name", "messages", "tools"), CLEAN, ids=[c[0] for c in CLEAN])
def test_same_mask_by_generation_marks(pair, name, messages, tools):
    ours, theirs = pair
    dicts = [t if isinstance(t, dict) else json.loads(t) for t in tools or ()] or None
    found = theirs.apply_chat_template(
        openai(messages), tools=dicts, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    ids, mask = encode_spans(ours, template_of(ours).render(messages, tools=dicts))
    if ids.tolist() == found["input_ids"]:  # ours never join a prompt's line break with the answer's
        assert mask.tolist() == [bool(x) for x in found["assistant_masks"]]
    else:
        assert any(m["role"] == "assistant" and m["content"].startswith("\n") for m in messages)
