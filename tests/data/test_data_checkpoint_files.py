"""What lies beside a checkpoint's tokenizer.json is its own; what in that file would change texts is switched off."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fakes.chat_templates import DEFAULT_SYSTEM, NEWER

from jaxpo.data.chat.template_choice import announcements, template_of
from jaxpo.data.tokenizer.lfm2_template import CHAT_TEMPLATE, EARLIER
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import DataError

CONFIG = {
    "bos_token": {"content": "<|startoftext|>", "lstrip": False},
    "eos_token": "<|im_end|>",
    "model_max_length": 1000000000000000019884624838656,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "extra": ["é", None],
}
JSON = json.dumps(CONFIG, ensure_ascii=False, indent=4)


@pytest.fixture
def folder(tokenizer, tmp_path) -> Path:
    """A folder with a tokenizer.json alone."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tokenizer.json").write_text(tokenizer._inner.to_str())
    return tmp_path / "in"


def saved(folder: Path) -> dict[str, str]:
    """File name -> text after reading and writing a folder, tokenizer.json left out."""
    out = folder.parent / "out"
    Tokenizer.load(folder).save(out)
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "tokenizer.json")
    return {str(path.relative_to(out)): path.read_text(encoding="utf-8") for path in files}


def test_a_checkpoints_files_are_kept_to_the_byte(folder):
    given = {
        "tokenizer_config.json": JSON,
        "special_tokens_map.json": '{"bos_token":"<|startoftext|>"}',
        "chat_template.jinja": DEFAULT_SYSTEM + "\n\n",
        "additional_chat_templates/tool_use.jinja": NEWER,
        "added_tokens.json": "{}",
    }
    (folder / "additional_chat_templates").mkdir()
    for name, text in given.items():
        (folder / name).write_text(text, encoding="utf-8")
    assert saved(folder) == given
    loaded = Tokenizer.load(folder / "tokenizer.json")
    assert loaded.template == DEFAULT_SYSTEM + "\n\n", "a file's neighbours are its own as well"
    assert loaded.files.templates == {"default": loaded.template, "tool_use": NEWER}
    assert loaded.files.tokens == {"bos_token": "<|startoftext|>", "eos_token": "<|im_end|>"}


@pytest.mark.parametrize(
    "value", [DEFAULT_SYSTEM, [{"name": "default", "template": DEFAULT_SYSTEM}], {"default": DEFAULT_SYSTEM}]
)
def test_a_template_inside_tokenizer_config(folder, value):
    text = json.dumps(CONFIG | {"chat_template": value})
    (folder / "tokenizer_config.json").write_text(text)
    assert saved(folder) == {"tokenizer_config.json": text}
    assert Tokenizer.load(folder).template == DEFAULT_SYSTEM


def test_the_file_goes_before_the_entry(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": DEFAULT_SYSTEM}))
    (folder / "chat_template.jinja").write_text(NEWER)
    assert Tokenizer.load(folder).template == NEWER


def test_a_folder_without_a_template_gets_the_one_that_is_used(folder):
    assert set(saved(folder)) == {"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}
    (folder / "tokenizer_config.json").write_text(JSON)
    assert saved(folder)["tokenizer_config.json"] == JSON
    assert saved(folder)["chat_template.jinja"] == CHAT_TEMPLATE
    (line,) = announcements(Tokenizer.load(folder))
    assert line.endswith("in: holds no chat template; conversations are rendered with LFM2's")


def test_our_own_earlier_template_is_ours(tokenizer, tmp_path, monkeypatch):
    """What a run of an earlier version left: its rows keep their hashes, its export gets today's text."""
    tokenizer.save(tmp_path / "in")
    config = json.loads((tmp_path / "in" / "tokenizer_config.json").read_text())
    earlier = CHAT_TEMPLATE + "{# as it was #}"
    monkeypatch.setattr("jaxpo.data.tokenizer.checkpoint_files._OURS", {_sha(earlier), _sha(CHAT_TEMPLATE)})
    (tmp_path / "in" / "chat_template.jinja").write_text(earlier)
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": earlier}))
    loaded = Tokenizer.load(tmp_path / "in")
    assert (loaded.files.templates, announcements(loaded)) == ({}, ())
    assert template_of(loaded) == template_of(tokenizer)
    files = saved(tmp_path / "in")
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == files["chat_template.jinja"] == CHAT_TEMPLATE
    assert len(EARLIER[0]) == 64


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("tokenizer_config.json", "{broken", "not JSON"),
        ("tokenizer_config.json", "[1]", "holds a list, not an object"),
        ("special_tokens_map.json", "7", "holds a int, not an object"),
        ("tokenizer_config.json", "[" * 100_000, "not JSON"),
        ("tokenizer_config.json", '{"chat_template": 3}', "neither a text nor a list of named ones"),
        ("tokenizer_config.json", '{"chat_template": ["a"]}', "neither a text nor a list of named ones"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}', "neither a text nor a list"),
        ("tokenizer_config.json", '{"chat_template": {"tool_use": "x"}}', "none is called 'default'"),
        ("chat_template.jinja", "\udcff", "cannot be read"),
    ],
)
def test_files_that_are_not_what_their_names_say(folder, name, text, why):
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=why):
        Tokenizer.load(folder)


def edited(folder: Path, edit: Any) -> Path:
    state = json.loads((folder / "tokenizer.json").read_text())
    edit(state)
    (folder / "tokenizer.json").write_text(json.dumps(state))
    return folder


TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 16},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<|pad|>",
}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.update(truncation=TRUNCATION), "its `truncation` (to 4 tokens) is switched off"),
        (lambda s: s.update(padding=PADDING), "its `padding` is switched off"),
        (lambda s: s["model"].update(dropout=0.9), "its BPE `dropout` (0.9) is switched off"),
    ],
)
def test_what_would_change_texts_is_switched_off(folder, tokenizer, edit, said):
    loaded = Tokenizer.load(edited(folder, edit))
    line, without = announcements(loaded)
    assert said in line
    assert "holds no chat template" in without
    text = "The answer is somewhere in this longer text, " * 4
    assert loaded.encode(text) == tokenizer.encode(text)
    assert [ids.tolist() for ids in loaded.encode_batch([text, "a"])] == [tokenizer.encode(text), tokenizer.encode("a")]
    assert loaded.hash == tokenizer.hash
    loaded.save(folder.parent / "out")
    assert announcements(Tokenizer.load(folder.parent / "out")) == ()


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda s: s["model"]["vocab"].update(x=2**31), "the id of 'x' is 2147483648, beyond 4,194,304"),
        (lambda s: s["model"]["vocab"].update(x=-1), "the id of 'x' is -1"),
        (lambda s: s["model"]["vocab"].update(x="7"), "the id of 'x' is '7', not a whole number"),
        (lambda s: s["model"]["vocab"].update(x=1.5), "the id of 'x' is 1.5, not a whole number"),
        (lambda s: s["added_tokens"][0].update(id=10**12), "the id of '<|pad|>' is 1000000000000"),
        (lambda s: s["added_tokens"].append("x"), "`added_tokens` is no list of tokens"),
        (lambda s: s.update(added_tokens={"x": 1}), "`added_tokens` is no list of tokens"),
        (lambda s: s.update(model=None), "no `model.vocab`"),
        (lambda s: s["model"].update(vocab=[["a", 1]]), "no `model.vocab`"),
        (lambda s: s["model"].update(merges=7), "not a tokenizer.json"),
        (lambda s: s.update(truncation={"max_length": "many"}), "not a tokenizer.json"),
    ],
)
def test_absurd_tokenizers_are_refused_before_they_are_built(folder, edit, why):
    with pytest.raises(DataError, match=re.escape(why)):
        Tokenizer.load(edited(folder, edit))


@pytest.mark.parametrize("text", ["[]", "7", "null", "[" * 100_000, "\udcff"])
def test_no_tokenizer(folder, text):
    (folder / "tokenizer.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        Tokenizer.load(folder)
