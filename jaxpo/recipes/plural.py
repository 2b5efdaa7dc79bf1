"""Who prefers what: people of four tastes compare answers; models of preferences and users learn from it.

    jaxpo run plural --answers FILE

FILE has prompt, responses and scores (alpaca_eval's ranked answers); without it prompts and answers are made up too.
The people always are: some follow the file's scores, others want long, brief or plain answers. In ten minutes on two
cores:

- `gpm`: a general preference model of all pairs (GPM), from random weights;
- `pal`: a reward model per user on the same pairs (PAL), from that model's body;
- `newcomers`: two people whom `pal` has never seen, fitted by a few of their pairs; nothing else is trained;
- `users`, `strangers`: what each of them gets right of the held-out pairs of every taste, beside 'the longer answer is
  better', and a map of prototypes and users, both in the report.

    jaxpo run plural:micro --answers FILE
    jaxpo run plural:maxmin --answers FILE --em soft
    jaxpo run plural:gpo --answers FILE

`micro` learns heads and a router from people who say what they want, then a router that reads newcomers' names from a
few of their pairs (MiCRo). `maxmin` finds two groups of users by EM: stages that train one head per group, or a model
(`--separate True`), and between them stages that ask which group each user belongs to (MaxMin-RLHF). `gpo` trains a
policy for three rounds: every round draws answers from the last iterate, compares them by the preference model, and
regresses the log-ratios of the best and the worst to that iterate, the second network of its stage, on their scores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from jaxpo.config import SFT, Beside, Data, Optimizer, Preference, Reward, Run, Stage, Tokenizer, Work
from jaxpo.construct.gpo import ChosenAnswers, GPOPairs
from jaxpo.construct.groups import MeasureGroups
from jaxpo.construct.iterates import MeasureIterates
from jaxpo.construct.maxmin import ROWS, AssignUsers
from jaxpo.construct.micro_router import MicroContext
from jaxpo.construct.newcomers import SplitUsers
from jaxpo.construct.on_policy.own_pairs import HELD_OUT as PAIRS_HELD_OUT
from jaxpo.construct.on_policy.own_pairs import PAIRS
from jaxpo.construct.stage import Construct
from jaxpo.construct.tastes import MeasureTastes
from jaxpo.construct.users import MapUsers
from jaxpo.corpora.people import HELD_OUT, TRAIN, USERS, People
from jaxpo.models.family import preset
from jaxpo.objectives.methods.gpm import GPM
from jaxpo.objectives.methods.gpo import GPO
from jaxpo.objectives.methods.maxmin_rlhf import MaxMinRLHF
from jaxpo.objectives.methods.micro import MiCRo
from jaxpo.objectives.methods.micro_router import MicroRouter
from jaxpo.objectives.methods.pal import PAL

VOCABULARY, LENGTH = 2048, 512
NEW = ("thorough-5", "plain-9")
WISHES = (
    ("judged", "Answer well."),
    ("thorough", "Say as much as you can."),
    ("brief", "Be brief."),
    ("plain", "No lists and no headings."),
)
GROUPS = 2
"""That EM looks for."""
KNOWN = tuple(user for user in USERS if user not in NEW)
MODEL = replace(
    preset("nano"),
    vocab_size=VOCABULARY,
    hidden_size=96,
    intermediate_size=256,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=24,
    layer_types=("conv", "full_attention", "conv", "full_attention"),
)


def data(train: str, heldout: str, stage: str = "stage:split") -> Data:
    """Files of a stage, or of the corpus."""
    train, heldout = (f"{stage}{':' if stage == 'corpus' else '/'}{name}" for name in (train, heldout))
    window: dict[str, Any] = {"max_length": LENGTH, "row_length": 2 * LENGTH, "truncation": "prompt_left"}
    return Data(train=(train,), eval=(heldout,), **window)


def made_of(answers: str) -> dict[str, Any]:
    """What all three recipes have."""
    tokenizer = Tokenizer(train_on=(f"corpus:{TRAIN}",), vocab_size=VOCABULARY)
    return {"model": MODEL, "corpus": People(answers or None, pairs=2), "tokenizer": tokenizer, "prompts": ()}


def config(answers: str = "") -> Run:
    """The recipe.

    Args:
      answers: file with prompt, responses and scores; "" = made-up answers.
    """
    known = data("known.jsonl", "heldout_known.jsonl")
    pal = PAL(users=KNOWN, prototypes=4, size=32)
    return Run(
        name="plural",
        stages=(
            SplitUsers(train=f"corpus:{TRAIN}", heldout=f"corpus:{HELD_OUT}", new=NEW),
            Reward(
                name="gpm",
                loss=GPM(size=4),
                data=known,
                optimizer=Optimizer(learning_rate=2e-3, warmup_steps=10, weight_decay=0.0),
                rows_per_step=8,
                num_train_epochs=1,
                logging_steps=5,
                save_steps=100,
            ),
            Reward(
                name="pal",
                loss=pal,
                data=known,
                # The authors' rates stand to one another as 1 : 10 : 500 : 500.
                optimizer=Optimizer(
                    learning_rate=5e-4,
                    warmup_ratio=0.1,
                    weight_decay=0.0,
                    lr_factors=(("projector/*", 4.0), ("prototypes/*", 20.0), ("users/*", 20.0)),
                ),
                rows_per_step=8,
                num_train_epochs=1,
                logging_steps=5,
                save_steps=100,
            ),
            MapUsers(rows=("stage:split/heldout_known.jsonl",), model="pal", others=("gpm",), max_length=LENGTH),
            Reward(
                name="newcomers",
                init_from="pal",
                loss=replace(pal, users=NEW),
                train=("users/*",),
                data=data("few.jsonl", "heldout_new.jsonl"),
                optimizer=Optimizer(learning_rate=5e-2, lr_scheduler_type="constant", weight_decay=0.0),
                rows_per_step=4,
                num_train_epochs=10,
                logging_steps=5,
            ),
            MapUsers(
                name="strangers",
                rows=("stage:split/heldout_new.jsonl",),
                model="newcomers",
                others=("gpm",),
                max_length=LENGTH,
            ),
        ),
        **made_of(answers),
    )


def micro(answers: str = "", heads: int = 6) -> Run:
    """MiCRo in its two stages, and newcomers who are known by a few pairs.

    Args:
      answers: file with prompt, responses and scores; "" = made-up answers.
      heads: K.
    """
    length = 2 * LENGTH  # A longer prompt loses its start, where the wish stands.
    window: dict[str, Any] = {"max_length": length, "row_length": length, "truncation": "prompt_left"}
    small: dict[str, Any] = {"rows_per_step": 8, "logging_steps": 5}
    newcomers = "stage:split/heldout_new.jsonl"
    return Run(
        name="micro",
        stages=(
            SplitUsers(train=f"corpus:{TRAIN}", heldout=f"corpus:{HELD_OUT}", new=NEW, few=60, wishes=WISHES),
            Reward(
                name="micro",
                loss=MiCRo(heads=heads, entropy_coefficient=0.05),
                data=Data(train=("stage:split/known.jsonl",), eval=("stage:split/heldout_known.jsonl",), **window),
                optimizer=Optimizer(learning_rate=2e-3, warmup_steps=10, weight_decay=0.0),
                num_train_epochs=1,
                **small,
            ),
            MeasureTastes(rows=("stage:split/heldout_known.jsonl",), models=("micro",), max_length=length),
            Construct(
                name="targets",
                construction=MicroContext(comparisons=10),
                rows=("stage:split/few.jsonl",),
                networks=(("reward", "micro"),),
                max_length=2 * length,
            ),
            Reward(
                name="router",
                init_from="micro",
                loss=MicroRouter(heads=heads),
                train=("router/*",),
                data=Data(train=("stage:targets/rows.jsonl",), **window),
                optimizer=Optimizer(learning_rate=5e-3, lr_scheduler_type="constant", weight_decay=0.0),
                num_train_epochs=5,
                **small,
            ),
            MeasureTastes(
                name="strangers", rows=(newcomers,), models=("micro", "router"), named=("router",), max_length=length
            ),
        ),
        **made_of(answers),
    )


def maxmin(answers: str = "", em: Literal["hard", "soft"] = "hard", rounds: int = 3, separate: bool = False) -> Run:
    """Two groups of users by EM.

    Args:
      answers: file with prompt, responses and scores; "" = made-up answers.
      em: "hard": a user belongs to the likeliest group; "soft": to each by its posterior.
      rounds: of assigning and training; the paper has ten.
      separate: a reward model for each group, as in the paper, instead of one with a head for each.
    """
    owners: tuple[int | None, ...] = tuple(range(GROUPS)) if separate else (None,)
    stages: list[Stage | Work] = []
    judges: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        assign = AssignUsers(
            name=f"assign_{number}",
            rows=(f"corpus:{TRAIN}",),
            groups=GROUPS,
            em=em,
            before=f"assign_{number - 1}" if number > 1 and em == "soft" else None,
            **judges,
        )
        stages += [assign, *(_group(number, own, assign.name) for own in owners)]
        trained = tuple(f"groups_{number}{_of(own)}" for own in owners)
        judges = {"models": trained} if separate else {"model": trained[0]}
    stages.append(MeasureGroups(rows=(f"corpus:{HELD_OUT}",), groups=GROUPS, assigned=f"assign_{rounds}", **judges))
    return Run(name="maxmin", stages=tuple(stages), **made_of(answers))


def _group(number: int, own: int | None, assigned: str) -> Reward:
    """The reward model of all groups, or of one, in a round: half an epoch in an order of the round's own."""
    return Reward(
        name=f"groups_{number}{_of(own)}",
        init_from=f"groups_{number - 1}{_of(own)}" if number > 1 else "random",
        loss=MaxMinRLHF(groups=GROUPS, own=own),
        data=replace(data(ROWS, "", f"stage:{assigned}"), eval=()),
        optimizer=Optimizer(learning_rate=2e-3, warmup_steps=5, weight_decay=0.0, lr_factors=(("groups/*", 10.0),)),
        rows_per_step=8,
        num_train_epochs=0.5,
        logging_steps=5,
        seed=number,
    )


def _of(own: int | None) -> str:
    return "" if own is None else f"_of_{own}"


def gpo(answers: str = "", rounds: int = 3, samples: int = 5, prompts: int = 64, max_new_tokens: int = 48) -> Run:
    """Three rounds of GPO with a general preference model.

    Args:
      answers: file with prompt, responses and scores; "" = made-up answers.
      rounds: of answering, comparing and training; each has its share of the prompts.
      samples: answers to each prompt.
      prompts: of a round.
      max_new_tokens: of an answer.
    """
    imitated = replace(data("answers.jsonl", "", "stage:chosen"), eval=())
    small: dict[str, Any] = {"rows_per_step": 8, "logging_steps": 5}
    stages: list[Stage | Work] = [
        ChosenAnswers(rows=(f"corpus:{TRAIN}",), rounds=rounds),
        SFT(
            name="gpo_0",
            data=imitated,
            optimizer=Optimizer(learning_rate=4e-3, warmup_steps=10),
            max_steps=100,
            **small,
        ),
        Reward(
            name="gpm",
            loss=GPM(size=4),
            data=data(TRAIN, HELD_OUT, "corpus"),
            optimizer=Optimizer(learning_rate=1e-3, warmup_steps=20, weight_decay=0.0),
            max_steps=100,
            **small,
        ),
    ]
    for number in range(1, rounds + 1):
        last, pairs = f"gpo_{number - 1}", f"pairs_{number}"
        stages.append(
            GPOPairs(
                name=pairs,
                prompts=(f"stage:chosen/round_{number}.jsonl",),
                model=last,
                preference="gpm",
                samples=samples,
                max_prompts=prompts,
                max_new_tokens=max_new_tokens,
            )
        )
        # Adam without a first moment is the authors' RMSProp.
        steps = Optimizer(learning_rate=2e-4, adam_beta1=0.0, lr_scheduler_type="constant", weight_decay=0.0)
        stages.append(
            Preference(
                name=f"gpo_{number}",
                init_from=last,
                loss=GPO(beta=0.1),
                beside=(("reference", Beside(last)),),
                data=data(PAIRS, PAIRS_HELD_OUT, f"stage:{pairs}"),
                optimizer=steps,
                num_train_epochs=1,
                # A round's short answers fill about a dozen rows: more of them in a step would leave it two steps.
                rows_per_step=1,
                logging_steps=5,
            )
        )
    wins = MeasureIterates(
        prompts=(f"corpus:{HELD_OUT}",),
        models=tuple(f"gpo_{number}" for number in range(rounds + 1)),
        preference="gpm",
        max_new_tokens=max_new_tokens,
    )
    stages += [wins, MeasureTastes(rows=(f"corpus:{HELD_OUT}",), models=("gpm",), max_length=LENGTH)]
    return Run(name="gpo", stages=tuple(stages), **made_of(answers))
