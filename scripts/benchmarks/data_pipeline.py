"""W6: text files to packed batches: jaxpo's data path beside `datasets` and TRL's packing, each in its own process.

Every contestant reads the same JSONL file with the same tokenizer, tokenises it, packs it into rows of one length and
goes once through the batches; nothing of an earlier pass is left on the disk.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import ROOT, Measured, alone, resident_bytes
from benchmarks.work import Options, Result, Row, Table, Work

SHARED = ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl.gz"
VOCABULARY = 8192
TRAINED_ON = 2000
"""Rows from which the tokenizer is trained."""
PEERS = ("datasets", "trl", "torch")
STRATEGIES = ("bfd", "wrapped")


@dataclass(frozen=True)
class Shape:
    """Sizes: rows of the file; positions of a packed row; packed rows of a batch; the factor of the larger file."""

    rows: int = 40_000
    length: int = 1024
    batch: int = 8
    larger: int = 4


SMALL = Shape(rows=120, length=128, batch=4, larger=2)


def measure(options: Options) -> Result:
    """Rows per second and fill of all contestants on one core and on all; jaxpo's memory on a larger file."""
    shape = SMALL if options.smoke else Shape()
    with tempfile.TemporaryDirectory(prefix="jaxpo-bench-") as name:
        folder = Path(name)
        source = write_inputs(folder, shape)
        cores = sorted({1, options.threads})
        found = {threads: compared(folder, shape, options, threads) for threads in cores}
        tables = [table(threads, shape, each, options) for threads, each in found.items()]
        growth, said = grown(folder, shape, options, found[max(cores)]["jaxpo"])
    fills = [f"{name} fills {each[0].result['fill']:.1%} of its positions" for name, each in found[max(cores)].items()]
    notes = (f"The rows are {source}.", "; ".join(fills) + ". TRL's wrapped cuts examples where a row ends.", *said)
    return Result((*tables, growth), ceilings=ceilings(found), notes=notes)


def compared(folder: Path, shape: Shape, options: Options, threads: int) -> dict[str, list[Measured]]:
    """Contestant -> what each repetition took; interleaved."""
    runs = {"jaxpo": ("with_jaxpo", ())}
    if not missing(options):
        runs |= {f"datasets + TRL, {strategy}": ("with_trl", (strategy,)) for strategy in STRATEGIES}
    found: dict[str, list[Measured]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, (function, more) in runs.items():
            found[name].append(once(folder, "rows.jsonl", function, shape, threads, *more))
    return found


def once(folder: Path, file: str, function: str, shape: Shape, threads: int, *more: str) -> Measured:
    """One contestant from the start, with a cache folder that is empty before and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="cache-", dir=folder) as cache:
        sizes = (str(shape.length), str(shape.batch), str(threads))
        return alone(
            "benchmarks.data_pipeline",
            function,
            str(folder / file),
            str(folder / "tokenizer"),
            cache,
            *sizes,
            *more,
            environment={"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"},
            threads=threads,
        )


def table(threads: int, shape: Shape, found: dict[str, list[Measured]], options: Options) -> Table:
    """Rows per second, without what each library imports before."""
    rows = [row_of(name, each) for name, each in found.items()]
    if why := missing(options):
        rows.append(Row("datasets + TRL", missing=why))
    cores = "one core" if threads == 1 else f"{threads} cores"
    return Table(f"{shape.rows:,} rows to batches of {shape.batch} x {shape.length}, {cores}", "rows", tuple(rows))


def row_of(name: str, each: list[Measured]) -> Row:
    results = [m.result for m in each]
    return Row(
        name,
        results[0]["rows"],
        tuple(r["wall"] for r in results),
        tuple(r["cpu"] for r in results),
        peak_bytes=max(r["peak"] for r in results),
    )


def grown(folder: Path, shape: Shape, options: Options, before: list[Measured]) -> tuple[Table, list[str]]:
    """jaxpo on a file `shape.larger` times as large: what its peak grows by."""
    after = once(folder, "more.jsonl", "with_jaxpo", shape, options.threads)
    sizes = [(folder / name).stat().st_size for name in ("rows.jsonl", "more.jsonl")]
    growth = after.result["peak"] - max(m.result["peak"] for m in before)
    per_row = growth / (shape.rows * (shape.larger - 1))
    said = (
        f"jaxpo's peak grows by {growth / 1e6:.1f} MB from a file of {sizes[0] / 1e6:.0f} MB to one of "
        f"{sizes[1] / 1e6:.0f} MB: {per_row:.0f} bytes per row. {after.result['kept']:.0f} of them are kept: the "
        "index of lengths, the order, and the place of every segment in the epoch; no text, no tokens. The rest is "
        "what the record file's writer and reader hold per record, and what the allocator keeps for itself."
    )
    rows = tuple(
        row_of(f"jaxpo, {size / 1e6:.0f} MB", each) for size, each in zip(sizes, (before, [after]), strict=True)
    )
    return Table("memory by the size of the file", "rows", rows), [said]


def ceilings(found: dict[int, dict[str, list[Measured]]]) -> dict[str, tuple[float, str]]:
    """What the tokenizer alone gives, measured in jaxpo's processes, and what merely reading JSON gives."""
    limits = {}
    for threads, each in found.items():
        cores = "one core" if threads == 1 else f"{threads} cores"
        rows = each["jaxpo"][0].result["rows"]
        for what, name in (("encode", "the tokenizer alone"), ("parse", "reading the JSON alone")):
            seconds = np.median([m.result[what] for m in each["jaxpo"]])
            limits[f"{name}, {cores}"] = (rows / float(seconds), "rows/s")
    return limits


def missing(options: Options) -> str | None:
    """Why the peers are not measured."""
    if not options.peers:
        return "not asked for"
    absent = [name for name in PEERS if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed" if absent else None


def write_inputs(folder: Path, shape: Shape) -> str:
    """The two files and the tokenizer; returns what the rows are."""
    from jaxpo.data.tokenizer.tokenizer import train_tokenizer

    texts, source = real_texts() if SHARED.is_file() else (synthetic_texts(), "synthetic: words drawn at random")
    for name, rows in (("rows.jsonl", shape.rows), ("more.jsonl", shape.rows * shape.larger)):
        with (folder / name).open("w", encoding="utf-8") as out:
            for i in range(rows):
                # Repeated rows get a number of their own: no cache of whole texts helps.
                again = f"{i // len(texts)}. " if i >= len(texts) else ""
                out.write(json.dumps({"text": again + texts[i % len(texts)]}, ensure_ascii=False) + "\n")
    train_tokenizer(texts[:TRAINED_ON], VOCABULARY).save(folder / "tokenizer")
    return source


def real_texts() -> tuple[list[str], str]:
    with gzip.open(SHARED, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    return [
        f"{r['question']}\n{r['answer']}" for r in rows
    ], "grade-school problems with their answers (GSM8K), repeated"


def synthetic_texts(count: int = 4000) -> list[str]:
    """Words by Zipf's law in texts of 20 to 200 words."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(5000)])
    ranks = 1 / np.arange(1, len(words) + 1)
    sizes = rng.integers(20, 200, count)
    return [" ".join(rng.choice(words, size, p=ranks / ranks.sum())) for size in sizes]


# What follows runs in a process of its own.


@contextlib.contextmanager
def clocked(found: dict[str, Any]) -> Iterator[None]:
    """Adds the seconds of a block, those of the processor with all workers, and the peak of the process at its end."""
    began, spent = time.perf_counter(), processor()
    yield
    found |= {"wall": time.perf_counter() - began, "cpu": processor() - spent, "peak": resident_bytes()}


def processor() -> float:
    """Seconds of the processor that this process and those that it waited for took."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def with_jaxpo(file: str, tokenizer: str, cache: str, length: str, batch: str, threads: str) -> dict[str, Any]:
    """What a stage does with its training file before and beside its steps."""
    from jaxpo.config import Data
    from jaxpo.data.packing.loader import Loader
    from jaxpo.data.tokenizer.tokenizer import Tokenizer
    from jaxpo.data.tokens.prepare import prepare

    data = Data(train=(file,), max_length=int(length), row_length=int(length))
    found: dict[str, Any] = {}
    with clocked(found):
        loaded = Tokenizer.load(tokenizer)
        dataset = prepare([file], data=data, tokenizer=loaded, purpose="language", cache_dir=cache, log=_silent)
        loader = Loader(dataset, data, seed=0, rows_per_step=int(batch))
        tokens = slots = 0
        steps = loader.rows_per_epoch(0) // int(batch)
        with contextlib.closing(loader.open(0, steps)) as feed:
            for _ in range(steps):
                step = feed.next(None)
                tokens += int(np.count_nonzero(step.segment_ids))
                slots += step.segment_ids.size
    kept = kept_bytes(loader) / dataset.counts["read"]
    about = {"rows": dataset.counts["read"], "fill": tokens / slots, "tokens": tokens, "kept": kept}
    return found | about | limits(file, loaded)


def kept_bytes(loader: Any) -> int:
    """Bytes of the arrays that have an entry per row or segment for as long as training goes on."""
    lengths, plan = loader.dataset.lengths, loader.plan
    part = plan.part(0)
    laid = part.packed.segments
    arrays = (lengths.offsets, lengths.values, part.examples, part.packed.blocks, laid.row, laid.slot, laid.start)
    return sum(array.nbytes for array in arrays)


def limits(file: str, tokenizer: Any) -> dict[str, float]:
    """Seconds that parsing the file, and encoding its texts, take by themselves."""
    parse = encode = 0.0
    with open(file, encoding="utf-8") as stream:
        while lines := stream.readlines(1 << 20):
            began = time.perf_counter()
            texts = [json.loads(line)["text"] for line in lines]
            parse += time.perf_counter() - began
            began = time.perf_counter()
            tokenizer._inner.encode_batch_fast(texts, add_special_tokens=False)
            encode += time.perf_counter() - began
    return {"parse": parse, "encode": encode}


def with_trl(
    file: str, tokenizer: str, cache: str, length: str, batch: str, threads: str, strategy: str
) -> dict[str, Any]:
    """The same by `datasets.map`, `trl.pack_dataset`, and TRL's collator."""
    import torch
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import AutoTokenizer
    from trl import pack_dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    disable_progress_bar()
    workers = int(threads) if int(threads) > 1 else None
    found: dict[str, Any] = {}
    with clocked(found):
        loaded = AutoTokenizer.from_pretrained(tokenizer)
        end = loaded.eos_token

        def encode(rows: dict[str, list[str]]) -> dict[str, Any]:
            return {"input_ids": loaded([text + end for text in rows["text"]])["input_ids"]}

        rows = load_dataset("json", data_files=file, split="train", cache_dir=cache)
        count = len(rows)
        encoded = rows.map(encode, batched=True, remove_columns=["text"], num_proc=workers)
        packed = pack_dataset(encoded, int(length), strategy, map_kwargs={"num_proc": workers})
        collate = DataCollatorForLanguageModeling(pad_token_id=loaded.pad_token_id, padding_free=strategy == "bfd")
        generator = torch.Generator().manual_seed(0)
        feed = torch.utils.data.DataLoader(
            packed, int(batch), shuffle=True, collate_fn=collate, generator=generator, drop_last=False
        )
        tokens = sum(int((step["input_ids"] != loaded.pad_token_id).sum()) for step in feed)
    return found | {"rows": count, "fill": tokens / (len(packed) * int(length)), "tokens": tokens}


def _silent(line: str) -> None:
    """The log of `prepare`."""


WORK = Work(
    key="W6",
    title="Tokenise, pack, load",
    goal="faster than datasets with TRL's packing, on one core and on all; memory bounded by a constant",
    measure=measure,
)
