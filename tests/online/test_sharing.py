"""Answers that share their prompt: nothing is lost, and log-probs and gradients are those of a prompt for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from online.tiny import online, recipe
from stages.recipe import MODEL

from jaxpo.config import Compute, Hybrid, Mesh
from jaxpo.convert.model_io import load_model
from jaxpo.data.packing.batch import CONTINUES
from jaxpo.models.family import preset
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.hypo import HyPO
from jaxpo.objectives.methods.online_pairs import OnlineDPO
from jaxpo.objectives.methods.ppo import PPO
from jaxpo.online.batches import Trained, batch_of, taken_apart
from jaxpo.online.layout import Layout
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages import run as running
from jaxpo.train.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("one_device")


def step_of(prompts, lengths, seed=0):
    """Answers of these lengths to prompts of these, as many in turn to each."""
    rng, found = np.random.default_rng(seed), []
    ids = lambda n: rng.integers(3, MODEL.vocab_size, n).astype(np.int32)  # noqa: E731
    each = len(lengths) // len(prompts)
    for g, length in enumerate(prompts):
        prompt = ids(length)
        for n in lengths[g * each : (g + 1) * each]:
            tokens = ids(n)
            found.append(Trained(len(found), prompt, tokens, True, {"drawn": tokens.astype(np.float32)}, {}))
    return found


def texts(batch):
    """Number of every answer -> the tokens that its segment is read as, of which how many are trained on."""
    found = {}
    continues = batch.per_segment.get(CONTINUES, np.zeros((batch.rows, batch.slots), int))
    for at in np.flatnonzero(batch.example_id >= 0):
        row = at // batch.slots
        for role in batch.roles:
            slot = batch.roles[role][at]
            own, before = batch.segment_ids[row] == slot + 1, batch.segment_ids[row] == continues[row, slot]
            before &= continues[row, slot] > 0
            assert continues[row, continues[row, slot] - 1] == 0 or not before.any()
            positions = np.concatenate([batch.positions[row][part] for part in (before, own)])
            np.testing.assert_array_equal(positions, np.arange(len(positions)))
            whole = np.concatenate([batch.tokens[row][part] for part in (before, own)])
            found[int(batch.example_id[at]), role] = whole, int(batch.masks["completion"][row][own].sum())
    return found


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.sampled_from([1, 3, 4, 8]),
    st.sampled_from([1, 2]),
    st.randoms(use_true_random=False),
)
def test_every_answer_is_read_behind_its_own_prompt_whatever_the_lengths(prompts, group, parts, draw):
    longest, row = 16, 40
    answers = step_of(prompts, [draw.randint(1, 7) for _ in range(group * len(prompts))])
    rows = -(-len(answers) // (row // longest))
    layout = Layout(-(-rows // parts) * parts, row, longest, 20, parts, longest_shared=row)
    batch = batch_of(answers, layout, ("drawn",), ())
    found = texts(batch)
    for answer in answers:
        whole, trained = found[answer.number, "completion"]
        np.testing.assert_array_equal(whole, np.concatenate([answer.prompt, answer.tokens]))
        assert trained == len(answer.tokens)
    assert len(found) == len(answers)
    assert batch.masks["completion"].sum() == sum(len(answer.tokens) for answer in answers)
    for answer, back in zip(answers, taken_apart(batch.per_token["drawn"], answers, layout), strict=True):
        np.testing.assert_array_equal(back, answer.tokens)
    alone = batch_of(answers, dataclasses.replace(layout, longest_shared=0), (), ())
    assert (batch.segment_ids > 0).sum() <= (alone.segment_ids > 0).sum()


def test_a_group_that_no_row_holds_is_shared_in_parts_and_pairs_stay_together():
    layout = Layout(6, 24, 16, 8, 1, longest_shared=24)
    batch = batch_of(step_of([9], [4] * 8), layout, (), ())
    assert sorted(np.sum(batch.per_segment[CONTINUES] > 0, axis=1).tolist()) == [0, 0, 0, 2, 3, 3]
    pairs = step_of([9], [4] * 8)
    pairs = [dataclasses.replace(side, number=i // 2) for i, side in enumerate(pairs)]
    batch = batch_of(pairs, dataclasses.replace(layout, roles=("chosen", "rejected")), (), ())
    found = texts(batch)
    for i, side in enumerate(pairs):
        whole, _ = found[side.number, ("chosen", "rejected")[i % 2]]
        np.testing.assert_array_equal(whole, np.concatenate([side.prompt, side.tokens]))


def test_prompts_are_shared_unless_that_fills_more_microbatches():
    """Two groups of 23 positions need two rows of 30, as their four answers of 15 do; with less room they need more."""
    answers = step_of([8, 8], [7, 7, 7, 7])
    layout = Layout(4, 30, 16, 3, 4, longest_shared=30)
    assert batch_of(answers, layout, (), ()).per_segment[CONTINUES].any()
    assert not batch_of(answers, dataclasses.replace(layout, slots=2), (), ()).per_segment[CONTINUES].any()
    # Behind prompts of two tokens three groups of 13 need three rows of 24, with a prompt each they need two.
    answers = step_of([2, 2, 2], [5] * 6)
    layout = Layout(4, 24, 16, 8, 4, longest_shared=24)
    assert layout.places(answers).rows == 2
    assert not layout.places(answers).shared
    assert dataclasses.replace(layout, microbatches=1).places(answers).shared


@pytest.mark.parametrize("remat", ["none", "full"])
def test_log_probs_and_gradients_are_those_of_answers_with_a_prompt_each(remat):
    answers = step_of([1, 2, 3, 11], [5, 1, 7, 3, 4, 4, 2, 6, 3, 1, 1, 9])
    scorer = Scorer(MODEL, "float32", remat)
    params = init_params(param_table(MODEL), jax.random.key(0))
    drawn = [np.random.default_rng(a.number).standard_normal(len(a.tokens)).astype(np.float32) for a in answers]
    weighed = [dataclasses.replace(a, per_token={"drawn": d}) for a, d in zip(answers, drawn, strict=True)]
    found = []
    for share in (True, False):
        layout = Layout(4, 64, 24, 12, 1, longest_shared=64 if share else 0)
        batch = jax.tree.map(jnp.asarray, batch_of(weighed, layout, ("drawn",), ()))

        def total(params, batch=batch):
            logps = scorer.logps(params, batch)
            return jnp.sum(logps * batch.per_token["drawn"]), logps

        (_, logps), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
        found.append((np.concatenate(taken_apart(np.asarray(logps), answers, layout)), grads))
    (shared, of_shared), (alone, of_alone) = found
    np.testing.assert_allclose(shared, alone, atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6 + 2e-5 * np.abs(b).max()), of_shared, of_alone)


KINDS = {
    "grpo": {"loss": GRPO(beta=0.05, loss_type="grpo"), "steps_per_generation": 2, "num_iterations": 2},
    "ppo": {"loss": PPO(kl_coef=0.05)},
    "online_dpo": {"loss": OnlineDPO()},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_learns_the_same(kind, tmp_path):
    found = []
    for share in (True, False):
        folder = tmp_path / str(share)
        folder.mkdir()
        stage = online(folder, share_prompts=share, max_steps=4, **KINDS[kind])
        assert running.execute(recipe(folder, stage)) == 0
        records = [r for r in read_metrics(folder / "runs" / "tiny" / "metrics.jsonl") if r["stage"] == "online"]
        found.append((records, load_model(folder / "runs" / "tiny" / "stages" / "online").params))
    (shared, after), (alone, expected) = found
    positions = [next(r["num_tokens"] for r in records if "loss" in r) for records in (shared, alone)]
    assert positions[0] < positions[1]
    for ours, theirs in zip(shared, alone, strict=True):
        for name in ("loss", "grad_norm", "reward", "entropy", "completions/mean_length"):
            assert (name in ours) == (name in theirs)
            if name in ours:
                assert ours[name] == pytest.approx(theirs[name], rel=2e-3, abs=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-4), after, expected)


def test_what_cannot_share_is_refused_before_anything_starts(tmp_path):
    stage = online(tmp_path, share_prompts=True)
    assert not list(find_problems(recipe(tmp_path, stage)))
    settings = {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage)}
    pairs = Hybrid(**settings | {"name": "hybrid", "pair_rows": 2, "loss": HyPO(), "reward_funcs": ()})
    for why, run in {
        "sliding window": recipe(tmp_path, stage, model=dataclasses.replace(preset("nano_lfm3"), vocab_size=384)),
        "rows of pairs": recipe(tmp_path, pairs),
        "positions lie on 2": recipe(tmp_path, stage, mesh=Mesh(sequence=2)),
        "takes segments by themselves": recipe(tmp_path, stage, compute=Compute(attention="pallas")),
    }.items():
        found = [p for p in find_problems(run) if ".share_prompts: " in p]
        assert any(why in p for p in found), (why, found)
