"""Which steps a profile records, as `jaxpo run --profile` names them. Imports no jax."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jaxpo.errors import ConfigError


@dataclass(frozen=True)
class ProfileRange:
    """Steps `first..last`, both included and counted from 1, of one stage; `stage=None`: of every stage that trains."""

    first: int
    last: int
    stage: str | None = None

    def of(self, stage: str) -> ProfileRange | None:
        """What of it concerns a stage."""
        return self if self.stage in (None, stage) else None


def parse_range(text: str) -> ProfileRange:
    """`3:5` and `sft:3:5`.

    Raises:
      ConfigError: neither, or steps that are none.
    """
    found = re.fullmatch(r"(?:([^:]+):)?(\d+):(\d+)", text)
    if found is None:
        raise ConfigError(f"--profile: expected FROM:TO or STAGE:FROM:TO, such as 3:5, got {text!r}.")
    stage, first, last = found[1], int(found[2]), int(found[3])
    if not 1 <= first <= last:
        raise ConfigError(f"--profile: steps count from 1 and FROM comes first, got {first}:{last}.")
    return ProfileRange(first, last, stage)
