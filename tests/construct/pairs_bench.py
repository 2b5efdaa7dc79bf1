"""A network that answers without a model, and a bench on which on-policy pairs are made from few rows."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from construct.list_rows import rows

from jaxpo.construct.on_policy.pairing import make_pairs
from jaxpo.construct.on_policy.workshop import PairOptions, Workshop
from jaxpo.models.family import preset


class FakeNetwork:
    """Sample s of question q is "word" * ..., a function of (prompt, q, s, seed); it counts what it draws."""

    def __init__(self, answer=lambda prompt, number, sample, seed: f"{prompt}-{sample}", reward=len, rows_per_pass=2):
        self.config, self.params = replace(preset("nano"), max_position_embeddings=400), {"value": {}}
        self.max_length = 400
        self.answer, self.reward, self.rows_per_pass, self.drawn = answer, reward, rows_per_pass, []
        self.about = {}

    def fingerprint(self):
        return "fake"

    def draw(self, prompts, n, *, numbers, sampler, max_new_tokens, seed, max_rows):
        for first in range(0, len(prompts), self.rows_per_pass):
            block = range(first, min(len(prompts), first + self.rows_per_pass))
            self.drawn += [numbers[i] for i in block]
            yield [self._one(prompts, numbers, i, s, seed) for i in block for s in range(n)]

    def _one(self, prompts, numbers, i, sample, seed):
        text = self.answer(prompts[i], numbers[i], sample, seed)
        reason = "length" if text.endswith("~") else "stop_id"
        return SimpleNamespace(request=i, sample=sample, text=text, reason=reason)

    def prompt_lengths(self, prompts):
        return np.asarray([len(str(p)) for p in prompts])

    def lengths(self, prompts, completions):
        return np.asarray([len(str(p)) + len(c) for p, c in zip(prompts, completions, strict=True)])

    def token_counts(self, prompts, completions):
        return np.asarray([len(c) for c in completions])

    def logps(self, prompts, completions):
        return np.asarray([-float(sum(map(ord, c))) for c in completions])

    def rewards(self, prompts, completions):
        return np.asarray([float(self.reward(c)) for c in completions])


def made(data, judge, folder, *, refiner=None, network=None, seed=0, max_length=400, check=lambda: None, **options):
    """The pairs of rows, and the workshop with its counts and what it said."""
    network = network or FakeNetwork()
    said = []
    shop = Workshop(
        PairOptions(**options), lambda name: network, folder, seed, max_length, Counter(), say=said.append, check=check
    )
    pairs = list(make_pairs(rows(*data), judge, refiner, shop))
    return pairs, SimpleNamespace(counts=shop.counts, failures=shop.failures, said=said, network=network)
