"""W12: the engine at the shape of LFM2-350M, float32 and int8, beside transformers and llama.cpp."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import ceilings
from benchmarks.held import Held, Reply, in_turn
from benchmarks.measure import alone, say
from benchmarks.models import TINY
from benchmarks.subject import about, forward_products, matrices, params_of, tokens_of
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.convert.gguf.write import write_gguf
from jaxpo.convert.hf import export_hf, tensors_of
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.models.family import param_table
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.presets import preset
from jaxpo.models.quantize import quantization_kl, quantized
from jaxpo.train.flops import training_flops_per_token

FLOAT, INT8, TORCH = "jaxpo", "jaxpo, int8", "transformers"
LLAMA = {"llama.cpp, F16": "F16", "llama.cpp, Q8_0": "Q8_0"}
BYTES = {FLOAT: 4, INT8: 1, TORCH: 4, "llama.cpp, F16": 2, "llama.cpp, Q8_0": 34 / 32}
"""Of a weight as each keeps it."""
AGREEING, TOLD = 16, 256


@dataclass(frozen=True)
class Case:
    """What is asked of all.

    Attributes:
      title: of its table.
      unit: "written" or "read" tokens.
      most: repetitions at most; the long ones would take minutes.
    """

    title: str
    unit: str
    batch: int
    prompt: int
    new: int
    most: int

    @property
    def amount(self) -> int:
        return self.batch * (self.new if self.unit == "written" else self.prompt)


CASES = (
    Case("decode, batch 1", "written", 1, 16, 32, 5),
    Case("decode, batch 8", "written", 8, 16, 32, 3),
    Case("decode, batch 32", "written", 32, 16, 32, 2),
    Case("prefill, a prompt of 256", "read", 1, 256, 1, 3),
    Case("prefill, a prompt of 2,048", "read", 1, 2048, 1, 2),
)
TINY_CASES = (Case("decode, batch 2", "written", 2, 4, 4, 1), Case("prefill, a prompt of 70", "read", 1, 70, 1, 1))
# llama.cpp's blocks of eight bits are of 32 values.
SMALL = dataclasses.replace(
    TINY, vocab_size=320, hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2
)


def prepare(folder: str, smoke: str, kinds: str) -> float:
    """In a process of its own: the weights as files, and the divergence of int8 on random tokens."""
    config = SMALL if smoke else preset("lfm2_350m")
    params, at = params_of(config), Path(folder)
    export_hf(params, config, at / "model", verify=False)
    # Prompts are ids: which texts stand behind them is never looked at.
    tokenizer = train_tokenizer(["a b c"], 270)
    for kind in kinds.split():
        write_gguf(at / f"{kind}.gguf", tensors_of(params, param_table(config)), config, tokenizer, kind.lower())
    texts = tokens_of(config, 1, 32 if smoke else TOLD, seed=7).tolist()
    return quantization_kl(params, quantized(params, config), config, texts)


def contestants(folder: Path, cases: Sequence[Case], options: Options) -> tuple[dict[str, tuple[str, ...]], list[Row]]:
    """Name -> function of `benchmarks.writers` and its arguments; and those that are not here."""
    model = str(folder / "model")
    found: dict[str, tuple[str, ...]] = {FLOAT: ("engine", model), INT8: ("engine", model, "int8")}
    absent = []
    if not options.peers:
        return found, absent
    if ceilings.has("torch") and ceilings.has("transformers"):
        found[TORCH] = ("transformers", model)
    else:
        absent.append(Row(TORCH, missing="torch and transformers are not installed"))
    longest = str(max(case.prompt + case.new for case in cases) + 32)
    for name, kind in LLAMA.items():
        if has_llama():
            found[name] = ("llama", str(folder / f"{kind}.gguf"), longest)
        else:
            absent.append(Row(name, missing="xllamacpp and gguf are not installed"))
    return found, absent


def has_llama() -> bool:
    return ceilings.has("xllamacpp") and ceilings.has("gguf")


def agreement(asked: Mapping[str, Callable[..., Reply]], config: LFM2Config) -> dict[str, float]:
    """Share of prompts that each goes on from by jaxpo's token.

    Raises:
      ValueError: somebody computes another model: float32 differs in a tenth of the prompts, or float16 in a half.
    """
    prompts = tokens_of(config, AGREEING, 8, seed=3).tolist()
    found = {name: np.asarray(call(prompts, 1, True).result)[:, 0] for name, call in asked.items()}
    shares = {name: float(np.mean(tokens == found[FLOAT])) for name, tokens in found.items()}
    # With random weights the largest logits are close, and rounding decides between them.
    for name, least in ((TORCH, 0.9), ("llama.cpp, F16", 0.5)):
        if not shares.get(name, 1.0) >= least:
            raise ValueError(f"{name} goes on from {1 - shares[name]:.0%} of the prompts by another token than jaxpo")
    return shares


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do, measured.

    Attributes:
      bandwidth: bytes/s of an array of the weights' size.
      products: (rows, whether integers) -> operations/s of the model's products over so many rows.
    """

    bandwidth: float
    products: Mapping[tuple[int, bool], float]

    def rate(self, case: Case, name: str, config: LFM2Config) -> float:
        """Tokens/s that a case cannot exceed."""
        integers, weights = name == INT8, sum(k * n for k, n in matrices(config))
        per_token = training_flops_per_token(config, (case.prompt + case.new) / 2) / 3
        head = 2.0 * config.vocab_size * config.hidden_size
        prompts, loaded = case.batch * case.prompt, BYTES[name] * weights / self.bandwidth
        work = prompts * (per_token - head) + (case.batch * head if case.unit == "read" else 0.0)
        seconds = max(loaded, work / self.products[prompts, integers])
        if case.unit == "written":
            seconds += case.new * max(loaded, case.batch * per_token / self.products[case.batch, integers])
        return case.amount / seconds


def _rows(case: Case) -> Iterator[tuple[int, bool]]:
    """That products have at once, and whether that of the head is among them."""
    yield case.batch * case.prompt, False
    if case.unit == "written":
        yield case.batch, True


def measured_ceilings(cases: Sequence[Case], config: LFM2Config, options: Options) -> Ceilings:
    """Products in float32 by the fastest way here, and those of int8 by XLA."""
    weights = 4 * sum(k * n for k, n in matrices(config))
    rates = {}
    for rows, with_head in sorted({found for case in cases for found in _rows(case)}):
        shapes = [s for s in forward_products(config, rows) if with_head or s[2] != config.vocab_size]
        rates[rows, False] = ceilings.fastest_products(shapes, peers=options.peers)
        rates[rows, True] = ceilings.products(shapes, library="int8")
    return Ceilings(ceilings.memory_read(weights), rates)


def measure(options: Options) -> Result:
    """Tokens per second of every case, in turn, and the most memory that each process had."""
    config, cases = (SMALL, TINY_CASES) if options.smoke else (preset("lfm2_350m"), CASES)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as held:
        folder = Path(name)
        kinds = " ".join(LLAMA.values()) if options.peers and has_llama() else ""
        say("  ceilings")
        limits = measured_ceilings(cases, config, options)
        say("  weights")
        made = alone("benchmarks.engine", "prepare", name, "smoke" * options.smoke, kinds, threads=options.threads)
        wanted, absent = contestants(folder, cases, options)
        say(f"  loading {', '.join(wanted)}")
        asked = {
            name: held.enter_context(Held("benchmarks.writers", *how, threads=options.threads))
            for name, how in wanted.items()
        }
        shares = agreement({name: one.call for name, one in asked.items()}, config)
        tables = tuple(_table(case, asked, absent, limits, config, options) for case in cases)
    return Result(tables, _listed(limits), _notes(config, shares, made.result))


def _table(
    case: Case,
    asked: Mapping[str, Held],
    absent: Sequence[Row],
    limits: Ceilings,
    config: LFM2Config,
    options: Options,
) -> Table:
    say(f"  {case.title}")

    def run(one: Held) -> Callable[[int], Reply]:
        # Nobody has read the prompts of another round.
        return lambda i: one.call(tokens_of(config, case.batch, case.prompt, seed=100 + i).tolist(), case.new, False)

    times = in_turn({name: run(one) for name, one in asked.items()}, min(options.repeats, case.most))
    rows = [
        Row(
            name,
            case.amount,
            t.wall,
            t.cpu,
            peak_bytes=asked[name].peak_bytes,
            ceiling=limits.rate(case, name, config) if name in (FLOAT, INT8, TORCH) else None,
        )
        for name, t in times.items()
    ]
    return Table(case.title, f"tokens {case.unit}", (*rows, *absent))


def _listed(limits: Ceilings) -> dict[str, tuple[float, str]]:
    found = {"memory read (an array of the weights' size)": (limits.bandwidth / 1e9, "GB/s")}
    for (rows, integers), rate in limits.products.items():
        found[f"{'int8' if integers else 'float32'} products of {rows} row{'s' * (rows > 1)}"] = (rate / 1e9, "GOP/s")
    return found


def _notes(config: LFM2Config, shares: Mapping[str, float], kl: float) -> tuple[str, ...]:
    same = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name != FLOAT)
    return (
        f"Shape: {about(config)}, random weights; greedy; decoding after prompts of 16, which are included.",
        "Each contestant alone in a process, idle while others run; peak memory: the most that it had resident so far, "
        "weights and loading included.",
        "The ceiling: prompts and steps read the weights once each (float32, or a byte each in int8), and their "
        "products cannot run faster than plain ones of these shapes, each by the fastest of XLA's two libraries, "
        "with the weight either way round, and PyTorch; the slower of the two bounds.",
        f"Of {AGREEING} prompts, the share that goes on by the same token as jaxpo in float32: {same}.",
        f"int8 against float32 on {TOLD} random tokens: KL {kl:.2g} nats per token.",
    )


WORK = Work(
    "W12",
    "the engine",
    "batch 1: 1.2 times transformers in float32, 1.8 times in int8; batches of 8 and 32: 85% of the ceiling; prefill: "
    "at least transformers",
    measure,
)
