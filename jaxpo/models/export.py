"""How a family's models lie in Hugging Face files, as `jaxpo.convert` asks it. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Tensor = Callable[[str], "np.ndarray"]
"""Name in a file -> values."""
CAUSAL_LM, IMAGE_TEXT = "AutoModelForCausalLM", "AutoModelForImageTextToText"
"""Classes of transformers that load a folder."""


@dataclass(frozen=True)
class Seen:
    """An image that files are compared on.

    Attributes:
      patches: float32 `[rows * columns, C]`, normalised, row by row.
      rows, columns: of the patches, even numbers.
      first: position of the first of the tokens in whose places its vectors stand.
      token_id: of those tokens; no other token is that.
    """

    patches: np.ndarray
    rows: int
    columns: int
    first: int
    token_id: int

    @property
    def vectors(self) -> int:
        """What becomes of the patches, four each."""
        return self.rows * self.columns // 4


def own_names(names: Iterable[str]) -> dict[str, str | None]:
    """Tensors of a file whose names are those of the table."""
    return {name: name for name in names}


@dataclass(frozen=True)
class Export:
    """How a family's models lie in Hugging Face files; tensor names and layouts stand in its parameter table.

    Attributes:
      classes: `model_type` of a config.json -> what the names of its classes in transformers begin with.
      endings: what these names may end with.
      to_json: `(config, dtype) -> config.json`.
      from_json: `(config.json, its path) -> config`; CheckpointError for what the family has not.
      generation: `config -> generation_config.json`.
      logits: `(tensor, config, tokens) -> [S, V]`, the model in float64 numpy on the tensors of a file, which shares no
        code with `Family.forward`: exports are compared with it. Of a family that sees, with the image of `seen`.
      hidden: likewise, the final hidden states `[S, D]`, of text alone.
      reward: likewise, what a reward model gives the sequence; None = transformers has no class that puts another head
        on such a model.
      renamed: names in a file -> those of the table, or None for what the model is not made of.
      fitted: `(config, names in the file, processor) -> config`: what only the tensors, or the keys of the image
        processor's files, say; None = config.json says everything.
      processor: `config ->` how its images are made, the fields of `ImageSettings` that follow from the model.
      seen: `config -> Seen`; None, as of `processor`, where the family reads text alone.
      loader: the class of transformers that loads a folder.
    """

    classes: Mapping[str, str]
    endings: tuple[str, ...]
    to_json: Callable[[Any, str], dict[str, Any]]
    from_json: Callable[[Mapping[str, Any], object], Any]
    generation: Callable[[Any], dict[str, Any]]
    logits: Callable[[Tensor, Any, np.ndarray], np.ndarray]
    hidden: Callable[[Tensor, Any, np.ndarray], np.ndarray]
    reward: Callable[[Tensor, Any, np.ndarray], float] | None = None
    renamed: Callable[[Iterable[str]], dict[str, str | None]] = own_names
    fitted: Callable[[Any, Iterable[str], Mapping[str, Any]], Any] | None = None
    processor: Callable[[Any], dict[str, Any]] | None = None
    seen: Callable[[Any], Seen] | None = None
    loader: str = CAUSAL_LM
