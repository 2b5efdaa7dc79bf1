"""How the scores of examples are read: which interval a number has, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpo.evaluate.intervals import Measurement, ratio, share, shares


@dataclass(frozen=True)
class Score:
    """How a score is read.

    Attributes:
      about: what it is, in a few words.
      binary: each example has 0 or 1 (a tie may be 1/2): Wilson's interval, McNemar in comparisons; otherwise the
        bootstrap over examples of sum values / sum weights.
      shares: an example's value lies between 0 and its weight (tries that were right, of those that were made).
      higher: whether more is better.
      exp: the result is the exponential of the ratio (perplexity).
    """

    about: str
    binary: bool = False
    higher: bool = True
    exp: bool = False
    shares: bool = False

    def measure(self, values: np.ndarray, weights: np.ndarray) -> Measurement:
        """The result over examples, with n and interval."""
        if self.binary:
            return share(float(values.sum()), len(values))
        found = shares(values, weights) if self.shares else ratio(values, weights)
        if found.n == 1:
            # One unit says nothing of how units differ.
            found = Measurement(found.value, 1)
        if not self.exp:
            return found
        ends = [None if end is None else float(np.exp(end)) for end in (found.low, found.high)]
        return Measurement(float(np.exp(found.value)), found.n, *ends)
