"""Questions about real images that every installation has: scikit-learn's 1,797 handwritten digits, 8 by 8 pixels.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test set).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.corpora.files import reusable, write
from jaxpo.corpora.pictures import write_png

FORMAT = 1
QUESTION = "Which digit?"
TRAIN, HELD_OUT = "digits_train.jsonl", "digits_heldout.jsonl"
BLIND_TRAIN, BLIND_HELD_OUT = "blind_train.jsonl", "blind_heldout.jsonl"
PAIRS_TRAIN, PAIRS_HELD_OUT = "pairs_train.jsonl", "pairs_heldout.jsonl"


@dataclass(frozen=True)
class Digits:
    """The images as files, and rows that ask which digit they show; the same without the images; and pairs.

    Writers are in both parts: the order of the images is drawn anew before some are held out.

    Attributes:
      held_out: images that are held out.
      seed: of that order, and of the wrong digits of pairs.
    """

    held_out: int = 297
    seed: int = 0

    def build(self, directory: Path) -> dict[str, Any]:
        """Write `images/` and six files of rows, unless they are there."""
        inputs = hashlib.sha256(json.dumps({"format": FORMAT, **asdict(self)}).encode()).hexdigest()[:16]
        report = reusable(directory, inputs)
        if report is not None and (directory / "images").is_dir():
            return {**report, "reused": True}
        images, labels = _digits()
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(labels))
        wrong = (labels + rng.integers(1, 10, len(labels))) % 10
        parts = {"train": np.sort(order[self.held_out :]), "heldout": np.sort(order[: self.held_out])}
        for i, image in enumerate(images):
            write_png(directory / _name(i), image)
        files: dict[str, list[Mapping[str, object]]] = {}
        for part, own in parts.items():
            rows: list[Mapping[str, object]] = [_asked(i, labels[i]) for i in own.tolist()]
            files[f"digits_{part}.jsonl"] = rows
            files[f"blind_{part}.jsonl"] = [{k: v for k, v in row.items() if k != "images"} for row in rows]
            files[f"pairs_{part}.jsonl"] = list(_pairs(own, labels, wrong))
        counts = {f"digits_{part}": len(own) for part, own in parts.items()}
        lines = [f"digits: {counts['digits_train']:,} images with a question, {counts['digits_heldout']:,} held out"]
        return {**write(directory, files, {"counts": counts, "lines": lines, "inputs": inputs}), "reused": False}


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[n, 8, 8, 3]`, dark on light; their digits."""
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = 255 - np.round(found.images * 255 / 16).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1), found.target.astype(np.int64)


def _name(i: int) -> str:
    return f"images/{i:04d}.png"


def _asked(i: int, digit: int) -> dict[str, Any]:
    return {"prompt": _turn("user", QUESTION), "completion": _turn("assistant", str(digit)), "images": [_name(i)]}


def _pairs(own: np.ndarray, labels: np.ndarray, wrong: np.ndarray) -> Iterator[dict[str, Any]]:
    for i in own.tolist():
        sides = {"chosen": _turn("assistant", str(labels[i])), "rejected": _turn("assistant", str(wrong[i]))}
        yield {"prompt": _turn("user", QUESTION), **sides, "images": [_name(i)]}


def _turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]
