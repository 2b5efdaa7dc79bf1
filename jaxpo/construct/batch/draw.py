"""The engine's answers to many prompts, kept as they are finished: what was kept is never drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jaxpo.construct.batch.meter import Meter
from jaxpo.construct.batch.prompts import Asked
from jaxpo.errors import BadImage
from jaxpo.judges.ledger import Ledger
from jaxpo.sampling.request import Generation, Request

AHEAD = 2
"""Requests that the engine holds, as multiples of its slots: enough that none is idle, few enough to be light."""


@dataclass(frozen=True)
class Answer:
    """One answer as it is kept.

    Attributes:
      length: tokens, the turn's end included.
      tokens, logps, sampling_logps: None unless asked for.
    """

    text: str
    reason: str
    length: int
    error: str | None = None
    tokens: list[int] | None = None
    logps: list[float] | None = None
    sampling_logps: list[float] | None = None


def read_answers(ledger: Ledger) -> dict[int, list[Answer]]:
    """Row number -> its n answers, of the rows that were finished."""
    return {record["row"]: [Answer(**kept) for kept in record["answers"]] for record in ledger.read()}


def draw(
    asked: Sequence[Asked], engine: Any, template: Request, ledger: Ledger, meter: Meter, *, logps: bool
) -> dict[int, list[Answer]]:
    """Answer every prompt n times; a row is written when its last answer ends.

    Answer s to a row is a function of (parameters, prompt, settings, seed, row's number, s): neither the order of rows
    nor where an earlier run was stopped enters, beyond the rounding of products of another shape. A row with an image
    that proves broken ends with that error.
    """
    waiting = list(reversed(asked))
    running: dict[int, tuple[Asked, dict[int, Answer]]] = {}
    found: dict[int, list[Answer]] = {}
    most, first = AHEAD * engine.load.slots, True
    while waiting or running:
        while waiting and len(running) < most:
            one = waiting.pop()
            try:
                shown = one.shown()
            except BadImage as error:
                found[one.number] = [Answer("", "error", 0, error.message)] * template.n
                ledger.append([_record(one.number, found[one.number])])
                meter.add(1, 0)
                continue
            number = engine.submit(replace(template, prompt=one.ids, shown=shown, number=one.number))
            running[number] = one, {}
        done: list[int] = []
        tokens = 0
        ended = engine.step()
        if first:
            meter.compiled()
            first = False
        for generation in ended:
            one, answers = running[generation.request]
            answers[generation.sample] = _kept(generation, logps)
            tokens += len(generation.tokens)
            if len(answers) == template.n:
                done.append(one.number)
                found[one.number] = [answers[s] for s in range(template.n)]
                del running[generation.request]
        if done:
            ledger.append(_record(number, found[number]) for number in done)
        meter.add(len(done), tokens)
    return found


def _record(number: int, answers: Sequence[Answer]) -> dict[str, Any]:
    return {"row": number, "answers": [asdict(answer) for answer in answers]}


def _kept(generation: Generation, logps: bool) -> Answer:
    broken = generation.reason == "error"
    with_logps = logps and not broken
    return Answer(
        text="" if broken else generation.text or "",
        reason=str(generation.reason),
        length=len(generation.tokens),
        error=generation.error,
        tokens=list(map(int, generation.tokens)) if with_logps else None,
        logps=_rounded(generation.logps) if with_logps else None,
        sampling_logps=_rounded(generation.sampling_logps) if with_logps else None,
    )


def _rounded(values: Any) -> list[float]:
    return [round(float(x), 6) for x in values]
