"""Classifiers of words as transformers loads them, beside what jaxpo reads of the same folder (`heads_hf`).

transformers 5.23 has no `Lfm2ForTokenClassification`. The checkpoint has the layout that such a class would have
(`model.*`, `score.weight`, `score.bias`, and `id2label`), and brings the class along as a file of six lines:

    AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True)

Models that look both ways have no such form: transformers' own LFM2 is causal, and would tell other classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.convert.config_json import CONFIG, export_of, read_json, write_json
from jaxpo.convert.reader import Reader
from jaxpo.convert.shards import Source
from jaxpo.models.family import TextConfig, limits
from jaxpo.objectives.methods.token_classification import TokenClassification

WEIGHT, BIAS = "score.weight", "score.bias"
SCORES = (WEIGHT, BIAS)
"""Tensors that belong to no parameter of the model."""
MODULE = "modeling_lfm2_tokens"
CODE = '''"""The class of this checkpoint, for versions of transformers that lack it."""

from transformers.modeling_layers import GenericForTokenClassification
from transformers.models.{package}.modeling_{package} import {prefix}PreTrainedModel


class {prefix}ForTokenClassification(GenericForTokenClassification, {prefix}PreTrainedModel):
    """LFM2 with a linear head, read at the first token of every word."""
'''
USE = (
    "```python",
    "from transformers import AutoModelForTokenClassification",
    "",
    'model = AutoModelForTokenClassification.from_pretrained("FOLDER", trust_remote_code=True)',
    "```",
    "",
    "A word has the class of its first token. With jaxpo: `jaxpo data construct tag TEXTS OUT --reward FOLDER`.",
)
"""How it is loaded, for the model card."""


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
    prefix = export_of(config).classes[package]
    name = f"{prefix}ForTokenClassification"
    own = {
        "architectures": [name],
        "auto_map": {"AutoModelForTokenClassification": f"{MODULE}.{name}"},
        "id2label": {str(i): label for i, label in enumerate(classes)},
        "label2id": {label: i for i, label in enumerate(classes)},
    }
    write_json(folder / CONFIG, {**document, **own})
    (folder / f"{MODULE}.py").write_text(CODE.format(package=package, prefix=prefix), encoding="utf-8")
