"""Which files a folder of diffusers is made of, and which tensor lies in which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxpo.convert.config_json import CONFIG, read_json
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.document import shown
from jaxpo.models.family import Config, families, family
from jaxpo.models.parts import Diffusers

PIPELINE = "model_index.json"
SCHEDULER = "scheduler"
STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
OWN = "jaxpo.json"
"""What diffusers has no place for: the text tower's shape, and how much a user counts."""
TEXTS = {"caption.": "caption_tower.safetensors", "text_adapter.": "text_adapter.safetensors"}
"""What the names of tensors begin with for which diffusers has no place -> the file that they lie in."""
USERS = "ip_adapter.safetensors"
"""Attention to a user, in the names of IP-Adapter."""
_USER_SUFFIXES = {f".processor.to_{x}_ip.0.weight": f"to_{x}_ip.weight" for x in "kv"}
_PARTS = ("down_blocks", "up_blocks", "mid_block", "transformer_blocks")
"""In the order in which diffusers, and with it IP-Adapter, counts attention."""


class Component(NamedTuple):
    """The model of a pipeline's folder."""

    folder: Path
    form: Diffusers


def form_of(config: Config) -> Diffusers:
    """How a model lies in folders of diffusers; ConfigError when its family lies in none."""
    found = family(config)
    if found.diffusers is None:
        raise ConfigError(f"a model of the family {found.name!r} has no form in diffusers; --format hf.")
    return found.diffusers


def is_pipeline(path: Path) -> bool:
    """Whether a folder is a pipeline of diffusers."""
    return (path / PIPELINE).is_file()


def component_of(path: Path) -> Component:
    """The model of a pipeline.

    Raises:
      CheckpointError: it has none that a family reads, or one of another class; names what there is.
    """
    index = read_json(path / PIPELINE)
    forms = [each.diffusers for each in families() if each.diffusers is not None]
    form = next((form for form in forms if index.get(form.component) not in (None, [None, None])), None)
    if form is None:
        known = ", ".join(f"{form.component} ({form.classes[0]})" for form in forms)
        there = [name for name in index if not name.startswith("_")]
        raise CheckpointError(f"{path / PIPELINE}: names none of {known}; it has {shown(', '.join(there[:9]))}.")
    folder = path / form.component
    kind = read_json(folder / CONFIG).get("_class_name")
    if kind not in form.classes:
        raise CheckpointError(
            f"{folder / CONFIG}: _class_name is {shown(kind)}; this importer reads {form.classes[0]}."
        )
    return Component(folder, form)


def user_names(names: Iterable[str]) -> Mapping[str, str]:
    """Tensors of attention to a user -> `ip_adapter.N.to_k_ip.weight`, N = 1, 3, .. in diffusers' order of layers."""
    found = [(name, suffix) for name in names for suffix in _USER_SUFFIXES if name.endswith(suffix)]
    layers = sorted({name.removesuffix(suffix) for name, suffix in found}, key=_in_order)
    number = {layer: 2 * i + 1 for i, layer in enumerate(layers)}
    return {name: f"ip_adapter.{number[name.removesuffix(suffix)]}.{_USER_SUFFIXES[suffix]}" for name, suffix in found}


def _in_order(layer: str) -> tuple[int, list[int]]:
    part, *rest = layer.split(".")
    return _PARTS.index(part), [int(each) for each in rest if each.isdigit()]


def place_of(name: str, users: Mapping[str, str], form: Diffusers) -> tuple[str, str]:
    """The file that a parameter's tensor lies in, and its name there."""
    if name in users:
        return USERS, users[name]
    for prefix, file in TEXTS.items():
        if name.startswith(prefix):
            return file, name.removeprefix(prefix)
    return f"{form.component}/{WEIGHTS}", name


def pipeline_json(form: Diffusers) -> dict[str, Any]:
    """`model_index.json`: the parts that jaxpo has; the others are for whoever loads it to give."""
    model = ["diffusers", form.classes[0]]
    checked = ("safety_checker", "feature_extractor", "image_encoder") if form.component == "unet" else ()
    return {
        "_class_name": form.pipeline,
        "_diffusers_version": "0.42.1",
        form.component: model,
        SCHEDULER: ["diffusers", "DDIMScheduler"],
        **{name: [None, None] for name in ("vae", "text_encoder", "tokenizer", *checked)},
        **({"requires_safety_checker": False} if form.component == "unet" else {}),
    }
