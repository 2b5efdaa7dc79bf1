"""One SFT model, then every method from it: the package's own data, objectives and steps, without a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from comparison import data
from comparison.settings import MODEL, Settings
from jaxpo.config import SFT, Compute, Data, Optimizer, Preference, Stage
from jaxpo.construct.base import Tools, constructions
from jaxpo.convert.model_io import load_model, save_model
from jaxpo.data.packing.loader import Loader
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.data.tokens.prepare import Dataset, prepare
from jaxpo.evaluate.score import token_logps
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.spec import init_params
from jaxpo.objectives.methods import METHODS, Method
from jaxpo.recipe.kinds import method_of, networks_of
from jaxpo.sharding import make_mesh
from jaxpo.stages.assemble import Assembly, assemble, make_scorer
from jaxpo.stages.frozen import FrozenNetwork
from jaxpo.stages.recording import record_per_token
from jaxpo.train.init import init_state

Tree = Any
Say = Callable[[str], None]

# Data sets that a method's own construction makes from one of the files: method -> file.
CONSTRUCTED = {
    "rrpo": "pairs",
    "spo_degree": "pairs",
    "mapl": "pairs",
    "rationales": "pairs",
    "dove": "lists",
    "tpo_triple": "lists",
}
# What a construction needs to be told here.
CONSTRUCTION: dict[str, dict[str, Any]] = {"rationales": {"rule": "facts"}}
# Settings that are not the defaults, as the page says; pro_ranking could not read tied scores without its own.
SETTINGS: dict[str, dict[str, Any]] = {"modpo": {"weights": (0.8, 0.2)}, "pro_ranking": {"ties": "order"}}
FAMILIES = ("pairs", "pairs, coupled", "lists", "unpaired")
LEFT_OUT = {
    "sft": "the starting point is one already",
    "fspo": "its prompts show other pairs of the same user, and these pairs have no users; without them it is ipo_sum",
    "gpo": "its pairs are answers of the policy itself, which a preference model compares",
    "inpo": "its pairs are answers of the last iterate, which stands beside the reference; a method of rounds",
    "mcts_dpo": "its pairs are steps of search trees",
    "upo": "its pairs are the policy's own, drawn by an estimator's certainty; a method of rounds",
    "vpo": "calibrates by answers of the iterate or the reference; a method of rounds",
}
WARM_UP = 2
"""Steps whose time does not count: they compile."""


def compared() -> list[str]:
    """Every method of the catalogue that trains a policy on preferences."""
    return [n for n, m in METHODS.items() if n not in LEFT_OUT and m.INFO.family in FAMILIES]


@dataclass(frozen=True)
class Bench:
    """What all methods share: texts, tokenizer, the SFT model, and the held-out responses with their pairs."""

    directory: Path
    settings: Settings
    config: LFM2Config
    tokenizer: Tokenizer
    prompts: list[data.Prompt]
    pairs: list[data.Pair]
    sft: Tree
    counts: dict[str, int]

    @property
    def scorer(self) -> Any:
        return make_scorer(self.config, Compute())

    def responses(self) -> list[tuple[int, int]]:
        """(prompt, response) of every held-out response that stands in a pair."""
        return sorted({(p.prompt, k) for p in self.pairs for k in (p.chosen, p.rejected)})

    def score(self, model: Tree) -> np.ndarray:
        """Summed log-prob of every held-out response with its turn end, float64, in the order of `responses`."""
        segments = []
        for n, k in self.responses():
            prompt = self.tokenizer.encode(self.prompts[n].text)
            answer = [*self.tokenizer.encode(self.prompts[n].responses[k]), self.tokenizer.eos_id]
            segments.append((np.asarray([self.tokenizer.bos_id, *prompt, *answer], np.int32), len(answer)))
        scored = token_logps(self.scorer, model, [s for s, _ in segments], rows=16, row_length=256)
        return np.asarray([x[-n:].sum(dtype=np.float64) for x, (_, n) in zip(scored, segments, strict=True)])


def workspace(root: Path, source: Path, settings: Settings) -> Path:
    """One folder per data and settings; the seeds may grow without starting over."""
    fixed = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("seeds", "bootstrap")}
    text = json.dumps(
        [fixed, dataclasses.asdict(MODEL), hashlib.sha256(source.read_bytes()).hexdigest()], sort_keys=True
    )
    return root / hashlib.sha256(text.encode()).hexdigest()[:12]


def open_bench(root: Path, source: Path, settings: Settings, say: Say) -> Bench:
    """Prepare files, tokenizer and SFT model, or read them back."""
    directory = workspace(root, source, settings)
    directory.mkdir(parents=True, exist_ok=True)
    rows, counts = data.read(source)
    train, held = data.split(len(rows), settings)
    if not (directory / "tokenizer" / "tokenizer.json").is_file():
        texts = (text for n in train for text in (rows[n]["prompt"], *rows[n]["responses"]))
        train_tokenizer(texts, settings.vocab_size).save(directory / "tokenizer")
    tokenizer = Tokenizer.load(directory / "tokenizer")
    prompts = data.cut(rows, tokenizer, settings)
    data.write_files(directory / "files", prompts, train, settings)
    config = dataclasses.replace(MODEL, vocab_size=tokenizer.vocab_size)
    pairs = data.evaluation_pairs(prompts, held, settings)
    bench = Bench(directory, settings, config, tokenizer, prompts, pairs, None, counts)
    if not (directory / "sft").is_dir():
        save_model(
            directory / "sft", {"model": train_sft(bench, say)}, config, {"stage": "sft", "trained_on": source.name}
        )
    return dataclasses.replace(bench, sft=load_model(directory / "sft").params["model"])


def stage_of(bench: Bench, kind: type[Stage], file: Path, *, tokens: int, rate: float, **more: Any) -> Any:
    """The stage's configuration with the shared budget."""
    s = bench.settings
    return kind(
        # Only rationale prompts, which show both responses, are longer than max_length: they lose their start.
        data=Data(train=(str(file),), max_length=s.max_length, row_length=s.row_length, truncation="prompt_left"),
        optimizer=Optimizer(learning_rate=rate, warmup_ratio=0.1, weight_decay=0.0),
        rows_per_step=s.rows,
        max_tokens=tokens,
        **more,
    )


def train_sft(bench: Bench, say: Say) -> Tree:
    """The model that all methods start from."""
    s = bench.settings
    stage = stage_of(bench, SFT, bench.directory / "files" / "sft.jsonl", tokens=s.sft_tokens, rate=s.sft_learning_rate)
    trainer = Trainer(bench, stage)
    from jaxpo.models.lfm2.table import param_table

    start = {"model": init_params(param_table(bench.config), jax.random.key(0))}
    result = trainer.train(start, 0, lambda n, total, loss: say(f"sft: step {n}/{total}, loss {loss:.3f}"))
    return result.params["model"]


@dataclass(frozen=True)
class Trained:
    """What one seed of one method gave.

    Attributes:
      step_cpu_seconds: processor time per step over all threads, median after the compiling ones; unlike wall time it
        does not depend on what else the machine does.
      metrics: of the last step.
    """

    params: Tree
    step_cpu_seconds: float
    metrics: dict[str, float]


class Trainer:
    """One stage, compiled once and run for several seeds."""

    def __init__(self, bench: Bench, stage: Stage):
        self.bench, self.stage = bench, stage
        self.mesh = make_mesh({}, jax.devices()[:1])
        self.dataset = self._dataset()
        self.assembly: Assembly = assemble(stage, self._loader(0), bench.scorer, self.mesh, {})

    def train(self, start: Tree, seed: int, progress: Callable[[int, int, float], None]) -> Trained:
        """From `start` (whose model is the reference too) to the end of the budget."""
        a = self.assembly
        fresh = {n: init_params(t, jax.random.key(seed)) for n, t in a.tables.items() if n not in start}
        loader, frozen = self._loader(seed), {}
        for network in networks_of(self.stage):
            if network.recorded:
                loader = self._with_recorded(start["model"], network.name, loader)
            else:
                frozen[network.name] = start["model"]
        state = init_state(a.abstract, {**start, **fresh}, a.optimizer, a.objective, seed)
        seconds, metrics = [], {}
        with contextlib.closing(loader.open(0, a.total_steps)) as feed:
            for n in range(1, a.total_steps + 1):
                on_device = a.put(feed.next(state))
                began = time.process_time()
                state, found = a.step(state, frozen, on_device)
                metrics = {name: float(m.value()) for name, m in jax.device_get(found).items()}
                seconds.append(time.process_time() - began)
                if not np.isfinite(metrics["loss"]):
                    raise FloatingPointError(f"step {n}: loss {metrics['loss']}")
                if n % 25 == 0 or n == a.total_steps:
                    progress(n, a.total_steps, metrics["loss"])
        return Trained(state.params, float(np.median(seconds[WARM_UP:] or seconds)), metrics)

    def _dataset(self) -> Dataset:
        purpose: Any = "sft" if isinstance(self.stage, SFT) else "preference"
        return prepare(
            self.stage.data.train,
            data=self.stage.data,
            tokenizer=self.bench.tokenizer,
            purpose=purpose,
            needs=method_of(self.stage).NEEDS,
            cache_dir=self.bench.directory / "tokens",
            log=lambda line: None,
        )

    def _loader(self, seed: int) -> Loader:
        return Loader(self.dataset, self.stage.data, seed=seed, rows_per_step=self.stage.rows_per_step)

    def _with_recorded(self, model: Tree, name: str, loader: Loader) -> Loader:
        network, folder = FrozenNetwork(model, self.bench.scorer), self.bench.directory / name
        return loader.reading(record_per_token(network, name, "logps", loader, folder, self.mesh, lambda line: None))


def file_of(bench: Bench, name: str) -> Path:
    """The training file of a method; constructions run once."""
    files = bench.directory / "files"
    if name in CONSTRUCTED:
        out = files / f"{name}.jsonl"
        if not out.is_file():
            rows = list(read_rows([files / f"{CONSTRUCTED[name]}.jsonl"]))
            data.write(out, constructions()[name](**CONSTRUCTION.get(name, {})).run(rows, Tools(seed=0)))
        return out
    needs = configured(name).NEEDS
    for role, kind in (("items", "items"), ("completion", "unpaired")):
        if role in needs.roles:
            return files / f"{kind}.jsonl"
    if "candidate" in needs.roles:
        return files / ("trees.jsonl" if "step" in needs.per_token else "lists.jsonl")
    return files / "pairs.jsonl"


def configured(name: str) -> Method:
    """The method as it is compared."""
    return METHODS[name](**SETTINGS.get(name, {}))


def preference_stage(bench: Bench, name: str, *, online: bool = False) -> Preference:
    """The stage of a method, on its file.

    Args:
      online: run the reference in every step, also where its log-probs can be recorded.
    """
    method, s = configured(name), bench.settings
    return stage_of(
        bench,
        Preference,
        file_of(bench, name),
        tokens=s.budget_tokens,
        rate=s.learning_rate,
        loss=method,
        precompute_ref_log_probs=method.NEEDS.kind("reference") == "logps" and not online,
    )


def run_method(bench: Bench, name: str, seeds: tuple[int, ...], say: Say) -> Iterator[tuple[int, dict[str, Any]]]:
    """Train a method for the given seeds; yields what was measured of each."""
    stage = preference_stage(bench, name)
    trainer = Trainer(bench, stage)
    for seed in seeds:
        began = time.perf_counter()
        # The training step donates its state: every seed starts from a copy.
        start = {"model": jax.tree.map(lambda x: x.copy(), bench.sft)}
        result = trainer.train(start, seed, lambda n, total, loss: say(f"step {n}/{total}, loss {loss:.4g}"))
        scores = bench.score(result.params["model"])
        yield (
            seed,
            {
                "scores": scores.tolist(),
                "step_cpu_seconds": result.step_cpu_seconds,
                "seconds": time.perf_counter() - began,
                "loss": result.metrics["loss"],
            },
        )
    jax.clear_caches()
