"""What a probe gets to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.convert.retriever import Retriever
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.evaluate.score import token_logps
from jaxpo.evaluate.subject import Subject
from jaxpo.evaluate.tasks.base import Reader
from jaxpo.models.family import limits
from jaxpo.objectives.encode import Scorer

Tree = Any


@dataclass(frozen=True)
class ProbeContext:
    """A model at some moment of a run, and how to evaluate it.

    Attributes:
      params: the model's own tree (`State.params["model"]`).
      stage: "initial", or the name of the stage that has just ended.
      run_dir: of the run.
      corpus_dir: where the run's corpus was built; files named "corpus:FILE" lie here.
      before: the model's tree that this stage started from; None for "initial" and merges.
      rows, row_length: shape of the scoring batches.
      heads: what was trained beside the model, by name.
      retriever: how it finds texts; None where it is no retriever.
    """

    params: Tree
    scorer: Scorer
    tokenizer: Tokenizer
    stage: str
    run_dir: Path
    corpus_dir: Path | None = None
    before: Tree = None
    rows: int = 16
    row_length: int = 256
    heads: Mapping[str, Tree] = field(default_factory=dict)
    retriever: Retriever | None = None

    def files(self, names: Sequence[str]) -> list[Path]:
        """Paths of files, "corpus:FILE" resolved."""
        if any(name.startswith("corpus:") for name in names) and self.corpus_dir is None:
            raise ValueError("files of a corpus are named, but the context has no corpus_dir")
        return [
            Path(self.corpus_dir or "", name.removeprefix("corpus:")) if name.startswith("corpus:") else Path(name)
            for name in names
        ]

    @property
    def subject(self) -> Subject:
        """The model as tasks see it."""
        reader = Reader(self.tokenizer, limits(self.scorer.config).context)
        return Subject(self.params, self.scorer, reader, (self.tokenizer.eos_id,))

    def logps(self, segments: Sequence[np.ndarray], params: Tree = None) -> list[np.ndarray]:
        """Per-token log-probs of the model, or of another one of the same shape.

        Sequences longer than `row_length` get rows of 2, 4, ... times that.
        """
        chosen = self.params if params is None else params
        row_length = self.row_length
        while row_length < max((len(s) for s in segments), default=0):
            row_length *= 2
        return token_logps(self.scorer, chosen, segments, rows=self.rows, row_length=row_length)
