"""transformers on the same device: torch.compile, SDPA, bfloat16 autocast, fused AdamW. Needs torch with CUDA.

Nothing here may touch a jax device: its client would take most of the memory at once.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.device.generation import REPEATS, prompts_of
from benchmarks.device.shapes import Size, flops_per_token, seconds, size_of
from benchmarks.device.training import FORMULA


def absent() -> str | None:
    """Why there is no peer here."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    import torch

    return None if torch.cuda.is_available() else "this torch sees no CUDA device"


def model_of(size: Size, dtype: Any) -> Any:
    """transformers' model of the shape, random weights, on the device."""
    import torch
    from transformers import Lfm2Config, Lfm2ForCausalLM

    c = size.config
    config = Lfm2Config(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        block_auto_adjust_ff_dim=False,
        num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads,
        num_hidden_layers=len(c.layer_types),
        layer_types=list(c.layer_types),
        attn_implementation="sdpa",
    )
    with torch.device("cuda"):
        return Lfm2ForCausalLM(config).to(dtype)


def train(tiny: bool) -> Iterator[dict[str, Any]]:
    """1.2B: rows of one document each, as transformers' LFM2 cannot be packed: its convolution would leak."""
    name = "transformers, 1.2B, torch.compile, SDPA"
    if why := absent():
        yield {"name": name, "missing": why}
        return
    import torch

    size = size_of("lfm2_1_2b", tiny=tiny)
    model = model_of(size, torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    compiled = torch.compile(model)

    def step(ids: Any) -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = compiled(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()

    for rows in size.rows:
        ids = torch.randint(8, size.config.vocab_size, (rows, size.length), device="cuda")
        try:
            took = seconds(lambda ids=ids: step(ids))
        except torch.OutOfMemoryError:
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            continue
        rate = rows * size.length / median(took)
        yield {
            "name": name,
            "rows": rows,
            "seconds": took,
            "tokens_per_second": rate,
            "tflops": rate * flops_per_token(size) / 1e12,
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "formula": FORMULA,
            "note": "operations counted as jaxpo's on its packed rows; this one attends over whole rows",
        }
        return
    yield {"name": name, "error": "no memory for one row"}


def decode(tiny: bool) -> Iterator[dict[str, Any]]:
    """1.2B, batch 64, by `generate` in bfloat16."""
    name = "transformers, 1.2B, decode"
    if why := absent():
        yield {"name": name, "missing": why}
        return
    import torch

    size = size_of("lfm2_1_2b", tiny=tiny)
    model = model_of(size, torch.bfloat16).eval()
    prompts, new = prompts_of(size.config.vocab_size, tiny)
    ids = torch.from_numpy(prompts).to("cuda")
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}

    def run() -> None:
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        torch.cuda.synchronize()

    took = seconds(run, REPEATS, 1)
    yield {
        "name": f"{name} at batch {len(prompts)}",
        "seconds": took,
        "tokens_per_second": len(prompts) * new / median(took),
        "peak_bytes": torch.cuda.max_memory_allocated(),
    }
