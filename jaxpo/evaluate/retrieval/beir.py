"""Test collections in BEIR's form, from disk: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv; and TREC's run files."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.retrieval import document_of, grade_of, texts_by_id
from jaxpo.errors import DataError

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"


@dataclass(frozen=True)
class Collection:
    """Documents, queries and judgements.

    Attributes:
      corpus: id -> title and text.
      queries: id -> text, of those that are judged.
      qrels: query id -> document id -> grade.
    """

    corpus: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


def is_collection(folder: Path) -> bool:
    """Whether a folder holds one."""
    return all(_file(folder, name) is not None for name in (CORPUS, QUERIES)) and (folder / QRELS).is_dir()


def collections_in(folder: Path) -> list[Path]:
    """The folder itself where it holds a collection, else those of its folders that do, by name."""
    if is_collection(folder):
        return [folder]
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    return [each for each in below if each.is_dir() and is_collection(each)]


def read_collection(folder: Path, split: str = "test") -> Collection:
    """Read a folder, whose files may be compressed.

    Raises:
      DataError: a file that is missing, or a row that is none of its kind; names file and line.
    """
    corpus = texts_by_id(_needed(folder, CORPUS), document_of)
    queries = texts_by_id(_needed(folder, QUERIES), query_of)
    qrels = read_qrels(_qrels_file(folder, split), queries, corpus)
    return Collection(corpus, {query: queries[query] for query in qrels}, qrels)


def query_of(row: Row) -> str:
    """A query's text."""
    text = row.data.get("text")
    if not isinstance(text, str) or not text.strip():
        raise row.error("the query has no text.", field="text", remedy="Give every query a text, or remove it.")
    return text


def read_qrels(file: Path, queries: Mapping[str, str], corpus: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """BEIR's tab-separated judgements (with a header), or TREC's four columns.

    Raises:
      DataError: a line of another form, a query or document that is not there; names file and line.
    """
    found: dict[str, dict[str, int]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        parts = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or (number == 1 and "query" in parts[0].lower()):
            continue
        query, document, grade = _judgement(parts, file, number)
        for name, known, what in ((query, queries, "query"), (document, corpus, "document")):
            if known and name not in known:
                remedy = f"Every {what} that is judged must be in its file."
                raise DataError(f"{what} {name!r} is not there.", file=file, row=number, remedy=remedy)
        if (before := found.setdefault(query, {}).setdefault(document, grade)) != grade:
            what = f"document {document!r} has the grade {before} for the query {query!r} already, not {grade}."
            raise DataError(what, file=file, row=number, remedy="Keep one of the two.")
    if not found:
        raise DataError("holds no judgement.", file=file, remedy="Give query-id, corpus-id and score.")
    if not any(grade > 0 for grades in found.values() for grade in grades.values()):
        what = "no query has a document that answers it."
        raise DataError(what, file=file, remedy="Give documents that answer a query a score of 1 or more.")
    return found


def _judgement(parts: list[str], file: Path, number: int) -> tuple[str, str, int]:
    """Query, document and grade of a line."""
    parts = [parts[0], *parts[2:]] if len(parts) == 4 else parts
    if len(parts) < 3:
        remedy = "Give query-id, corpus-id and score, separated by tabs."
        raise DataError("is no judgement.", file=file, row=number, remedy=remedy)
    return parts[0].strip(), parts[1].strip(), grade_of(parts[2], functools.partial(DataError, file=file, row=number))


def read_run(file: Path) -> dict[str, dict[str, float]]:
    """A TREC run: `query Q0 document rank score name`, one line each.

    Raises:
      DataError: a line of another form; names file and line.
    """
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            query, _, document, _, score, *_ = line.split()
            found.setdefault(query, {})[document] = float(score)
        except ValueError as error:
            remedy = "Give query, Q0, document, rank, score and a name."
            raise DataError("is no line of a TREC run.", file=file, row=number, remedy=remedy) from error
    return found


def _file(folder: Path, name: str) -> Path | None:
    return next((file for end in ("", ".gz", ".zst", ".bz2", ".xz") if (file := folder / (name + end)).is_file()), None)


def _needed(folder: Path, name: str) -> Path:
    found = _file(folder, name)
    if found is None:
        raise DataError(
            f"{name} is missing.", file=folder, remedy="A collection has corpus.jsonl, queries.jsonl, qrels/."
        )
    return found


def _qrels_file(folder: Path, split: str) -> Path:
    files = sorted((folder / QRELS).glob("*.tsv"))
    named = folder / QRELS / f"{split}.tsv"
    if named not in files:
        what = f"there is no split {split!r}; there are: {', '.join(file.stem for file in files) or 'none'}."
        raise DataError(what, file=folder / QRELS, remedy="Name another: --set retrieval.split=NAME.")
    return named
