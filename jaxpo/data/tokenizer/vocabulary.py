"""Reads a tokenizer.json: ids are checked before anything is built, what would change texts unasked is switched off."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from jaxpo.config.json_text import parse
from jaxpo.errors import DataError

MAX_ID, MAX_BYTES = 1 << 22, 1 << 28
"""No tokenizer comes near; memory follows the largest id, not the number of tokens."""
GROWTH = 100
"""Characters that a tokenizer may make of one before it splits a text."""
_AGAIN = "Export or copy it again."


def read_vocabulary(file: Path) -> tuple[tokenizers.Tokenizer, tuple[str, ...]]:
    """The tokenizer, and a line for each setting that was switched off.

    Raises:
      DataError: absent, no tokenizer, or with absurd ids.
    """
    if not file.is_file():
        raise DataError("no such tokenizer.", file=file, remedy="Name a tokenizer.json or a folder holding one.")
    if (size := file.stat().st_size) > MAX_BYTES:
        raise DataError(f"not a tokenizer.json: it has {size:,} bytes.", file=file, remedy=_AGAIN)
    try:
        text = file.read_bytes().decode("utf-8")
        document = parse(text)
    except (OSError, ValueError) as error:
        raise DataError(f"not a tokenizer.json: {error}.", file=file, remedy=_AGAIN) from error
    _check_ids(document, file)
    _check_growth(document, file)
    with explained(file, "not a tokenizer.json"):
        inner = tokenizers.Tokenizer.from_str(text)
    return inner, tuple(f"{file}: {line}" for line in _switch_off(inner))


@contextlib.contextmanager
def explained(file: object, what: str) -> Iterator[None]:
    """DataError for what the library raises: bare exceptions, and panics, which are no `Exception` in Python."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{what}: {error}.", file=file, remedy=_AGAIN) from error


def added_to_one(one: tokenizers.Tokenizer, other: tokenizers.Tokenizer) -> tuple[str, ...] | None:
    """The added tokens that only one of two tokenizers has; None when they differ in anything else."""
    (core, added), (other_core, other_added) = _apart(one), _apart(other)
    return tuple(sorted(name for name, _ in added ^ other_added)) if core == other_core else None


def _apart(inner: tokenizers.Tokenizer) -> tuple[dict[str, Any], set[tuple[str, int]]]:
    """What makes tokens of a text, and the added tokens."""
    state = json.loads(inner.to_str())
    added = {(token["content"], token["id"]) for token in state.pop("added_tokens")}
    for name, _ in added:
        state["model"]["vocab"].pop(name, None)
    return {name: state[name] for name in ("model", "pre_tokenizer", "normalizer")}, added


def _check_ids(document: Any, file: Path) -> None:
    for name, number in _ids(document, file):
        if isinstance(number, bool) or not isinstance(number, int):
            raise DataError(f"the id of {name!r} is {number!r}, not a whole number.", file=file, remedy=_AGAIN)
        if not 0 <= number < MAX_ID:
            raise DataError(
                f"the id of {name!r} is {number}, beyond {MAX_ID:,}: an embedding of that size cannot be meant.",
                file=file,
                remedy=_AGAIN,
            )


def _check_growth(document: Any, file: Path) -> None:
    """DataError where normalisers write long texts in place of short ones."""
    growth, waiting = 1, [document.get("normalizer")]
    while waiting:
        step = waiting.pop()
        if isinstance(step, list):
            waiting += step
        elif isinstance(step, dict):
            waiting.append(step.get("normalizers"))
            growth *= max([1, *(len(step[key]) for key in ("content", "prepend") if isinstance(step.get(key), str))])
    if growth > GROWTH:
        raise DataError(
            f"its normaliser makes up to {growth:,} characters of one, which cannot be meant.",
            file=file,
            remedy="Remove the steps `Replace` or `Prepend` of `normalizer`.",
        )


def _ids(document: Any, file: Path) -> Iterator[tuple[str, Any]]:
    """Every token and its id."""
    model = document.get("model") if isinstance(document, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    added = (document.get("added_tokens") or []) if isinstance(document, dict) else None
    if not isinstance(vocabulary, dict):
        raise DataError("not a tokenizer.json: it has no `model.vocab` of tokens and ids.", file=file, remedy=_AGAIN)
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise DataError("not a tokenizer.json: `added_tokens` is no list of tokens.", file=file, remedy=_AGAIN)
    yield from vocabulary.items()
    yield from ((str(token.get("content")), token.get("id")) for token in added)


def _switch_off(inner: tokenizers.Tokenizer) -> Iterator[str]:
    """Settings that transformers leaves in the file after use; obeyed, they would cut, fill or vary every text."""
    if inner.truncation is not None:
        length = inner.truncation.get("max_length")
        inner.no_truncation()
        yield f"its `truncation` (to {length} tokens) is switched off; data.max_length and data.truncation decide"
    if inner.padding is not None:
        inner.no_padding()
        yield "its `padding` is switched off; rows are packed"
    dropout = getattr(inner.model, "dropout", None)
    if dropout:
        inner.model.dropout = None
        yield f"its BPE `dropout` ({dropout:g}) is switched off; the same text always gives the same tokens"
