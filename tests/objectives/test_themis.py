"""Themis as an objective: sums by part from packed segments, counts of the step, gradients, and what scores."""

import numpy as np
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments, values_of

from jaxpo import losses
from jaxpo.objectives.methods import METHODS

ROLES = {"chosen": 0, "rejected": 1}
HEAD = np.array([0.5, -1.0, 0.25])
# The numbers of the supervised tokens of each segment, in turn: 0 is the end of an answer.
PARTS = ([8, 1, 2, 7], [8, 0], [1, 2, 3, 4, 0], [7, 7, 0], [0], [8, 1, 1, 2, 7, 0], [1, 0], [8, 8, 7, 0])


class Scores(ArrayScorer):
    """Log-probs stand in the parameters."""

    def logps(self, params, batch, hidden=None):
        return params["logps"]


def batch_of(**kw):
    flat = segments(8, seed=3)
    batch, params, _ = lay_out([tuple(flat[2 * i : 2 * i + 2]) for i in range(4)] + [None], ROLES, {}, **kw)
    ids, learnt = np.asarray(batch.segment_ids), np.asarray(batch.masks["completion"])
    part = np.zeros(ids.shape, np.int32)
    order = [(r, s) for r in range(ids.shape[0]) for s in range(1, ids[r].max() + 1)]
    for number, (r, s) in enumerate(order):
        part[r, np.flatnonzero((ids[r] == s) & learnt[r])] = PARTS[number]
    params |= {"value": {"weight": HEAD[:, None].astype(np.float32)}}
    return batch.replace(per_token={"part": part}), params, {}


def by_part():
    """Log-probs and tokens of each part, `[8 segments, 8]` float64; an end is the rationale's where there is one."""
    logps, tokens = np.zeros((8, 8)), np.zeros((8, 8))
    for i, (q, data) in enumerate(segments(8, seed=3)):
        for x, part in zip(data["logps"][q:], PARTS[i], strict=True):
            part = part or (7 if 7 in PARTS[i] else 0)
            if part:
                logps[i, part - 1] += x
                tokens[i, part - 1] += 1
    return logps, tokens


def expected(**how):
    rewards = np.array([data["hidden"][-1] for _, data in segments(8, seed=3)], np.float64) @ HEAD
    logps, tokens = by_part()
    sides = [x[k::2] for x in (rewards, logps, tokens) for k in (0, 1)]
    rank, lm = losses.themis(*(np.float32(x) for x in sides), **how)
    switches = {k: v for k, v in how.items() if k in ("beta", "omega", "lm")}
    return rank, lm, losses.themis_tokens(*(np.float32(x) for x in sides[4:]), **switches)


def test_both_normalisations_from_packed_segments():
    for settings in ({}, {"normalisation": "pooled", "rank_weight": 0.5, "beta": 0.0, "lm": True}):
        rank, lm, tokens = expected(**settings)
        divisor = np.sum(tokens) if "normalisation" in settings else 4
        for kw in ({}, {"per_row": 2}):
            out, grads = Runner(METHODS["themis"](**settings).build(Scores()))(*batch_of(**kw))
            np.testing.assert_allclose(out.loss, np.sum(rank) / 4 + np.sum(lm) / divisor, rtol=1e-5)
            assert np.any(np.asarray(grads["value"]["weight"]))
            assert np.isfinite(np.asarray(grads["model"]["logps"])).all()


def test_metrics_are_per_token_of_each_kind():
    got = values_of(Runner(METHODS["themis"]().build(Scores()))(*batch_of())[0])
    logps, tokens = by_part()
    for name, at in (("tool", [0, 2, 4]), ("observation", [1, 3, 5]), ("rationale", [6])):
        np.testing.assert_allclose(got[f"nll_{name}"], -logps[:, at].sum() / tokens[:, at].sum(), rtol=1e-5)
    assert {"accuracy", "margin", "mean_reward"} <= set(got)
