"""The quickstart's corpus from a user's own text and preference pairs, in the same files as `StdlibDocs` writes."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxpo.config.places import DataFile
from jaxpo.corpora.files import reusable, write
from jaxpo.corpora.stdlib_docs_examples import Row
from jaxpo.data.cleaning.heldout import Seen, is_held_out, paragraphs
from jaxpo.data.rows.files.listing import unsaid
from jaxpo.data.rows.formats import file_hash, list_files, read_rows
from jaxpo.errors import DataError

FORMAT = 1
SHORTEST = 40
LONGEST = 600
CONTINUE = "Continue this text: "


@dataclass(frozen=True)
class OwnFiles:
    """Documents, questions and pairs from own files; whichever of the two is missing is made from the other.

    From text alone: the question is a paragraph and the answer is the next one; the rejected answer is the next
    paragraph of another place. From pairs alone: the chosen answers with their questions are the text.

    Attributes:
      text: file or folder with a `text` column or .txt files.
      pairs: file or folder with `prompt`, `chosen`, `rejected`: strings or lists of messages.
      held_out_one_in: about one document (paragraph group of a single large document, prompt) in this many is held out,
        by a hash of its content.
    """

    text: DataFile | None = None
    pairs: DataFile | None = None
    held_out_one_in: int = 10

    def build(self, directory: Path) -> dict[str, Any]:
        """Write the JSONL files into `directory`, unless they are there and made from the same files.

        Raises:
          DataError: no such file, a missing column, or too little for a training and a held-out part.
        """
        if self.text is None and self.pairs is None:
            raise DataError("neither text nor pairs are given.", remedy="Name one with --text PATH or --pairs PATH.")
        hashes = [file_hash(f) for name in (self.text, self.pairs) if name for f in list_files([name], say=unsaid)]
        settings = {"format": FORMAT, "one_in": self.held_out_one_in, "which": [bool(self.text), bool(self.pairs)]}
        inputs = hashlib.sha256(json.dumps([settings, hashes]).encode()).hexdigest()[:16]
        report = reusable(directory, inputs)
        if report is not None:
            return {**report, "reused": True}
        pairs = _read_pairs(self.pairs) if self.pairs else None
        documents = _read_documents(self.text) if self.text else _texts_of_pairs(pairs or [])
        files, shared = self._files(documents, pairs)
        for name, rows in files.items():
            if not rows and name != "pref_heldout_sibling.jsonl":
                raise DataError(
                    f"{name} would be empty: there is too little data.",
                    file=self.pairs if name.startswith("pref") and self.pairs else self.text or self.pairs,
                    remedy="Give at least some dozens of paragraphs or pairs.",
                )
        counts = {name.removesuffix(".jsonl"): len(rows) for name, rows in files.items()}
        counts["heldout_paragraphs_shared_with_training"] = shared
        lines = [
            f"{counts['pretrain_train']:,} documents to train on, {counts['pretrain_heldout']:,} held out, from which "
            f"{shared:,} paragraphs were dropped that share 8 words in a row or a long line with training",
            f"questions: {counts['sft_train']:,} + {counts['sft_heldout']:,} held out; preference pairs: "
            f"{counts['pref_train']:,} + {counts['pref_heldout']:,} held out",
        ]
        made = {"made_from": asdict(self), "counts": counts, "lines": lines, "inputs": inputs}
        return {**write(directory, files, made), "reused": False}

    def _files(self, documents: list[str], pairs: list[Row] | None) -> tuple[dict[str, list[Row]], int]:
        train = [d for d in documents if not self._held_out(d)]
        seen = Seen()
        seen.add(train)
        held, shared = [], 0
        for document in (d for d in documents if self._held_out(d)):
            parts = paragraphs(document)
            kept = [p for p in parts if not seen.shares(p)]
            shared += len(parts) - len(kept)
            if kept:
                held.append("\n\n".join(kept) + "\n")
        if pairs is None:
            pairs_train, pairs_held = list(continuations(train)), list(continuations(held))
        else:
            pairs_train = [p for p in pairs if not self._held_out(_question(p))]
            pairs_held = [p for p in pairs if self._held_out(_question(p))]
        files: dict[str, list[Row]] = {
            "pretrain_train.jsonl": [{"text": d} for d in train],
            "pretrain_heldout.jsonl": [{"text": d} for d in held],
            "sft_train.jsonl": [_answer(p) for p in pairs_train],
            "sft_heldout.jsonl": [_answer(p) for p in pairs_held],
            "pref_train.jsonl": pairs_train,
            "pref_heldout.jsonl": pairs_held,
            "pref_heldout_sibling.jsonl": list(strangers(pairs_held)),
        }
        return files, shared

    def _held_out(self, text: str) -> bool:
        return is_held_out(" ".join(text.split()), self.held_out_one_in)


def continuations(documents: Iterable[str]) -> Iterator[Row]:
    """A paragraph's true continuation (of a lone one: its second half) against that of a place half the text away."""
    steps = []
    for document in documents:
        parts = [p for p in paragraphs(document) if len(p) >= SHORTEST]
        if len(parts) == 1:
            parts = _halves(parts[0])
        steps += [(a[-LONGEST:], b[:LONGEST]) for a, b in itertools.pairwise(parts)]
    for i, (before, after) in enumerate(steps):
        other = steps[(i + len(steps) // 2) % len(steps)][1]
        if other != after:
            yield {
                "prompt": [{"role": "user", "content": CONTINUE + before}],
                "chosen": [{"role": "assistant", "content": after}],
                "rejected": [{"role": "assistant", "content": other}],
            }


def _halves(paragraph: str) -> list[str]:
    """Cut at the space nearest after the middle; not at all without one."""
    middle = paragraph.find(" ", len(paragraph) // 2)
    return [paragraph[:middle], paragraph[middle + 1 :]] if middle > 0 else []


def strangers(pairs: list[Row]) -> Iterator[Row]:
    """The chosen answer against the chosen answer to another question."""
    for i, pair in enumerate(pairs):
        other = pairs[(i + len(pairs) // 2) % len(pairs)]
        if other["chosen"] != pair["chosen"]:
            yield {**pair, "rejected": other["chosen"]}


def _read_documents(path: str) -> list[str]:
    """Documents; a single one is cut into groups of paragraphs, so that some can be held out."""
    documents = []
    for row in read_rows([path]):
        text = row.data.get("text")
        if not isinstance(text, str):
            raise row.error(
                "column 'text' is missing.", field="text", remedy="--text needs .txt files or a text column."
            )
        documents.append(text)
    if len(documents) >= 20:
        return documents
    groups: list[str] = []
    for document in documents:
        parts = paragraphs(document)
        groups += ["\n\n".join(parts[i : i + 8]) + "\n" for i in range(0, len(parts), 8)]
    return groups


def _read_pairs(path: str) -> list[Row]:
    rows = []
    for row in read_rows([path]):
        for column in ("prompt", "chosen", "rejected"):
            if column not in row.data:
                raise row.error(
                    f"column {column!r} is missing.", field=column, remedy="--pairs needs prompt, chosen and rejected."
                )
        pair: Row = {
            "prompt": _messages(row.data["prompt"], "user"),
            "chosen": _messages(row.data["chosen"], "assistant"),
            "rejected": _messages(row.data["rejected"], "assistant"),
        }
        if pair["chosen"] == pair["rejected"]:
            raise row.error("chosen and rejected are the same.", field="rejected", remedy="Remove the row.")
        rows.append(pair)
    return rows


def _messages(value: Any, role: str) -> Any:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _question(pair: Row) -> str:
    return json.dumps(pair["prompt"])


def _answer(pair: Row) -> Row:
    return {"prompt": pair["prompt"], "completion": pair["chosen"]}


def _texts_of_pairs(pairs: list[Row]) -> list[str]:
    """Question and chosen answer as one document each."""
    return [
        "\n\n".join(str(m["content"]) for m in [*pair["prompt"], *pair["chosen"]]) + "\n"  # type: ignore[misc]
        for pair in pairs
    ]
