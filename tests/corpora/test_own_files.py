"""The quickstart's corpus from a user's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxpo.corpora.own_files import CONTINUE, OwnFiles, continuations
from jaxpo.data.cleaning.heldout import Seen, paragraphs
from jaxpo.errors import DataError

WORDS = ["amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "ledge"]


def sentence(i: int) -> str:
    return " ".join(f"{WORDS[(i * k + k * k) % 12]}{i * 7 + k}" for k in range(1, 9)) + "."


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def write(path: Path, records: list[dict]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def pairs(tmp_path) -> str:
    records = [
        {"prompt": f"Question {i}?", "chosen": sentence(2 * i), "rejected": sentence(2 * i + 1)} for i in range(60)
    ]
    return write(tmp_path / "pairs.jsonl", records)


def test_one_text_file_gives_documents_questions_and_pairs(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("\n\n".join(sentence(i) for i in range(400)))
    report = OwnFiles(text=str(text)).build(tmp_path / "out")
    train, held = rows(tmp_path / "out", "pretrain_train.jsonl"), rows(tmp_path / "out", "pretrain_heldout.jsonl")
    assert 25 <= len(train) <= 50
    assert held
    seen = Seen()
    seen.add(r["text"] for r in train)
    assert not any(seen.shares(p) for r in held for p in paragraphs(r["text"]))
    pair = rows(tmp_path / "out", "pref_train.jsonl")[0]
    question, true, other = (pair[k][0]["content"] for k in ("prompt", "chosen", "rejected"))
    assert f"{question.removeprefix(CONTINUE)}\n\n{true}" in train[0]["text"]
    assert other != true
    assert rows(tmp_path / "out", "sft_train.jsonl")[0]["completion"] == pair["chosen"]
    assert report["counts"]["pretrain_train"] == len(train)
    assert OwnFiles(text=str(text)).build(tmp_path / "out")["reused"] is True


def test_a_shared_paragraph_leaves_the_held_out_part(tmp_path):
    shared = "the same eight words stand in every one of them."
    text = write(
        tmp_path / "t.jsonl", [{"text": f"{sentence(i)}\n\n{sentence(i + 100)}\n\n{shared}"} for i in range(60)]
    )
    report = OwnFiles(text=text).build(tmp_path / "out")
    held = rows(tmp_path / "out", "pretrain_heldout.jsonl")
    assert report["counts"]["heldout_paragraphs_shared_with_training"] == len(held) > 0
    assert not any(shared in r["text"] for r in held)


def test_documents_of_one_paragraph_are_continued_from_their_middle():
    texts = [f"{sentence(i)} {sentence(i + 50)}" for i in range(4)]
    made = list(continuations(texts))
    assert len(made) == 4
    for text, pair in zip(texts, made, strict=True):
        assert f"{pair['prompt'][0]['content'].removeprefix(CONTINUE)} {pair['chosen'][0]['content']}" == text


def test_pairs_alone_are_also_the_text(tmp_path, pairs):
    OwnFiles(pairs=pairs).build(tmp_path / "out")
    first = rows(tmp_path / "out", "pref_train.jsonl")[0]
    assert first["prompt"][0]["role"] == "user"
    assert first["chosen"][0]["role"] == "assistant"
    everything = "".join(r["text"] for r in rows(tmp_path / "out", "pretrain_train.jsonl"))
    assert first["prompt"][0]["content"] in everything
    assert first["chosen"][0]["content"] in everything
    assert first["rejected"][0]["content"] not in everything
    asked = [
        {r["prompt"][0]["content"] for r in rows(tmp_path / "out", f"pref_{p}.jsonl")} for p in ("train", "heldout")
    ]
    assert asked[1]
    assert asked[0].isdisjoint(asked[1])
    for row in rows(tmp_path / "out", "pref_heldout_sibling.jsonl"):
        assert row["chosen"] != row["rejected"]


def test_text_and_pairs_together(tmp_path, pairs):
    text = write(tmp_path / "t.jsonl", [{"text": sentence(i)} for i in range(200, 260)])
    OwnFiles(text=text, pairs=pairs).build(tmp_path / "out")
    everything = "".join(r["text"] for r in rows(tmp_path / "out", "pretrain_train.jsonl"))
    assert "Question" not in everything
    assert "Question" in rows(tmp_path / "out", "sft_train.jsonl")[0]["prompt"][0]["content"]


def test_files_that_cannot_be_used(tmp_path, pairs):
    with pytest.raises(DataError, match="neither text nor pairs"):
        OwnFiles().build(tmp_path / "out")
    with pytest.raises(DataError, match=r"nowhere\.txt: no such file"):
        OwnFiles(text=str(tmp_path / "nowhere.txt")).build(tmp_path / "out")
    with pytest.raises(DataError, match=r"pairs\.jsonl, row 1, field 'text'.*text column"):
        OwnFiles(text=pairs).build(tmp_path / "out")
    lacking = write(tmp_path / "l.jsonl", [{"prompt": "q", "chosen": "a"}])
    with pytest.raises(DataError, match=r"l\.jsonl, row 1, field 'rejected'.*prompt, chosen and rejected"):
        OwnFiles(pairs=lacking).build(tmp_path / "out")
    same = write(tmp_path / "s.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "a"}])
    with pytest.raises(DataError, match=r"s\.jsonl, row 1, field 'rejected': chosen and rejected are the same"):
        OwnFiles(pairs=same).build(tmp_path / "out")
    little = write(tmp_path / "one.jsonl", [{"text": "One short paragraph only."}])
    with pytest.raises(DataError, match=r"would be empty: there is too little data"):
        OwnFiles(text=little).build(tmp_path / "out")
