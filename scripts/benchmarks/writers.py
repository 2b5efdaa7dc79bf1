"""Those that write tokens in W12, each in a process of its own: `(prompts, new, told) -> the tokens of each answer`.

All are greedy and never stop by themselves. What is not told need not be known: llama.cpp names its tokens with their
probabilities alone, which take time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Prompts = Sequence[Sequence[int]]
Writer = Callable[[Prompts, int, bool], list[list[int]]]
SLOTS, PAGE = 32, 32
SHORT = 64
"""Positions up to which prompts and answers share an engine of `SLOTS` slots; a long prompt has one of its own."""


def threads() -> int:
    """That this process may use."""
    return int(os.environ["JAXPO_BENCH_THREADS"])


def engine(folder: str, quantize: str = "") -> Writer:
    """jaxpo's engine. One per kind of case, made from the folder when it is first asked, so that one is held."""
    from jaxpo.convert.hf import import_hf
    from jaxpo.sampling.engine import Engine
    from jaxpo.sampling.request import Request
    from jaxpo.sampling.sampler import GREEDY

    made: dict[tuple[int, int], Engine] = {}

    def of(longest: int) -> Engine:
        slots, context = (SLOTS, SHORT) if longest <= SHORT else (1, -(-longest // PAGE) * PAGE)
        if (slots, context) not in made:
            made.clear()
            params, config = import_hf(Path(folder))
            made[slots, context] = Engine(
                params, config, slots=slots, context=context, page=PAGE, prefix_pages=0, quantize=quantize or None
            )
        return made[slots, context]

    def run(prompts: Prompts, new: int, told: bool) -> list[list[int]]:
        requests = [Request(p, max_new_tokens=new, sampler=GREEDY, stop_ids=()) for p in prompts]
        return [g.tokens for g in of(len(prompts[0]) + new).generate(requests)]

    return run


def transformers(folder: str) -> Writer:
    """transformers' `generate`, batched, float32."""
    import torch
    from transformers import Lfm2ForCausalLM

    torch.set_num_threads(threads())
    model = Lfm2ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()

    def run(prompts: Prompts, new: int, told: bool) -> list[list[int]]:
        ids = torch.tensor(prompts)
        options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return found[:, ids.shape[1] :].tolist()

    return run


def llama(path: str, longest: str) -> Writer:
    """llama.cpp's server in this process, a request per prompt at once; its cache is float16, its default."""
    import xllamacpp

    settings: Any = xllamacpp.CommonParams()
    settings.model.path = path
    settings.n_parallel, settings.kv_unified, settings.n_ctx = SLOTS, True, max(SLOTS * SHORT, int(longest))
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads()
    settings.cache_prompt, settings.cache_ram_mib, settings.verbosity = False, 0, 0
    server = xllamacpp.Server(settings)

    def one(prompt: Sequence[int], new: int, told: bool) -> list[int]:
        asked = {"prompt": list(prompt), "n_predict": new, "temperature": 0, "samplers": ["temperature"]}
        asked |= {"ignore_eos": True, "cache_prompt": False} | ({"n_probs": 1} if told else {})
        found = server.handle_completions(asked)
        written = found["usage"]["completion_tokens"]
        if written != new:
            raise ValueError(f"llama.cpp wrote {written} tokens of {new}")
        return [token["id"] for token in found["choices"][0]["logprobs"]["content"]] if told else []

    def run(prompts: Prompts, new: int, told: bool) -> list[list[int]]:
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: one(prompt, new, told), prompts))

    return run
