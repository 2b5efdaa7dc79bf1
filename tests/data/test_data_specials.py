"""Tokens that the tokenizer marks special beside the template's: ids in answers where they are named, else counted."""

from __future__ import annotations

import pytest
import tokenizers

from jaxpo.config import Data
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.inspect import inspect
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import ConfigError

ADDED = ("<|speaker_a|>", "<|speaker|>", "[SPK]")
LINE = "<|speaker_a|>Good [SPK]morning."
U = {"role": "user", "content": "<|speaker_a|> speaks."}
A, B = {"role": "assistant", "content": LINE}, {"role": "assistant", "content": "Evening."}
PAIR = ("chosen", "rejected")
ROWS = {
    "text": ({"text": LINE}, "language", ()),
    "messages": ({"messages": [U, A]}, "sft", ()),
    "prompt_completion": ({"prompt": "<|speaker_a|>: ", "completion": LINE}, "sft", ()),
    "preference": ({"prompt": "<|speaker_a|>: ", "chosen": LINE, "rejected": "b"}, "preference", PAIR),
    "chat": ({"prompt": [U], "chosen": [A], "rejected": [B]}, "preference", PAIR),
    "list": ({"prompt": [U], "responses": [LINE, "b"], "scores": [1, 0]}, "preference", ("candidate",)),
    "rendered": (
        {"text": f"<|im_start|>user\n<|speaker_a|>?<|im_end|>\n<|im_start|>assistant\n{LINE}<|im_end|>\n"}, "sft", ()
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def speaking(tokenizer, tmp_path_factory):
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    inner.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in ADDED])
    path = tmp_path_factory.mktemp("speaking") / "tokenizer.json"
    inner.save(str(path))
    return Tokenizer.load(path)


@pytest.fixture
def tokenised(speaking, write, tmp_path):
    def make(row, purpose, roles=(), **data):
        lines: list[str] = []
        settings = Data(max_length=128, row_length=128, **data)
        needs = Needs(roles=roles)
        dataset = prepare(
            [write(row)], data=settings, tokenizer=speaking, purpose=purpose, needs=needs, cache_dir=tmp_path / "c",
            log=lines.append,
        )  # fmt: skip
        segment = dataset.store.read([0])[0].segments[0]
        added = [speaking.special_ids[name] for name in ADDED]
        return dataset, lines, [(i in added, bool(m)) for i, m in zip(segment.tokens, segment.supervised, strict=True)]

    return make


@pytest.mark.parametrize("kind", ROWS)
def test_they_are_counted_and_shown_where_nothing_names_them(tokenised, kind):
    dataset, lines, tokens = tokenised(*ROWS[kind])
    assert not any(special for special, _ in tokens)
    assert dataset.counts["rows_with_<|speaker_a|>_as_text"] == dataset.counts["rows_with_[SPK]_as_text"] == 1
    assert "rows_with_<|speaker|>_as_text" not in dataset.counts
    warning = (
        "warning: special tokens of the tokenizer stand in texts as plain characters: <|speaker_a|> 1, [SPK] 1 rows"
    )
    assert any(line.startswith(warning) for line in lines)
    assert any(note.startswith(warning) for note in inspect(dataset.files[0], tokenizer=dataset.tokenizer).notes)


@pytest.mark.parametrize("kind", ROWS)
def test_they_are_ids_in_answers_where_they_are_named(tokenised, kind):
    for asked, ids in ((("<|speaker_a|>",), 1), (("all",), 2)):
        dataset, _, tokens = tokenised(*ROWS[kind], special_tokens=asked)
        assert [trained for special, trained in tokens if special] == [True] * ids
        given = kind != "text"  # what a user says stays text, and is counted
        assert dataset.counts.get("rows_with_<|speaker_a|>_as_text", 0) == given


def test_decoded_the_text_is_the_same(tokenised):
    texts = set()
    for asked in ((), ("all",)):
        dataset, _, _ = tokenised(*ROWS["messages"], special_tokens=asked)
        texts.add(dataset.tokenizer.decode(dataset.store.read([0])[0].segments[0].tokens, skip_special_tokens=False))
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ("<|speaker_b|>", r"data.special_tokens: the tokenizer has no special token '<\|speaker_b\|>'\. Did you mean"),
        ("<|im_end|>", r"data.special_tokens: the template places <\|im_end\|>"),
    ],
)
def test_names_that_cannot_be_are_refused_before_anything_is_read(tokenised, asked, match):
    with pytest.raises(ConfigError, match=match):
        tokenised(*ROWS["messages"], special_tokens=(asked,))
