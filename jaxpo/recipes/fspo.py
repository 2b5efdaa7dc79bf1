"""A model that reads a user's earlier choices in its prompt: few-shot fine-tuning, then few-shot IPO (FSPO).

    jaxpo run fspo --run runs/my-fspo --model-from runs/my-sft/export --rows pairs.jsonl

Rows are pairs with a column `user`; every user needs one row more than a prompt shows. Some users are held out whole,
for what counts is a user whom nobody has trained on. Fewer shots, another loss, users of equal weight:

    jaxpo run fspo ... --shots 2 --fspo.loss.form dpo --fspo.loss.beta 0.1 --fspo.loss.balance-users True

For a new user no weight is changed: `jaxpo data construct fspo` puts their choices into prompts, `jaxpo data construct
fspo_answers` answers them.
"""

from __future__ import annotations

from typing import Any

from jaxpo.config import SFT, Data, Optimizer, Preference, Run
from jaxpo.construct.fspo.episodes import FSPO as Episodes
from jaxpo.construct.stage import Construct
from jaxpo.objectives.methods.fspo import FSPO


def config(rows: str = "", shots: int = 4, length: int = 2048) -> Run:
    """Pref-FT and FSPO on the episodes of one file.

    Args:
      rows: pairs with a column `user`.
      shots: pairs of the user that a prompt shows; 8 for short ones.
      length: longest prompt with a response, in tokens.
    """
    files = (rows,) if rows else ()
    made = {"pref_ft": Episodes(shots, form="sft", users="train"), "pairs": Episodes(shots, users="train")}
    held = Episodes(shots, passes=1, users="held_out")
    construct = [Construct(name=f"{name}_episodes", construction=c, rows=files) for name, c in made.items()]
    cut: dict[str, Any] = {"max_length": length, "row_length": 2 * length, "truncation": "drop"}
    return Run(
        name="fspo",
        stages=(
            *construct,
            Construct(name="held_out_episodes", construction=held, rows=files),
            SFT(
                name="pref_ft",
                data=Data(train=("stage:pref_ft_episodes/rows.jsonl",), **cut),
                optimizer=Optimizer(learning_rate=1e-6, warmup_ratio=0.1, weight_decay=0.0),
                num_train_epochs=1,
                save_steps=200,
            ),
            Preference(
                name="fspo",
                data=Data(
                    train=("stage:pairs_episodes/rows.jsonl",), eval=("stage:held_out_episodes/rows.jsonl",), **cut
                ),
                loss=FSPO(),
                # The authors warm up for 150 steps, which a small file has not got.
                optimizer=Optimizer(learning_rate=1e-6, warmup_ratio=0.1, weight_decay=0.0, max_grad_norm=10.0),
                num_train_epochs=1,
                save_steps=200,
            ),
        ),
    )
