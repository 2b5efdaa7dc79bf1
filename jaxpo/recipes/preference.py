"""Preference optimisation on your own pairs, with any method of `jaxpo losses`.

    jaxpo run preference --run runs/my-dpo --model-from runs/my-sft/export \
        --preference.data.train pairs.jsonl

Another method, with its own hyper-parameters:

    jaxpo run preference ... --stage.loss simpo --stage.loss.beta 2

Rows have `prompt`, `chosen` and `rejected` (or what the method needs: `jaxpo data inspect pairs.jsonl` says which
methods a file can train).
"""

from jaxpo.config import Data, Optimizer, Preference, Run
from jaxpo.objectives.methods.sigmoid_norm import SigmoidNorm


def config() -> Run:
    return Run(
        name="preference",
        stages=(
            Preference(
                loss=SigmoidNorm(),
                data=Data(max_length=1024, row_length=2048),
                optimizer=Optimizer(learning_rate=1e-6, warmup_ratio=0.1, weight_decay=0.0),
                rows_per_step=8,
                num_train_epochs=1,
                save_steps=200,
            ),
        ),
    )
