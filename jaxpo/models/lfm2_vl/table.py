"""LFM2-VL's parameter table: LFM2's paths unchanged, `vision` and `connector` beside them."""

from __future__ import annotations

import dataclasses

from jaxpo.models.lfm2.table import param_table as text_table
from jaxpo.models.lfm2_vl.config import FACTOR, LFM2VLConfig
from jaxpo.models.lfm2_vl.file_names import CONNECTOR, TEXT, VISION
from jaxpo.models.siglip.table import layer_norm_table, linear_table, siglip_table
from jaxpo.models.spec import Param, Table, map_table


def param_table(config: LFM2VLConfig) -> Table:
    """The whole model. What the language model is made of has the paths that it has alone."""
    return {
        **map_table(_renamed, text_table(config.text)),
        "vision": siglip_table(config.vision, VISION),
        "connector": connector_table(config),
    }


def connector_table(config: LFM2VLConfig) -> Table:
    """`layer_norm` where there is one, `linear_1`, `linear_2`."""
    wide = FACTOR**2 * config.vision.hidden_size
    std, inner, bias = config.text.initializer_range, config.projector_hidden_size, config.projector_bias
    first = linear_table(wide, inner, (None, "mlp"), std, f"{CONNECTOR}.linear_1", bias=bias)
    second = linear_table(inner, config.hidden_size, ("mlp", "embed"), std, f"{CONNECTOR}.linear_2", bias=bias)
    norm = {"layer_norm": layer_norm_table(wide, f"{CONNECTOR}.layer_norm")} if config.projector_use_layernorm else {}
    return {**norm, "linear_1": first, "linear_2": second}


def _renamed(param: Param) -> Param:
    """The same parameter where it lies in a file of the whole model."""
    if param.hf is None:
        return param
    names = tuple(_place(name) for name in param.tensors)
    module = None if param.hf_module is None else _place(param.hf_module)
    return dataclasses.replace(param, hf=names[0] if isinstance(param.hf, str) else names, hf_module=module)


def _place(name: str) -> str:
    return f"{TEXT}.{name.removeprefix('model.')}" if name.startswith("model.") else name
