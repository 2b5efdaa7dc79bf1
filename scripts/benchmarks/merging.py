"""W9: two models of the 350M shape merged by the same file with jaxpo and with mergekit, each in its own process."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Measured, alone
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.convert.config_json import CONFIG, config_to_json, write_json
from jaxpo.convert.hf import disk_shape
from jaxpo.convert.shards import Source, write_shards
from jaxpo.models.family import param_table
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.presets import PRESETS
from jaxpo.models.spec import leaves

MODELS = ("base", "first", "second")
DTYPE = "bfloat16"
SMALL = replace(
    PRESETS["lfm2_350m"],
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_attention_heads=4,
    num_key_value_heads=2,
    layer_types=("conv", "full_attention"),
)
FILES = {
    "linear": """
merge_method: linear
models:
  - {{model: {first}, parameters: {{weight: 0.5}}}}
  - {{model: {second}, parameters: {{weight: 0.5}}}}
""",
    "slerp": """
merge_method: slerp
base_model: {first}
models:
  - model: {first}
  - model: {second}
parameters: {{t: 0.5}}
""",
    "ties": """
merge_method: ties
base_model: {base}
models:
  - {{model: {first}, parameters: {{weight: 0.5, density: 0.2}}}}
  - {{model: {second}, parameters: {{weight: 0.5, density: 0.2}}}}
""",
    "dare_ties": """
merge_method: dare_ties
base_model: {base}
models:
  - {{model: {first}, parameters: {{weight: 0.5, density: 0.5}}}}
  - {{model: {second}, parameters: {{weight: 0.5, density: 0.5}}}}
""",
}
"""Method -> mergekit's file."""
ARITHMETIC = "dtype: float32\nout_dtype: bfloat16\n"
"""jaxpo always computes in float32; the weights of both results are bfloat16, as those that are read."""


def measure(options: Options) -> Result:
    """Every method with both, interleaved; and jaxpo's with the check of its result that it makes by default."""
    config = SMALL if options.smoke else PRESETS["lfm2_350m"]
    methods = ("linear", "ties") if options.smoke else tuple(FILES)
    with models(config) as folder:
        names = {name: str(folder / name) for name in MODELS}
        for method in methods:
            (folder / f"{method}.yaml").write_text(FILES[method].format(**names) + ARITHMETIC)
        parts = [tables(method, folder, options, config) for method in methods]
    notes = tuple(note for _, found in parts for note in found)
    ceiling = "A merge reads every model and writes the result once: on a warm page cache that is the memory's speed."
    return Result(tuple(table for both, _ in parts for table in both), notes=(*notes, ceiling))


def tables(method: str, folder: Path, options: Options, config: LFM2Config) -> tuple[tuple[Table, Table], list[str]]:
    """One method's contestants, as whole processes and without their start, and what is to be said of them."""
    file, size = folder / f"{method}.yaml", parameters(config)
    runs: dict[str, Callable[[], Measured]] = {
        "jaxpo": lambda: run("with_jaxpo", file, folder, options),
        "mergekit": lambda: run("with_mergekit", file, folder, options),
    }
    absent = missing(options)
    if absent:
        del runs["mergekit"]
    found: dict[str, list[Measured]] = {name: [] for name in runs}
    for i in range(options.repeats + (not options.smoke)):
        for name, contestant in runs.items():
            measured = contestant()
            if i or options.smoke:
                found[name].append(measured)
    title = f"{method}: two models of {size / 1e6:.0f} million parameters"
    whole = [row(f"{name}, {method}", size, each) for name, each in found.items()]
    within = [row(f"{name}, {method}", size, each, within=True) for name, each in found.items()]
    gone = [Row(f"mergekit, {method}", missing=absent)] if absent else []
    notes = [] if absent else [agreement(method, found["jaxpo"][0], found["mergekit"][0])]
    return (
        Table(title, "parameters", (*whole, *gone)),
        Table(f"{title}, without start", "parameters", (*within, *gone)),
    ), notes


def row(name: str, size: int, measured: list[Measured], *, within: bool = False) -> Row:
    """A process as a whole, or the merge in it without what is imported before."""
    if within:
        return Row(name, size, tuple(m.result["wall"] for m in measured), tuple(m.result["cpu"] for m in measured))
    peak = max(m.peak_bytes for m in measured)
    return Row(name, size, tuple(m.wall for m in measured), tuple(m.cpu for m in measured), peak_bytes=peak)


def run(function: str, file: Path, folder: Path, options: Options) -> Measured:
    """One merge in a process of its own; its result is removed."""
    out = folder / "out"
    threads = str(options.threads)
    try:
        return alone("benchmarks.merging", function, str(file), str(out), environment={"OMP_NUM_THREADS": threads})
    finally:
        shutil.rmtree(out, ignore_errors=True)


def missing(options: Options) -> str | None:
    """Why mergekit is not measured."""
    if not options.peers:
        return "not asked for"
    return None if importlib.util.find_spec("mergekit") else "mergekit is not installed"


def agreement(method: str, ours: Measured, theirs: Measured) -> str:
    """What both results have in common, for methods without random numbers."""
    if method == "dare_ties":
        return "dare_ties draws its own random numbers in each library: the results differ by the draw."
    difference = abs(ours.result["norm"] - theirs.result["norm"]) / theirs.result["norm"]
    if not difference < 1e-3:
        raise RuntimeError(f"{method}: the results' norms are {ours.result['norm']} and {theirs.result['norm']}")
    return f"{method}: both results have the same norm to {difference:.0e} (bfloat16 rounds to 4e-03)."


@contextlib.contextmanager
def models(config: LFM2Config) -> Iterator[Path]:
    """A base and two models near it, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="jaxpo-bench-") as name:
        for number, model in enumerate(MODELS):
            write_model(Path(name) / model, config, number)
        yield Path(name)


def write_model(folder: Path, config: LFM2Config, number: int) -> None:
    """Random weights of spread 0.02; the models differ from the base by a twentieth of it."""
    folder.mkdir()
    places = [p for _, p in leaves(param_table(config))]
    sources = [
        Source(p.tensors[0], disk_shape(p), lambda p=p: weights(disk_shape(p), p.tensors[0], number)) for p in places
    ]
    write_shards(folder, sources, DTYPE, 5 * 10**9)
    write_json(folder / CONFIG, config_to_json(config, DTYPE))


def weights(shape: tuple[int, ...], name: str, number: int) -> np.ndarray:
    origin = _normal(shape, name, 0)
    return 0.02 * origin if not number else 0.02 * origin + 0.001 * _normal(shape, name, number)


def _normal(shape: tuple[int, ...], name: str, number: int) -> np.ndarray:
    seed = [number, *name.encode()]
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def parameters(config: LFM2Config) -> int:
    return sum(int(np.prod(p.shape)) for _, p in leaves(param_table(config)))


# What follows runs in a process of its own.


def with_jaxpo(file: str, out: str) -> dict[str, Any]:
    """`jaxpo merge FILE OUT`, without the check of the result: mergekit has none."""
    from jaxpo.cli.main import main

    return timed(lambda: _succeed(main(["merge", file, out, "--no-verify"])), out)


def with_mergekit(file: str, out: str) -> dict[str, Any]:
    """`mergekit-yaml FILE OUT`."""
    import torch
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = MergeConfiguration.model_validate(yaml.safe_load(Path(file).read_text()))
    settings = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False)
    return timed(lambda: run_merge(config, out, settings), out)


def timed(merge: Callable[[], Any], out: str) -> dict[str, Any]:
    """Seconds of a merge, and the norm of some of its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    merge()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "norm": norm_of(Path(out))}


def norm_of(folder: Path) -> float:
    """Of the first layer's feed-forward: enough to see that both merged, little enough to cost no memory."""
    file = next(folder.glob("*.safetensors"))
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        start = stream.tell()
        first, last = header["model.layers.0.feed_forward.w1.weight"]["data_offsets"]
        stream.seek(start + first)
        bits = np.frombuffer(stream.read(last - first), "<u2").astype(np.uint32) << 16
    return float(np.linalg.norm(bits.view(np.float32)))


def _succeed(status: int) -> None:
    if status:
        sys.exit(status)


WORK = Work(
    key="W9",
    title="Merging two models of the 350M shape",
    goal="at least twice as fast as mergekit, in half its memory",
    measure=measure,
)
