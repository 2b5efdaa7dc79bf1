"""W2: DPO on real pairs, beside TRL: the reference in every step, computed before, and as the base of an adapter."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import pairs as real
from benchmarks.ceilings import best_products, described, has
from benchmarks.dpo_trl import VARIANTS, Trl
from benchmarks.measure import interleaved, say
from benchmarks.subject import about, config_of, in_transformers, params_of, training_products
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.config import Compute, Data, LoRA, Optimizer, Preference
from jaxpo.data.packing.loader import Loader
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.prepare import Dataset, prepare
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.spec import init_params
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.kinds import method_of
from jaxpo.sharding import make_mesh
from jaxpo.stages.assemble import assemble, make_scorer
from jaxpo.stages.frozen import FrozenNetwork
from jaxpo.stages.recording import record_per_token
from jaxpo.train.flops import training_flops_per_token
from jaxpo.train.init import init_state

Run = Callable[[], Any]
TITLES = {
    "online": "reference in every step",
    "precomputed": "reference computed before",
    "lora": "LoRA, base as reference",
}
BETA, RATE, REPEATS = 0.1, 1e-6, 3
ADAPTER = LoRA(rank=16, alpha=32.0)
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Size:
    """Rows of a step and their length, steps of a repetition, pairs of TRL's batches, pairs to choose from."""

    rows: int = 4
    length: int = 512
    steps: int = 2
    batch: int = 4
    candidates: int = 64


TINY = Size(rows=2, length=64, steps=1, batch=2, candidates=8)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all contestants share.

    Attributes:
      used: the pairs that the measured steps hold.
    """

    size: Size
    config: LFM2Config
    params: Any
    tokenizer: Tokenizer
    dataset: Dataset
    folder: Path
    used: list[real.Pair]

    @property
    def useful(self) -> int:
        return sum(pair.useful for pair in self.used)


def stage_of(variant: str, size: Size, file: Path) -> Preference:
    """The stage that a user would write, with the block of rows that jaxpo advises for these pairs on one device."""
    block = {"max_length": size.length, "row_length": size.length, "block_rows": size.rows}
    return Preference(
        loss=METHODS["dpo"](beta=BETA),
        data=Data(train=(str(file),), shuffle=False, **block),
        optimizer=Optimizer(learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.0),
        rows_per_step=size.rows,
        max_steps=1_000_000,
        precompute_ref_log_probs=variant == "precomputed",
        lora=ADAPTER if variant == "lora" else None,
    )


def setting(options: Options, source: Path, folder: Path) -> Setting:
    """Tokenise the pairs, and find out which of them the measured steps hold."""
    size = TINY if options.smoke else Size()
    config, rows = config_of(options), real.ranked(source)
    tokenizer = real.tokenizer_of(rows[:200] if options.smoke else rows, 512 if options.smoke else config.vocab_size)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    found = real.pairs(rows, tokenizer, size.candidates, size.length)
    real.write(folder / "pairs.jsonl", found)
    stage = stage_of("online", size, folder / "pairs.jsonl")
    dataset = prepare(
        stage.data.train,
        data=stage.data,
        tokenizer=tokenizer,
        purpose="preference",
        needs=method_of(stage).NEEDS,
        cache_dir=folder / "tokens",
        log=lambda line: None,
    )
    loader = Loader(dataset, stage.data, seed=0, rows_per_step=size.rows)
    ids = np.concatenate([loader.batch(i * size.rows).example_id for i in range(size.steps)])
    used = [found[i] for i in ids if i >= 0]
    return Setting(size, config, params_of(config), tokenizer, dataset, folder, used)


class Ours:
    """jaxpo's preference stage; a call is the measured steps, batches assembled and put on the device in it."""

    def __init__(self, variant: str, of: Setting):
        self.size = of.size
        stage = stage_of(variant, of.size, of.folder / "pairs.jsonl")
        mesh, scorer = make_mesh({}, jax.devices()[:1]), make_scorer(of.config, Compute())
        self.loader = Loader(of.dataset, stage.data, seed=0, rows_per_step=of.size.rows)
        self.frozen: dict[str, Any] = {"online": {"reference": of.params}, "lora": {"base": of.params}}.get(variant, {})
        if variant == "precomputed":
            network = FrozenNetwork(of.params, scorer)
            recorded = of.folder / "reference"
            column = record_per_token(network, "reference", "logps", self.loader, recorded, mesh, lambda line: None)
            self.loader = self.loader.reading(column)
        self.assembly = assemble(stage, self.loader, scorer, mesh, {})
        fresh = {name: init_params(table, jax.random.key(1)) for name, table in self.assembly.tables.items()}
        start = fresh | ({} if variant == "lora" else {"model": of.params})
        self.state = init_state(self.assembly.abstract, start, self.assembly.optimizer, self.assembly.objective, 0)

    def __call__(self) -> Any:
        for i in range(self.size.steps):
            batch = self.assembly.put(self.loader.batch(i * self.size.rows))
            self.state, metrics = self.assembly.step(self.state, self.frozen, batch)
        return float(metrics["loss"].value())

    def reference_total(self) -> float:
        """Sum of the stored log-probs of all answers, of the precomputed variant."""
        total = 0.0
        for i in range(self.size.steps):
            batch = self.loader.batch(i * self.size.rows)
            total += float(np.sum(np.where(batch.masks["completion"], batch.per_token["ref_logps"], 0.0)))
        return total


def theirs(variant: str, of: Setting, options: Options) -> Trl:
    """TRL's trainer on the same pairs."""
    copies = [in_transformers(of.params, of.config, options.threads) for _ in range(2 if variant == "online" else 1)]
    how = {"beta": BETA, "learning_rate": RATE, "batch": of.size.batch, "max_length": of.size.length}
    how |= {"rank": ADAPTER.rank, "alpha": ADAPTER.alpha}
    names = of.folder / "tokenizer"
    of.tokenizer.save(names)
    return Trl(variant, copies[0], copies[-1], names, of.used, of.folder / f"trl-{variant}", **how)


def agree(ours: Ours, trl: Trl) -> None:
    """Whether both read the same pairs and score them alike.

    Raises:
      ValueError: they do not.
    """
    a, b = ours.reference_total(), trl.reference_total()
    if not abs(a - b) <= TOLERANCE * abs(a):
        raise ValueError(f"the reference's log-probs add up to {a} in jaxpo and to {b} in TRL: not the same tokens")


def question(variant: str, of: Setting, options: Options, ceiling: float) -> Table:
    """One variant in both libraries."""
    ours = Ours(variant, of)
    runs: dict[str, Run] = {"jaxpo": ours}
    absent: tuple[Row, ...] = ()
    if options.peers and has("trl") and has("peft"):
        runs["TRL"] = theirs(variant, of, options)
        if variant == "precomputed":
            agree(ours, runs["TRL"])  # type: ignore[arg-type]
    elif options.peers:
        absent = (Row("TRL", missing="trl and peft are not installed"),)
    say(f"  {TITLES[variant]}")
    # What a step holds is fixed, and a pass takes many seconds: three repetitions show the spread.
    times = interleaved(runs, options.at_most(REPEATS))
    rows = tuple(Row(name, of.useful, t.wall, t.cpu, ceiling=ceiling) for name, t in times.items())
    return Table(f"DPO, {TITLES[variant]}", "useful tokens", rows + absent)


# Passes over a token, in forwards of the whole model: the policy's forward and backward (two of the backward's products
# are gone where the weights are fixed), and the reference's forward.
PASSES = {"online": 4.0, "precomputed": 3.0, "lora": 3.0}


def measure(options: Options) -> Result:
    """Useful tokens per second of whole passes over the same pairs."""
    source = real.file()
    if source is None:
        why = f"{real.FILE} is not on this machine; name it in {real.PLACE}"
        return Result(
            tuple(Table(f"DPO, {title}", "useful tokens", (Row("jaxpo", missing=why),)) for title in TITLES.values())
        )
    with tempfile.TemporaryDirectory() as folder:
        of = setting(options, source, Path(folder))
        tokens = of.size.rows * of.size.length
        products = best_products(training_products(of.config, tokens), peers=options.peers)
        mean = of.useful / (2 * len(of.used))
        forward = training_flops_per_token(of.config, mean / 2) / 3
        rate = max(products.values()) / forward
        tables = tuple(question(variant, of, options, rate / PASSES[variant]) for variant in VARIANTS)
    padded = sum(real.padded(batch) for batch in real.in_batches(of.used, of.size.batch))
    notes = (
        f"Shape: {about(of.config)}; AdamW, clipping, beta {BETA}, LoRA of rank {ADAPTER.rank} on all projections.",
        f"{len(of.used)} pairs of real responses, {of.useful:,} useful tokens (prompt and answer of both sides, no "
        f"padding), in {of.size.steps} steps; jaxpo packs them into {of.size.steps * tokens:,} positions, TRL pads "
        f"batches of {of.size.batch} pairs to {padded:,}.",
        "TRL by the training step of its `DPOTrainer`, without gradient checkpointing, which would cost it a third; "
        "checked: both give the same reference log-probs.",
        "The ceiling: the model's operations on useful tokens, the reference's forward where it runs, at the speed of "
        "plain products.",
    )
    return Result(tables, described(products), notes)


WORK = Work("W2", "DPO on real pairs", "twice the useful tokens per second of TRL, reference online", measure)
