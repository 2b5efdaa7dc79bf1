"""W4: prompts read until their first new token, beside transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.ceilings import best_products, described, has
from benchmarks.measure import interleaved
from benchmarks.subject import (
    about,
    config_of,
    forward_products,
    in_transformers,
    params_of,
    size_of,
    tokens_of,
)
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.sampling.fitted import fitted
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import GREEDY
from jaxpo.train.flops import training_flops_per_token

Run = Callable[[], list[list[int]]]
JAXPO, TRANSFORMERS = "jaxpo", "transformers"
SAME = 0.9
"""Share of greedy tokens that must agree: with random weights the largest logits are close, and rounding decides."""


def ours(params: Any, config: LFM2Config, prompts: np.ndarray, new: int) -> Run:
    """New tokens of an engine made each time, for one that was used before knows the prompts; greedy, never stopped."""
    requests = [Request(row, max_new_tokens=new, sampler=GREEDY, stop_ids=()) for row in prompts.tolist()]

    def run() -> list[list[int]]:
        return [g.tokens for g in fitted(params, config, requests, slots=len(requests)).generate(requests)]

    return run


def theirs(model: Any, prompts: np.ndarray, new: int) -> Run:
    """New tokens of transformers' `generate`, greedy, never stopped."""
    import torch

    ids = torch.from_numpy(prompts.astype(np.int64))
    mask = torch.ones_like(ids)

    def run() -> list[list[int]]:
        with torch.inference_mode():
            options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
            return model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :].tolist()

    return run


def agree(runs: dict[str, Run]) -> None:
    """Whether all continue the prompts alike.

    Raises:
      ValueError: somebody writes something else.
    """
    found = {name: np.asarray(run()) for name, run in runs.items()}
    for name, tokens in found.items():
        # A row that once departed reads something else from there on.
        same = np.mean(np.cumprod(tokens == found[JAXPO], axis=1)[:, 0])
        if not same >= SAME:
            raise ValueError(f"{name} continues {1 - same:.0%} of the prompts by another token than jaxpo")


def contestants(options: Options) -> tuple[Any, Any, LFM2Config]:
    """jaxpo's weights, the same in transformers where that is wanted and here, and their shape."""
    config = config_of(options)
    params = params_of(config)
    peers = options.peers and has("torch") and has("transformers")
    return params, in_transformers(params, config, options.threads).eval() if peers else None, config


def measure(options: Options) -> Result:
    """Tokens per second of a batch of prompts, beside what its products alone would allow."""
    params, model, config = contestants(options)
    rows, length = size_of(options)
    prompts = tokens_of(config, rows, length)
    runs: dict[str, Run] = {JAXPO: ours(params, config, prompts, 1)}
    absent = []
    if model is not None:
        runs[TRANSFORMERS] = theirs(model, prompts, 1)
    elif options.peers:
        absent = [Row(TRANSFORMERS, missing="torch and transformers are not installed")]
    agree(runs)
    # The head is evaluated at the last position of each prompt alone.
    head = 2.0 * config.vocab_size * config.hidden_size * (1 - 1 / length)
    per_token = training_flops_per_token(config, (length + 1) / 2) / 3 - head
    shapes = [s for s in forward_products(config, rows * length) if s[2] != config.vocab_size]
    products = best_products(shapes, peers=options.peers)
    times = interleaved(runs, options)
    ceiling = max(products.values()) / per_token
    measured = [Row(name, rows * length, t.wall, t.cpu, ceiling=ceiling) for name, t in times.items()]
    table = Table(f"prefill, {rows} prompts of {length}", "tokens", (*measured, *absent))
    notes = (
        f"Shape: {about(config)}; both by their `generate` with one new token, greedy.",
        "The ceiling: the prompts' matrix products and attention at the speed of the faster library's plain products.",
    )
    return Result((table,), described(products), notes)


WORK = Work("W4", "reading prompts", "1.1 times as fast as transformers", measure)
