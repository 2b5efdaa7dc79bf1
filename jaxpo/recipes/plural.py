"""Who prefers what: people of four tastes compare real answers; a preference model and a model of users learn from them.

    jaxpo run plural --answers FILE

FILE has prompt, responses and scores (alpaca_eval's ranked answers); without it prompts and answers are made up too.
The people always are: some follow the file's scores, others want long, brief or plain answers. In ten minutes on two
cores:

- `gpm`: a general preference model of all pairs (GPM), from random weights;
- `pal`: a reward model per user on the same pairs (PAL), from that model's body;
- `newcomers`: two people whom `pal` has never seen, fitted by a few of their pairs; nothing else is trained;
- `users`, `strangers`: what each of them gets right of the held-out pairs of every taste, beside 'the longer answer is
  better', and a map of prototypes and users, both in the report.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jaxpo.config import Data, Optimizer, Reward, Run, Tokenizer, Work
from jaxpo.construct.users import MapUsers
from jaxpo.corpora.people import HELD_OUT, TRAIN, People
from jaxpo.models.family import preset
from jaxpo.objectives.methods.gpm import GPM
from jaxpo.objectives.methods.pal import PAL

VOCABULARY, LENGTH = 2048, 320
USERS = (
    *(f"judged-{i}" for i in range(4)),
    *(f"thorough-{i}" for i in (4, 5)),
    *(f"brief-{i}" for i in (6, 7)),
    *(f"plain-{i}" for i in (8, 9)),
)
NEW = ("thorough-5", "brief-7")
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


@dataclass(frozen=True)
class SplitUsers(Work):
    """The pairs of the people who are known from the start, and a few of each newcomer.

    Attributes:
      train, heldout: files of the corpus.
      new: the newcomers.
      few: pairs of each that they are fitted by.
    """

    name: str = "split"
    train: str = f"corpus:{TRAIN}"
    heldout: str = f"corpus:{HELD_OUT}"
    new: tuple[str, ...] = NEW
    few: int = 20

    def outputs(self) -> tuple[str, ...]:
        return ("known.jsonl", "few.jsonl", "heldout_known.jsonl", "heldout_new.jsonl")

    def inputs(self) -> tuple[str, ...]:
        return (self.train, self.heldout)

    def run(self, context: Any) -> dict[str, Any]:
        from jaxpo.data.rows.formats import read_rows
        from jaxpo.data.rows.json_lines import write_jsonl

        train, heldout = ([row.data for row in read_rows([path])] for path in context.files(self.inputs()))
        few = [[row for row in train if row["user"] == user][: self.few] for user in self.new]
        parts = {
            "known.jsonl": [row for row in train if row["user"] not in self.new],
            "few.jsonl": [row for rows in few for row in rows],
            "heldout_known.jsonl": [row for row in heldout if row["user"] not in self.new],
            "heldout_new.jsonl": [row for row in heldout if row["user"] in self.new],
        }
        return {name: write_jsonl(context.folder / name, rows) for name, rows in parts.items()}


def data(train: str, heldout: str) -> Data:
    """Files of the split."""
    window = {"max_length": LENGTH, "row_length": 2 * LENGTH, "truncation": "prompt_left"}
    return Data(train=(f"stage:split/{train}",), eval=(f"stage:split/{heldout}",), **window)


def config(answers: str = "") -> Run:
    """The recipe.

    Args:
      answers: file with prompt, responses and scores; "" = made-up answers.
    """
    known = data("known.jsonl", "heldout_known.jsonl")
    pal = PAL(users=KNOWN, prototypes=4, size=32)
    return Run(
        name="plural",
        model=MODEL,
        corpus=People(answers or None),
        tokenizer=Tokenizer(train_on=(f"corpus:{TRAIN}",), vocab_size=VOCABULARY),
        stages=(
            SplitUsers(),
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
        prompts=(),
    )
