"""A batch without a token trains: step, loop and dump ask for rows, blocks, present, split and tally alone."""

import jax
import numpy as np
import optax
import pytest
from train import toy_images as toy
from train.toy_training import Source, train

from jaxpo.config import Pretrain
from jaxpo.errors import ConfigError, NonFiniteError
from jaxpo.train.dump import load_dump
from jaxpo.train.metrics import read_metrics
from jaxpo.train.step import make_step

ROWS, STEPS = 8, 12


class Stream(Source):
    """The same images in every step, two of the eight absent; step `bad` has one that is not a number."""

    def at(self, rows_seen, state):
        batch = toy.images(ROWS, absent=(3,))
        if rows_seen // ROWS + 1 == self.bad:
            batch.pixels[0, 0, 0] = np.nan
        return batch


def fit(directory, total=STEPS, *, coupled=False, **changes):
    objective = toy.denoising(coupled=coupled)
    step = make_step(objective, toy.OPTIMIZER, optax.constant_schedule(3e-2), microbatches=2)
    stage = Pretrain(name="toy", rows_per_step=ROWS, save_steps=5)
    arguments = {
        "stage": stage,
        "init": toy.new_state,
        "abstract": jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), toy.new_state()
        ),
        "step": jax.jit(step, donate_argnums=0),
        "evaluate": None,
        "source": Stream(),
    }
    return train(directory, total, **(arguments | changes))


@pytest.mark.parametrize("coupled", [False, True])
def test_fit_trains_and_counts(tmp_path, coupled):
    state = fit(tmp_path, coupled=coupled)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    losses = [r["loss"] for r in lines if "loss" in r]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert [r["num_tokens"] for r in lines] == [0] * len(lines)
    assert [r["error"] > 0 and r["samples_per_second"] > 0 for r in lines if "loss" in r] == [True] * STEPS
    assert int(state.rows_seen) == STEPS * ROWS


def test_a_batch_that_is_not_finite_is_dumped_and_read_back(tmp_path):
    with pytest.raises(NonFiniteError, match="step 3"):
        fit(tmp_path, source=Stream(bad=3))
    path = next((tmp_path / "stages" / "toy").glob("*.npz"))
    with pytest.raises(ConfigError, match="toy_images:Images' is not jaxpo's own"):
        load_dump(path)
    batch, info = load_dump(path, trust_files=True)
    jax.tree.map(np.testing.assert_array_equal, batch, Stream(bad=3).at(2 * ROWS, None))
    assert type(batch) is toy.Images
    assert (info["step"], batch.scale) == (3, 1.0)
