"""A reward model that calls tools before it judges; calls, observations and reasons are learnt, too.

    jaxpo run themis --run runs/my-themis --model-from runs/my-sft/export --rows pairs.jsonl --tool calculator

Rows are pairs with `chosen_trajectory`, `rejected_trajectory` (lists of {"thought", "action", "input"}; the tool is
called where there is no "observation") and `chosen_rationale`, `rejected_rationale`. The released code's weights:

    jaxpo run themis ... --themis.loss.rank-weight 0.5 --themis.loss.normalisation pooled

`ToolRewardJudge("themis")` judges with it in later stages: it writes the calls itself, and the tools answer.
"""

from __future__ import annotations

from jaxpo.config import Data, Optimizer, Reward, Run
from jaxpo.construct.stage import Construct
from jaxpo.construct.themis import Themis as Trajectories
from jaxpo.objectives.methods.themis import Themis


def config(rows: str = "", tool: str = "calculator") -> Run:
    """Trajectories of one file, and the reward model.

    Args:
      rows: pairs with trajectories.
      tool: calculator, calendar, python, table:FILE or file.py:function.
    """
    made = Construct(
        name="trajectories",
        construction=Trajectories(tools=(tool,)),
        rows=(rows,) if rows else (),
        heldout_one_in=20,
    )
    return Run(
        name="themis",
        stages=(
            made,
            Reward(
                name="themis",
                loss=Themis(),
                data=Data(
                    train=("stage:trajectories/rows.jsonl",),
                    eval=("stage:trajectories/heldout_rows.jsonl",),
                    max_length=512,
                    row_length=1024,
                    truncation="drop",
                ),
                optimizer=Optimizer(
                    learning_rate=1e-5, lr_scheduler_type="cosine", warmup_ratio=0.01, weight_decay=0.1
                ),
                num_train_epochs=5,
                save_steps=200,
            ),
        ),
    )
