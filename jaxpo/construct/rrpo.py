"""RRPO's pairs: which phrases differ, and rejected answers to corrupted prompts and clips."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.frames import perturbed
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.pictures import COLUMN
from jaxpo.data.rows.rows import PAIRS, detect, read_record
from jaxpo.data.rows.segments import marked_text
from jaxpo.data.rows.sides import Side
from jaxpo.data.rows.texts import Text
from jaxpo.errors import BadImage
from jaxpo.sampling.prompts import Conversation, as_conversation, prompt_of

Span = list[int]
_WORD = re.compile(r"\w+|[^\w\s]")
_SENTENCE = re.compile(r"\S.*?(?:[.!?]+(?=\s)|$)", re.DOTALL | re.MULTILINE)


def differing_spans(chosen: str, rejected: str) -> tuple[list[Span], list[Span]]:
    """Character spans of the phrases in which two texts differ, each list in order: a word-level diff.

    A phrase runs from its first differing word to its last; what only one side has is a phrase of that side alone.
    """
    words = [[m.span() for m in _WORD.finditer(text)] for text in (chosen, rejected)]
    plain = [[text[a:b] for a, b in spans] for text, spans in zip((chosen, rejected), words, strict=True)]
    found: tuple[list[Span], list[Span]] = ([], [])
    for tag, *bounds in difflib.SequenceMatcher(None, plain[0], plain[1], autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for side, (first, last) in enumerate((bounds[:2], bounds[2:])):
            if last > first:
                found[side].append([words[side][first][0], words[side][last - 1][1]])
    return found


def corrupt(text: str, rng: np.random.Generator, *, share: float, shuffle: bool, mask: str) -> str:
    """Mask a share of the sentences before the last one, at least one unless it is 0, and shuffle them if asked.

    The last sentence, which is the question, stays. A text of one sentence loses words instead. This is the text-only
    counterpart of the paper's masked and reordered video frames.
    """
    sentences = [m.group() for m in _SENTENCE.finditer(text)]
    if len(sentences) > 1:
        units, end, joint = sentences[:-1], sentences[-1:], "\n" if "\n" in text else " "
    else:
        units, end, joint = text.split(), [], " "
    if not units:
        return text
    count = min(len(units), max(1, round(share * len(units)))) if share else 0
    hidden = rng.choice(len(units), size=count, replace=False)
    units = [mask if i in set(hidden.tolist()) else unit for i, unit in enumerate(units)]
    if shuffle:
        units = [units[i] for i in rng.permutation(len(units))]
    return joint.join(units + end)


def corrupt_prompt(prompt: Text, rng: np.random.Generator, *, share: float, shuffle: bool, mask: str) -> Text:
    """`corrupt` a prompt; of a conversation, its last message with text."""
    if isinstance(prompt, str):
        return corrupt(prompt, rng, share=share, shuffle=shuffle, mask=mask)
    last = max((i for i, m in enumerate(prompt) if isinstance(m["content"], str)), default=None)
    if last is None:
        return prompt
    new = corrupt(prompt[last]["content"], rng, share=share, shuffle=shuffle, mask=mask)
    return [{**m, "content": new} if i == last else m for i, m in enumerate(prompt)]


@dataclass(frozen=True)
class RRPO(Construction):
    """Mark the phrases in which chosen and rejected answers differ; write rejected answers where there are none.

    A row without a rejected answer gets one that --model gives to its prompt with sentences masked or shuffled: the
    first sample that differs from the chosen answer. A row that shows a clip or images keeps its words: frames are
    masked or shuffled. The pair has the row's own images.

    Attributes:
      mask_low: smallest share of the prompt's sentences, or of a clip's frames, that is masked.
      mask_high: largest share; it is drawn between the two for each row. 0 = none of the frames, where they are
        shuffled.
      shuffle: reorder the sentences, or the frames, too.
      mask: what stands for a masked sentence; a masked frame is grey.
      frames: of a clip that are shown, evenly spaced.
      image_tokens: vectors of an image at most, which is not cut then; None = as the model's files say.
      samples: answers tried per prompt.
      temperature, top_k, max_new_tokens: of the sampling; top_k 0 = all tokens.
    """

    mask_low: float = 0.25
    mask_high: float = 0.5
    shuffle: bool = False
    mask: str = "[...]"
    frames: int = 16
    image_tokens: int | None = None
    samples: int = 4
    temperature: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 128

    NAME = "rrpo"
    READS = "pairs; or prompt and completion, with a clip or images perhaps, whose rejected answers --model writes"
    WRITES = "pairs with the columns `chosen_spans` and `rejected_spans`"

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        written = self._rejected_answers(rows, tools)
        for i, row in enumerate(rows):
            if i in written:
                pair = self._new_pair(row, written[i], tools)
                if pair is None:
                    continue
                row = pair
            chosen, rejected = read_record(row, detect(row), pictures=True).sides[:2]
            texts = [marked_text(row, side, side.role) for side in (chosen, rejected)]
            spans = differing_spans(texts[0], texts[1])
            if not any(spans):
                tools.count("dropped_no_word_differs")
                continue
            tools.count("phrases", len(spans[0]) + len(spans[1]))
            shifted = [_in_column(row, s, t, x) for s, t, x in zip((chosen, rejected), texts, spans, strict=True)]
            yield {**row.data, "chosen_spans": shifted[0], "rejected_spans": shifted[1]}

    def _rejected_answers(self, rows: Sequence[Row], tools: Tools) -> dict[int, list[str]]:
        """Number of each row without a rejected answer -> answers of the model to its corrupted prompt."""
        prompts: dict[int, Text | Conversation] = {}
        for i, row in enumerate(rows):
            kind = detect(row)
            if kind == "prompt_completion":
                prompts[i] = self._corrupted(row, np.random.default_rng([tools.seed, i]))
            elif kind not in PAIRS:
                raise row.error(
                    f"type {kind!r} has no answers to compare.",
                    remedy="Give rows with prompt, chosen and rejected; or with prompt and completion, and --model.",
                )
        if not prompts:
            return {}
        answers = tools.generate(
            list(prompts.values()),
            self.samples,
            temperature=self.temperature,
            top_k=self.top_k,
            max_new_tokens=self.max_new_tokens,
            frames=self.frames,
            image_tokens=self.image_tokens,
        )
        return dict(zip(prompts, answers, strict=True))

    def _corrupted(self, row: Row, rng: np.random.Generator) -> Text | Conversation:
        """What a row asks, made worse: its clips where it shows any, else its words."""
        share = rng.uniform(self.mask_low, self.mask_high)
        record = read_record(row, "prompt_completion", pictures=True)
        if not record.pictures:
            prompt = record.sides[0].prompt
            assert prompt is not None  # the type has one
            return corrupt_prompt(prompt, rng, share=share, shuffle=self.shuffle, mask=self.mask)
        if not {"prompt", "completion"} <= row.data.keys():
            remedy = "Give prompt and completion: the pair has the row's own prompt."
            raise row.error("its images stand in a prompt of another form.", field=COLUMN, remedy=remedy)
        asked = as_conversation(prompt_of(record))
        how: dict[str, Any] = {"most": self.frames, "share": share, "shuffle": self.shuffle, "root": row.file.parent}
        try:
            worse = perturbed(record.pictures, rng, **how)
        except BadImage as error:
            raise row.error(error.message, field=COLUMN, remedy=error.remedy) from error
        return replace(asked, pictures=tuple(worse))

    def _new_pair(self, row: Row, answers: Sequence[str], tools: Tools) -> Row | None:
        """The row with its completion as chosen and the first different answer as rejected; None if there is none."""
        record = read_record(row, "prompt_completion", pictures=True)
        side = record.sides[0]
        text = marked_text(row, side, "completion")
        wrong = next((a for a in answers if a.split() and a.split() != text.split()), None)
        if wrong is None:
            tools.count("dropped_same_answer")
            return None
        tools.count("rejected_answers_written")
        kept = {k: v for k, v in row.data.items() if k not in ("prompt", "completion")}
        rejected: Text = wrong
        if not isinstance(side.completion, str):
            rejected = [{"role": "assistant", "content": wrong}]
        # What shows images is as it was given: they stand where it says so.
        prompt = row.data["prompt"] if record.pictures else side.prompt
        pair = {"prompt": prompt, "chosen": side.completion, "rejected": rejected}
        return Row(row.file, row.number, {**kept, **pair})

    def problems(self) -> list[str]:
        problems = []
        if not 0 <= self.mask_low <= self.mask_high <= 1 or not (self.mask_high or self.shuffle):
            problems.append(
                f"--mask-low {self.mask_low} and --mask-high {self.mask_high} must satisfy 0 <= low <= high <= 1, and "
                "high must be above 0 unless --shuffle is given."
            )
        if self.frames < 1:
            problems.append(f"--frames is {self.frames} but must be at least 1.")
        if self.image_tokens is not None and self.image_tokens < 1:
            problems.append(f"--image-tokens is {self.image_tokens} but must be at least 1.")
        if self.samples < 1:
            problems.append(f"--samples is {self.samples} but must be at least 1.")
        return problems


def _in_column(row: Row, side: Side, text: str, spans: list[Span]) -> list[Span]:
    """Spans of a response, counted in its column: one that is a string may begin with the prompt."""
    given = row.data[side.role]
    shift = len(given) - len(text) if isinstance(given, str) else 0
    return [[a + shift, b + shift] for a, b in spans]
