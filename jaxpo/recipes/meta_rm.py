"""MetaRM in rounds: the reward model follows the policy, and the policy the reward model (arXiv:2401.06080).

    jaxpo run meta_rm --run runs/meta --model-from runs/my-sft/export --policy runs/my-sft/export --pairs pairs.jsonl \
        --heldout heldout.jsonl --rounds 3

The first reward model and the first policy come from the pairs. Every round draws samples of the present policy to
their prompts, trains the reward model on the pairs with its meta step, and the policy on pairs of its own samples that
the reward model ranks (DPO; the paper has PPO here). The report has a table of all reward models on the held-out pairs.
"""

from jaxpo.config import Data, Optimizer, Preference, Reward, Run, Work
from jaxpo.config.stages import Stage
from jaxpo.construct.meta_rm import MetaRM as Samples
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.construct.stage import Construct
from jaxpo.construct.tastes import MeasureTastes
from jaxpo.judges import RewardJudge
from jaxpo.objectives.methods.bradley_terry import BradleyTerry
from jaxpo.objectives.methods.dpo import DPO
from jaxpo.objectives.methods.meta_rm import MetaRM


def config(
    pairs: str = "pairs.jsonl",
    heldout: str = "heldout.jsonl",
    policy: str = "policy",
    rounds: int = 3,
    samples: int = 4,
) -> Run:
    """The recipe.

    Args:
      pairs: prompt, chosen, rejected.
      heldout: pairs that reward models are measured on.
      policy: the model's folder, which both the reward model and the policy start from.
      rounds: of reward model and policy.
      samples: k, per prompt and round.
    """
    optimizer = Optimizer(learning_rate=5e-6, warmup_ratio=0.03, weight_decay=0.0)

    def reward(name: str, train: str, start: str, loss: BradleyTerry) -> Reward:
        data = Data(train=(train,), eval=(heldout,), max_length=1024, row_length=2048)
        return Reward(
            name=name, init_from=start, loss=loss, data=data, optimizer=optimizer, rows_per_step=8, num_train_epochs=1
        )

    stages: list[Stage | Work] = [
        reward("reward_0", pairs, policy, BradleyTerry()),
        _policy("policy_0", pairs, policy, optimizer),
    ]
    for i in range(1, rounds + 1):
        stages += [
            Construct(
                name=f"samples_{i}",
                construction=Samples(samples=samples),
                rows=(pairs,),
                networks=(("model", f"policy_{i - 1}"),),
                seed=i,
            ),
            reward(f"reward_{i}", f"stage:samples_{i}/rows.jsonl", f"reward_{i - 1}", MetaRM(samples=samples)),
            OnPolicyPairs(
                name=f"pairs_{i}",
                prompts=(pairs,),
                model=f"policy_{i - 1}",
                judge=RewardJudge(f"reward_{i}"),
                given=False,
                seed=i,
            ),
            _policy(f"policy_{i}", f"stage:pairs_{i}/pairs.jsonl", f"policy_{i - 1}", optimizer),
        ]
    models = tuple(f"reward_{i}" for i in range(rounds + 1))
    stages.append(MeasureTastes(name="measured", rows=(heldout,), models=models))
    return Run(name="meta_rm", stages=tuple(stages))


def _policy(name: str, train: str, start: str, optimizer: Optimizer) -> Preference:
    return Preference(
        name=name,
        init_from=start,
        loss=DPO(),
        data=Data(train=(train,), max_length=1024, row_length=2048),
        optimizer=optimizer,
        rows_per_step=8,
        num_train_epochs=1,
    )
