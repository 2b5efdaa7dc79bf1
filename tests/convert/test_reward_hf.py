"""Reward models as sequence-classification checkpoints: exact round trip, verification that can fail, bad files."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny import CONFIG, params
from safetensors.numpy import load_file, save_file

from jaxpo.convert.hf import import_hf
from jaxpo.convert.reward_hf import export_reward, import_reward, is_reward, rewards_of, verify_reward
from jaxpo.data.packing.batch import Batch
from jaxpo.errors import CheckpointError
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.bradley_terry import BradleyTerry


def groups():
    head = 0.3 * jax.random.normal(jax.random.key(5), (CONFIG.hidden_size, 1))
    return {"model": params(), "value": {"weight": head}}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward") / "model"
    return folder, export_reward(groups(), CONFIG, folder, compare_transformers=False)


def test_round_trip_is_bit_exact_and_verified(exported):
    folder, report = exported
    again, config = import_reward(folder)
    assert config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, again, groups())
    assert report["max_reward_error"] < 1e-4
    assert json.loads((folder / "verification.json").read_text()) == report
    document = json.loads((folder / "config.json").read_text())
    assert document["architectures"] == ["Lfm2ForSequenceClassification"]
    assert document["pad_token_id"] == CONFIG.pad_token_id
    assert document["id2label"] == {"0": "reward"}
    assert load_file(folder / "model.safetensors")["score.weight"].shape == (1, CONFIG.hidden_size)
    assert is_reward(folder)


def test_bfloat16_says_what_rounding_costs(tmp_path):
    report = export_reward(groups(), CONFIG, tmp_path / "r", dtype="bfloat16", compare_transformers=False)
    assert report["max_reward_error"] < 1e-4 < report["rounding"]
    again, _ = import_reward(tmp_path / "r")
    head = groups()["value"]["weight"]
    np.testing.assert_array_equal(again["value"]["weight"], head.astype(jnp.bfloat16).astype(jnp.float32))


def test_the_exported_reward_is_what_training_sees(exported):
    """Two segments packed in one row, each read at its own last token."""
    rng = np.random.default_rng(0)
    sides = [rng.integers(3, CONFIG.vocab_size, n) for n in (5, 7)]
    tokens, segments, positions = (np.zeros((1, 14), np.int32) for _ in range(3))
    completion = np.zeros((1, 14), bool)
    for slot, (start, side) in enumerate(zip((0, 5), sides, strict=True)):
        at = slice(start, start + len(side))
        tokens[0, at], segments[0, at], positions[0, at] = side, slot + 1, np.arange(len(side))
        completion[0, start + 2 : start + len(side)] = True
    batch = Batch(
        tokens=jnp.asarray(tokens),
        segment_ids=jnp.asarray(segments),
        positions=jnp.asarray(positions),
        masks={"completion": jnp.asarray(completion)},
        per_token={},
        per_segment={},
        per_example={},
        roles={"chosen": jnp.asarray([0]), "rejected": jnp.asarray([1])},
        example_id=jnp.asarray([0]),
        block_rows=1,
        slots=2,
        max_segment=8,
    )
    objective = BradleyTerry().build(Scorer(CONFIG))
    found, _ = jax.jit(objective.encode)(groups(), {}, batch, jax.random.key(0))
    rewards = [float(found.chosen[0]), float(found.rejected[0])]
    np.testing.assert_allclose(rewards, rewards_of(groups(), CONFIG, sides), atol=1e-5)
    assert abs(rewards[0] - rewards[1]) > 1e-3


def test_a_wrong_export_is_found(exported, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exported[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "score.weight": -tensors["score.weight"]}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not compute what the model computes: rewards differ by"):
        verify_reward(groups(), CONFIG, folder, transformers=False)
    save_file({k: v for k, v in tensors.items() if k != "score.weight"}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"score.weight: no such tensor; a reward model has"):
        import_reward(folder)
    save_file({**tensors, "score.weight": np.zeros((2, CONFIG.hidden_size), np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"score.weight: shape \(2, \d+\); a reward model has \(1, "):
        import_reward(folder)


def test_what_cannot_be_exported(tmp_path, exported):
    with pytest.raises(CheckpointError, match="has no reward head"):
        export_reward({"model": params()}, CONFIG, tmp_path / "x")
    wrong = {"model": params(), "value": {"weight": jnp.zeros((3, 1))}}
    with pytest.raises(CheckpointError, match=r"value/weight: has shape \(3, 1\)"):
        export_reward(wrong, CONFIG, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(CheckpointError, match="exists already"):
        export_reward(groups(), CONFIG, exported[0])
    with pytest.raises(CheckpointError, match=r"not part of the model: score.weight"):
        import_hf(exported[0])
