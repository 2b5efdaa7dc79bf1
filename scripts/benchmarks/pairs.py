"""Real preference pairs for W2, cut to size, as a file that both libraries can be given."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer

FILE = "alpaca_eval_ranked.jsonl.gz"
PLACE = "JAXPO_BENCH_PAIRS"
GAP = 0.1


@dataclass(frozen=True)
class Pair:
    """Texts, and the ids that both libraries train on: BOS and prompt, and each answer with its end."""

    prompt: str
    chosen: str
    rejected: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]

    @property
    def useful(self) -> int:
        """Tokens of both sides that are no padding."""
        return 2 * len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)


def file() -> Path | None:
    """The ranked responses, where they are on this machine."""
    named = os.environ.get(PLACE)
    path = Path(named) if named else ROOT.parent / "shared" / "data" / FILE
    return path if path.is_file() else None


def ranked(path: Path) -> list[dict[str, Any]]:
    """Rows with `prompt`, `responses` and `scores`."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def tokenizer_of(rows: list[dict[str, Any]], size: int) -> Tokenizer:
    """One that is trained on the rows themselves."""
    return train_tokenizer((text for row in rows for text in (row["prompt"], *row["responses"])), size)


def pairs(rows: list[dict[str, Any]], tokenizer: Tokenizer, count: int, most: int) -> list[Pair]:
    """The best and the worst response of the first prompts, each side at most `most` tokens with its prompt."""
    return [pair for row in rows if (pair := _pair(row, tokenizer, most)) is not None][:count]


def _pair(row: dict[str, Any], tokenizer: Tokenizer, most: int) -> Pair | None:
    responses = {r: s for r, s in zip(row["responses"], row["scores"], strict=True) if r.strip()}
    ordered = sorted(responses, key=responses.__getitem__)
    if len(ordered) < 2 or responses[ordered[-1]] - responses[ordered[0]] < GAP:
        return None
    room = most - 2
    prompt = tokenizer.decode(tokenizer.encode(row["prompt"])[: room // 4])
    ids = tokenizer.encode(prompt)
    texts = [tokenizer.decode(tokenizer.encode(r)[: room - len(ids) - 8]) for r in (ordered[-1], ordered[0])]
    chosen, rejected = ((*tokenizer.encode(text), tokenizer.eos_id) for text in texts)
    return Pair(prompt, *texts, (tokenizer.bos_id, *ids), chosen, rejected)


def write(path: Path, found: list[Pair]) -> None:
    """As prompt, chosen, rejected."""
    lines = (json.dumps({"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}) for p in found)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def in_batches(items: list[Pair], size: int) -> Iterator[list[Pair]]:
    """Consecutive ones."""
    yield from (items[i : i + size] for i in range(0, len(items), size))


def padded(batch: list[Pair]) -> int:
    """Positions of a batch of pairs, all sides as long as the longest."""
    longest = max(len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in batch)
    return 2 * len(batch) * longest
