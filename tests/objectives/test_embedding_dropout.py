"""Dropout on the embedding: in training alone, on the input alone, the same draw in every layout."""

import dataclasses

import jax
import numpy as np
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import CONFIG, SCORER, assert_learned, assert_same, initial, run

from jaxpo.config import SFT
from jaxpo.models.lfm2.forward import backbone, embed
from jaxpo.objectives.encode import row_keys
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.methods import METHODS
from jaxpo.ops.dropout import dropout
from jaxpo.stages.assemble import make_objective
from jaxpo.train.step import make_eval

RATE = 0.3
DROPPING = dataclasses.replace(SCORER, embedding_dropout=RATE)


@pytest.fixture(scope="module")
def batches():
    return [packed(make_examples("text", 16, seed)) for seed in (0, 1)]


@pytest.fixture(scope="module")
def single(batches):
    return run(next_token(DROPPING), batches)


LAYOUTS = [(2, 2), *(pytest.param(*layout, marks=pytest.mark.slow) for layout in ((2, 1), (1, 4)))]


@pytest.mark.parametrize(("microbatches", "devices"), LAYOUTS)
def test_the_draw_is_the_same_in_every_layout(batches, single, microbatches, devices):
    objective = next_token(DROPPING)
    got = run(objective, batches, microbatches=microbatches, devices=devices)
    assert_same(got, single, initial(objective)[0])


def test_it_changes_training_and_not_evaluation(batches, single):
    plain = run(next_token(SCORER), batches)
    assert_learned(single, initial(next_token(SCORER))[0])
    assert abs(plain[1][0]["loss"] - single[1][0]["loss"]) > 1e-3
    params = initial(next_token(SCORER))[0].params
    counts = next_token(SCORER).counts(batches[0])
    evaluate = [jax.jit(make_eval(next_token(s)))(params, {}, {}, batches[0], counts)[0] for s in (SCORER, DROPPING)]
    assert float(evaluate[0]) == float(evaluate[1])
    assert float(evaluate[0]) == pytest.approx(plain[1][0]["loss"], rel=1e-5)


def test_it_acts_on_the_input_and_not_on_the_output_matrix(batches):
    batch, params = batches[0], initial(next_token(SCORER))[0].params["model"]
    key = jax.random.key(5)

    @jax.jit
    def both(params):
        x = dropout(embed(params, batch.tokens), row_keys(key, batch), RATE)
        hidden, _ = backbone(
            params, x, batch.segment_ids, batch.positions, config=CONFIG, max_segment=batch.max_segment
        )
        return SCORER.token_stats(params, batch, hidden).logps, DROPPING.token_stats(params, batch, rng=key).logps

    by_hand, by_scorer = both(params)
    np.testing.assert_allclose(by_scorer, by_hand, rtol=1e-5, atol=1e-6)


def test_keys_differ_between_rows_blocks_and_steps(batches):
    keys = [jax.random.key_data(row_keys(jax.random.key(seed), batches[0])) for seed in (0, 1)]
    flat = np.concatenate([np.asarray(k) for k in keys])
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_a_student_drops_and_its_teacher_does_not():
    batch = packed(make_examples("text", 16))
    params = initial(next_token(SCORER))[0].params
    kd = {}
    for name, scorer, key in (("plain", SCORER, 0), ("dropping", DROPPING, 0), ("evaluated", DROPPING, None)):
        objective = METHODS["decoupled_topk_kd"](top_k=4).build(scorer)
        rng = None if key is None else jax.random.key(key)
        kd[name] = jax.jit(objective.encode)(params, {"teacher": params["model"]}, batch, rng)[0]
    # Student and teacher are the same network: without dropout there is nothing to distil.
    assert float(np.abs(kd["plain"].kd).max()) < 1e-5
    assert float(np.abs(kd["evaluated"].kd).max()) < 1e-5
    assert float(kd["dropping"].kd.max()) > 1e-2
    np.testing.assert_array_equal(kd["dropping"].masses["teacher_mass"], kd["plain"].masses["teacher_mass"])


@pytest.mark.parametrize("loss", [None, METHODS["implicit_reward"]()], ids=["likelihood", "method"])
def test_the_stage_passes_its_rate_on_and_the_reference_is_left_alone(loss):
    batch = packed(make_examples("text" if loss is None else "completion", 16))
    found = {}
    for rate in (0.0, RATE):
        stage = SFT(loss=loss, embedding_dropout=rate, precompute_ref_log_probs=False, max_steps=1)
        objective = make_objective(stage, SCORER)
        state, frozen = initial(objective)
        found[rate] = jax.jit(objective.encode)(state.params, frozen, batch, jax.random.key(0))[0]
    differs = jax.tree.map(lambda a, b: not np.allclose(a, b), found[0.0], found[RATE])
    if loss is None:
        assert differs["stats"].logps
    else:
        assert differs.completion.logps
        assert not differs.completion.ref_logps
