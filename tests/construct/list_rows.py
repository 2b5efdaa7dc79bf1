"""Rows and networks for the constructions of listwise methods, without a model."""

from pathlib import Path

import numpy as np

from jaxpo.construct.base import Tools
from jaxpo.data.rows.formats import Row


def rows(*data):
    """Rows of a file that need not exist."""
    return [Row(Path("rows.jsonl"), i, dict(d)) for i, d in enumerate(data, start=1)]


class Echo:
    """A network whose samples and rewards are functions of the texts; it keeps what it was asked."""

    def __init__(self, answer=lambda prompt, k: f"{prompt}{k}", reward=len):
        self.answer, self.reward, self.asked = answer, reward, []

    def generate(self, prompts, n, *, temperature, top_k, max_new_tokens, seed):
        self.asked.append({"prompts": list(prompts), "n": n, "temperature": temperature, "top_k": top_k, "seed": seed})
        return [[self.answer(p, k) for k in range(n)] for p in prompts]

    params, about, max_length = {"value": 0}, {}, 1024

    def lengths(self, prompts, completions):
        return np.asarray([len(p) + len(c) for p, c in zip(prompts, completions, strict=True)])

    def fingerprint(self):
        return "echo"

    def rewards(self, prompts, completions):
        return np.asarray([float(self.reward(c)) for c in completions])


def tools(seed=0, **networks):
    return Tools(seed=seed, networks=networks)
