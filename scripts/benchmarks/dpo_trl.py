"""TRL's side of W2: the steps of its own DPOTrainer, over the same pairs once per repetition."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from benchmarks.pairs import Pair

VARIANTS = ("online", "precomputed", "lora")


class Trl:
    """A trainer of one variant; a call is a pass over the pairs: its collator, its training step, clipping, optimiser.

    `trainer.train()` does no more per step, but half a second of preparation per call, which a long run does not see.
    """

    def __init__(
        self, variant: str, model: Any, reference: Any, tokenizer: Path, pairs: list[Pair], folder: Path, **how: Any
    ):
        os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        warnings.filterwarnings("ignore", category=FutureWarning)  # of names that its own trainer still uses
        from datasets import Dataset, disable_progress_bars
        from transformers import AutoTokenizer
        from trl import DPOConfig, DPOTrainer

        disable_progress_bars()

        class OnTokens(DPOTrainer):  # type: ignore[misc, valid-type]
            """With ids that are made already, so that both libraries train on the same tokens."""

            def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
                return dataset

        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        data = Dataset.from_list([{name: list(getattr(pair, name)) for name in names} for pair in pairs])
        args = DPOConfig(
            output_dir=str(folder),
            beta=how["beta"],
            learning_rate=how["learning_rate"],
            weight_decay=0.0,
            max_grad_norm=1.0,
            per_device_train_batch_size=how["batch"],
            max_length=how["max_length"],
            precompute_ref_log_probs=variant == "precomputed",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        self.trainer = OnTokens(
            model,
            ref_model=reference if variant == "online" else None,
            args=args,
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(tokenizer),
            peft_config=_adapter(how["rank"], how["alpha"]) if variant == "lora" else None,
        )
        self.batch = how["batch"]
        self.optimizer = self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1

    def __call__(self) -> float:
        from torch.nn.utils import clip_grad_norm_

        trainer, loss = self.trainer, 0.0
        rows = list(trainer.train_dataset)
        for first in range(0, len(rows), self.batch):
            inputs = trainer.data_collator(rows[first : first + self.batch])
            loss = float(trainer.training_step(trainer.model, inputs))
            clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss

    def reference_total(self) -> float:
        """Sum of the stored log-probs of all answers, of the precomputed variant."""
        data = self.trainer.train_dataset
        return float(sum(data["ref_chosen_logps"]) + sum(data["ref_rejected_logps"]))


def _adapter(rank: int, alpha: float) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
