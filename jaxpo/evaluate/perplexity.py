"""How well a model predicts: bits per byte of documents, loss per supervised token of answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxpo.data.chat.chat import encode_many
from jaxpo.data.chat.rendered import document
from jaxpo.data.rows.files.splits import Part
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.rows import Record, detect, read_record
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.building import Builder
from jaxpo.data.tokens.examples import Example, split_text
from jaxpo.data.tokens.rendering import Cut
from jaxpo.errors import DataError
from jaxpo.evaluate.intervals import Measurement, ratio
from jaxpo.evaluate.likelihood import log_likelihood, predicted

Logps = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Token sequences -> per-token log-probs; `ProbeContext.logps` is one."""


def read_texts(files: Sequence[Path], part: Part = "eval") -> list[str]:
    """The documents of text files; DataError for rows of another type."""
    texts = []
    for row in read_rows(files, part=part):
        if not isinstance(row.data.get("text"), str):
            raise row.error("column 'text' is missing.", field="text", remedy="Bits per byte needs plain text.")
        texts.append(row.data["text"])
    return texts


def bits_per_byte(logps: Logps, tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> Measurement:
    """-sum log2 p(all tokens of the documents) / number of their UTF-8 bytes.

    A document is `<|startoftext|>`, its tokens, and `<|im_end|>`. The start token is given and costs nothing; the end
    token is predicted, costs bits and has no bytes. Of a document that is a rendered conversation the marks are tokens,
    with the bytes they are written in, and there is no further end. A longer document is cut as in training: pieces of
    `max_length` tokens that overlap by one, so every token, and so every byte, is predicted exactly once, and what a
    piece does not contain is not known there. n and the bootstrap count documents.
    """
    pieces = document_pieces(tokenizer, texts, max_length)
    scored = iter(logps([piece for whole in pieces for piece in whole]))
    costs = [bits([next(scored) for _ in whole]) for whole in pieces]
    return ratio(costs, [len(text.encode()) for text in texts])


def document_pieces(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> list[list[np.ndarray]]:
    """Per document its pieces in tokens; every token but the first of a document is predicted in one of them."""
    return [split_text(whole, max_length) for whole, _ in encode_many(tokenizer, [document(text) for text in texts])]


def bits(logps: Sequence[np.ndarray]) -> float:
    """-sum log2 p over the tokens of a document's pieces."""
    return nats(logps) / math.log(2)


def nats(logps: Sequence[np.ndarray]) -> float:
    """-sum log p over the tokens of a document's pieces, in float64."""
    return -sum(float(x.sum(dtype=np.float64)) for x in logps)


def read_records(files: Sequence[Path], kind: str) -> list[Record]:
    """Checked rows of one dataset type; DataError when a row is of another."""
    records = []
    for row in read_rows(files, part="eval"):
        found = detect(row)
        if found != kind:
            raise row.error(f"is of type {found!r}; this measurement needs type {kind!r}.")
        records.append(read_record(row, kind))
    return records


def encode_records(records: Sequence[Record], tokenizer: Tokenizer, max_length: int) -> list[Example]:
    """Examples as training would see them; of what does not fit, prompts lose their start, then responses their end."""
    return list(Builder(tokenizer, Cut(max_length, "prompt_left"), Counter()).examples_of(records))


def answer_loss(logps: Logps, examples: Sequence[Example]) -> Measurement:
    """-sum log p(supervised tokens) / their number, in nats; n and the bootstrap count answers."""
    segments = [segment for example in examples for segment in example.segments]
    scored = logps([segment.tokens for segment in segments])
    totals = [-log_likelihood(x, segment) for x, segment in zip(scored, segments, strict=True)]
    return ratio(totals, [predicted(segment) for segment in segments])


def shuffle_prompts(records: Sequence[Record]) -> list[Record]:
    """Give every answer the question of another row: what a question is worth is the rise in loss.

    Questions move on by half the number of rows, and further where the question would stay the same.
    """
    n = len(records)
    prompts = [record.sides[0].prompt for record in records]
    if all(prompt == prompts[0] for prompt in prompts):
        raise DataError("all questions are the same, so they cannot be shuffled.", file=records[0].row.file)
    shuffled = []
    for i, record in enumerate(records):
        others = (prompts[(i + n // 2 + j) % n] for j in range(n))
        side = replace(record.sides[0], prompt=next(p for p in others if p != prompts[i]))
        shuffled.append(replace(record, sides=(side,)))
    return shuffled
