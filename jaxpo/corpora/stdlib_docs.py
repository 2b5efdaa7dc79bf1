"""A corpus that every Python brings along: help topics and docstrings of the standard library.

Sources are parsed, never imported. What comes out depends on the Python version, so its hash is reported.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxpo.config.places import OtherFile
from jaxpo.corpora.files import reusable, write
from jaxpo.corpora.stdlib_docs_examples import (
    REJECTED_PER_TRAINING_ENTRY,
    Row,
    deduplicate,
    documents,
    pairs,
    purge,
    questions,
    sibling_pairs,
)
from jaxpo.corpora.stdlib_docs_read import REMEDY, TOPICS, read_entries, source_files, stdlib_folder
from jaxpo.data.cleaning.heldout import Seen, is_held_out
from jaxpo.data.rows.formats import file_hash
from jaxpo.errors import DataError

FORMAT = 1


@dataclass(frozen=True)
class StdlibDocs:
    """Documents, question-answer rows and preference pairs from Python's own documentation.

    Attributes:
      root: a standard-library folder; None = the running Python's.
      held_out_one_in: about one top-level module (or help topic) in this many is held out, by a hash of its name.
    """

    root: OtherFile | None = None
    held_out_one_in: int = 10

    def build(self, directory: Path) -> dict[str, Any]:
        """Write the JSONL files into `directory`, unless they are there and made from the same sources.

        Files: `{pretrain,sft,pref}_{train,heldout}.jsonl` and `pref_heldout_sibling.jsonl`.

        Returns:
          {"hash", "python", "counts" (rows per file, bytes of text, paragraphs dropped), "inputs", "files", "reused",
          "lines" (the same for people)}.

        Raises:
          DataError: no source files, no `pydoc_data`, or no docstrings.
        """
        root = Path(self.root) if self.root else stdlib_folder()
        inputs = self._inputs(root)
        report = reusable(directory, inputs)
        if report is not None:
            return {**report, "reused": True}
        files, counts = self._rows(root)
        for name, rows in files.items():
            if not rows:
                raise DataError(f"{name} would be empty: too little documentation.", file=root, remedy=REMEDY)
        report = {
            "python": platform.python_version(),
            "counts": counts,
            "lines": _lines(counts),
            "inputs": inputs,
        }
        return {**write(directory, files, report), "reused": False}

    def _inputs(self, root: Path) -> str:
        """Hash of everything the corpus is made from."""
        sources = [p for p in (root / TOPICS, *source_files(root)) if p.is_file()]
        hashes = {p.relative_to(root).as_posix(): file_hash(p) for p in sources}
        settings = {"format": FORMAT, **asdict(self), "root": None, "sources": sorted(hashes.items())}
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def _rows(self, root: Path) -> tuple[dict[str, list[Row]], dict[str, int]]:
        entries = read_entries(root)
        known: set[str] = set()
        train, repeated = deduplicate((e for e in entries if not is_held_out(e.group, self.held_out_one_in)), known)
        held, repeated_held = deduplicate((e for e in entries if is_held_out(e.group, self.held_out_one_in)), known)
        texts = list(documents(train))
        sft = list(questions(train))
        pref = list(pairs(train, REJECTED_PER_TRAINING_ENTRY))
        seen = Seen()
        seen.add(str(row["text"]) for row in texts)
        # Joined paragraphs read differently from the document when something stood between them.
        seen.add(m["content"] for row in sft for m in row["completion"])  # type: ignore[attr-defined]
        held, shared = purge(held, seen)
        files = {
            "pretrain_train.jsonl": texts,
            "pretrain_heldout.jsonl": list(documents(held)),
            "sft_train.jsonl": sft,
            "sft_heldout.jsonl": list(questions(held)),
            "pref_train.jsonl": pref,
            "pref_heldout.jsonl": list(pairs(held)),
            "pref_heldout_sibling.jsonl": list(sibling_pairs(held)),
        }
        counts = {name.removesuffix(".jsonl"): len(rows) for name, rows in files.items()}
        counts |= {
            "train_bytes": sum(len(str(row["text"]).encode()) for row in texts),
            "heldout_bytes": sum(len(str(row["text"]).encode()) for row in files["pretrain_heldout.jsonl"]),
            "train_groups": len({t.entry.group for t in train}),
            "heldout_groups": len({t.entry.group for t in held}),
            "repeated_paragraphs": repeated + repeated_held,
            "heldout_paragraphs_shared_with_training": shared,
        }
        return files, counts


def _lines(n: dict[str, int]) -> list[str]:
    return [
        f"text: {n['train_bytes']:,} bytes to train on ({n['train_groups']} modules and topics), "
        f"{n['heldout_bytes']:,} held out ({n['heldout_groups']} whole modules and topics)",
        f"dropped: {n['repeated_paragraphs']:,} repeated paragraphs; from the held-out text "
        f"{n['heldout_paragraphs_shared_with_training']:,} that share 8 words in a row or a long line with training",
        f"questions: {n['sft_train']:,} + {n['sft_heldout']:,} held out; preference pairs: "
        f"{n['pref_train']:,} + {n['pref_heldout']:,} held out + {n['pref_heldout_sibling']:,} harder ones",
    ]
