"""A reward model on your own pairs: a value head at each response's last token.

    jaxpo run reward --run runs/my-reward --model-from runs/my-sft/export \
        --reward.data.train pairs.jsonl --reward.data.eval held_out.jsonl

Rows have `prompt`, `chosen` and `rejected`, and may have a `margin`, which the Bradley-Terry loss reads. Another loss,
which also learns from instructions that `jaxpo data construct mapl` adds to the rows:

    jaxpo run reward ... --stage.loss mapl_reward --stage.loss.intra-weight 0.5

`runs/my-reward/export` becomes a sequence-classification checkpoint:
`AutoModelForSequenceClassification.from_pretrained("runs/my-reward/export", trust_remote_code=True)`.
"""

from jaxpo.config import Data, Optimizer, Reward, Run
from jaxpo.objectives.methods.bradley_terry import BradleyTerry


def config() -> Run:
    return Run(
        name="reward",
        stages=(
            Reward(
                loss=BradleyTerry(center_rewards_coefficient=0.01),
                data=Data(max_length=1024, row_length=2048),
                optimizer=Optimizer(learning_rate=1e-5, warmup_ratio=0.1, weight_decay=0.0),
                rows_per_step=8,
                num_train_epochs=1,
                save_steps=200,
            ),
        ),
    )
