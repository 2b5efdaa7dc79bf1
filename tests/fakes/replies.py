"""What a model is made to have said."""

import numpy as np

from jaxpo.evaluate.tasks.base import Reply
from jaxpo.sampling.request import Generation

NONE = np.zeros(0, np.float32)


def reply(*texts):
    """The reply to one question: its answers."""
    made = [Generation(0, i, [], NONE, NONE, NONE.astype(np.int32), "stop_id", text) for i, text in enumerate(texts)]
    return Reply(answers=(tuple(made),))
