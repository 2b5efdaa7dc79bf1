"""W13: a reward model on real pairs, packed and padded, beside TRL's RewardTrainer."""

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
from benchmarks.dpo_step import TINY, Size
from benchmarks.measure import interleaved
from benchmarks.models import CONFIG, A, C
from benchmarks.models import TINY as SMALL
from benchmarks.subject import about, training_products
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.config import Compute, Data, Optimizer, Reward
from jaxpo.convert.reward_hf import export_reward
from jaxpo.data.packing.loader import Loader
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.prepare import Dataset, prepare
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.kinds import method_of
from jaxpo.sharding import make_mesh
from jaxpo.stages.assemble import assemble, make_scorer
from jaxpo.train.flops import training_flops_per_token
from jaxpo.train.init import init_state

RATE, CENTRING = 1e-6, 0.01
TOLERANCE = 1e-3
MODEL = dataclasses.replace(
    CONFIG,
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=768,
    num_attention_heads=4,
    num_key_value_heads=2,
    layer_types=(C, C, A, C, A),
)
SIZE = Size(rows=4, length=512, steps=3, batch=4, candidates=64)
PACKED, PADDED, TRL = "jaxpo", "jaxpo, a row for each answer", "TRL"


def stage_of(file: Path, size: Size, packing: Any, rows: int) -> Reward:
    """The stage that a user would write."""
    return Reward(
        loss=METHODS["bradley_terry"](center_rewards_coefficient=CENTRING),
        data=Data(train=(str(file),), max_length=size.length, row_length=size.length, shuffle=False, packing=packing),
        optimizer=Optimizer(learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.0),
        rows_per_step=rows,
        max_steps=1_000_000,
    )


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all contestants share: the model with its head, and pairs in a file."""

    size: Size
    config: LFM2Config
    params: Any
    tokenizer: Tokenizer
    folder: Path

    def dataset(self, stage: Reward) -> Dataset:
        """The tokens of the stage's file."""
        return prepare(
            stage.data.train,
            data=stage.data,
            tokenizer=self.tokenizer,
            purpose="preference",
            needs=method_of(stage).NEEDS,
            cache_dir=self.folder / "tokens",
            log=lambda line: None,
        )


class Ours:
    """jaxpo's reward stage; a call is `steps` steps, batches assembled and put on the device in it."""

    def __init__(self, of: Setting, stage: Reward, steps: int):
        self.steps, self.rows = steps, stage.rows_per_step
        mesh, scorer = make_mesh({}, jax.devices()[:1]), make_scorer(of.config, Compute())
        self.loader = Loader(of.dataset(stage), stage.data, seed=0, rows_per_step=self.rows)
        self.assembly = assemble(stage, self.loader, scorer, mesh, {})
        start = jax.tree.map(lambda x: x.copy(), of.params)
        self.state = init_state(self.assembly.abstract, start, self.assembly.optimizer, self.assembly.objective, 0)

    def pairs(self) -> list[int]:
        """Numbers of those that a call trains on."""
        ids = [self.loader.batch(i * self.rows).example_id for i in range(self.steps)]
        return [int(i) for i in np.concatenate(ids) if i >= 0]

    def __call__(self) -> float:
        """The mean loss of a pair."""
        total = count = 0.0
        for i in range(self.steps):
            batch = self.loader.batch(i * self.rows)
            here = float(np.sum(batch.example_id >= 0))
            self.state, metrics = self.assembly.step(self.state, {}, self.assembly.put(batch))
            total, count = total + here * float(metrics["loss"].value()), count + here
        return total / count


class Theirs:
    """TRL's training step on the same pairs in padded batches."""

    def __init__(self, of: Setting, used: list[real.Pair], options: Options):
        import torch
        from datasets import Dataset as Rows
        from datasets import disable_progress_bars
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from trl import RewardConfig, RewardTrainer

        disable_progress_bars()
        torch.set_num_threads(options.threads)
        export_reward(of.params, of.config, of.folder / "reward", tokenizer=of.tokenizer, verify=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            of.folder / "reward", trust_remote_code=True, dtype=torch.float32
        )

        class OnTokens(RewardTrainer):  # type: ignore[misc, valid-type]
            """With ids that are made already, so that both libraries train on the same tokens."""

            def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
                return dataset

        sides = [(p.prompt_ids + p.chosen_ids, p.prompt_ids + p.rejected_ids) for p in used]
        data = Rows.from_list([{"chosen_ids": list(a), "rejected_ids": list(b)} for a, b in sides])
        args = RewardConfig(
            output_dir=str(of.folder / "trl"),
            learning_rate=RATE,
            weight_decay=0.0,
            max_grad_norm=1.0,
            per_device_train_batch_size=of.size.batch,
            max_length=of.size.length,
            center_rewards_coefficient=CENTRING,
            gradient_checkpointing=False,
            disable_dropout=True,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        names = AutoTokenizer.from_pretrained(of.folder / "reward")
        self.trainer = OnTokens(model, args=args, train_dataset=data, processing_class=names)
        self.optimizer, self.batch = self.trainer.create_optimizer(), of.size.batch
        self.trainer.current_gradient_accumulation_steps = 1

    def __call__(self) -> float:
        """The mean loss of a pair."""
        from torch.nn.utils import clip_grad_norm_

        trainer, rows, total = self.trainer, list(self.trainer.train_dataset), 0.0
        for first in range(0, len(rows), self.batch):
            chosen = rows[first : first + self.batch]
            total += len(chosen) * float(trainer.training_step(trainer.model, trainer.data_collator(chosen)))
            clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return total / len(rows)


def setting(options: Options, source: Path, folder: Path) -> tuple[Setting, list[real.Pair]]:
    """The model, and the pairs to choose from."""
    size, config = (TINY, SMALL) if options.smoke else (SIZE, MODEL)
    rows = real.ranked(source)
    tokenizer = real.tokenizer_of(rows[:200] if options.smoke else rows, 512 if options.smoke else config.vocab_size)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    found = real.pairs(rows, tokenizer, size.candidates, size.length)
    tables = {"model": param_table(config), **METHODS["bradley_terry"]().extra_tables(config)}
    params = {name: init_params(table, jax.random.key(0)) for name, table in tables.items()}
    head = params["value"]["weight"]
    params["value"] = {"weight": jax.random.normal(jax.random.key(1), head.shape) / config.hidden_size}
    return Setting(size, config, params, tokenizer, folder), found


def useful(pairs: list[real.Pair]) -> int:
    """Tokens that are no padding."""
    return sum(pair.useful for pair in pairs)


def contestants(
    of: Setting, found: list[real.Pair], options: Options
) -> tuple[dict[str, Callable[[], Any]], list[real.Pair], dict[str, int]]:
    """Whoever takes part, the pairs that all of them train on, and the useful tokens of each one's call.

    Raises:
      ValueError: their losses before the first update differ.
    """
    size, file = of.size, of.folder / "pairs.jsonl"
    real.write(file, found)
    packed = Ours(of, stage_of(file, size, "best_fit", size.rows), size.steps)
    used = [found[i] for i in packed.pairs()]
    again = of.folder / "used.jsonl"
    real.write(again, used)
    rows = 2 * size.batch
    padded = Ours(of, stage_of(again, size, "none", rows), -(-len(used) // size.batch))
    runs: dict[str, Callable[[], Any]] = {PACKED: packed, PADDED: padded}
    if options.peers and has("trl"):
        runs[TRL] = Theirs(of, used, options)
    losses = {name: runs[name]() for name in (PACKED, TRL) if name in runs}
    if max(losses.values()) - min(losses.values()) > TOLERANCE:
        raise ValueError(f"the losses of the first steps differ: {losses}")
    # With a row for each answer the last step begins the pairs anew.
    amounts = dict.fromkeys(runs, useful(used)) | {PADDED: useful([used[i] for i in padded.pairs()])}
    return runs, used, amounts


def measure(options: Options) -> Result:
    """Useful tokens per second of whole passes over the same pairs."""
    title, source = "Bradley-Terry, a value head", real.file()
    if source is None:
        why = f"{real.FILE} is not on this machine; name it in {real.PLACE}"
        return Result((Table(title, "useful tokens", (Row(PACKED, missing=why),)),))
    with tempfile.TemporaryDirectory() as folder:
        of, found = setting(options, source, Path(folder))
        runs, used, amounts = contestants(of, found, options)
        positions = of.size.rows * of.size.length
        products = best_products(training_products(of.config, positions), peers=options.peers)
        # A reward model has no vocabulary head.
        head = 6 * of.config.vocab_size * of.config.hidden_size
        flops = training_flops_per_token(of.config, useful(used) / (4 * len(used))) - head
        ceiling = max(products.values()) / flops
        times = interleaved(runs, options.at_most(3))
    rows = tuple(Row(name, amounts[name], t.wall, t.cpu, ceiling=ceiling) for name, t in times.items())
    absent = (Row(TRL, missing="trl is not installed"),) if options.peers and TRL not in runs else ()
    padded = sum(real.padded(batch) for batch in real.in_batches(used, of.size.batch))
    alone = 2 * of.size.batch * of.size.length * -(-len(used) // of.size.batch)
    notes = (
        f"Shape: {about(of.config)}; AdamW, clipping, centring {CENTRING}.",
        f"{len(used)} pairs of real responses, {useful(used):,} useful tokens (prompt and answer of both sides, no "
        f"padding). jaxpo packs them into {of.size.steps * positions:,} positions, with a row for each answer it has "
        f"{alone:,}, and TRL pads batches of {of.size.batch} pairs to {padded:,}.",
        f"TRL by the training step of its `RewardTrainer`; checked: the losses of the first steps agree within "
        f"{TOLERANCE:g}.",
        "The ceiling: the model's operations on useful tokens at the speed of plain products.",
    )
    return Result((Table(title, "useful tokens", rows + absent),), described(products), notes)


WORK = Work(
    key="W13",
    title="a reward model on real pairs",
    goal="twice the useful tokens per second of TRL's RewardTrainer",
    measure=measure,
)
