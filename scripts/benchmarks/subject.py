"""The model that W1 to W4 measure, with the same weights in jaxpo and in transformers, and the products in it."""

from __future__ import annotations

import tempfile
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.ceilings import Shape
from benchmarks.models import CONFIG, TINY, C
from benchmarks.work import Options
from jaxpo.convert.hf import export_hf
from jaxpo.models.family import family
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params, leaves

Tree = Any
BATCH, LENGTH = 8, 512
HEADS, TAPS = ("embed_tokens/weight", "lm_head/weight"), "conv/conv/weight"
TINY_BATCH, TINY_LENGTH = 2, 16


def about(config: LFM2Config) -> str:
    """The shape in words."""
    layers = " ".join(kind[0] if kind == C else "a" for kind in config.layer_types)
    return (
        f"vocabulary {config.vocab_size:,}, d {config.hidden_size:,}, feed-forward {config.intermediate_size:,}, "
        f"layers {layers}, {config.num_attention_heads} heads, {config.num_key_value_heads} for keys, float32"
    )


def config_of(options: Options) -> LFM2Config:
    return TINY if options.smoke else CONFIG


def size_of(options: Options) -> tuple[int, int]:
    """Rows and their length."""
    return (TINY_BATCH, TINY_LENGTH) if options.smoke else (BATCH, LENGTH)


def params_of(config: LFM2Config) -> Tree:
    """Random weights, the same every time."""
    return init_params(param_table(config), jax.random.key(0))


def tokens_of(config: LFM2Config, rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Random ids that are no control tokens."""
    return np.random.default_rng(seed).integers(8, config.vocab_size, (rows, length), dtype=np.int32)


def in_transformers(params: Tree, config: LFM2Config, threads: int) -> Any:
    """transformers' Lfm2ForCausalLM with these weights, read from jaxpo's own export."""
    import torch
    from transformers import Lfm2ForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        export_hf(params, config, Path(folder) / "model", verify=False)
        return Lfm2ForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32, attn_implementation="sdpa")


def matrices(config: LFM2Config) -> list[tuple[int, int]]:
    """`(in, out)` of every matrix that a token is multiplied with, the vocabulary head included."""
    shapes = {name: param.shape for name, param in leaves(param_table(config))}
    counted = [path for part in family(config).flops(config, 0).parts for path in part.matrices]
    # The taps of a convolution multiply each channel by itself; the head is stored [V, D].
    used = [path for path in counted if not path.endswith(TAPS)]
    return [shapes[path][::-1] if path in HEADS else (shapes[path][0], prod(shapes[path][1:])) for path in used]


def forward_products(config: LFM2Config, tokens: int) -> list[Shape]:
    """(m, k, n) of a forward pass over so many tokens."""
    return [(tokens, k, n) for k, n in matrices(config)]


def training_products(config: LFM2Config, tokens: int) -> list[Shape]:
    """Likewise of a training step: forward, gradient of the input, gradient of the weight."""
    forward = forward_products(config, tokens)
    return [shape for m, k, n in forward for shape in ((m, k, n), (m, n, k), (k, m, n))]
