"""Classifiers of words as transformers loads them, beside what jaxpo reads of the same folder (`heads_hf`).

transformers 5.23 has no `Lfm2ForTokenClassification`. The checkpoint has the layout that such a class would have
(`model.*`, `score.weight`, `score.bias`, and `id2label`), and brings the class along (`carried_class`).

Models that look both ways have no such form: transformers' own LFM2 is causal, and would tell other classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.convert.carried_class import CarriedClass
from jaxpo.convert.config_json import CONFIG, export_of, read_json, write_json
from jaxpo.convert.reader import Reader
from jaxpo.convert.shards import Source
from jaxpo.models.family import TextConfig, limits
from jaxpo.objectives.methods.token_classification import TokenClassification

WEIGHT, BIAS = "score.weight", "score.bias"
SCORES = (WEIGHT, BIAS)
"""Tensors that belong to no parameter of the model."""
OWN = CarriedClass("TokenClassification", "modeling_lfm2_tokens", "the first token of every word")
USE = OWN.use(
    "A word has the class of its first token. With jaxpo: `jaxpo data construct tag TEXTS OUT --reward FOLDER`."
)


def has_form(config: TextConfig, reader: Reader) -> bool:
    """Whether transformers can run the model with its head."""
    told = isinstance(reader.method, TokenClassification)
    return told and export_of(config).reward is not None and limits(config).causal


def score_tensors(head: Mapping[str, Any]) -> Iterator[Source]:
    """The head as `nn.Linear` has it: weight `[C, D]`, bias `[C]`."""
    weight, bias = np.asarray(head["weight"]), np.asarray(head["bias"])
    yield Source(WEIGHT, weight.T.shape, lambda: np.ascontiguousarray(weight.T))
    yield Source(BIAS, bias.shape, lambda: bias)


def describe_classes(folder: Path, config: TextConfig, reader: Reader) -> None:
    """The class that reads the checkpoint, and the names of what it tells, in `config.json`."""
    document, classes = read_json(folder / CONFIG), getattr(reader.method, "classes", ())
    package = document["model_type"]
    write_json(folder / CONFIG, document | OWN.fields(config, package, classes))
    OWN.write(folder, config, package)
