"""The completions of prompts' rows as answers: what distillation trains on where the student does not write."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import read_record
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.building import Builder
from jaxpo.data.tokens.rendering import Cut
from jaxpo.errors import DataError
from jaxpo.online.answers import Answer, Prompt


def completion_of(prompt: Prompt, *, tokenizer: Tokenizer, max_completion_length: int) -> Answer:
    """The completion of a prompt's row, tokenised as for fine-tuning; nobody drew it, so its log-probs are NaN.

    Raises:
      DataError: the row has none, or a longer one than an answer may be.
    """
    file = Path(prompt.file or "(prompts)")
    where: dict[str, Any] = {"file": file, "row": prompt.row, "field": "completion"}
    if "completion" not in prompt.columns:
        raise DataError(
            "has no completion, which is the answer where the student does not write one.",
            **where,
            remedy="Give every row a completion, or train on the student's answers alone (lmbda 1).",
        )
    row = Row(file, prompt.row, {name: prompt.columns[name] for name in ("prompt", "completion")})
    whole = len(prompt.ids) + 8 * max_completion_length
    builder = Builder(tokenizer, Cut(whole, truncation="error"), Counter())
    (example,) = builder.examples_of([read_record(row, "prompt_completion")])
    (segment,) = example.segments
    (said,) = np.nonzero(segment.supervised)
    tokens = np.asarray(segment.tokens[said[0] : said[-1] + 1], np.int32)
    (ends,) = np.nonzero(tokens == tokenizer.eos_id)
    tokens = tokens[: ends[0] + 1] if ends.size else tokens  # what a student writes ends there
    if len(tokens) > max_completion_length:
        raise DataError(
            f"has {len(tokens)} tokens, and an answer may have {max_completion_length}.",
            **where,
            remedy="Raise max_completion_length (and data.max_length with it), or leave the row out.",
        )
    nobody = np.full(len(tokens), np.nan, np.float32)
    completion = prompt.columns["completion"]
    text = completion if isinstance(completion, str) else str(completion[-1]["content"])
    return Answer(tokens, nobody, nobody, True, text)
