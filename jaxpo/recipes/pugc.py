"""Preferences from posts that nobody labelled (PUGC): questions that they answer, and the posts as references.

    jaxpo run pugc --run runs/my-pugc --model-from LFM2-350M --instructions instructions.jsonl --posts posts.jsonl
    jaxpo run pugc ... --endpoint http://host:8000/v1 --endpoint-model NAME
    jaxpo run pugc ... --with-reference False          the same, judged without the posts

Rows of posts have a text, column `post`. A question is written for each and kept where the post answers it; the
fine-tuned model answers the question without the post, several times; the post is the reference by which answers are
scored; and the best and the worst go to DPO. No post is trained on. With an endpoint a large model writes questions,
filters and judges; without one the fine-tuned model asks, and answers are scored by the words they share with the post.
"""

from __future__ import annotations

from typing import Any

from jaxpo.config import SFT, Data, Optimizer, Preference, Run
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.construct.pugc import QUESTION, PostQuestions
from jaxpo.judges import ChatJudge, Endpoint, OverlapJudge, ReferenceChatJudge
from jaxpo.judges.refine import ChatRefiner
from jaxpo.objectives.methods.dpo import DPO

FILTER = """You are given a question as the prompt and a post as the answer. Judge whether the post holds enough \
information to answer the question. End with a last line of exactly this form, with 1 for yes and 0 for no:
Score: NUMBER"""


def config(
    instructions: str = "instructions.jsonl",
    posts: str = "posts.jsonl",
    endpoint: str = "",
    endpoint_model: str = "",
    with_reference: bool = True,
    samples: int = 5,
) -> Run:
    """The recipe.

    Args:
      instructions: rows with prompts and completions, which the model to begin with is fine-tuned on.
      posts: rows with a column `post`.
      endpoint: address of a chat endpoint that asks, filters and judges; "" = the model and shared words.
      endpoint_model: the name of its model.
      with_reference: False judges answers without the posts; nothing else changes.
      samples: K, answers to a question.
    """
    optimizer = Optimizer(learning_rate=1e-5, warmup_ratio=0.1, weight_decay=0.0)
    judge: Any = OverlapJudge(with_reference=with_reference)
    asking: dict[str, Any] = {}
    if endpoint:
        chat = Endpoint(endpoint, endpoint_model)
        judge = ReferenceChatJudge(chat, with_reference=with_reference)
        asking = {"writer": ChatRefiner(chat, QUESTION), "filter": ChatJudge(chat, FILTER, 0.0, 1.0)}
    return Run(
        name="pugc",
        stages=(
            SFT(
                name="sft",
                data=Data(train=(instructions,), max_length=1024, row_length=2048),
                optimizer=optimizer,
                num_train_epochs=1,
                save_steps=200,
            ),
            PostQuestions(name="questions", posts=(posts,), model="sft", **asking),
            OnPolicyPairs(
                name="pairs",
                prompts=("stage:questions/rows.jsonl",),
                model="sft",
                judge=judge,
                given=False,
                samples=samples,
                temperature=0.8,
                top_p=0.95,
                max_new_tokens=512,
                partly_judged=True,
            ),
            Preference(
                name="dpo",
                init_from="sft",
                loss=DPO(beta=0.1),
                data=Data(
                    train=("stage:pairs/pairs.jsonl",),
                    eval=("stage:pairs/heldout_pairs.jsonl",),
                    max_length=1024,
                    row_length=2048,
                ),
                optimizer=optimizer,
                num_train_epochs=1,
                save_steps=200,
            ),
        ),
    )
