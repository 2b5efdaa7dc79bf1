"""A reward model on pairs that an ensemble of reward models has mended (arXiv:2401.06080).

    jaxpo run secrets_rm --run runs/mended --model-from runs/my-sft/export --base runs/my-sft/export \
        --pairs pairs.jsonl --heldout heldout.jsonl --policy soft_margin

Each of the `members` models sees the same pairs in another order. `stages/mended/rows.jsonl` has every pair's
strength; the policies are measure, flip, soften, margin, flip_margin and soft_margin. The report has a table of the
last model beside the first of the ensemble, which has the pairs as they were. A contrastive term beside them:

    jaxpo run secrets_rm ... --reward.loss secrets_rm --reward.loss.contrastive swav --reward.pooled-dropout 0.1
"""

from jaxpo.config import Data, Optimizer, Reward, Run
from jaxpo.construct.ensemble import Ensemble
from jaxpo.construct.secrets_rm import Policy, SecretsRM
from jaxpo.construct.stage import Construct
from jaxpo.construct.tastes import MeasureTastes
from jaxpo.objectives.methods.bradley_terry import BradleyTerry


def config(
    pairs: str = "pairs.jsonl",
    heldout: str = "heldout.jsonl",
    base: str = "base",
    members: int = 10,
    policy: Policy = "soft_margin",
) -> Run:
    """The recipe.

    Args:
      pairs: prompt, chosen, rejected.
      heldout: pairs that all models are measured on.
      base: the model's folder, which every reward model starts from.
      members: M.
      policy: what is done with the pairs; see `jaxpo data construct secrets_rm --help`.
    """
    names = tuple(f"member_{i}" for i in range(1, members + 1))

    def reward(name: str, train: str, held: tuple[str, ...], loss: BradleyTerry, seed: int | None = None) -> Reward:
        return Reward(
            name=name,
            init_from=base,
            loss=loss,
            data=Data(train=(train,), eval=held, max_length=1024, row_length=2048),
            optimizer=Optimizer(learning_rate=5e-6, warmup_ratio=0.03, weight_decay=0.0),
            rows_per_step=8,
            num_train_epochs=1,
            seed=seed,
        )

    soft = policy in ("soften", "soft_margin")
    return Run(
        name="secrets_rm",
        stages=(
            *(reward(n, pairs, (heldout,), BradleyTerry(margin="ignore"), i) for i, n in enumerate(names, start=1)),
            Ensemble(rows=(pairs,), stages=names),
            Construct(name="mended", construction=SecretsRM(policy=policy), rows=("stage:ensemble/scored.jsonl",)),
            # Held-out pairs have no votes and margins, which its loss reads: `measured` has its accuracy.
            reward("reward", "stage:mended/rows.jsonl", (), BradleyTerry(soft_labels=soft)),
            MeasureTastes(name="measured", rows=(heldout,), models=(names[0], "reward")),
        ),
    )
