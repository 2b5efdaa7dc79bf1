"""Trajectories by a model: it writes until it calls, the tool answers, it goes on; prompts are read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jaxpo.sampling.request import Request, said
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.text import encode_prompt
from jaxpo.tools.base import Toolbox
from jaxpo.tools.trajectory import (
    MAX_CALLS,
    OBSERVATION_MARK,
    RATIONALE_MARK,
    Call,
    Finished,
    Rationale,
    Step,
    Trajectory,
    parse,
)

if TYPE_CHECKING:
    from jaxpo.data.rows.texts import Text
    from jaxpo.judges.network import Network
    from jaxpo.sampling.engine import Engine


@dataclass(frozen=True)
class Writing:
    """How trajectories are written.

    Attributes:
      max_calls: of tools; then the rationale begins.
      max_new_tokens: between two observations.
      temperature, top_k: of the sampling.
    """

    max_calls: int = MAX_CALLS
    max_new_tokens: int = 96
    temperature: float = 0.0
    top_k: int = 0

    def problems(self) -> list[str]:
        """What is out of range, one sentence each."""
        found = []
        if not 1 <= self.max_calls <= MAX_CALLS:
            found.append(f"--max-calls is {self.max_calls} but must lie in 1 .. {MAX_CALLS}.")
        if self.max_new_tokens < 1:
            found.append(f"--max-new-tokens is {self.max_new_tokens} but must be at least 1.")
        if self.temperature < 0:
            found.append(f"--temperature is {self.temperature} but must be at least 0.")
        return found


@dataclass
class _UnderWay:
    """One answer: its ids up to the answer's beginning, and its trajectory so far."""

    number: int
    prompt: list[int]
    answer: str
    found: Trajectory
    ended: bool = False

    @property
    def begun(self) -> str:
        """The assistant's text so far; the last piece begins with the rationale's mark where no call is left."""
        return self.found.text(self.answer)


def write_trajectories(
    network: Network,
    prompts: Sequence[Text],
    answers: Sequence[str],
    toolbox: Toolbox,
    how: Writing,
    *,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> list[Trajectory]:
    """What the network finds out about each answer with the tools.

    Every round all answers that still go on are written in one engine, which keeps what it has read of them.

    Args:
      seed: of the draws, which belong to the answer's number.
      check: called between rounds; may raise to stop.
    """
    all_of_them = [
        _UnderWay(i, encode_prompt(network.tokenizer, prompt), answer, Trajectory())
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    longest = max((len(one.prompt) for one in all_of_them), default=0)
    sized = [Request(one.prompt, max_new_tokens=max(network.max_length - longest, 1)) for one in all_of_them]
    engine = network.engine(sized) if sized else None
    while engine is not None and (active := [one for one in all_of_them if not one.ended]):
        check()
        _round(engine, network, active, toolbox, how, seed)
    return [one.found for one in all_of_them]


def _round(
    engine: Engine, network: Network, active: Sequence[_UnderWay], toolbox: Toolbox, how: Writing, seed: int
) -> None:
    """One piece of each answer's trajectory, and the calls in it."""
    written: list[tuple[_UnderWay, Request]] = []
    for one in active:
        last = len(one.found.steps) >= how.max_calls
        ids = [*one.prompt, *network.tokenizer.encode(one.begun + (RATIONALE_MARK if last else ""))]
        room = min(how.max_new_tokens, network.max_length - len(ids), engine.context - len(ids))
        if room < 1:
            one.found, one.ended = replace(one.found, malformed=True), True
            continue
        sampler = Sampler(temperature=how.temperature, top_k=how.top_k)
        stop = (OBSERVATION_MARK.strip(),)
        written.append((one, Request(ids, 1, sampler, room, stop=stop, seed=seed, number=one.number)))
    for (one, _), answer in zip(written, engine.generate([request for _, request in written]), strict=True):
        last = len(one.found.steps) >= how.max_calls
        _take(one, (RATIONALE_MARK if last else "") + said(answer), toolbox, how.max_calls)


def _take(one: _UnderWay, text: str, toolbox: Toolbox, max_calls: int) -> None:
    """Add what was written to the trajectory, with the observation of a call."""
    new = parse(text)
    if isinstance(new, Call) and len(one.found.steps) < max_calls:
        seen = toolbox.use(new.action, new.input)
        one.found = replace(one.found, steps=(*one.found.steps, Step(new, seen.text, seen.failed)))
        return
    one.ended = True
    if isinstance(new, Rationale):
        one.found = replace(one.found, rationale=new.text)
    elif isinstance(new, Call):
        one.found = replace(one.found, cut=True)
    elif not isinstance(new, Finished):
        one.found = replace(one.found, malformed=True)
