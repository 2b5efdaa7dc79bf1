"""W3: tokens written one after another, by batch, beside transformers."""

from __future__ import annotations

from benchmarks.ceilings import best_products, memory_read
from benchmarks.measure import interleaved, say
from benchmarks.prefill import JAXPO, TRANSFORMERS, Run, agree, contestants, ours, theirs
from benchmarks.subject import about, forward_products, matrices, tokens_of
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.train.flops import training_flops_per_token

BATCHES = (1, 8, 32)
PEER_BATCHES = (1, 8)
PROMPT, NEW = 16, 128
TINY_BATCHES, TINY_PROMPT, TINY_NEW = (1, 2), 4, 4


def measure(options: Options) -> Result:
    """New tokens per second, beside what reading the weights once per step, and the products, allow."""
    params, model, config = contestants(options)
    batches, prompt, new = (TINY_BATCHES, TINY_PROMPT, TINY_NEW) if options.smoke else (BATCHES, PROMPT, NEW)
    weights = 4 * sum(k * n for k, n in matrices(config))
    bandwidth = memory_read(weights)
    per_token = training_flops_per_token(config, prompt + new / 2) / 3
    ceilings = {"memory read (an array of the weights' size)": (bandwidth / 1e9, "GB/s")}
    tables = []
    for batch in batches:
        say(f"  batch {batch}")
        prompts = tokens_of(config, batch, prompt)
        runs: dict[str, Run] = {JAXPO: ours(params, config, prompts, new)}
        absent = []
        if model is not None and (batch in PEER_BATCHES or options.smoke):
            runs[TRANSFORMERS] = theirs(model, prompts, new)
        elif options.peers:
            why = "torch and transformers are not installed" if model is None else "not measured at this batch"
            absent = [Row(TRANSFORMERS, missing=why)]
        agree(runs)
        products = max(best_products(forward_products(config, batch), peers=options.peers).values())
        ceilings[f"products of {batch} row{'s' * (batch > 1)}"] = (products / 1e9, "GFLOP/s")
        ceiling = min(batch * bandwidth / weights, products / per_token)
        times = interleaved(runs, options)
        rows = [Row(name, batch * new, t.wall, t.cpu, ceiling=ceiling) for name, t in times.items()]
        tables.append(Table(f"decode, batch {batch}", "tokens", (*rows, *absent)))
    notes = (
        f"Shape: {about(config)}; {new} new tokens after prompts of {prompt}, greedy, prompts and sampling included.",
        f"The ceiling: every step reads {weights / 2**20:.0f} MiB of weights once, and its products cannot run faster "
        "than plain ones of these shapes; the smaller of the two.",
    )
    return Result(tuple(tables), ceilings, notes)


WORK = Work("W3", "writing tokens", "measured beside its ceilings here; the engine has the goals", measure)
