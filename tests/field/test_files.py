"""Files that users brought: folders, encodings, cut characters, very long rows; and further ones of each kind."""

from __future__ import annotations

import bz2
import decimal
import gzip
import io
import json
import lzma
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxpo.cli import chat
from jaxpo.cli.main import main
from jaxpo.config import Data
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import DataError


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The quick brown fox jumps over the lazy dog."], 300)


@pytest.fixture
def prepared(tokenizer, tmp_path):
    """What a run does with a file or folder first; returns the data set and what was said."""

    def make(path, part="train", purpose="sft"):
        said = []
        settings = {"data": Data(max_length=64, row_length=64), "tokenizer": tokenizer, "cache_dir": tmp_path / "cache"}
        found = prepare([path], purpose=purpose, part=part, log=said.append, **settings)
        return found, "\n".join(said)

    return make


@pytest.fixture
def said(capsys):
    """What a command answers: `said("data", "inspect", file)` -> (exit code, its output, its error)."""

    def run(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


def texts(dataset, tokenizer):
    examples = dataset.store.read(range(len(dataset)))
    return [tokenizer.decode(example.segments[0].tokens) for example in examples]


def test_a_test_file_in_the_folder_is_not_trained_on(field, prepared, tokenizer, said):
    folder = field / "folder-skips-and-mixes" / "ds"
    train, lines = prepared(folder)
    assert (len(train), "SECRET" in "".join(texts(train, tokenizer))) == (4, False)
    assert "the train split is read (train.jsonl); left out: test.jsonl" in lines
    assert "1 file(s) are skipped: README.md" in lines
    held_out, lines = prepared(folder, "eval")
    assert texts(held_out, tokenizer) == ["E0 SECRET TEST", "E1 SECRET TEST"]
    code, out, _ = said("data", "inspect", folder)
    assert code == 0
    assert "left out: test.jsonl" in out
    assert "SECRET" not in out


def test_every_part_of_a_folder_is_read(field, tmp_path, prepared, said):
    source = field / "folder-skips-and-mixes" / "ds2"
    code, _, error = said("data", "inspect", source)
    # Its fourth part is the first four bytes of a compressed file.
    assert code == 2
    assert "part-3.jsonl.zst: cannot be read: Truncated compressed stream." in error
    whole = tmp_path / "whole"
    shutil.copytree(source, whole)
    whole.chmod(0o755)
    (whole / "part-3.jsonl.zst").unlink()
    line = b'{"prompt": "T12 ", "completion": "e"}\n'
    packed = {"zst": pa.compress(line, "zstd", asbytes=True), "bz2": bz2.compress(line), "xz": lzma.compress(line)}
    for i, (name, content) in enumerate(packed.items(), start=5):
        (whole / f"part-{i}.jsonl.{name}").write_bytes(content)
    (whole / "part-8.csv.gz").write_bytes(gzip.compress(b"prompt,completion\nT13 ,f\n"))
    dataset, lines = prepared(whole)
    assert len(dataset) == 4 + 1 + 1 + 1 + 3 + 1
    assert lines.startswith("tokenising 8 file(s)")


def test_half_of_a_character_is_named(field, prepared, said, tokenizer, tmp_path):
    file = field / "lone-surrogate" / "surrogate.jsonl"
    match = r"surrogate.jsonl, row 1, field 'messages': messages\[0\].content: half a surrogate pair, '\\ud83d'"
    with pytest.raises(DataError, match=match):
        prepared(file)
    tokenizer.save(tmp_path / "tokenizer")
    for words in (
        ["inspect", file],
        ["tokenise", file, "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "o"],
    ):
        code, _, error = said("data", *words)
        assert code == 2
        assert "row 1, field 'messages'" in error
    for task in ("dedup", "decontaminate"):
        more = ["--against", file] if task == "decontaminate" else []
        code, _, error = said("data", task, file, tmp_path / f"{task}.jsonl", *more)
        assert (code, "row 1, field 'messages'" in error) == (2, True)
        assert not (tmp_path / f"{task}.jsonl").exists()


@pytest.mark.parametrize("column", ["text", "prompt", "completion", "chosen", "responses"])
def test_half_of_a_character_in_any_column(tmp_path, column):
    value = ["fine", "cut \ud83d"] if column == "responses" else "cut \ud83d"
    (tmp_path / "a.json").write_text(json.dumps([{"other": "fine \U0001f600"}, {column: value}]))
    with pytest.raises(DataError, match=rf"a.json, row 2, field '{column}': .*half a surrogate pair"):
        list(read_rows([tmp_path / "a.json"]))


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_bytes_that_are_no_text_in_a_chat(monkeypatch, errors):
    """`printf 'hi\\xff\\n' | jaxpo chat RUN`, in a terminal of UTF-8 and of the C locale."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hi\xff\n"), "utf-8", errors))
    with pytest.raises(DataError, match=r"the input: not UTF-8\. Convert it"):
        chat.read_line()


def test_bytes_that_are_no_text_as_a_prompt(said, tmp_path):
    code, _, error = said("generate", tmp_path, "hi\udcff")
    assert (code, "the prompt: not UTF-8" in error) == (2, True)
    (tmp_path / "prompts.txt").write_bytes(b"fine\nna\xefve\n")
    code, _, error = said("generate", tmp_path, "--file", tmp_path / "prompts.txt")
    assert (code, "prompts.txt: line 2: not UTF-8: byte 0xef" in error) == (2, True)


def test_files_of_other_systems(field, prepared, said, tokenizer):
    folder = field / "small-errors"
    assert [row.data["text"] for row in read_rows([folder / "bom.txt"])] == ["Hello world.\nLine two.\n"]
    assert texts(prepared(folder / "utf16.jsonl")[0], tokenizer) == ["Hi Hej å.", "Bye Hade."]
    code, _, error = said("data", "inspect", folder / "cp1252.jsonl")
    assert code == 2
    assert "cp1252.jsonl, row 1, field 'completion': not UTF-8: byte 0xe5 (in Windows-1252 it would be 'å')" in error
    assert "iconv -f WINDOWS-1252 -t UTF-8" in error


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("Yes.", "Yes. And more."), ("Yes, it is.", "Yes"), ("Yesterday", "Yes")]
)
def test_an_answer_that_is_the_start_of_the_other(tmp_path, said, chosen, rejected):
    (tmp_path / "prefix.jsonl").write_text(json.dumps({"chosen": chosen, "rejected": rejected}))
    code, _, error = said("data", "inspect", tmp_path / "prefix.jsonl")
    assert code == 2
    shorter, longer = ("chosen", "rejected") if len(chosen) < len(rejected) else ("rejected", "chosen")
    assert f"row 1, field 'prompt': there is no `prompt`, and all of {shorter} is the start of {longer}" in error


def test_decimals_are_numbers(tmp_path, prepared):
    rows = {"prompt": ["p"], "chosen": ["a"], "rejected": ["b"], "margin": [decimal.Decimal("1.50")]}
    pq.write_table(pa.table(rows), tmp_path / "decimal.parquet")
    dataset, _ = prepared(tmp_path / "decimal.parquet", purpose="preference")
    (example,) = dataset.store.read([0])
    assert example.columns == {"margin": 1.5}


MEASURE = """
import resource, sys, time
from jaxpo.config import Data
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.tokenizer.long_text import pieces_of
from jaxpo.data.tokens.prepare import prepare
from jaxpo.data.tokenizer.tokenizer import Tokenizer

file, tokenizer, out = sys.argv[1:]
tokenizer = Tokenizer.load(tokenizer)
tokenizer.encode_batch(["warm"])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
start = peak()
settings = Data(max_length=1024, row_length=1024)
prepare([file], data=settings, tokenizer=tokenizer, purpose="language", cache_dir=out, log=lambda line: None)
grown = peak() - start
text = next(read_rows([file])).data["text"]
text = text[: len(text) // 4]
start = time.process_time()
ids = tokenizer.encode_batch([text])[0]
ours, start = time.process_time() - start, time.process_time()
pieces = list(pieces_of(text, tokenizer._places))
encoded = tokenizer._inner.encode_batch_fast(pieces, add_special_tokens=False)
print(grown, ours, time.process_time() - start, len(ids) == sum(len(e) for e in encoded))
"""


@pytest.mark.slow  # 40 MB are tokenised three times, in a process of their own whose memory is measured
def test_one_very_long_row(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    file = tmp_path / "huge.jsonl"
    file.write_text(json.dumps({"text": "The quick brown fox jumps over the lazy dog. " * 900_000}))
    words = [sys.executable, "-c", MEASURE, str(file), str(tmp_path / "tokenizer"), str(tmp_path / "out")]
    grown, ours, theirs, equal = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    assert equal == "True"
    assert int(grown) < 10 * file.stat().st_size
    assert float(ours) < 1.5 * float(theirs)
