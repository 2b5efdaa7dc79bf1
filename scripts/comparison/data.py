"""The ranked responses as training files of every kind, and the held-out pairs, split by prompt."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comparison.settings import Settings
from jaxpo.data.tokenizer.tokenizer import Tokenizer

JUDGE_VOTES = 100


@dataclass(frozen=True)
class Prompt:
    """A prompt with its distinct, non-empty responses, cut to size; lengths in tokens, scores from the judge."""

    number: int
    text: str
    responses: tuple[str, ...]
    lengths: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Pair:
    """A held-out comparison: indices into a prompt's responses."""

    prompt: int
    chosen: int
    rejected: int
    matched: bool


def read(file: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows with their empty and repeated responses left out, and how many those were."""
    counts = {"prompts": 0, "empty_responses": 0, "repeated_responses": 0}
    rows = []
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            kept: dict[str, float] = {}
            for response, score in zip(row["responses"], row["scores"], strict=True):
                counts["empty_responses"] += not response.strip()
                counts["repeated_responses"] += bool(response.strip()) and response in kept
                if response.strip():
                    kept.setdefault(response, float(score))
            rows.append({"prompt": row["prompt"], "responses": list(kept), "scores": list(kept.values())})
            counts["prompts"] += 1
    return rows, counts


def cut(rows: Iterable[dict[str, Any]], tokenizer: Tokenizer, settings: Settings) -> list[Prompt]:
    """Prompts and responses in their first (last) tokens; responses that become equal are left out."""
    prompts = []
    for number, row in enumerate(rows):
        text = tokenizer.decode(tokenizer.encode(row["prompt"])[-settings.prompt_tokens :])
        kept: dict[str, tuple[int, float]] = {}
        for response, score in zip(row["responses"], row["scores"], strict=True):
            ids = tokenizer.encode(response)[: settings.response_tokens]
            kept.setdefault(tokenizer.decode(ids), (len(ids), score))
        lengths, scores = zip(*kept.values(), strict=True)
        prompts.append(Prompt(number, text + "\n", tuple(kept), lengths, scores))
    return prompts


def split(count: int, settings: Settings) -> tuple[list[int], list[int]]:
    """Numbers of the training prompts and of the held-out ones."""
    order = np.random.default_rng(20240).permutation(count)
    held = round(settings.held_out * count)
    return sorted(order[held:].tolist()), sorted(order[:held].tolist())


def pairs_of(prompt: Prompt, gap: float) -> list[tuple[int, int]]:
    """All (better, worse) with at least this difference of scores."""
    k = range(len(prompt.responses))
    return [(i, j) for i in k for j in k if prompt.scores[i] - prompt.scores[j] >= gap]


def is_matched(prompt: Prompt, i: int, j: int, within: float) -> bool:
    """Lengths differ by at most this share of the longer one."""
    a, b = prompt.lengths[i], prompt.lengths[j]
    return abs(a - b) <= within * max(a, b)


def evaluation_pairs(prompts: list[Prompt], held: list[int], settings: Settings) -> list[Pair]:
    """Held-out pairs: as many length-matched as not, drawn evenly over the prompts."""
    rng = np.random.default_rng(7)
    groups: dict[bool, list[Pair]] = {True: [], False: []}
    for n in held:
        for i, j in pairs_of(prompts[n], settings.gap):
            matched = is_matched(prompts[n], i, j, settings.matched)
            groups[matched].append(Pair(n, i, j, matched))
    size = min(settings.evaluation_pairs // 2, *(len(g) for g in groups.values()))
    return [g[i] for g in groups.values() for i in sorted(rng.permutation(len(g))[:size].tolist())]


def write_files(directory: Path, prompts: list[Prompt], train: list[int], settings: Settings) -> None:
    """`sft`, `pairs`, `lists`, `unpaired`, `gold`, `trees` and `items` from the training prompts."""
    rng = np.random.default_rng(3)
    chosen = {n: draw(prompts[n], settings, rng) for n in train}
    some = [prompts[n] for n in train]
    files: dict[str, Iterable[dict[str, Any]]] = {
        "sft": (row for p in some for row in demonstrations(p)),
        "pairs": (pair_row(prompts[n], i, j) for n in train for i, j in chosen[n]),
        "lists": (list_row(p) for p in some if len(p.responses) > 1),
        "unpaired": (row for n in train for i, j in chosen[n] for row in unpaired_rows(prompts[n], i, j)),
        "trees": (tree_row(p) for p in some if len(p.responses) > 1),
        "items": (items_row(p, rng) for p in some if len(set(p.scores)) > 1),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write(directory / f"{name}.jsonl", rows)


def write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line, complete or not at all."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(file)


def draw(prompt: Prompt, settings: Settings, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Some of a prompt's pairs."""
    pairs = pairs_of(prompt, settings.gap)
    return [pairs[i] for i in sorted(rng.permutation(len(pairs))[: settings.pairs_per_prompt].tolist())]


def demonstrations(p: Prompt) -> Iterator[dict[str, Any]]:
    """All responses, good and bad: the SFT model shall know the texts, not yet which are better."""
    for response in p.responses:
        yield {"prompt": p.text, "completion": response}


def pair_row(p: Prompt, i: int, j: int) -> dict[str, Any]:
    """A pair with every column that can be derived from the judge's scores and the texts."""
    # The score is a win probability against one and the same opponent: their odds give the pair's.
    odds = [(s + 1e-3) / (1 - s + 1e-3) for s in (p.scores[i], p.scores[j])]
    for_chosen = round(JUDGE_VOTES * odds[0] / sum(odds))
    return {
        "prompt": p.text,
        "chosen": p.responses[i],
        "rejected": p.responses[j],
        "margin": round(p.scores[i] - p.scores[j], 4),
        "votes": [for_chosen, JUDGE_VOTES - for_chosen],
        "rewards": {"brevity": [-p.lengths[i] / 128, -p.lengths[j] / 128]},
    }


def list_row(p: Prompt) -> dict[str, Any]:
    return {"prompt": p.text, "responses": list(p.responses), "scores": list(p.scores)}


def unpaired_rows(p: Prompt, i: int, j: int) -> Iterator[dict[str, Any]]:
    for k, label in ((i, True), (j, False)):
        yield {"prompt": p.text, "completion": p.responses[k], "label": label}


def tree_row(p: Prompt) -> dict[str, Any]:
    """Steps are thirds of a response, cut between words."""
    return {"prompt": p.text, "steps": [thirds(r) for r in p.responses], "scores": list(p.scores)}


def thirds(text: str) -> list[str]:
    words = text.split(" ")
    bounds = [round(k * len(words) / 3) for k in range(4)]
    parts = [" ".join(words[a:b]) for a, b in itertools.pairwise(bounds) if b > a]
    return [part + " " for part in parts[:-1]] + parts[-1:]


def items_row(p: Prompt, rng: np.random.Generator) -> dict[str, Any]:
    """The responses' first words as one list in random order: relevance 2 for the best, 1 from 0.3 on, else 0."""
    best = int(np.argmax(p.scores))
    relevance = [2 if k == best else int(s >= 0.3) for k, s in enumerate(p.scores)]
    order = rng.permutation(len(p.responses)).tolist()
    openings = [" ".join(r.split()[:8]) or "-" for r in p.responses]
    return {"prompt": p.text, "items": [openings[k] for k in order], "relevance": [relevance[k] for k in order]}
