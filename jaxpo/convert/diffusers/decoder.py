"""The decoder of a pipeline's VAE, read from its folder `vae/`; the encoder is left there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxpo.convert.config_json import CONFIG, read_json
from jaxpo.convert.diffusers.files import STEM
from jaxpo.convert.shards import Stored, open_shards
from jaxpo.models.family import families
from jaxpo.models.parts import DiffusersDecoder

PARTS = ("decoder.", "post_quant_conv.")
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention's maps as files of before diffusers 0.16 name them, Stable Diffusion's among these."""


def is_decoder(path: Path) -> bool:
    """Whether a folder is the VAE of a pipeline."""
    return _form(path) is not None


def read_decoder_config(path: Path) -> Any:
    """Its configuration, without its weights; CheckpointError for one that is not Stable Diffusion's form."""
    form = _form(path)
    assert form is not None, path
    return form.from_json(read_json(path / CONFIG), path / CONFIG)


def _form(path: Path) -> DiffusersDecoder | None:
    kind = read_json(path / CONFIG).get("_class_name") if (path / CONFIG).is_file() else None
    forms = () if kind is None else (each.diffusers_decoder for each in families())
    return next((form for form in forms if form is not None and form.kind == kind), None)


@contextlib.contextmanager
def open_decoder(path: Path) -> Iterator[tuple[Any, Mapping[str, Stored]]]:
    """The configuration and the decoder's tensors by the names of the parameter table, none loaded yet."""
    config = read_decoder_config(path)
    with open_shards(path, STEM) as stored:
        yield config, {_newer(name): tensor for name, tensor in stored.items() if name.startswith(PARTS)}


def _newer(name: str) -> str:
    return re.sub(r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)", lambda m: OLDER[m[1]], name)
