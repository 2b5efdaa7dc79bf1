"""TRL's side of W14: GRPOTrainer's own generation with transformers, its rewards, and its training step."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Reward = Callable[..., list[float]]


class Trl:
    """A trainer over the same prompts, `group` answers to each in one batch.

    `trainer.train()` does no more per step, but half a second of preparation per call, which a long run does not see.
    """

    def __init__(self, model: Any, tokenizer: Path, prompts: Sequence[str], reward: Reward, folder: Path, **how: Any):
        os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        warnings.filterwarnings("ignore", category=FutureWarning)  # of names that its own trainer still uses
        from datasets import Dataset, disable_progress_bars
        from transformers import AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        disable_progress_bars()
        answers = len(prompts) * how["group"]
        args = GRPOConfig(
            output_dir=str(folder),
            learning_rate=how["learning_rate"],
            weight_decay=0.0,
            max_grad_norm=1.0,
            beta=0.0,
            per_device_train_batch_size=answers,
            num_generations=how["group"],
            max_completion_length=how["new"],
            generation_kwargs={"min_new_tokens": how["new"]},
            top_k=0,  # as jaxpo's: nothing is filtered
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        self.rows = [{"prompt": prompt} for prompt in prompts for _ in range(how["group"])]
        names = AutoTokenizer.from_pretrained(tokenizer, padding_side="left")
        data = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
        self.trainer = GRPOTrainer(model, reward_funcs=reward, args=args, train_dataset=data, processing_class=names)
        self.optimizer = self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1
        self.trainer.model.train()

    def __call__(self) -> float:
        """A whole step; the length of its gradient."""
        self.trainer._buffered_inputs = None  # so that it asks for answers, as at the beginning of a generation
        return self._stepped(self.rows)

    def generate(self) -> int:
        """Answers alone; how many tokens."""
        _, answers, *_ = self.trainer._generate([row["prompt"] for row in self.rows])
        return sum(map(len, answers))

    def train(self, batch: dict[str, Any]) -> float:
        """The training step on answers that are there already."""
        trainer = self.trainer
        trainer._buffered_inputs, trainer._step = [batch], 1
        generate_every, trainer.num_iterations = trainer.num_iterations, 1 << 40
        try:
            return self._stepped(self.rows)
        finally:
            trainer.num_iterations = generate_every

    def _stepped(self, rows: Any) -> float:
        from torch.nn.utils import clip_grad_norm_

        trainer = self.trainer
        trainer.training_step(trainer.model, rows, None)
        norm = clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)


def batch_of(prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], advantages: Sequence[float]) -> Any:
    """Answers as the trainer keeps them between generation and training: prompts padded on the left."""
    import torch

    before, after = max(map(len, prompts)), max(map(len, answers))
    left = np.stack([np.pad(ids, (before - len(ids), 0)) for ids in prompts]).astype(np.int64)
    right = np.stack([np.pad(ids, (0, after - len(ids))) for ids in answers]).astype(np.int64)
    masks = (
        np.stack([np.arange(before) >= before - len(ids) for ids in prompts]),
        np.stack([np.arange(after) < len(ids) for ids in answers]),
    )
    return {
        "prompt_ids": torch.from_numpy(left),
        "prompt_mask": torch.from_numpy(masks[0].astype(np.int64)),
        "completion_ids": torch.from_numpy(right),
        "completion_mask": torch.from_numpy(masks[1].astype(np.int64)),
        "advantages": torch.tensor(np.asarray(advantages, np.float32)),
        "num_items_in_batch": torch.tensor(int(masks[1].sum())),
    }
