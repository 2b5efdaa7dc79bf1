"""Reported rows: what each is read as, by inspection and by a stage."""

from __future__ import annotations

import pytest
import tokenizers

from jaxpo.config import Data
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.rows import detect, read_record
from jaxpo.data.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from jaxpo.data.tokens.inspect import inspect
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import DataError


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["user assistant system tool Name a red fruit. Strawberry. Good morning."] * 4, 300)


@pytest.fixture
def trained(tokenizer, tmp_path):
    """What of a file's first row is trained on, how many control tokens it has, and the lines of the log."""

    def read(path, purpose="sft", tokenizer=tokenizer, **data):
        lines: list[str] = []
        settings = Data(max_length=512, row_length=512, **data)
        dataset = prepare(
            [path], data=settings, tokenizer=tokenizer, purpose=purpose, cache_dir=tmp_path / "cache", log=lines.append
        )
        segment = dataset.store.read([0])[0].segments[0]
        ids = segment.tokens.tolist()
        assert ids.count(tokenizer.bos_id) == 1
        marks = [i for i in ids if i in {tokenizer.special_ids[name] for name in SPECIAL_TOKENS}]
        return tokenizer.decode(segment.tokens[segment.supervised], skip_special_tokens=False), len(marks), lines

    return read


@pytest.mark.parametrize(("name", "end"), [("rendered", "\n"), ("rendered_pc", "")])
def test_rendered_text(field, trained, name, end):
    path = field / "rendered-text" / f"{name}.jsonl"
    text, marks, lines = trained(path)
    assert (text, marks) == (f"Strawberry.<|im_end|>{end}", 5)
    assert any(line.startswith("3 rows are already rendered with the chat template") for line in lines)
    assert any("already rendered" in note for note in inspect(path).notes)


def test_system_column(field, trained):
    path = field / "system-column" / "sharegpt_system.jsonl"
    text, _, _ = trained(path)
    assert text == "You are a cab.<|im_end|>\n"
    (sample,) = inspect(path, samples=1).samples
    assert 'system\nYou are a pun machine.\nList of tools: <|tool_list_start|>[{"name": "cab"' in sample
    path = field / "system-column" / "sys_in_prompt_str.jsonl"
    _, _, lines = trained(path, "preference")
    assert any(line.startswith("2 rows are conversations because of `system`") for line in lines)
    assert (
        "system\nBe brief.<|im_end|>\n<|im_start|>user\nName a red fruit.<|im_end|>"
        in inspect(path, samples=1).samples[0]
    )


def test_unknown_roles(field):
    first, second = read_rows([field / "unknown-roles" / "sharegpt_roles.jsonl"])
    roles = [message["role"] for message in read_record(first, "messages").sides[0].completion]
    assert roles == ["user", "assistant", "tool", "assistant"]
    roles = [message["role"] for message in read_record(second, "messages").sides[0].completion]
    assert roles == ["user", "assistant"] * 2
    with pytest.raises(DataError, match="row 1, field 'completion': no token of this row is trained on"):
        inspect(field / "unknown-roles" / "only_user.jsonl")


def test_weight_zero(field, trained):
    assert trained(field / "weight-zero" / "weight.jsonl")[0] == "Sorry, it is Oslo.<|im_end|>\n"


def test_content_parts(field, trained):
    assert trained(field / "content-parts" / "parts.jsonl")[0] == "Strawberry.<|im_end|>\n"
    images = field / "content-parts" / "images.jsonl"
    assert any("1 rows show images" in note for note in inspect(images).notes)
    with pytest.raises(DataError, match=r"images.jsonl, row 1, field 'images': .*this model reads text"):
        trained(images)


def first_messages(path):
    row = next(read_rows([path]))
    return read_record(row, detect(row)).sides[0].completion


def test_reasoning_content_and_tool_calls_are_kept(field):
    thinking = first_messages(field / "reasoning-content" / "reasoning.jsonl")[1]
    assert (thinking["reasoning_content"], thinking["content"]) == ("17 plus 5: 17+3 is 20, plus 2 is 22.", "22")
    calling = first_messages(field / "tool-calls" / "tool_calls.jsonl")[1]
    assert calling["tool_calls"] == [{"name": "get_time", "arguments": {"city": "Oslo"}}]
    assert calling["content"] == ""


def test_added_special_token(field, trained, tokenizer, tmp_path):
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    inner.add_special_tokens([tokenizers.AddedToken("<|speaker_a|>", special=True, normalized=False)])
    inner.save(str(tmp_path / "tokenizer.json"))
    speaking = Tokenizer.load(tmp_path)
    path = field / "added-special-token" / "speaker.jsonl"
    *_, lines = trained(path, tokenizer=speaking)
    assert any(
        "special tokens of the tokenizer stand in texts as plain characters: <|speaker_a|> 3" in x for x in lines
    )
    text, _, lines = trained(path, tokenizer=speaking, special_tokens=("<|speaker_a|>",))
    assert text == "<|speaker_a|>Good morning.<|im_end|>\n"
    assert not any("warning" in line for line in lines)
