"""SPO: telling how much key content is gone helps to rank responses of similar quality."""

from __future__ import annotations

import numpy as np
from evidence.claims._token_lm import BOS, NEUTRAL, VOCAB, changes, method, pair_batch, pretrained, train
from evidence.harness import Claim, NotReproduced

from jaxpo.data.packing.batch import Batch

CLAIM = Claim(
    method="spo_degree",
    paper="arXiv:2409.17791",
    claim="With few pairs DPO with the degree task ranks held-out pairs of small quality gaps better than DPO.",
    baseline="DPO (and the task with random key phrases beside it)",
    measure="ranking accuracy on held-out pairs with a gap of one keyword, method minus baseline",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.01,
    not_reproduced=NotReproduced(
        reason="with the reconstructed weight 0.1 and a head that starts at zero, 60 updates change the ranking by "
        "less than half a point; the paper's own weight, levels and head are not public",
        observed=(-0.01, 0.009),
    ),
)

KEYWORDS, LONG, MOST = (2, 3, 4), 17, 6
RATE, PAIRS, STEPS = 1e-3, 96, 60


def responses(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """One response per count: BOS, neutral tokens, and that many keywords at random places. Quality = the count."""
    tokens = rng.integers(NEUTRAL, VOCAB, (len(counts), LONG)).astype(np.int32)
    tokens[:, 0] = BOS
    for row, count in zip(tokens, counts, strict=True):
        row[1 + rng.choice(LONG - 1, count, replace=False)] = rng.choice(KEYWORDS, count)
    return tokens


def ranks(rng: np.random.Generator, tokens: np.ndarray, *, at_random: bool) -> np.ndarray:
    """Every keyword is a key phrase, ranked in the order of the text; or as many random tokens instead."""
    found = np.zeros(tokens.shape, np.int32)
    for row, out in zip(tokens, found, strict=True):
        where = np.flatnonzero(np.isin(row, KEYWORDS))
        if at_random:
            where = 1 + rng.choice(LONG - 1, len(where), replace=False)
        out[where] = rng.permutation(len(where)) + 1
    return found


def pairs(rng: np.random.Generator, n: int, gaps: tuple[int, int], *, at_random: bool = False) -> Batch:
    """Pairs whose chosen side has between `gaps[0]` and `gaps[1]` more keywords."""
    gap = rng.integers(gaps[0], gaps[1] + 1, n)
    worse = rng.integers(0, MOST + 1 - gap)
    chosen, rejected = responses(rng, worse + gap), responses(rng, worse)
    both = np.stack([chosen, rejected], axis=1).reshape(-1, LONG)
    return pair_batch(chosen, rejected, {"keyword": ranks(rng, both, at_random=at_random)})


def measure(seed: int, *, held_out: int = 512, steps: int = STEPS, pretraining: int = 200) -> dict[str, float]:
    """Train DPO, DPO with the task, and DPO with the task on random phrases, on the same pairs."""
    rng = np.random.default_rng(seed)
    reference = pretrained(responses(rng, rng.integers(0, MOST + 1, 2048)), seed, steps=pretraining)
    close = pairs(rng, held_out, (1, 1))

    def batches(at_random: bool) -> list[Batch]:
        own = np.random.default_rng([seed, 1])
        return [pairs(own, PAIRS // 3, (1, 4), at_random=at_random) for _ in range(3)]

    def accuracy(m: object, data: list[Batch]) -> float:
        params, _ = train(m, reference, data, seed, steps=steps, rate=RATE)
        ratio, _ = changes(params["model"], reference, close)
        reward = np.asarray(ratio, np.float64).sum(axis=1)
        return float(np.mean(reward[::2] > reward[1::2]))

    real, control = batches(False), batches(True)
    dpo, spo = accuracy(method("dpo"), real), accuracy(method("spo_degree"), real)
    shuffled = accuracy(method("spo_degree"), control)
    return {"method": spo, "baseline": dpo, "effect": spo - dpo, "random_phrases": shuffled}
