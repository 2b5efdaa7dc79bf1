"""The KL of the answers of a stage to the model that it began with, from its ledger."""

from __future__ import annotations

import numpy as np

from curves.stages import OnlineRun
from jaxpo.convert.model_io import load_model
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.evaluate.score import token_scores
from jaxpo.objectives.encode import Scorer
from jaxpo.online.answers import Answer
from jaxpo.online.ledger import FOLDER, Journal
from jaxpo.sampling.prompts import Conversation
from jaxpo.sampling.text import encode_prompt


def to_first_model(stage: OnlineRun, points: int) -> tuple[list[int], list[float]]:
    """Steps, and at each the mean over its generation's answers y of

        log p(y) - log p_first(y),  p = what y was drawn from

    an unbiased estimate of the KL of an answer, nats. Prompts are texts, or one turn of a
    user, and answered at temperature 1.
    """
    journal = Journal(stage.folder / FOLDER, {})
    made = sorted(int(path.name) for path in journal.folder.iterdir() if path.is_dir() and path.name.isdigit())
    model = load_model(stage.first)
    tokenizer = Tokenizer.load(stage.folder.parents[1] / "tokenizer")
    scorer = Scorer(model.config, "float32", "none")
    steps, values = [], []
    for number in sorted({made[i] for i in np.linspace(0, len(made) - 1, points).round().astype(int)}):
        _, records = journal.finished(number)
        segments, drawn = [], []
        for group in records[:-1]:
            text = group["text"]
            asked = Conversation([{"role": "user", "content": text}]) if stage.chat else text
            prompt = encode_prompt(tokenizer, asked)
            for answer in map(Answer.of, group["answers"]):
                segments.append(np.asarray([*prompt, *answer.tokens], np.int32))
                drawn.append(answer.sampling_logps)
        before = token_scores(scorer, model.params["model"], segments, "logps")
        apart = [float(np.sum(own - x[-len(own) :])) for own, x in zip(drawn, before, strict=True)]
        steps.append(number * stage.cycle + 1)
        values.append(float(np.mean(apart)))
    return steps, values
