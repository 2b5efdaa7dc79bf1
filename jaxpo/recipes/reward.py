"""A reward model on your own pairs, or on real answers that made-up people of several tastes compare.

    jaxpo run reward --run runs/my-reward --model-from runs/my-sft/export \
        --reward.data.train pairs.jsonl --reward.data.eval held_out.jsonl

Rows have `prompt`, `chosen` and `rejected`, and may have a `margin`, which the Bradley-Terry loss reads. Another loss,
which also learns from instructions that `jaxpo data construct mapl` adds to the rows:

    jaxpo run reward ... --stage.loss mapl_reward --stage.loss.intra-weight 0.5

`runs/my-reward/export` becomes a sequence-classification checkpoint:
`AutoModelForSequenceClassification.from_pretrained("runs/my-reward/export", trust_remote_code=True)`.

A small model on a laptop, and how it serves groups that want different things; FILE has prompt, responses and scores
(alpaca_eval's ranked answers), and without it everything is made up:

    jaxpo run reward:plural --run runs/plural --answers FILE
    jaxpo eval runs/plural --tasks reward:runs/plural/corpus/people_heldout.jsonl --set reward.truncation=prompt_left

The second command's page has the calibration curve, rewards over lengths, and every group's accuracy beside that of
'the longer answer is better'.
"""

from dataclasses import replace

from jaxpo.config import Data, Optimizer, Reward, Run, Tokenizer
from jaxpo.corpora.people import HELD_OUT, TRAIN, People
from jaxpo.models.family import preset
from jaxpo.objectives.methods.bradley_terry import BradleyTerry

VOCABULARY, LENGTH = 2048, 1024
MODEL = replace(
    preset("nano"),
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=192,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    layer_types=("conv", "full_attention", "conv"),
)


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


def plural(answers: str = "") -> Run:
    """A small reward model on pairs that made-up people of several tastes judged, with every group's accuracy.

    Args:
      answers: file with prompt, responses and scores; "" = made-up answers.
    """
    train, heldout = f"corpus:{TRAIN}", f"corpus:{HELD_OUT}"
    return Run(
        name="plural",
        model=MODEL,
        corpus=People(answers or None),
        tokenizer=Tokenizer(train_on=(train,), vocab_size=VOCABULARY),
        stages=(
            Reward(
                loss=BradleyTerry(center_rewards_coefficient=0.01),
                data=Data(
                    train=(train,),
                    eval=(heldout,),
                    max_length=LENGTH,
                    row_length=LENGTH,
                    truncation="prompt_left",
                    spread_groups=True,
                ),
                optimizer=Optimizer(learning_rate=3e-3, lr_scheduler_type="cosine", warmup_steps=10, weight_decay=0.0),
                rows_per_step=8,
                num_train_epochs=1,
                logging_steps=5,
                eval_steps=100,
                eval_rows=400,
                save_steps=100,
                pooled_dropout=0.1,
            ),
        ),
    )
