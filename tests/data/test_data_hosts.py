"""Real processes tokenise one data set together: each its shards, and what one of them meets ends them all."""

import json

import pytest
from stages.process import finish_all, places, start_program

from jaxpo.config import Data
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens import shards
from jaxpo.data.tokens.prepare import prepare

WORK = """
import sys
from pathlib import Path
from jaxpo.sharding.multihost import start_processes
start_processes()
from jaxpo.config import Data
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens import shards
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import JaxpoError
from jaxpo.sharding.turns import Processes
shards.LEAST = 1
folder, cache, team = Path(sys.argv[1]), sys.argv[2], Processes()
try:
    data = Data(max_length=16, row_length=16)
    loaded = Tokenizer.load(folder)
    found = prepare([folder / "texts"], data=data, tokenizer=loaded, purpose="language", cache_dir=cache, team=team)
    print("HASH", found.hash, len(found), found.tokens, flush=True)
except JaxpoError as error:
    print("ERROR", type(error).__name__, error, flush=True)
team.every(lambda: None)
"""


@pytest.fixture
def folder(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    (tmp_path / "texts").mkdir()
    for i in range(4):
        rows = "".join(json.dumps({"text": f"document {j} of {i}"}) + "\n" for j in range(9))
        (tmp_path / "texts" / f"{i}.jsonl").write_text(rows)
    return tmp_path


def outputs(folder, cache, environments):
    words = ("-c", WORK, folder, folder / cache)
    return finish_all([start_program(*words, environ=place) for place in environments])[1]


def said(output, word):
    return [line for line in output.splitlines() if line.startswith(word)]


@pytest.mark.scale
def test_two_processes_share_the_shards(folder, monkeypatch):
    monkeypatch.setattr(shards, "LEAST", 1)
    loaded, data = Tokenizer.load(folder), Data(max_length=16, row_length=16)
    one = prepare([folder / "texts"], data=data, tokenizer=loaded, purpose="language", cache_dir=folder / "one")
    two = outputs(folder, "two", places(2))
    assert [said(output, "HASH") for output in two] == [[f"HASH {one.hash} {len(one)} {one.tokens}"]] * 2, two
    told = [sorted(line.split()[2] for line in said(output, "tokenising shard")) for output in two]
    assert told == [["1", "3"], ["2", "4"]]


@pytest.mark.scale
@pytest.mark.slow  # tests/hosts/test_turns.py has the words without processes
def test_what_one_cannot_tokenise_ends_both(folder):
    with (folder / "texts/1.jsonl").open("a") as file:
        file.write("{\n")
    first, second = outputs(folder, "bad", places(2))
    (error,) = said(second, "ERROR DataError")
    assert "1.jsonl, row 10: line 10 is not valid JSON" in error
    (told,) = said(first, "ERROR RunError process 1 stopped: DataError")
    assert "1.jsonl, row 10" in told
