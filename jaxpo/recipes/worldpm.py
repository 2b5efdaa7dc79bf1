"""A reward model from forum votes, fine-tuned beside the base on people's pairs (arXiv:2505.10527).

    jaxpo run worldpm --run runs/world --model-from runs/my-sft/export --base runs/my-sft/export \
        --posts posts.jsonl --pairs pairs.jsonl --heldout heldout.jsonl

`posts.jsonl` has prompt, responses and scores, the net votes of each answer; one pair of every post is trained on once,
with plain Bradley-Terry. `pairs.jsonl` and `heldout.jsonl` have prompt, chosen and rejected. The report has a table of
all three models on the latter, beside 'longer wins'. The two fine-tuned models, which keep their best evaluation, are
compared, with style taken out, by

    jaxpo eval runs/world/stages/finetuned --against runs/world/stages/from_base --tasks reward:tests.jsonl

whose rows may have a `group` (adversarial, objective, subjective). How the loss falls, over runs of several sizes:

    jaxpo report runs/world-small runs/world-medium runs/world-large --scaling eval_loss

Best of n by the model: `jaxpo generate MODEL --file prompts.jsonl --out best.jsonl --best-of 64 --judge reward --reward
runs/world`.
"""

from jaxpo.config import Data, Optimizer, Reward, Run
from jaxpo.construct.stage import Construct
from jaxpo.construct.tastes import MeasureTastes
from jaxpo.construct.worldpm import WorldPM
from jaxpo.objectives.methods.bradley_terry import BradleyTerry


def config(
    posts: str = "posts.jsonl", pairs: str = "pairs.jsonl", heldout: str = "heldout.jsonl", base: str = "base"
) -> Run:
    """The recipe.

    Args:
      posts: answers with votes.
      pairs: for fine-tuning.
      heldout: pairs that all three models are measured on.
      base: the model's folder, which pre-training starts from, and the fine-tuning that it is compared with.
    """

    def reward(name: str, train: str, start: str, **settings: object) -> Reward:
        return Reward(
            name=name,
            init_from=start,
            loss=BradleyTerry(margin="ignore"),
            data=Data(train=(train,), eval=(heldout,), max_length=1024, row_length=2048),
            optimizer=Optimizer(learning_rate=3e-6, warmup_ratio=0.03, weight_decay=0.0),
            rows_per_step=8,
            **settings,  # type: ignore[arg-type]
        )

    tuned = {"num_train_epochs": 2, "eval_steps": 50, "save_steps": 50, "metric_for_best_model": "eval_loss"}
    return Run(
        name="worldpm",
        stages=(
            Construct(name="votes", construction=WorldPM(), rows=(posts,)),
            reward("pretrained", "stage:votes/rows.jsonl", base, num_train_epochs=1, eval_steps=20, save_steps=200),
            reward("finetuned", pairs, "pretrained", **tuned),
            reward("from_base", pairs, base, **tuned),
            MeasureTastes(name="measured", rows=(heldout,), models=("pretrained", "finetuned", "from_base")),
        ),
    )
