"""What makes a vector of a text: words as they are, a function, or the model of an earlier stage."""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.errors import ConfigError, RunError
from jaxpo.judges.base import Networks
from jaxpo.judges.function import load_function, source_hash

Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts -> `[n, D]`."""


def words(text: str) -> list[str]:
    """Alternating runs of word characters and of punctuation."""
    return re.findall(r"\w+|[^\w\s]+", text)


@dataclass(frozen=True)
class Encoder(ABC):
    """Vectors whose dot product says how much two texts have in common."""

    def check(self) -> None:
        """Refuse what cannot work before anything expensive; ConfigError."""
        return

    def models(self) -> tuple[str, ...]:
        """Names of the networks that it asks for."""
        return ()

    @abstractmethod
    def identity(self, networks: Networks) -> dict[str, Any]:
        """Everything that vectors depend on besides the texts."""

    @abstractmethod
    def open(self, networks: Networks) -> Encode:
        """The encoder."""


@dataclass(frozen=True)
class WordEncoder(Encoder):
    """The mean over a text's words of one dimension for each, in lower case: shared words, as shares of either text.

    Attributes:
      dimensions: that words are hashed to.
      scale: of every word's vector, so that the dot product has the size of another encoder's.
    """

    dimensions: int = 4096
    scale: float = 1.0

    def check(self) -> None:
        if self.dimensions < 1:
            raise ConfigError(f"dimensions is {self.dimensions}; it must be at least 1.")

    def identity(self, networks: Networks) -> dict[str, Any]:
        return {"encoder": "words", "dimensions": self.dimensions, "scale": self.scale}

    def open(self, networks: Networks) -> Encode:
        def encode(texts: Sequence[str]) -> np.ndarray:
            found = np.zeros((len(texts), self.dimensions))
            for i, text in enumerate(texts):
                own = words(text.lower())
                for word in own:
                    found[i, zlib.crc32(word.encode("utf-8", "surrogatepass")) % self.dimensions] += 1 / len(own)
            return self.scale * found

        return encode


@dataclass(frozen=True)
class FunctionEncoder(Encoder):
    """A Python function, `f(texts) -> [n, D]`.

    Attributes:
      function: "module:function", or "file.py:function".
    """

    function: str = ""

    def check(self) -> None:
        load_function(self.function)

    def identity(self, networks: Networks) -> dict[str, Any]:
        return {"encoder": "function", "function": self.function, "source": source_hash(self.function)}

    def open(self, networks: Networks) -> Encode:
        function = load_function(self.function)

        def encode(texts: Sequence[str]) -> np.ndarray:
            found = np.asarray(function(list(texts)), np.float64)
            if found.ndim != 2 or len(found) != len(texts) or not np.all(np.isfinite(found)):
                raise RunError(
                    f"the encoder {self.function} gave an array of shape {found.shape} for {len(texts)} texts; give a "
                    "finite vector for each, all of one length."
                )
            return found

        return encode


@dataclass(frozen=True)
class NetworkEncoder(Encoder):
    """The mean final state over a text's tokens, not normalised.

    Attributes:
      model: an earlier stage.
    """

    model: str = "previous"

    def models(self) -> tuple[str, ...]:
        return (self.model,)

    def identity(self, networks: Networks) -> dict[str, Any]:
        return {"encoder": "network", "model": networks(self.model).fingerprint()}

    def open(self, networks: Networks) -> Encode:
        network = networks(self.model)

        def encode(texts: Sequence[str]) -> np.ndarray:
            return np.asarray(network.embed(list(texts)), np.float64)

        return encode
