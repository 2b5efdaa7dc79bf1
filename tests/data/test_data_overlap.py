"""Duplicates and contamination against brute force in plain Python, on real data; every count and refusal."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.cli.main import main
from jaxpo.data.cleaning.overlap import ngrams, words
from jaxpo.data.rows.formats import read_rows


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def dump(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    found = re.findall(r"\w+", text.lower())
    n = min(n, len(found))
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


@pytest.fixture(scope="session")
def responses(shared_data: Path) -> list[str]:
    """Answers of many models to the same 150 questions, ASCII (where \\w+ and NFKC agree), several of them repeated."""
    rows = itertools.islice(read_rows([shared_data / "alpaca_eval_ranked.jsonl.gz"]), 150)
    texts = [text for row in rows for text in row.data["responses"] if text.isascii()]
    random.Random(0).shuffle(texts)
    return texts[:900]


def test_words_and_their_hashes():
    assert words("It's  the ＣＡＦÉ_1, café!") == ["it", "s", "the", "café_1", "café"]
    assert words("東京は big") == ["東", "京", "は", "big"]
    assert words("...") == []
    with np.errstate(over="raise"):
        a, b = ngrams(words("one two three four"), 3), ngrams(words("zero one two three"), 3)
    assert a[0] == b[1]
    assert len({*a.tolist(), *b.tolist()}) == 3
    # The same on every machine and in every version: report files are compared.
    assert ngrams(["one", "two"], 2).tolist() == [ngrams(["zero", "one", "two"], 2).tolist()[1]]
    assert ngrams(["one"], 2).size == 0
    assert ngrams(["one", "two"], 2)[0] != ngrams(["two", "one"], 2)[0]


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=60))
def test_equal_runs_have_equal_hashes_and_others_do_not(texts):
    hashes = ngrams(texts, 2).tolist()
    runs = list(itertools.pairwise(texts))
    assert len(set(zip(hashes, runs, strict=True))) == len(set(runs)) == len(set(hashes))


def test_exact_duplicates_are_those_of_a_set(responses, tmp_path, capsys):
    spaced = [
        text.replace(" ", "  ") + "\n" if i % 7 == 0 else text for i, text in enumerate(responses + responses[:50])
    ]
    source = dump(tmp_path / "in.jsonl", [{"text": text, "n": i} for i, text in enumerate(spaced)])
    assert main(["data", "dedup", str(source), str(tmp_path / "out.jsonl"), "--exact"]) == 0
    first: dict[str, int] = {}
    for i, text in enumerate(spaced):
        first.setdefault(" ".join(text.split()), i)
    kept = lines(tmp_path / "out.jsonl")
    assert [row["n"] for row in kept] == sorted(first.values())
    assert len(spaced) - len(kept) > 50  # the real data repeats answers of its own accord
    removed = lines(tmp_path / "out.removed.jsonl")
    for record in removed:
        assert record["duplicate_of"]["row"] == first[" ".join(spaced[record["row"] - 1].split())] + 1
        assert (record["kind"], record["similarity"]) == ("exact", 1.0)
    counts = f"read {len(spaced)}, kept {len(kept)}, removed {len(removed)}, exact {len(removed)}"
    assert counts in capsys.readouterr().out


def test_near_duplicates_are_those_of_all_pairs(responses, tmp_path):
    rng = random.Random(1)
    texts = responses[:200]
    for text in texts[:100]:  # one word in fifty changed: similarities on both sides of the threshold
        changed = [("changed" if rng.random() < 0.02 else word) for word in text.split(" ")]
        texts.append(" ".join(changed))
    source = dump(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    arguments = [str(source), str(tmp_path / "out.jsonl"), "--threshold", "0.7"]
    assert main(["data", "dedup", *arguments]) == 0
    removed = lines(tmp_path / "out.removed.jsonl")
    sets = [grams(text, 5) for text in texts]

    def similarity(i: int, j: int) -> float:
        return len(sets[i] & sets[j]) / max(len(sets[i] | sets[j]), 1)

    gone = {record["row"] - 1 for record in removed}
    for record in removed:
        if record["kind"] == "near":
            found = similarity(record["row"] - 1, record["duplicate_of"]["row"] - 1)
            assert record["similarity"] == pytest.approx(found, abs=1e-4)
            assert found >= 0.7
            assert record["duplicate_of"]["row"] - 1 not in gone
    kept = [i for i in range(len(texts)) if i not in gone]
    missed = [(i, j) for i, j in itertools.combinations(kept, 2) if sets[i] and similarity(i, j) >= 0.7]
    near = sum(record["kind"] == "near" for record in removed)
    assert near > 40
    assert len(missed) <= 0.05 * near
    again = [str(source), str(tmp_path / "again.jsonl"), "--threshold", "0.7"]
    assert main(["data", "dedup", *again]) == 0
    assert (tmp_path / "again.removed.jsonl").read_text() == (tmp_path / "out.removed.jsonl").read_text()


def test_parquet_in_and_the_columns_that_are_compared(tmp_path, capsys):
    rows = [{"prompt": "p", "completion": "same words here", "id": i} for i in range(3)]
    rows[2]["prompt"] = "another question"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    assert main(["data", "dedup", str(tmp_path / "in.parquet"), str(tmp_path / "a.jsonl")]) == 0
    assert lines(tmp_path / "a.jsonl") == [rows[0], rows[2]]
    arguments = [str(tmp_path / "in.parquet"), str(tmp_path / "b.jsonl"), "--columns", "completion"]
    assert main(["data", "dedup", *arguments]) == 0
    assert lines(tmp_path / "b.jsonl") == [rows[0]]
    assert "read 3, kept 1, removed 2, exact 2" in capsys.readouterr().out


@pytest.fixture(scope="session")
def gsm8k(shared_data: Path) -> tuple[list[dict], list[dict]]:
    train = [row.data for row in read_rows([shared_data / "gsm8k_train.jsonl.gz"])]
    return train[:600], [row.data for row in read_rows([shared_data / "gsm8k_test.jsonl.gz"])]


def test_contaminated_rows_are_those_of_brute_force(gsm8k, tmp_path, capsys):
    train, test = gsm8k
    planted = []
    for i, row in enumerate(test[:5]):
        question = row["question"].upper().replace(",", " ;").replace(".", "  --")
        planted.append({"question": f"Before. {question} And after.", "answer": str(i)})
    source = dump(tmp_path / "train.jsonl", [*train, *planted])
    benchmark = dump(tmp_path / "test.jsonl", test)
    arguments = [str(source), str(tmp_path / "out.jsonl"), "--against", str(benchmark)]
    arguments += ["--columns", "question", "answer", "--against-columns", "question"]
    assert main(["data", "decontaminate", *arguments]) == 0
    owner = {gram: i for i, row in reversed(list(enumerate(test))) for gram in grams(row["question"], 13)}
    expected = {}
    for i, row in enumerate([*train, *planted]):
        hits = grams(f"{row['question']}\n{row['answer']}", 13) & set(owner)
        if hits:
            expected[i] = hits
    removed = lines(tmp_path / "out.removed.jsonl")
    assert {record["row"] - 1 for record in removed} == set(expected)
    assert len(expected) > 5  # the published split itself overlaps
    for record in removed:
        assert tuple(record["words"].split()) in expected[record["row"] - 1]
    assert [r["contaminated_by"]["row"] for r in removed[-5:]] == [1, 2, 3, 4, 5]
    assert len(lines(tmp_path / "out.jsonl")) == len(train) + 5 - len(expected)
    out = capsys.readouterr().out
    assert "benchmarks: 1319 rows" in out
    assert f"read {len(train) + 5}, kept {len(train) + 5 - len(expected)}, removed {len(expected)}" in out


def test_short_benchmark_rows_and_the_threshold(tmp_path, capsys):
    ten = "one two three four five six seven eight nine ten"
    benchmark = dump(tmp_path / "bench.jsonl", [{"text": ten}, {"text": "too short"}])
    rows = [{"text": f"so: {ten}!"}, {"text": ten.rsplit(" ", 1)[0]}, {"text": f"{ten} {'word ' * 90}"}]
    source = dump(tmp_path / "in.jsonl", rows)
    arguments = [str(source), str(tmp_path / "a.jsonl"), "--against", str(benchmark)]
    assert main(["data", "decontaminate", *arguments]) == 0
    assert lines(tmp_path / "a.jsonl") == [rows[1]]
    assert "benchmarks: 1 rows, 1 with fewer than 8 words ignored" in capsys.readouterr().out
    arguments[1] = str(tmp_path / "b.jsonl")
    assert main(["data", "decontaminate", *arguments, "--threshold", "0.2"]) == 0
    assert lines(tmp_path / "b.jsonl") == rows[1:]


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("dedup", ["--threshold", "0"], "--threshold 0 must lie in (0, 1]; it is a Jaccard similarity."),
        ("dedup", ["--ngram", "0"], "--ngram 0 must be at least 1."),
        ("dedup", ["--num-perm", "2"], "--num-perm 2 must lie in 16 .. 4096; 128 is usual."),
        ("dedup", ["--columns", "question"], "there is no column question; there are text, id."),
        ("dedup", ["--treshold", "0.5"], "--treshold: there is no such option. Did you mean --threshold?"),
        ("decontaminate", ["--against", "BENCH", "--ngram", "5"], "--min-words 8 must lie in 1 .. --ngram 5."),
        ("decontaminate", ["--against", "BENCH", "--threshold", "1"], "--threshold 1 must lie in [0, 1)"),
        ("decontaminate", ["--against", "BENCH"], "all 1 benchmark rows have fewer than 8 words."),
        ("decontaminate", ["--against", "nothing.jsonl"], "no such file or folder"),
        ("decontaminate", [], "the following arguments are required: --against"),
    ],
)
def test_refusals_write_nothing(tmp_path, capsys, task, options, message):
    source = dump(tmp_path / "in.jsonl", [{"text": "a b c", "id": "1"}])
    benchmark = dump(tmp_path / "bench.jsonl", [{"text": "short"}])
    options = [str(benchmark) if word == "BENCH" else word for word in options]
    assert main(["data", task, str(source), str(tmp_path / "out.jsonl"), *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bench.jsonl", "in.jsonl"]


def test_outputs_are_checked_first_and_appear_whole(tmp_path, capsys):
    source = dump(tmp_path / "in.jsonl", [{"text": "a"}, {"id": "no text"}])
    assert main(["data", "dedup", str(source)]) == 2
    assert "give at least one data file and the file to write" in capsys.readouterr().err
    assert main(["data", "dedup", str(source), str(tmp_path / "out.txt")]) == 2
    assert "must be a .jsonl file" in capsys.readouterr().err
    assert main(["data", "dedup", str(source), str(source)]) == 2
    assert "in.jsonl exists already; remove it or name another file." in capsys.readouterr().err
    # Row 2 fails after row 1 was read: neither file appears.
    assert main(["data", "dedup", str(source), str(tmp_path / "out.jsonl")]) == 2
    error = capsys.readouterr().err
    assert "in.jsonl, row 2" in error
    assert "no column of text that training reads; there are id." in error
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]
