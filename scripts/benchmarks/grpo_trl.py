"""TRL's side of W14: the training step of its own GRPOTrainer, whose answers transformers generates."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Trl:
    """A call is a whole step: generation, rewards, loss and gradient, clipping, optimiser.

    Attributes:
      parts: seconds of "writing" and of "training", of every call.
      written: tokens of the answers, of every call.
    """

    def __init__(self, model: Any, tokenizer: Path, prompts: Sequence[tuple[str, tuple[int, ...]]], **how: Any):
        os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        warnings.filterwarnings("ignore", category=FutureWarning)
        from datasets import Dataset, disable_progress_bars
        from transformers import AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        disable_progress_bars()
        known = {text: list(ids) for text, ids in prompts}
        self.parts: dict[str, list[float]] = {"writing": [], "training": []}
        self.written: list[int] = []
        outer = self

        class OnTokens(GRPOTrainer):  # type: ignore[misc, valid-type]
            """With ids that are made already, so that both libraries answer the same prompts; generation is timed."""

            def _tokenize_prompts(self, prompts: list[str]) -> Any:
                return [known[prompt] for prompt in prompts], None, {}

            def _generate(self, prompts: list[str]) -> Any:
                began = time.perf_counter()
                found = super()._generate(prompts)
                outer.parts["writing"].append(time.perf_counter() - began)
                outer.written.append(sum(map(len, found[1])))
                return found

        args = GRPOConfig(
            output_dir=str(how["folder"]),
            learning_rate=how["learning_rate"],
            weight_decay=0.0,
            max_grad_norm=1.0,
            per_device_train_batch_size=len(prompts) * how["n"],
            num_generations=how["n"],
            max_completion_length=how["longest"],
            steps_per_generation=1,
            beta=0.0,
            temperature=1.0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        rows = [{"prompt": text} for text, _ in prompts]
        self.trainer = OnTokens(
            model,
            reward_funcs=how["reward"],
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(tokenizer),
        )
        self.rows = [dict(row) for row in rows for _ in range(how["n"])]
        self.optimizer = self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1

    def __call__(self) -> float:
        from torch.nn.utils import clip_grad_norm_

        trainer, began = self.trainer, time.perf_counter()
        loss = float(trainer.training_step(trainer.model, [dict(row) for row in self.rows], None))
        clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.parts["training"].append(time.perf_counter() - began - self.parts["writing"][-1])
        return loss
