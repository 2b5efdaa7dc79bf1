"""A model's own answers to prompts, kept as they are finished."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxpo.judges.asking import Progress
from jaxpo.judges.ledger import Ledger, digest
from jaxpo.judges.questions import Question
from jaxpo.models.family import limits
from jaxpo.sampling.request import said
from jaxpo.sampling.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class Sample:
    """One answer; `finished` is False where it was cut off at the limit."""

    text: str
    finished: bool


def draw_samples(
    questions: Sequence[Question],
    network: Any,
    folder: Path,
    *,
    n: int,
    sampler: Sampler,
    max_new_tokens: int,
    seed: int,
    max_rows: int,
    counts: Counter[str],
    say: Callable[[str], None],
    check: Callable[[], None],
) -> dict[int, list[Sample]]:
    """n samples of every question by its number; what the ledger has is not drawn again.

    Sample s of question q is a function of (parameters, prompt, sampler, seed, q, s), so neither where an earlier run
    was stopped nor `max_rows` enters, beyond the rounding of matrix products. Questions that leave no room for an
    answer in the model's context are absent and counted.
    """
    settings = {"model": network.fingerprint(), "sampler": dataclasses.asdict(sampler), "seed": seed}
    ledger = Ledger(folder, "samples", {**settings, "max_new_tokens": max_new_tokens})
    names = {q.number: digest(q.prompt) for q in questions}
    found: dict[tuple[int, int], Sample] = {}
    for record in ledger.read():
        if names.get(record["question"]) == record["prompt"]:
            found[record["question"], record["sample"]] = Sample(record["text"], record["finished"])
    lengths = network.prompt_lengths([q.prompt for q in questions])
    room = limits(network.config).context - max_new_tokens
    fitting = [q for q, length in zip(questions, lengths, strict=True) if length <= room]
    counts["rows_left_out_prompt_too_long"] += len(questions) - len(fitting)
    missing = [q for q in fitting if any((q.number, s) not in found for s in range(n))]
    if len(missing) < len(fitting):
        say(f"samples: {len(fitting) - len(missing)} of {len(fitting)} prompts have theirs in {ledger.path}")
    progress = Progress("samples", 0, n * len(missing), say)
    drawn = 0
    passes = network.draw(
        [q.prompt for q in missing],
        n,
        numbers=[q.number for q in missing],
        sampler=sampler,
        max_new_tokens=max_new_tokens,
        seed=seed,
        max_rows=max_rows,
    )
    for finished in passes if missing else ():
        records = [_record(missing[one.request], one, names) for one in finished]
        ledger.append(records)
        for one in finished:
            found[missing[one.request].number, one.sample] = Sample(said(one), one.reason != "length")
        drawn += len(finished)
        progress.show(drawn)
        check()
    counts["samples_drawn"] += drawn
    return {q.number: [found[q.number, s] for s in range(n)] for q in fitting}


def _record(question: Question, one: Any, names: dict[int, str]) -> dict[str, Any]:
    return {
        "question": question.number,
        "sample": one.sample,
        "prompt": names[question.number],
        "text": said(one),
        "finished": one.reason != "length",
    }
