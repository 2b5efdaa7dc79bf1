"""A test of retrieval that every Python brings along: from a docstring's first sentence, without the name, to the rest.

There are few such pairs. Training has others besides, of any sentence and the rest of its text (Lee et al. 2019,
arXiv:1906.00300, "inverse cloze task"), without which a model learns the pairs by heart within two epochs.
Modules are held out whole. The teacher of the scored lists is made up: how alike words are (TF-IDF), and one more for
the document that the query was taken from. A part of each list is drawn: of the most alike alone a model that knows
nothing yet does not learn to tell what has nothing to do with a query.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config.places import OtherFile
from jaxpo.corpora.files import reusable, write
from jaxpo.corpora.stdlib_docs_examples import deduplicate
from jaxpo.corpora.stdlib_docs_read import REMEDY, Entry, read_entries, source_files, stdlib_folder
from jaxpo.data.cleaning.heldout import is_held_out
from jaxpo.data.rows.formats import file_hash
from jaxpo.errors import DataError

FORMAT = 2
CONTRAST, SCORED, COLLECTION = "contrast_train.jsonl", "scored_train.jsonl", "heldout"
FEWEST_WORDS, FEWEST_CHARACTERS = 4, 60
"""Of a query, and of a document."""
_SENTENCE = re.compile(r"(?<=[.!?:])\s")


@dataclass(frozen=True)
class Found:
    """A query and the document that answers it."""

    query: str
    document: str


@dataclass(frozen=True)
class StdlibRetrieval:
    """Queries and documents from Python's docstrings: training rows, and a held-out collection in BEIR's form.

    Attributes:
      root: a standard-library folder; None = the running Python's.
      held_out_one_in: about one top-level module in this many is held out, by a hash of its name.
      documents: of each scored list: the right one, those whose words are the most alike, and some of all.
      drawn: how many of them are drawn from all.
      cloze: train on the other sentences of a docstring too, each as the query of the rest.
    """

    root: OtherFile | None = None
    held_out_one_in: int = 6
    documents: int = 8
    drawn: int = 4
    cloze: bool = True

    def build(self, directory: Path) -> dict[str, Any]:
        """Write `contrast_train.jsonl`, `scored_train.jsonl` and the folder `heldout`, unless they are there.

        Returns:
          As `StdlibDocs.build`.

        Raises:
          DataError: no source files, or too few docstrings.
        """
        root = Path(self.root) if self.root else stdlib_folder()
        inputs = self._inputs(root)
        report = reusable(directory, inputs)
        if report is not None and (directory / COLLECTION / "corpus.jsonl").is_file():
            return {**report, "reused": True}
        train, more, held = self._parts(root)
        if len(train) < self.documents or not held:
            raise DataError("too few docstrings of several sentences.", file=root, remedy=REMEDY)
        files = {
            "text_train.jsonl": [{"text": text} for pair in train for text in (pair.query, pair.document)],
            CONTRAST: [{"query": pair.query, "positive": pair.document} for pair in (*train, *more)],
            SCORED: list(scored(train, self.documents, self.drawn)),
        }
        counts = {"pairs_train": len(train), "pairs_cloze": len(more), "pairs_heldout": len(held)}
        lines = [
            f"retrieval: {len(train):,} queries with a document and {len(more):,} sentences with what stands around "
            f"them; {len(held):,} queries of held-out modules"
        ]
        _write_collection(directory / COLLECTION, held)
        made = {"python": platform.python_version(), "counts": counts, "lines": lines, "inputs": inputs}
        return {**write(directory, files, made), "reused": False}

    def _inputs(self, root: Path) -> str:
        """Hash of everything that the rows are made from."""
        hashes = {path.relative_to(root).as_posix(): file_hash(path) for path in source_files(root)}
        settings = {"format": FORMAT, **asdict(self), "root": None, "sources": sorted(hashes.items())}
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def _parts(self, root: Path) -> tuple[list[Found], list[Found], list[Found]]:
        """Pairs and sentences with what stands around them to train on, and pairs that are held out."""
        entries = [entry for entry in read_entries(root) if entry.kind != "topic"]
        known: set[str] = set()
        parts = []
        for held in (False, True):
            own = [e for e in entries if is_held_out(e.group, self.held_out_one_in) == held]
            parts.append([text.entry for text in deduplicate(own, known)[0] if text.whole])
        train, held_out = (list(_unique(pairs(part))) for part in parts)
        return train, list(_unique(sentences(parts[0]))) if self.cloze else [], held_out


def pairs(entries: Sequence[Entry]) -> Iterator[Found]:
    """Those docstrings whose first sentence, without the object's name, says something, and is not all."""
    for entry in entries:
        first, *rest = _SENTENCE.split(" ".join(entry.doc.split()), maxsplit=1)
        name = re.escape(entry.name.rpartition(".")[2])
        query = " ".join(re.sub(rf"\b{name}\b(\([^)]*\))?", " ", first).split())
        if rest and len(query.split()) >= FEWEST_WORDS and len(rest[0]) >= FEWEST_CHARACTERS:
            yield Found(query, rest[0])


def sentences(entries: Sequence[Entry]) -> Iterator[Found]:
    """Every sentence but the first that says something, with the rest of its docstring."""
    for entry in entries:
        every = _SENTENCE.split(" ".join(entry.doc.split()))
        for i, query in enumerate(every[1:], start=1):
            rest = " ".join([*every[:i], *every[i + 1 :]])
            if len(query.split()) >= FEWEST_WORDS and len(rest) >= FEWEST_CHARACTERS:
                yield Found(query, rest)


def _unique(found: Iterator[Found]) -> Iterator[Found]:
    """Without a query or document that was there before: it would have two answers."""
    seen: set[str] = set()
    for pair in found:
        if pair.query not in seen and pair.document not in seen:
            seen |= {pair.query, pair.document}
            yield pair


def scored(train: Sequence[Found], count: int, drawn: int = 0, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The right document, the most alike to the query and `drawn` of all others: `count`, with the made-up teacher's
    scores in [0, 1]."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True)
    documents = vectorizer.fit_transform([pair.document for pair in train])
    alike = (vectorizer.transform([pair.query for pair in train]) @ documents.T).tocsr()
    rng = np.random.default_rng(seed)
    for i, pair in enumerate(train):
        cosines = alike[i].toarray()[0]
        others = [int(j) for j in np.argsort(-cosines, kind="stable") if j != i]
        near, far = others[: count - 1 - drawn], others[count - 1 - drawn :]
        chosen = [i, *near, *(int(j) for j in rng.choice(far, drawn, replace=False))]
        scores = [float(cosines[j] + (j == i)) / 2 for j in chosen]
        yield {"query": pair.query, "documents": [train[j].document for j in chosen], "scores": scores}


def _write_collection(folder: Path, held: Sequence[Found]) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)

    def rows(name: str, texts: Sequence[str]) -> None:
        lines = [
            json.dumps({"_id": f"{i:04d}", "text": text}, ensure_ascii=False) + "\n" for i, text in enumerate(texts)
        ]
        (folder / name).write_text("".join(lines), encoding="utf-8")

    judged = "".join(f"{i:04d}\t{i:04d}\t1\n" for i in range(len(held)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
    rows("queries.jsonl", [pair.query for pair in held])
    rows("corpus.jsonl", [pair.document for pair in held])
