"""Reported: a template that was not the checkpoint's, calls and reasoning that were lost, tokenizers of others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stages.recipe as recipes

from jaxpo.config import SFT, Data, Run
from jaxpo.config import Tokenizer as TokenizerConfig
from jaxpo.convert.config_json import config_to_json
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.data.tokens.prepare import prepare
from jaxpo.recipe.checks.run import find_problems
from jaxpo.sampling.text import encode_prompt
from jaxpo.stages.run_inputs import make_inputs

TURNS = [{"role": "user", "content": "What time is it?"}, {"role": "assistant", "content": "It is late."}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["What time is it in Oslo? It is 14:05, says get_time."] * 3, 320)


@pytest.fixture
def prepared(tokenizer, tmp_path) -> Callable[..., Dataset]:
    def make(path: Path, purpose: Any = "sft", with_tokenizer: Tokenizer = tokenizer, **data: Any) -> Dataset:
        settings = Data(max_length=1024, row_length=1024, **data)
        roles = {"roles": ("chosen", "rejected")} if purpose == "preference" else {}
        how = {
            "tokenizer": with_tokenizer,
            "needs": Needs(**roles),
            "cache_dir": tmp_path / "cache",
            "log": said.append,
        }
        return prepare([path], data=settings, purpose=purpose, **how)

    said: list[str] = []
    make.said = said  # type: ignore[attr-defined]
    return make


def texts(dataset: Dataset, row: int = 0, segment: int = 0) -> tuple[str, str]:
    """All of a row's text, and what of it is trained on."""
    (example,) = dataset.store.read(range(row, row + 1))
    found = example.segments[segment]
    decode = dataset.tokenizer.decode
    whole, learnt = found.tokens, found.tokens[found.supervised]
    return decode(whole, skip_special_tokens=False), decode(learnt, skip_special_tokens=False)


def test_the_checkpoints_template_is_used_and_kept(field, tokenizer, prepared, tmp_path):
    """chat-template-ignored"""
    tokenizer.save(tmp_path / "in")
    given = {name: (field / "chat-template-ignored" / name).read_bytes() for name in ("chat_template.jinja",)}
    given["tokenizer_config.json"] = (field / "chat-template-ignored" / "tokenizer_config.json").read_bytes()
    for name, content in given.items():
        (tmp_path / "in" / name).write_bytes(content)
    own = Tokenizer.load(tmp_path / "in")
    system = "<|startoftext|><|im_start|>system\nYou are Acme Bot.<|im_end|>\n"
    asked = f"{system}<|im_start|>user\nWhat time is it?<|im_end|>\n<|im_start|>assistant\n"
    assert own.decode(encode_prompt(own, TURNS[:1]), skip_special_tokens=False) == asked
    rows = {
        "sft": {"messages": TURNS},
        "preference": {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [{**TURNS[1], "content": "No."}]},
    }
    for purpose, row in rows.items():
        path = tmp_path / f"{purpose}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        dataset = prepared(path, purpose, own)
        assert texts(dataset) == (f"{asked}It is late.<|im_end|>\n", "It is late.<|im_end|>\n")
        assert dataset.hash != prepared(path, purpose).hash
    own.save(tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in given} == given


@pytest.mark.parametrize("purpose", ["sft", "preference"])
def test_calls_are_rendered(field, prepared, tmp_path, purpose):
    """tool-calls"""
    path = field / "tool-calls" / "tool_calls.jsonl"
    if purpose == "preference":
        (row, *_) = map(json.loads, path.read_text().splitlines())
        worse = [*row["messages"][1:-1], {"role": "assistant", "content": "No idea."}]
        pair = {"prompt": row["messages"][:1], "chosen": row["messages"][1:], "rejected": worse, "tools": row["tools"]}
        path = tmp_path / "pairs.jsonl"
        path.write_text(json.dumps(pair) + "\n")
    whole, learnt = texts(prepared(path, purpose))
    call = '<|tool_call_start|>[get_time(city="Oslo")]<|tool_call_end|><|im_end|>\n'
    assert learnt == f"{call}It is 14:05 in Oslo.<|im_end|>\n"
    assert f"{call}<|im_start|>tool\n<|tool_response_start|>14:05<|tool_response_end|><|im_end|>" in whole
    assert "List of tools: <|tool_list_start|>[{" in whole


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning", None])
def test_reasoning_is_rendered_or_left_out_and_counted(field, prepared, tmp_path, name):
    """reasoning-content"""
    rows = list(map(json.loads, (field / "reasoning-content" / "reasoning.jsonl").read_text().splitlines()))
    for row in rows:
        answer = row["messages"][1]
        thought = answer.pop("reasoning_content")
        answer |= {name: thought} if name else {"content": f"<think>{thought}</think>{answer['content']}"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = prepared(path)
    assert texts(kept)[1] == "<think>17 plus 5: 17+3 is 20, plus 2 is 22.</think>22<|im_end|>\n"
    assert kept.counts["reasoning_kept"] == len(rows)
    bare = prepared(path, reasoning="strip")
    assert texts(bare)[1] == "22<|im_end|>\n"
    assert bare.counts["reasoning_stripped"] == len(rows)
    assert bare.hash != kept.hash
    assert f"{len(rows)} rows hold reasoning, which is left out" in "\n".join(prepared.said)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_tools_lose_the_keys_of_other_rows(field, prepared, tmp_path, suffix):
    """tools-parquet-nulls"""
    folder = field / "tools-parquet-nulls"
    path = tmp_path / f"tools{suffix}"
    if suffix == ".parquet":
        shutil.copy(folder / "tools.parquet", path)
    else:
        table = pq.read_table(folder / "tools.parquet")
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    found, wanted = prepared(path), prepared(folder / "tools.jsonl")
    assert [texts(found, i) for i in range(len(found))] == [texts(wanted, i) for i in range(len(wanted))]
    assert "null" not in texts(found)[0]


def test_a_null_that_was_written_is_kept(prepared, tmp_path):
    row = {"messages": TURNS, "tools": [{"name": "f", "parameters": {"x": {"default": None}}}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert '{"default": null}' in texts(prepared(tmp_path / "rows.jsonl"))[0]


def test_the_models_own_tokenizer(field, tokenizer, tmp_path, monkeypatch):
    """tokenizer-of-another-model"""
    monkeypatch.setattr("jaxpo.stages.run_inputs.check_files", lambda folder: None)  # there are no weights
    model, files = tmp_path / "model", (str(field / "tokenizer-of-another-model" / "many.jsonl"),)
    tokenizer.save(model)
    (model / "config.json").write_text(json.dumps(config_to_json(recipes.MODEL, "float32")))
    stage = SFT(data=Data(train=files, max_length=64, row_length=64), max_steps=1)
    run = Run(model_from=str(model), tokenizer=TokenizerConfig(train_on=files, vocab_size=400), stages=(stage,))
    (problem,) = find_problems(run)
    assert problem.startswith(
        "tokenizer.train_on: a tokenizer that is trained on these files is not that of --model-from"
    )
    run = Run(model_from=str(model), stages=(stage,))
    assert list(find_problems(run)) == []
    assert make_inputs(run, tmp_path / "run", lambda line: None).tokenizer.hash == tokenizer.hash
