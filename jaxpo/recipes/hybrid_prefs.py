"""Reward models on human and judge's labels mixed by HyPER: proxy runs, routing, training (arXiv:2410.19133).

    jaxpo run hybrid_prefs --run runs/routed --model-from runs/my-sft/export --base runs/my-sft/export \
        --rows instances.jsonl --heldout pairs.jsonl

`instances.jsonl` has both labels: prompt, responses: [a, b], human and ai: 1 = the first is better, 2 = the second,
0 = a tie. `pairs.jsonl` (prompt, chosen, rejected) is what all models are measured on. The first reward
model has the judge's labels alone; its states are what the proxies read. Other features, budgets and models:

    jaxpo run hybrid_prefs ... --proxies.features rouge len_diff subject --route.routing.budget 0.25 \
        --route.routing.performance quadratic

A new set without human labels is routed by the runs of this one: `jaxpo data route new.jsonl routed.jsonl --runs
runs/routed/stages/proxies/runs.jsonl --budget 0.5`.
"""

from jaxpo.config import Data, Optimizer, Reward, Run
from jaxpo.construct.hybrid.pairs import HybridPrefs
from jaxpo.construct.hybrid.proxy import ProxyRuns
from jaxpo.construct.hybrid.route import Route
from jaxpo.construct.stage import Construct
from jaxpo.construct.tastes import MeasureTastes


def config(rows: str = "instances.jsonl", heldout: str = "pairs.jsonl", base: str = "base") -> Run:
    """The recipe.

    Args:
      rows: instances with both labels.
      heldout: pairs that models are measured on.
      base: the model's folder, which both reward models start from.
    """
    optimizer = Optimizer(learning_rate=1e-5, warmup_ratio=0.1, weight_decay=0.0)

    def reward(name: str, pairs: str) -> Reward:
        data = Data(train=(f"stage:{pairs}/rows.jsonl",), eval=(heldout,), max_length=1024, row_length=2048)
        return Reward(name=name, data=data, optimizer=optimizer, rows_per_step=8, num_train_epochs=1, init_from=base)

    return Run(
        name="hybrid_prefs",
        stages=(
            Construct(name="judged", construction=HybridPrefs(labels="ai"), rows=(rows,)),
            reward("judge_alone", "judged"),
            ProxyRuns(rows=(rows,), heldout=(heldout,), model="judge_alone"),
            Route(rows=(rows,), runs=("stage:proxies/runs.jsonl",), model="judge_alone"),
            Construct(name="routed", construction=HybridPrefs(), rows=("stage:route/routed.jsonl",)),
            reward("reward", "routed"),
            MeasureTastes(name="measured", rows=(heldout,), models=("judge_alone", "reward")),
        ),
    )
