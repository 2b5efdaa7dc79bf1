"""MAPL's prompts: instructions that a program can check, added so that a response meets or violates them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.instructions import GENERATORS, Instruction
from jaxpo.construct.lcpo import read_pairs
from jaxpo.construct.rationales import plain
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import Text


@dataclass(frozen=True)
class MAPL(Construction):
    """Prompts with added instructions: two per response (intra), and one for the pair as it stands (inter).

    Attributes:
      intra: write two prompts for each response, of which it fits the first better.
      inter: write a second prompt for the pair, that makes the preference clearer (sign 1) or weaker (sign -1).
      max_instructions: how many instructions a prompt gets at most.
      weakened_share: share of the second prompts that weaken the preference.
    """

    intra: bool = True
    inter: bool = True
    max_instructions: int = 3
    weakened_share: float = 0.5

    NAME = "mapl"
    READS = "pairs under one prompt"
    WRITES = "the same rows with `intra: {side: [prompt_plus, prompt_minus]}` and `inter_prompt`, `inter_sign`"

    def problems(self) -> list[str]:
        found = []
        if self.max_instructions < 1:
            found.append(f"--max-instructions is {self.max_instructions} but must be at least 1.")
        if not 0 <= self.weakened_share <= 1:
            found.append(f"--weakened-share is {self.weakened_share} but must be a share.")
        return found

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(tools.seed)
        for record in read_pairs(rows):
            chosen, rejected = record.sides[:2]
            if chosen.prompt != rejected.prompt or chosen.prompt is None:
                raise record.row.error("the responses answer different prompts.", remedy="Give pairs under one prompt.")
            texts = {"chosen": plain(chosen.completion), "rejected": plain(rejected.completion)}
            new: dict[str, Any] = {}
            if self.intra:
                found = {side: self.two_prompts(chosen.prompt, text, rng) for side, text in texts.items()}
                new["intra"] = {side: list(prompts) for side, prompts in found.items() if prompts}
            if self.inter and (clearer := self.clearer(texts["chosen"], texts["rejected"], rng)):
                instructions, sign = clearer
                new |= {"inter_prompt": added(chosen.prompt, instructions), "inter_sign": sign}
            elif self.inter:
                tools.count("without_inter_prompt")
            yield record.row.data | {name: value for name, value in new.items() if value}

    def two_prompts(self, prompt: Text, response: str, rng: np.random.Generator) -> tuple[Text, Text] | None:
        """x+ and x-, the same kinds of instruction with other arguments; None if no argument makes a difference."""
        both: list[tuple[Instruction, Instruction]] = []
        for kind in rng.permutation(list(GENERATORS))[: 3 * self.max_instructions]:
            met, violated = (GENERATORS[kind](response, flag, rng) for flag in (True, False))
            if met is not None and violated is not None:
                both.append((met, violated))
        both = both[: int(rng.integers(1, self.max_instructions + 1))]
        if not both:
            return None
        flags = assignments(len(both), rng)
        plus, minus = ([pair[0 if met else 1] for pair, met in zip(both, side, strict=True)] for side in flags)
        assert prompt_order([i.holds(response) for i in plus], [i.holds(response) for i in minus]) == 1
        return added(prompt, plus), added(prompt, minus)

    def clearer(self, chosen: str, rejected: str, rng: np.random.Generator) -> tuple[list[Instruction], int] | None:
        """Instructions that one response meets and the other violates, and the sign; None if there are none."""
        sign = -1 if rng.random() < self.weakened_share else 1
        meets, violates = (chosen, rejected) if sign > 0 else (rejected, chosen)
        wanted, found = int(rng.integers(1, self.max_instructions + 1)), []
        for kind in rng.permutation(list(GENERATORS)):
            instruction = GENERATORS[kind](meets, True, rng)
            if instruction is not None and not instruction.holds(violates):
                found.append(instruction)
            if len(found) == wanted:
                break
        return (found, sign) if found else None


def prompt_order(met_a: Sequence[bool], met_b: Sequence[bool]) -> int:
    """Which of two prompts a response fits better, from which of their instructions it meets: 1 = a, -1 = b.

    A prompt is preferred when the response meets all of its instructions but not all of the other's, or at least one
    of its own but none of the other's; 0 = undecided, as when all of both are met.
    """
    a = (all(met_a) and not all(met_b)) or (any(met_a) and not any(met_b))
    b = (all(met_b) and not all(met_a)) or (any(met_b) and not any(met_a))
    return int(a) - int(b)


def assignments(n: int, rng: np.random.Generator) -> tuple[list[bool], list[bool]]:
    """Which of n instructions are met in x+ and in x-: all against not all, or at least one against none."""
    some = rng.random(n) < 0.5
    if rng.random() < 0.5:
        some[rng.integers(n)] = False
        return [True] * n, some.tolist()
    some[rng.integers(n)] = True
    return some.tolist(), [False] * n


def added(prompt: Text, instructions: Sequence[Instruction]) -> Text:
    """The prompt with the instructions after its own words; of a conversation, in the last user turn."""
    text = " ".join(i.text for i in instructions)
    if isinstance(prompt, str):
        words = prompt.rstrip()
        return f"{words}{' ' if words else ''}{text}{prompt[len(words) :]}"
    turns = [dict(m) for m in prompt]
    last = max((i for i, m in enumerate(turns) if m["role"] == "user"), default=len(turns) - 1)
    turns[last]["content"] = f"{turns[last]['content'].rstrip()} {text}"
    return turns
