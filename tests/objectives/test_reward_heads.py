"""Heads of reward models as a method writes them, one small class each: aspects, embeddings, steps, yes or no.

Each trains a few steps on a tiny model; its loss is that of float64 numpy; layouts, microbatches and devices agree.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import make_examples, packed, unpacked
from contracts.harness import CONFIG, SCORER, assert_learned, assert_same, initial, run
from contracts.needs import configured

from jaxpo.data.packing.batch import prompt_ends, read_at, segment_ends
from jaxpo.data.rows.needs import Needs
from jaxpo.models.heads import further_heads, lacks_value, linear_head, linear_table
from jaxpo.models.lfm2.forward import unembedding
from jaxpo.objectives import methods
from jaxpo.objectives.methods.base import Info
from jaxpo.objectives.methods.rewards import RewardMethod

PAIRS = Needs(roles=("chosen", "rejected"), extra=("heads",))
YES, NO = 5, 9


def info(name: str) -> Info:
    return Info(name, "reward model", "", "", "a test's own")


def softplus(x: Any) -> Any:
    return jnp.logaddexp(x, 0.0)


@dataclass(frozen=True)
class Aspects(RewardMethod):
    """Three scores of a response, each trained on the pairs; together they are its reward."""

    INFO, NEEDS = info("aspects"), PAIRS

    def extra_tables(self, config):
        return {"heads": linear_table(config, 3, std=0.3)}

    def read(self, params, hidden, ends, prompt_ends, per_token):
        return {"aspects": linear_head(params["heads"], read_at(hidden, ends))}

    def reward(self, reading):
        return jnp.mean(reading["aspects"], axis=-1)

    def loss(self, x):
        chosen, rejected = x.pair("aspects")
        return jnp.where(x.present, jnp.mean(softplus(rejected - chosen), axis=-1), 0.0)


@dataclass(frozen=True)
class Embedding(RewardMethod):
    """A prompt's vector should be nearest to that of its own chosen answer among all answers of the step."""

    INFO, NEEDS, COUPLED = info("embedding"), PAIRS, True

    def extra_tables(self, config):
        return {"heads": {name: linear_table(config, 4, std=0.3) for name in ("prompt", "answer")}}

    def read(self, params, hidden, ends, prompt_ends, per_token):
        heads = params["heads"]
        return {
            "prompt": linear_head(heads["prompt"], read_at(hidden, prompt_ends)),
            "answer": linear_head(heads["answer"], read_at(hidden, ends)),
        }

    def reward(self, reading):
        return jnp.sum(reading["prompt"] * reading["answer"], axis=-1)

    def loss(self, x):
        answers = jnp.concatenate(x.pair("answer"))
        here = jnp.concatenate([x.present, x.present])
        scores = jnp.where(here, x.roles["chosen"]["prompt"] @ answers.T, -jnp.inf)
        own = jnp.diagonal(scores[:, : len(x.present)])
        return jnp.where(x.present, jax.nn.logsumexp(jnp.where(here, scores, -1e9), axis=1) - own, 0.0)


@dataclass(frozen=True)
class Steps(RewardMethod):
    """A score at every token, trained where a step ends: a process reward. Its worst step is a response's reward."""

    INFO, PER_TOKEN = info("steps"), ("step_score",)
    NEEDS = Needs(roles=("candidate",), columns=("scores",), extra=("heads",), per_token=("step",))

    def extra_tables(self, config):
        return {"heads": linear_table(config, 1, std=0.3)}

    def read(self, params, hidden, ends, prompt_ends, per_token):
        return {"step_score": linear_head(params["heads"], hidden)[..., 0]}

    def ended(self, step):
        return (step > 0) & (step != jnp.pad(step[..., 1:], [*[(0, 0)] * (step.ndim - 1), (0, 1)]))

    def reward(self, reading):
        ends = self.ended(reading.columns["step"])
        worst = jnp.min(jnp.where(ends, reading["step_score"], jnp.inf), axis=-1)
        return jnp.where(jnp.any(ends, axis=-1), worst, 0.0)

    def loss(self, x):
        """Steps of odd number are right."""
        role = x.roles["candidate"]
        step, z = role.columns["step"], role["step_score"]
        right = step % 2 == 1
        terms = softplus(jnp.where(right, -z, z))
        return {"candidates": jnp.where(self.ended(step) & x.present[:, None, None], terms, 0.0)}


@dataclass(frozen=True)
class YesOrNo(RewardMethod):
    """The log-odds of two tokens after the response, by the model's own output matrix: no further parameters."""

    INFO, NEEDS = info("yes_or_no"), Needs(roles=("chosen", "rejected"))

    def read(self, params, hidden, ends, prompt_ends, per_token):
        rows = unembedding(params["model"]).astype(jnp.float32)
        return {"score": read_at(hidden, ends).astype(jnp.float32) @ (rows[YES] - rows[NO])}

    def loss(self, x):
        chosen, rejected = x.pair()
        return jnp.where(x.present, softplus(-chosen) + softplus(rejected), 0.0)


METHODS = {"aspects": Aspects(), "embedding": Embedding(), "steps": Steps(), "yes_or_no": YesOrNo()}
KINDS = {"steps": "list"}


@functools.cache
def examples(name: str) -> Any:
    return [make_examples(KINDS.get(name, "pair"), 16, seed) for seed in (0, 1)]


@functools.cache
def case(name: str) -> Any:
    method = METHODS[name]
    objective = method.build(SCORER)
    baseline = run(objective, [packed(e) for e in examples(name)], method)
    return objective, baseline, initial(objective, method)[0]


@pytest.mark.parametrize("name", METHODS)
def test_it_trains(name: str) -> None:
    objective, baseline, start = case(name)
    assert_learned(baseline, start)
    first, last = baseline[1][0], baseline[1][-1]
    assert {"loss", "mean_reward", "min_reward", "max_reward"} <= first.keys()
    assert ("accuracy" in first) == (name != "steps")
    assert last["loss"] != first["loss"]
    assert first["min_reward"] <= first["mean_reward"] <= first["max_reward"]
    assert objective.coupled == (name == "embedding")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("steps", "aspects")]


@pytest.mark.parametrize("name", ["embedding", *SLOW])
def test_unpacked_in_microbatches_on_two_devices_it_is_the_same(name: str) -> None:
    objective, baseline, start = case(name)
    loose = [unpacked(e) for e in examples(name)]
    assert_same(run(objective, loose, METHODS[name], microbatches=4, devices=2), baseline, start)


@pytest.mark.slow  # above in four microbatches, on two devices at once
@pytest.mark.parametrize("name", ["embedding", "steps", "aspects"])
def test_unpacked_in_eight_microbatches_and_on_eight_devices_it_is_the_same(name: str) -> None:
    objective, baseline, start = case(name)
    method = METHODS[name]
    assert_same(run(objective, [unpacked(e) for e in examples(name)], method, microbatches=8), baseline, start)
    assert_same(run(objective, [packed(e) for e in examples(name)], method, devices=8), baseline, start)


def states_of(name: str, params: Any) -> list[list[np.ndarray]]:
    """Final hidden states of each example's segments, one per row of the loose layout, float64."""
    found = []
    batch = unpacked(examples(name)[0])
    hidden = np.asarray(jax.jit(SCORER.hidden)(params["model"], batch), np.float64)
    widest = batch.block_rows
    for i, example in enumerate(examples(name)[0]):
        found.append([hidden[i * widest + k, : len(ids)] for k, (ids, _) in enumerate(example.segments)])
    return found


def by_hand(name: str, params: Any) -> float:
    """The first step's loss, written out example by example."""
    states = states_of(name, params)
    heads = jax.tree.map(lambda x: np.asarray(x, np.float64), params.get("heads", {}))
    prompts = [example.segments[0][1] for example in examples(name)[0]]
    sp = lambda z: np.logaddexp(z, 0.0)  # noqa: E731
    if name == "aspects":
        scores = [[s[-1] @ heads["weight"] for s in pair] for pair in states]
        return float(np.mean([np.mean(sp(rejected - chosen)) for chosen, rejected in scores]))
    if name == "yes_or_no":
        rows = np.asarray(unembedding(params["model"]), np.float64)
        scores = [[s[-1] @ (rows[YES] - rows[NO]) for s in pair] for pair in states]
        return float(np.mean([sp(-chosen) + sp(rejected) for chosen, rejected in scores]))
    if name == "embedding":
        prompt = [pair[0][n - 1] @ heads["prompt"]["weight"] for pair, n in zip(states, prompts, strict=True)]
        answers = [[pair[k][-1] @ heads["answer"]["weight"] for pair in states] for k in (0, 1)]
        table = np.stack(prompt) @ np.concatenate(answers).T
        return float(np.mean(np.log(np.sum(np.exp(table), axis=1)) - np.diagonal(table[:, : len(prompt)])))
    total, count = 0.0, 0
    for example, segments in zip(examples(name)[0], states, strict=True):
        for (ids, prompt), state in zip(example.segments, segments, strict=True):
            count += 1
            n = len(ids) - prompt
            step = 1 + np.arange(n) * min(3, n) // n
            for t in np.flatnonzero(np.diff(step, append=0)):
                z = state[prompt + t] @ heads["weight"][:, 0]
                total += sp(-z if step[t] % 2 else z)
    return total / count


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_that_of_the_equations(name: str) -> None:
    _, baseline, start = case(name)
    assert baseline[1][0]["loss"] == pytest.approx(by_hand(name, start.params), rel=1e-5)


def test_ends_of_segments_and_of_their_prompts() -> None:
    """Every position by hand; absent segments have none, and what is read there is 0."""
    batch = packed(make_examples("pair", 16))
    ids, mask = np.asarray(batch.segment_ids), np.asarray(batch.masks["completion"])
    ends, prompts = (np.asarray(f(batch)) for f in (segment_ends, prompt_ends))
    x = np.arange(ids.size, dtype=np.float32).reshape(*ids.shape, 1) + 1.0
    read = np.asarray(read_at(jnp.asarray(x), jnp.asarray(ends)))
    absent = 0
    for r in range(ids.shape[0]):
        for m in range(batch.slots):
            inside = np.flatnonzero(ids[r] == m + 1)
            if not len(inside):
                absent += 1
                assert (ends[r, m], prompts[r, m], read[r, m, 0]) == (-1, -1, 0.0)
                continue
            assert ends[r, m] == inside[-1]
            assert read[r, m, 0] == x[r, inside[-1], 0]
            assert prompts[r, m] == np.flatnonzero(mask[r] & (ids[r] == m + 1))[0] - 1
    assert absent
    unanswered = replace(batch, masks={**batch.masks, "completion": jnp.zeros_like(batch.masks["completion"])})
    np.testing.assert_array_equal(prompt_ends(unanswered), ends)


def test_what_is_read_must_have_the_shape_it_is_said_to_have() -> None:
    @dataclass(frozen=True)
    class Wrong(Aspects):
        PER_TOKEN = ("aspects",)

    method = Wrong()
    objective = method.build(SCORER)
    start, _ = initial(objective, method)
    batch = packed(examples("aspects")[0])
    with pytest.raises(ValueError, match=r"read gives 'aspects' as \(.*\), but per token it begins with \("):
        jax.eval_shape(objective.encode, start.params, {}, batch, None)


def test_the_value_head_is_a_scalar_and_what_lacks_one_is_said() -> None:
    """Judges and exports read `params["value"]`; of other heads they say that they cannot."""
    for name in methods.METHODS:
        tables = configured(name).extra_tables(CONFIG)
        if "value" in tables:
            assert tables["value"]["weight"].shape == (CONFIG.hidden_size, 1), name
    assert lacks_value({"model": 0, "value": 0, "degree": 0}) == ""
    assert lacks_value({"model": 0}) == "has no value head"
    assert lacks_value({"model": 0, "heads": 0, "degree": 0}) == (
        "has no value head (no single reward comes from degree, heads)"
    )
    assert further_heads({"model": 0, "value": 0, "degree": 0}) == "degree"
