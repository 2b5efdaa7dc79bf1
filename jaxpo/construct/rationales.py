"""Prompts that ask for the reason of a preference, with both responses in random order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.instructions import counted
from jaxpo.construct.lcpo import read_pairs
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import Text

LABELS = ("Response A", "Response B")
QUESTION = "Which response is preferable, and why?"


@dataclass(frozen=True)
class Rationales(Construction):
    """A question that shows both responses, and the rationale that answers it.

    A rationale names the two responses as {chosen} and {rejected}; these become "Response A" and "Response B" as the
    responses stand in the prompt. The released template always has the chosen one first, which can be memorised.

    Attributes:
      order: of the two responses in the prompt.
      rule: what to write for rows without a column `rationale`: "facts" states their lengths and how many words of the
        prompt each takes up; "none" leaves the row without a rationale, and the term is masked there.
      verdict: start the rationale with the sentence that names the preferable response.
    """

    order: Literal["random", "chosen_first"] = "random"
    rule: Literal["none", "facts"] = "none"
    verdict: bool = True

    NAME = "rationales"
    READS = "pairs, with a column `rationale` where there is one"
    WRITES = "the same rows with `rationale_prompt` and `rationale`"

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        records = read_pairs(rows)
        chosen_first = np.random.default_rng(tools.seed).random(len(records)) < 0.5
        for record, first in zip(records, chosen_first.tolist(), strict=True):
            row, (chosen, rejected) = record.row, record.sides[:2]
            if chosen.prompt != rejected.prompt:
                raise row.error("the two responses answer different prompts.", remedy="Give pairs under one prompt.")
            given = row.data.get("rationale")
            if given is None and self.rule == "facts":
                given = facts(plain(chosen.prompt), plain(chosen.completion), plain(rejected.completion))
                tools.count("rationales_by_rule")
            if given is None:
                tools.count("without_rationale")
                yield {k: v for k, v in row.data.items() if k != "rationale_prompt"}
                continue
            reason = reason_of(row, given)
            first = first or self.order == "chosen_first"
            texts = (plain(chosen.completion), plain(rejected.completion))
            asked = question(plain(chosen.prompt), *(texts if first else texts[::-1]))
            answered = named(reason, chosen_first=first, verdict=self.verdict)
            chat = not isinstance(chosen.prompt, str)
            yield row.data | {
                "rationale_prompt": [{"role": "user", "content": asked}] if chat else asked,
                "rationale": [{"role": "assistant", "content": answered}] if chat else answered,
            }


def reason_of(row: Row, given: Any) -> str:
    """The text of a rationale: a string, or an assistant's message."""
    if isinstance(given, list) and given and all(isinstance(m, dict) for m in given):
        given = plain(given)
    if not isinstance(given, str) or not given.strip():
        raise row.error("expected a text.", field="rationale", remedy="Give a reason, or leave the column out.")
    return given.strip()


def question(prompt: str, first: str, second: str) -> str:
    """The prompt, both responses under their labels, and the question."""
    shown = f"{LABELS[0]}:\n{first.strip()}\n\n{LABELS[1]}:\n{second.strip()}"
    return f"{prompt.strip()}\n\n{shown}\n\n{QUESTION}\n\n"


def named(reason: str, *, chosen_first: bool, verdict: bool) -> str:
    """The reason with {chosen} and {rejected} replaced by the labels of where they stand."""
    chosen, rejected = LABELS if chosen_first else LABELS[::-1]
    text = reason.replace("{chosen}", chosen).replace("{rejected}", rejected)
    return f"{chosen} is preferable. {text}" if verdict else text


def facts(prompt: str, chosen: str, rejected: str) -> str:
    """A reason that can be checked: the lengths in words, and how many words of the prompt each response takes up."""
    lengths = [len(text.split()) for text in (chosen, rejected)]
    words = set(re.findall(r"\w{4,}", prompt.lower()))
    shared = [len(words & set(re.findall(r"\w{4,}", text.lower()))) for text in (chosen, rejected)]
    return (
        f"{{chosen}} has {counted(lengths[0], 'word')} and takes up {shared[0]} of the question's, "
        f"{{rejected}} has {lengths[1]} and takes up {shared[1]}."
    )


def plain(text: Text | None) -> str:
    """A string as it is; of messages their contents, one per line."""
    if text is None or isinstance(text, str):
        return text or ""
    return "\n".join(str(message.get("content", "")) for message in text)
