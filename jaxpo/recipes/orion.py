"""ORION on arithmetic: think in Mentalese, operators without prose, then learn to be right and short (SLPO).

    jaxpo run orion
    jaxpo run orion --orion.loss.alpha 0.5 --orion.loss.scale-rewards none

The corpus is made here: word problems, each solved in Mentalese and at length in prose. The base learns the prose; the
same model goes on with the symbolic traces of the same problems, which are several times shorter; and reinforcement
learning with a bonus for the shorter ones of the right answers follows. `scripts/reasoning_lengths runs/orion` shows
accuracy, tokens and the compression against the base after every stage.
"""

from __future__ import annotations

from dataclasses import replace

from jaxpo.config import SFT, Data, Online, Optimizer, Run, Tokenizer
from jaxpo.corpora.mentalese_arithmetic import MentaleseArithmetic
from jaxpo.evaluate.exact_match import ExactMatch
from jaxpo.evaluate.probes import EndsByItself
from jaxpo.objectives.methods.orion import ORION
from jaxpo.recipes.grpo import MODEL
from jaxpo.recipes.grpo import config as arithmetic

VOCABULARY = 512
LENGTH, LONGEST = 384, 288
"""Tokens of a problem solved at length, and of such a solution."""
MENTALESE, VERBOSE = "corpus:mentalese_train.jsonl", "corpus:verbose_train.jsonl"
HELD_OUT = "corpus:mentalese_heldout.jsonl"


def fine_tuning(name: str, file: str, max_tokens: int, learning_rate: float) -> SFT:
    """On one of the two ways to solve the problems."""
    return SFT(
        name=name,
        data=Data(train=(file,), eval=(file.replace("_train", "_heldout"),), max_length=LENGTH, row_length=LENGTH),
        optimizer=Optimizer(learning_rate=learning_rate, lr_scheduler_type="cosine", warmup_steps=20, weight_decay=0.0),
        rows_per_step=16,
        max_tokens=max_tokens,
        logging_steps=10,
        save_steps=100,
    )


def config() -> Run:
    """The base, Mentalese, and SLPO."""
    online = arithmetic().stages[1]
    assert isinstance(online, Online)
    prompts = Data(train=(MENTALESE,), eval=(HELD_OUT,), max_length=160, row_length=320)
    return Run(
        name="orion",
        model=replace(MODEL, vocab_size=VOCABULARY),
        corpus=MentaleseArithmetic(levels=(1, 2, 3)),
        tokenizer=Tokenizer(train_on=(VERBOSE, MENTALESE), vocab_size=VOCABULARY),
        stages=(
            fine_tuning("base", VERBOSE, 2_400_000, 4e-3),
            fine_tuning("mentalese", MENTALESE, 900_000, 2e-3),
            replace(online, name="orion", loss=ORION(), data=prompts, max_steps=120),
        ),
        prompts=(),
        probes=(
            ExactMatch((HELD_OUT,), prompts=600, max_new_tokens=LONGEST),
            EndsByItself((HELD_OUT,), prompts=600, max_new_tokens=LONGEST),
        ),
    )
