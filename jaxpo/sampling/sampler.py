"""How the next token is chosen: settings only, no jax, so that command lines can hold one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxpo.errors import ConfigError


@dataclass(frozen=True)
class Sampler:
    """Settings of the sampling distribution; the filters apply in the order of the fields, as in transformers.

    Attributes:
      repetition_penalty: divides the positive and multiplies the negative logits of every token already there, in the
        prompt or the answer (Keskar et al. 2019, arXiv 1909.05858, section 4.1); 1 = off. Greedy decoding has it too.
      frequency_penalty: subtracted from a token's logit once for every time that the answer, not the prompt, holds it
        (OpenAI's definition); negative = repeats are favoured, 0 = off. Greedy decoding has it too.
      presence_penalty: subtracted once from the logit of every token that the answer holds; 0 = off.
      temperature: divides the logits; 0 = greedy (the filters below then change nothing).
      top_k: keep the k largest logits, and all that tie with the k-th; 0 = off.
      top_p: keep the smallest set of most probable tokens with total probability >= top_p (Holtzman et al. 2019,
        arXiv 1904.09751), at least one; between equal logits the smaller id goes first; 1 = off.
      min_p: keep tokens with at least min_p times the largest probability (Nguyen et al. 2024, arXiv 2407.01082);
        0 = off.

    Raises:
      ConfigError: lists every setting out of range.
    """

    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        problems = [
            f"sampler.{name} is {value!r}; it must be {meaning}"
            for name, value, valid, meaning in (
                ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "positive (1 = off)"),
                ("frequency_penalty", self.frequency_penalty, abs(self.frequency_penalty) <= 2, "in [-2, 2] (0 = off)"),
                ("presence_penalty", self.presence_penalty, abs(self.presence_penalty) <= 2, "in [-2, 2] (0 = off)"),
                ("temperature", self.temperature, self.temperature >= 0, "0 (greedy) or positive"),
                ("top_k", self.top_k, self.top_k >= 0 and int(self.top_k) == self.top_k, "a whole number (0 = off)"),
                ("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1] (1 = off)"),
                ("min_p", self.min_p, 0 <= self.min_p <= 1, "in [0, 1] (0 = off)"),
            )
            if not (math.isfinite(value) and valid)
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0


GREEDY = Sampler(temperature=0.0)
